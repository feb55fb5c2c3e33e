//! One question of a run: what it is for, when it leaves, and the packet with a short life that may go before it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::path::SocketId;
use crate::seed::Rng;
use crate::stun::{BindingAnswer, BindingRequest, Change, indication};

/// Which of the server's four places (RFC 5780 section 6): first or second address, first or second port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Main,
    OtherPort,
    OtherAddress,
    OtherBoth,
}

/// What a question may be given for time in which the machine stood still, in all: the longest stall that was seen, half a
/// survey. A machine that always comes late would else wait for a lost packet until the survey is broken off.
const ALLOWED_MAX: Duration = Duration::from_secs(4);

/// An answer that is later than the shortest round trip by so much has probably been filtered: more than delays vary by in most
/// networks. What is said then is a guess, which a late answer corrects; whoever waits for a plan waits for so long as well.
const HUSH: Duration = Duration::from_millis(50);

impl Place {
    pub(super) const ALL: [Self; 4] = [Self::Main, Self::OtherPort, Self::OtherAddress, Self::OtherBoth];
}

/// What an answer, or none, will tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Where this place of the server sees the main socket.
    Seen(Place),
    /// Does the server answer from elsewhere at all? Asked where nothing filters it.
    Control,
    /// Does an answer from the other address and port pass?
    FilterBoth,
    /// Does one from the other port of the same address?
    FilterPort,
    /// The port that a fresh socket gets: wave, and number in it.
    Burst(usize, usize),
    /// Does a packet of this time to live open the filter?
    Depth(u8),
}

/// What came of a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was not asked.
    #[default]
    Unasked,
    /// It is not over.
    Waiting,
    /// The server saw it come from there.
    Answered(SocketAddr),
    /// Nothing came.
    Silent,
    /// The server would not answer from elsewhere.
    Refused,
    /// The machine could not open a socket for it.
    NoSocket,
}

impl Outcome {
    pub(super) fn is_open(self) -> bool {
        self == Self::Waiting
    }

    pub(super) fn answered(self) -> Option<SocketAddr> {
        match self {
            Self::Answered(seen) => Some(seen),
            _ => None,
        }
    }
}

/// How a question is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub(super) socket: SocketId,
    pub(super) server: SocketAddr,
    pub(super) change: Change,
    /// A packet of this time to live goes to this address before each repeat.
    pub(super) opener: Option<(SocketAddr, u8)>,
    /// Not before.
    pub(super) at: Instant,
    /// Without an answer for so long it is over.
    pub(super) patience: Duration,
    /// Without repeats: the answer belongs to one packet.
    pub(super) once: bool,
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) side: usize,
    pub(super) purpose: Purpose,
    pub(super) asking: Asking,
    /// 1 if it is asked again because something else got lost.
    pub(super) round: u8,
    request: Option<BindingRequest>,
    begun: Option<Instant>,
    /// Time that was added because the machine stood still.
    allowed: Duration,
    opened: bool,
    sent: usize,
}

/// What a question wants.
pub(super) enum Step {
    Send {
        to: SocketAddr,
        bytes: Vec<u8>,
        ttl: Option<u8>,
    },
    Over,
    Nothing,
}

impl Question {
    pub(super) fn new(side: usize, purpose: Purpose, asking: Asking, round: u8) -> Self {
        Self {
            side,
            purpose,
            asking,
            round,
            request: None,
            begun: None,
            allowed: Duration::ZERO,
            opened: false,
            sent: 0,
        }
    }

    /// When it wants something.
    pub(super) fn due(&self) -> Instant {
        let Some(begun) = self.begun else {
            return self.asking.at;
        };
        let end = begun + self.asking.patience;
        let Some(request) = &self.request else {
            // Its opener has left.
            return begun;
        };
        match request.poll_timeout() {
            Some(_) if self.asking.once && self.sent > 0 => end,
            Some(next) => next.min(end),
            None => end,
        }
    }

    /// It may take so much longer, if it has begun; in all no longer than [`ALLOWED_MAX`].
    pub(super) fn allow(&mut self, more: Duration) {
        if self.begun.is_none() {
            return;
        }
        let more = more.min(ALLOWED_MAX.saturating_sub(self.allowed));
        self.allowed += more;
        self.asking.patience += more;
        if let Some(request) = self.request.as_mut().filter(|_| !self.asking.once) {
            request.allow(more);
        }
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, rng: &mut Rng, now: Instant) -> Step {
        if self.due() > now {
            return Step::Nothing;
        }
        let asking = self.asking;
        let begun = *self.begun.get_or_insert(now);
        let spent = self.asking.once && self.sent > 0;
        if spent || now >= begun + asking.patience {
            return Step::Over;
        }
        if let (Some((to, ttl)), false) = (asking.opener, self.opened) {
            self.opened = true;
            if let Some(bytes) = indication(rng) {
                return Step::Send {
                    to,
                    bytes,
                    ttl: Some(ttl),
                };
            }
        }
        let request = self
            .request
            .get_or_insert_with(|| BindingRequest::new(asking.server, asking.change, rng, now));
        match request.poll_transmit(now) {
            Some(bytes) => {
                self.sent += 1;
                self.opened = false;
                Step::Send {
                    to: asking.server,
                    bytes,
                    ttl: None,
                }
            }
            None if request.is_over() => Step::Over,
            None => Step::Nothing,
        }
    }

    /// A datagram arrived on its socket.
    pub(super) fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> Option<Reply> {
        let request = self.request.as_mut()?;
        if let Some(answer) = request.handle_datagram(from, bytes, now) {
            return Some(Reply::Answer(answer));
        }
        request.is_refused_by(from, bytes).then_some(Reply::Refusal)
    }

    /// How long ago it was first sent.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.begun
            .map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun))
    }

    /// When it is late for an answer, with a round trip of so long. `None`: it was not asked yet.
    pub(super) fn hushed_at(&self, rtt: Duration) -> Option<Instant> {
        Some(self.begun? + self.allowed + rtt + HUSH)
    }

    /// Packets so far, openers not counted.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }
}

/// What the server said.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(BindingAnswer),
    Refusal,
}
