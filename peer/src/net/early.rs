//! Relay frames that came before the introduction they belong to.
//!
//! The server introduces both sides at once, and the caller's first packet follows within its round trip; when the
//! callee's introduction is late, or was lost and sent again, that packet is here first. Without this place it would be
//! dropped, and QUIC's retry costs half a second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use knothole_proto::id::ChannelId;
use quinn::udp::EcnCodepoint;

/// Frames that are kept; the oldest makes room. A handshake begins with one to three packets, and introductions that
/// overlap are rare. Only the server can fill this, which could as well drop the frames.
const FRAMES_MAX: usize = 16;

/// An introduction that is later than this is answered by QUIC's retry.
const LIFETIME: Duration = Duration::from_secs(1);

/// Datagrams for links that are not there yet.
#[derive(Debug, Default)]
pub(crate) struct Early(VecDeque<(Instant, ChannelId, Kept)>);

/// A datagram that waits.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Kept {
    /// As the frame around it had it: a sender whose marks are not all reported back gives up ECN (RFC 9000 section 13.4.2).
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) bytes: Vec<u8>,
}

impl Early {
    /// Keep the datagram out of a frame.
    pub(crate) fn keep(
        &mut self,
        channel: ChannelId,
        datagram: &[u8],
        ecn: Option<EcnCodepoint>,
        now: Instant,
    ) {
        self.expire(now);
        if self.0.len() >= FRAMES_MAX {
            self.0.pop_front();
        }
        let bytes = datagram.to_vec();
        self.0.push_back((now, channel, Kept { ecn, bytes }));
    }

    /// The datagrams that were waiting for this channel, in order.
    pub(crate) fn take(&mut self, channel: ChannelId, now: Instant) -> Vec<Kept> {
        self.expire(now);
        let mut taken = Vec::new();
        self.0.retain_mut(|(_, of, datagram)| {
            if *of == channel {
                taken.push(std::mem::take(datagram));
            }
            *of != channel
        });
        taken
    }

    fn expire(&mut self, now: Instant) {
        let old = |(at, ..): &(Instant, ChannelId, Kept)| now.saturating_duration_since(*at) > LIFETIME;
        while self.0.front().is_some_and(old) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_early_waits_for_its_channel_a_second_long() {
        let (mut early, now) = (Early::default(), Instant::now());
        let marked = Some(EcnCodepoint::Ce);
        early.keep(ChannelId(1), b"a", None, now);
        early.keep(ChannelId(2), b"b", None, now);
        early.keep(ChannelId(1), b"c", marked, now + Duration::from_millis(900));
        let taken = early.take(ChannelId(1), now + Duration::from_millis(950));
        let taken: Vec<_> = taken.iter().map(|kept| (&*kept.bytes, kept.ecn)).collect();
        assert_eq!(taken, [(&b"a"[..], None), (b"c", marked)]);
        assert_eq!(early.take(ChannelId(1), now), [], "once");
        assert_eq!(
            early.take(ChannelId(2), now + Duration::from_secs(2)),
            [],
            "too late"
        );
    }

    #[test]
    fn only_a_few_frames_are_kept() {
        let (mut early, now) = (Early::default(), Instant::now());
        for channel in 0..100 {
            early.keep(ChannelId(channel), b"x", None, now);
        }
        assert_eq!(early.0.len(), FRAMES_MAX);
        assert_eq!(early.take(ChannelId(99), now).len(), 1, "the newest stays");
    }
}
