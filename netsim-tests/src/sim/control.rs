//! The control connection as a model: reliable, ordered messages over datagrams that may be lost, as QUIC gives them.
//!
//! One [`Stream`] at each end. Messages are numbered and acknowledged at once, one by one. One is sent again when a
//! later one was acknowledged (RFC 9002 section 6.1) or after the probe timeout (section 6.2). Datagrams carry a packet number, so that a copy is not taken for news and a changed source
//! address for a migration only if the packet is the newest (RFC 9000 section 9.3). Encryption is not modelled: the
//! world hands over only what the other end itself sent.
//!
//! ```text
//!  0      1      2       10      18      26      34
//!  | 0x40 | kind | conn  | pn    | seq   | ack   | body ...
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// First byte of a datagram of the control connection: in QUIC's range.
pub(super) const FIRST_BYTE: u8 = 0x40;

/// Bytes in front of the body.
const HEADER: usize = 34;

/// Probe timeout before a round trip was measured: three times the initial round trip of 333 ms (RFC 9002 section 6.2.2).
const FIRST_TIMEOUT: Duration = Duration::from_millis(999);

/// Longest time between two copies of a message, whatever the back-off says.
const TIMEOUT_MAX: Duration = Duration::from_secs(8);

/// What the other end may wait before it acknowledges (RFC 9000 section 18.2, max_ack_delay).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// Silence after which an end takes the connection for dead, in either role: two refresh intervals of 15 s.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Most messages that wait for an acknowledgement. The machines send a handful at a time; more means that something
/// floods the connection, which the world reports.
pub(super) const UNACKED_MAX: usize = 256;

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Client: open a connection; the body is its peer id.
    Open,
    /// Server: it is open.
    Accept,
    /// A message.
    Data,
    /// An acknowledgement alone.
    Ack,
    /// No such connection here (RFC 9000 section 10.3).
    Reset,
    /// The connection ends.
    Close,
}

const KINDS: [Kind; 6] = [
    Kind::Open,
    Kind::Accept,
    Kind::Data,
    Kind::Ack,
    Kind::Reset,
    Kind::Close,
];

/// One datagram, taken apart.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) conn: u64,
    pub(super) number: u64,
    pub(super) sequence: u64,
    pub(super) ack: u64,
    pub(super) body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a datagram; `None` if it is not one of a control connection.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(HEADER)?;
        if header[0] != FIRST_BYTE {
            return None;
        }
        let field = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&header[at..at + 8]);
            u64::from_be_bytes(number)
        };
        Some(Self {
            kind: *KINDS.get(usize::from(header[1]))?,
            conn: field(2),
            number: field(10),
            sequence: field(18),
            ack: field(26),
            body,
        })
    }

    /// The datagram.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        let kind = KINDS.iter().position(|kind| *kind == self.kind);
        bytes.extend([
            FIRST_BYTE,
            kind.and_then(|kind| u8::try_from(kind).ok()).unwrap_or(u8::MAX),
        ]);
        for number in [self.conn, self.number, self.sequence, self.ack] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(self.body);
        bytes
    }

    /// A datagram that carries no message.
    pub(super) fn bare(kind: Kind, conn: u64) -> Vec<u8> {
        let frame = Self {
            kind,
            conn,
            number: 0,
            sequence: 0,
            ack: 0,
            body: &[],
        };
        frame.write()
    }
}

/// One end of an open connection.
#[derive(Debug)]
pub(super) struct Stream {
    conn: u64,
    next_number: u64,
    /// Packet number that the next new packet of the other end has at least.
    newest: u64,
    next_sequence: u64,
    unacked: VecDeque<Segment>,
    expected: u64,
    early: BTreeMap<u64, Vec<u8>>,
    /// Messages that arrived and are not acknowledged yet.
    ack_due: VecDeque<u64>,
    heard: Duration,
    rtt: Option<Duration>,
    backoff: u32,
}

#[derive(Debug)]
struct Segment {
    sequence: u64,
    body: Vec<u8>,
    sent: Option<Duration>,
    /// Datagrams in which it has gone out.
    copies: u32,
    /// Datagrams in which it is to go out now.
    due: u32,
}

impl Stream {
    /// An end that just learnt that the connection is open; `rtt` if the opening told it.
    pub(super) fn new(conn: u64, rtt: Option<Duration>, now: Duration) -> Self {
        Self {
            conn,
            next_number: 1,
            newest: 0,
            next_sequence: 0,
            unacked: VecDeque::new(),
            expected: 0,
            early: BTreeMap::new(),
            ack_due: VecDeque::new(),
            heard: now,
            rtt,
            backoff: 0,
        }
    }

    /// The number of the connection.
    pub(super) fn conn(&self) -> u64 {
        self.conn
    }

    /// Queues a message.
    pub(super) fn send(&mut self, body: Vec<u8>) {
        self.unacked.push_back(Segment {
            sequence: self.next_sequence,
            body,
            sent: None,
            copies: 0,
            due: 1,
        });
        self.next_sequence += 1;
    }

    /// Takes in a datagram of the other end; appends the messages that are now complete to `messages`. Is it the
    /// newest so far?
    pub(super) fn handle(&mut self, frame: &Frame<'_>, messages: &mut Vec<Vec<u8>>, now: Duration) -> bool {
        self.heard = now;
        let newest = frame.number >= self.newest;
        self.newest = self.newest.max(frame.number + 1);
        let alone = (frame.kind == Kind::Ack).then_some(frame.sequence);
        self.acknowledge(frame.ack, alone, now);
        if frame.kind == Kind::Data {
            self.ack_due.push_back(frame.sequence);
            if frame.sequence >= self.expected && self.early.len() < UNACKED_MAX {
                self.early.insert(frame.sequence, frame.body.to_vec());
            }
            while let Some(body) = self.early.remove(&self.expected) {
                messages.push(body);
                self.expected += 1;
            }
        }
        newest
    }

    /// The next datagram to send, if one is due.
    pub(super) fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        self.expire(now);
        let (number, ack, conn) = (self.next_number, self.expected, self.conn);
        let bytes = if let Some(sequence) = self.ack_due.pop_front() {
            let frame = Frame {
                kind: Kind::Ack,
                conn,
                number,
                sequence,
                ack,
                body: &[],
            };
            frame.write()
        } else {
            let segment = self.unacked.iter_mut().find(|segment| segment.due > 0)?;
            segment.sent = Some(now);
            segment.copies += 1;
            segment.due -= 1;
            let frame = Frame {
                kind: Kind::Data,
                conn,
                number,
                sequence: segment.sequence,
                ack,
                body: &segment.body,
            };
            frame.write()
        };
        self.next_number += 1;
        Some(bytes)
    }

    /// When [`Stream::poll_transmit`] has something again, or the silence is too long.
    pub(super) fn poll_timeout(&self) -> Duration {
        let timeout = self.timeout();
        let last = self.unacked.iter().map(|segment| segment.sent).max().flatten();
        let again = last.map(|sent| sent + timeout);
        again.into_iter().fold(self.heard + IDLE_TIMEOUT, Duration::min)
    }

    /// Has the other end been silent for too long?
    pub(super) fn is_dead(&self, now: Duration) -> bool {
        now >= self.heard + IDLE_TIMEOUT
    }

    /// Did everything sent arrive?
    pub(super) fn is_flushed(&self) -> bool {
        self.unacked.is_empty()
    }

    /// Messages that wait for an acknowledgement or for those before them.
    pub(super) fn queued(&self) -> usize {
        self.unacked.len() + self.early.len()
    }

    /// Everything before `ack` arrived, and `alone`.
    fn acknowledge(&mut self, ack: u64, alone: Option<u64>, now: Duration) {
        let (acked, left): (Vec<Segment>, Vec<Segment>) = std::mem::take(&mut self.unacked)
            .into_iter()
            .partition(|segment| segment.sequence < ack || Some(segment.sequence) == alone);
        self.unacked = left.into();
        for segment in &acked {
            // A message that was sent twice tells nothing about the round trip (Karn's rule).
            if segment.copies == 1
                && let Some(sent) = segment.sent
            {
                let sample = now.saturating_sub(sent);
                self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            }
        }
        let Some(newest) = acked.iter().filter_map(|segment| segment.sent).max() else {
            return;
        };
        self.backoff = 0;
        // What was sent clearly before something that arrived is lost.
        let slack = self.rtt.unwrap_or_default() / 8 + Duration::from_millis(1);
        for segment in &mut self.unacked {
            if segment.due == 0 && segment.sent.is_some_and(|sent| sent + slack < newest) {
                segment.due = 1;
            }
        }
    }

    /// After the probe timeout everything that is not acknowledged is sent again, as two datagrams each (RFC 9002
    /// section 6.2.4), which is what gets through where packets are lost in runs.
    fn expire(&mut self, now: Duration) {
        let last = self.unacked.iter().map(|segment| segment.sent).max().flatten();
        if last.is_some_and(|last| last + self.timeout() <= now) {
            self.backoff += 1;
            self.unacked.iter_mut().for_each(|segment| segment.due = 2);
        }
    }

    fn timeout(&self) -> Duration {
        // RFC 9002: smoothed + 4 x variation + delay of acknowledgements; half the round trip stands for the variation,
        // as in a connection that has only begun.
        let base = self.rtt.map_or(FIRST_TIMEOUT, |rtt| rtt * 3 / 2 + ACK_DELAY);
        (base * 2u32.saturating_pow(self.backoff.min(8))).min(TIMEOUT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn messages_arrive_in_order_and_once_whatever_is_lost_or_doubled() {
        let (mut a, mut b) = (
            Stream::new(7, None, Duration::ZERO),
            Stream::new(7, None, Duration::ZERO),
        );
        let sent: Vec<Vec<u8>> = (0u8..50).map(|n| vec![n]).collect();
        sent.iter().for_each(|body| a.send(body.clone()));
        let (mut got, mut now, mut count) = (Vec::new(), Duration::ZERO, 0u32);
        while !a.is_flushed() {
            while let Some(bytes) = a.poll_transmit(now) {
                count += 1;
                let copies = [1, 0, 2][count as usize % 3];
                for _ in 0..copies {
                    b.handle(&Frame::read(&bytes).unwrap(), &mut got, now + MS * 10);
                }
            }
            while let Some(bytes) = b.poll_transmit(now) {
                a.handle(&Frame::read(&bytes).unwrap(), &mut Vec::new(), now + MS * 20);
            }
            now = a.poll_timeout().max(now + MS);
            assert!(now < Duration::from_secs(300), "the transfer ends");
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn an_old_packet_is_not_the_newest() {
        let (mut a, mut b) = (
            Stream::new(7, None, Duration::ZERO),
            Stream::new(7, None, Duration::ZERO),
        );
        a.send(vec![1]);
        a.send(vec![2]);
        let first = a.poll_transmit(Duration::ZERO).unwrap();
        let second = a.poll_transmit(Duration::ZERO).unwrap();
        let mut got = Vec::new();
        assert!(b.handle(&Frame::read(&second).unwrap(), &mut got, MS));
        assert!(!b.handle(&Frame::read(&first).unwrap(), &mut got, MS));
        assert!(!b.handle(&Frame::read(&second).unwrap(), &mut got, MS));
        assert_eq!(got, [vec![1], vec![2]]);
    }

    #[test]
    fn silence_ends_a_connection() {
        let a = Stream::new(7, None, MS);
        assert!(!a.is_dead(IDLE_TIMEOUT));
        assert!(a.is_dead(IDLE_TIMEOUT + MS));
        assert_eq!(a.poll_timeout(), IDLE_TIMEOUT + MS);
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        assert!(Frame::read(&[]).is_none());
        assert!(Frame::read(&[FIRST_BYTE; HEADER - 1]).is_none());
        assert!(Frame::read(&[4; HEADER]).is_none());
        assert!(
            Frame::read(&[FIRST_BYTE; HEADER]).is_none(),
            "kind 64 does not exist"
        );
    }
}
