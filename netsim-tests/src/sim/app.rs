//! Application traffic of one link: small datagrams both ways, as a QUIC connection sends them.
//!
//! The caller sends a ping in regular intervals, the callee answers each with a pong, both on whatever path their
//! connector names at that moment. Nothing is sent again: what is lost shows in the [`TrafficStats`], and a switch
//! of paths that loses data or stalls is seen there.
//!
//! ```text
//!  0      1      2          34      42
//!  | 0xc0 | kind | sender   | seq   |
//! ```

use std::time::Duration;

use knothole_proto::id::PeerId;
use knothole_proto::punch::TrafficReport;

/// First byte of a datagram of an application: in QUIC's range, and not that of the control connection.
pub(super) const FIRST_BYTE: u8 = 0xc0;

/// Bytes of every datagram, as in the table above.
const LEN: usize = 42;

/// Which way a datagram went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Relay,
    Direct,
}

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ping,
    Pong,
}

/// One datagram, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) kind: Kind,
    pub(super) sender: PeerId,
    pub(super) sequence: u64,
}

impl Datagram {
    /// Reads one; `None` if it is none.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let (mut sender, mut sequence) = ([0; 32], [0; 8]);
        sender.copy_from_slice(&bytes[2..34]);
        sequence.copy_from_slice(&bytes[34..]);
        Some(Self {
            kind: match (bytes[0], bytes[1]) {
                (FIRST_BYTE, 0) => Kind::Ping,
                (FIRST_BYTE, 1) => Kind::Pong,
                _ => return None,
            },
            sender: PeerId::from_bytes(sender),
            sequence: u64::from_be_bytes(sequence),
        })
    }

    /// Writes one.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend([FIRST_BYTE, u8::from(self.kind == Kind::Pong)]);
        bytes.extend(self.sender.as_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes
    }
}

/// What the application traffic of a link came to, at one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficStats {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams for which there was no path.
    pub unsent: u64,
    /// Datagrams that came through the relay.
    pub by_relay: u64,
    /// Datagrams that came straight from the peer.
    pub direct: u64,
    /// Datagrams that the peer sent straight here, but from an address that the connector had not named.
    pub unknown_source: u64,
    /// Longest time between two arrivals.
    pub longest_gap: Duration,
    /// When the first of them came, since the start of the world.
    pub first: Option<Duration>,
}

/// The traffic of one link at one end.
#[derive(Debug)]
pub(super) struct Traffic {
    /// When the next ping is due; `None` at the end that only answers.
    next: Option<Duration>,
    sequence: u64,
    arrived: Option<Duration>,
    stats: TrafficStats,
    /// What happened since the connector was told.
    unreported: TrafficReport,
}

impl Traffic {
    /// No traffic yet; the first ping is due at `first`, if this end sends any.
    pub(super) fn new(first: Option<Duration>) -> Self {
        Self {
            next: first,
            sequence: 0,
            arrived: None,
            stats: TrafficStats::default(),
            unreported: TrafficReport::default(),
        }
    }

    /// When the next ping is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.next
    }

    /// The number of a ping that is due now; the one after follows in `period`.
    pub(super) fn take_due(&mut self, period: Option<Duration>, now: Duration) -> Option<u64> {
        if self.next.is_none_or(|next| next > now) {
            return None;
        }
        self.next = period.map(|period| now + period);
        self.sequence += 1;
        Some(self.sequence)
    }

    /// Starts or stops pings.
    pub(super) fn schedule(&mut self, next: Option<Duration>) {
        self.next = next;
        self.arrived = None;
    }

    /// A datagram left, or would have.
    pub(super) fn note_sent(&mut self, via: Option<Via>) {
        match via {
            Some(via) => {
                self.stats.sent += 1;
                self.unreported.sent |= via == Via::Direct;
            }
            None => self.stats.unsent += 1,
        }
    }

    /// A datagram arrived.
    pub(super) fn note_received(&mut self, via: Via, now: Duration) {
        match via {
            Via::Relay => self.stats.by_relay += 1,
            Via::Direct => self.stats.direct += 1,
        }
        self.unreported.received |= via == Via::Direct;
        self.unreported.relayed |= via == Via::Relay;
        self.stats.first.get_or_insert(now);
        let gap = self
            .arrived
            .map_or(Duration::ZERO, |before| now.saturating_sub(before));
        self.stats.longest_gap = self.stats.longest_gap.max(gap);
        self.arrived = Some(now);
    }

    /// A datagram arrived from an address that was not named.
    pub(super) fn note_unknown_source(&mut self) {
        self.stats.unknown_source += 1;
    }

    /// What the connector has not been told yet.
    pub(super) fn take_unreported(&mut self) -> TrafficReport {
        std::mem::take(&mut self.unreported)
    }

    /// The sums.
    pub(super) fn stats(&self) -> TrafficStats {
        self.stats
    }

    /// Starts the sums anew.
    pub(super) fn reset_stats(&mut self) {
        self.stats = TrafficStats::default();
        self.arrived = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_survives_its_bytes_and_others_are_refused() {
        let datagram = Datagram {
            kind: Kind::Pong,
            sender: PeerId::from_bytes([7; 32]),
            sequence: 0x0102_0304,
        };
        assert_eq!(Datagram::read(&datagram.write()), Some(datagram));
        assert_eq!(Datagram::read(&[FIRST_BYTE; LEN]), None);
        assert_eq!(Datagram::read(&datagram.write()[1..]), None);
    }

    #[test]
    fn the_longest_gap_is_between_two_arrivals() {
        let mut traffic = Traffic::new(None);
        for ms in [100, 150, 950, 1000] {
            traffic.note_received(Via::Direct, Duration::from_millis(ms));
        }
        assert_eq!(traffic.stats().longest_gap, Duration::from_millis(800));
        let came = TrafficReport {
            received: true,
            ..TrafficReport::default()
        };
        assert_eq!(traffic.take_unreported(), came);
        assert_eq!(traffic.take_unreported(), TrafficReport::default());
    }
}
