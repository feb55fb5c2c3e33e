//! One Binding transaction of a node: a question, its repeats, and the answer that counts.
//!
//! Drive it with `poll_transmit` until it returns nothing, then again at `poll_timeout`; feed every STUN datagram of the
//! socket to `handle_datagram` until one gives an answer or `is_over`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::codec::{self, Flips, Id};
use crate::addr::canonical;
use crate::seed::Rng;

/// Length of every request in bytes, padding included. The longest answer (three IPv6 addresses) takes 92; a server
/// answers only what is at least as long as its answer, so less would silence it, and more would be waste.
pub const REQUEST_LEN: usize = 96;

/// When the request is sent, counted from the beginning: repeats after 100, 200 and 400 ms. RFC 8489 starts at 500 ms,
/// which is too slow for a person who waits; sooner would repeat on paths with a long round trip.
const SEND_AT: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
];

/// After this the question stays without an answer: 500 ms after the last repeat, more than a round trip round the world.
const GIVE_UP: Duration = Duration::from_millis(1200);

/// Where the answer is to come from (RFC 5780 section 7.2): the server, or another port or address of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From where the question went.
    None,
    /// From the same address, and this port.
    Port(u16),
    /// From this other address and port.
    AddressAndPort(SocketAddr),
}

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingAnswer {
    /// Where it saw the question come from.
    pub mapped: SocketAddr,
    /// Where it says it answered from.
    pub origin: Option<SocketAddr>,
    /// Another address of it.
    pub other: Option<SocketAddr>,
}

/// A Binding indication (RFC 8489 section 3), which nobody answers: 20 bytes that open a mapping or show a way, told
/// from all others by a random id. `None` never happens with a sound library.
pub fn indication(rng: &mut Rng) -> Option<Vec<u8>> {
    codec::write_indication(rng.bytes())
}

/// A Binding transaction.
#[derive(Debug)]
pub struct BindingRequest {
    server: SocketAddr,
    answers_from: SocketAddr,
    flips: Flips,
    id: Id,
    begun: Instant,
    sent: usize,
    over: bool,
}

impl BindingRequest {
    /// A question to `server`, not sent yet.
    pub fn new(server: SocketAddr, change: Change, rng: &mut Rng, now: Instant) -> Self {
        Self::with_id(server, change, rng.bytes(), now)
    }

    /// A question with a given transaction id, which must be unpredictable outside of tests.
    pub fn with_id(server: SocketAddr, change: Change, id: [u8; 12], now: Instant) -> Self {
        let server = canonical(server);
        let (answers_from, address, port) = match change {
            Change::None => (server, false, false),
            Change::Port(port) => (SocketAddr::new(server.ip(), port), false, true),
            Change::AddressAndPort(other) => (canonical(other), true, true),
        };
        Self {
            server,
            answers_from,
            flips: Flips { address, port },
            id,
            begun: now,
            sent: 0,
            over: false,
        }
    }

    /// As if it had begun so much later: nobody listened meanwhile.
    pub fn allow(&mut self, more: Duration) {
        self.begun += more;
    }

    /// Where the question goes.
    pub const fn server(&self) -> SocketAddr {
        self.server
    }

    /// The request, if it is due to be sent.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.over || self.poll_timeout()? > now {
            return None;
        }
        if self.sent == SEND_AT.len() {
            self.over = true;
            return None;
        }
        self.sent += 1;
        codec::write_request(self.id, self.flips, REQUEST_LEN)
    }

    /// A datagram arrived on the socket that the question left from. `None` if it is not the answer: another id,
    /// another source than the one asked for, or not a Binding success at all.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        _now: Instant,
    ) -> Option<BindingAnswer> {
        if self.over || canonical(from) != self.answers_from {
            return None;
        }
        let success = codec::read_success(datagram).filter(|success| success.id == self.id)?;
        self.over = true;
        Some(BindingAnswer {
            mapped: success.mapped,
            origin: success.origin,
            other: success.other,
        })
    }

    /// Did the server answer, but not from where it was asked to, or say that it does not understand the wish? Then silence
    /// from there tells nothing about what is in between.
    pub fn is_refused_by(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let elsewhere = canonical(from) == self.server && self.answers_from != self.server;
        elsewhere && codec::read_answer_id(datagram) == Some(self.id)
    }

    /// When [`Self::poll_transmit`] is to be called again; `None` once it is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let after = SEND_AT.get(self.sent).copied().unwrap_or(GIVE_UP);
        (!self.over).then(|| self.begun + after)
    }

    /// Answered, or given up.
    pub const fn is_over(&self) -> bool {
        self.over
    }
}
