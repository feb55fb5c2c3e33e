//! Do packets to the own external address come back in? Two sockets send to each other's external endpoints at once, so
//! that each opens its filter for the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::facts::{Fact, Hairpin, Obstacle};
use crate::path::SocketId;
use crate::seed::Rng;
use crate::stun::indication;
use crate::transmit::Transmit;

/// When both send, counted from the beginning. The way to the own NAT and back is short; the repeats are for loss.
const SEND_AT: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
];

/// After this nothing comes any more: half a second after the last packet, twice the way to a distant carrier.
const GIVE_UP: Duration = Duration::from_millis(800);

/// One of the two sockets.
#[derive(Clone, Debug)]
struct End {
    socket: SocketId,
    local: SocketAddr,
    mapped: SocketAddr,
    bytes: Vec<u8>,
}

/// The test.
#[derive(Debug, Default)]
pub(super) struct HairpinTest {
    ends: Option<[End; 2]>,
    begun: Option<Instant>,
    sent: usize,
    /// What silence means.
    silence: Option<Fact<Hairpin>>,
    result: Option<Fact<Hairpin>>,
}

impl HairpinTest {
    /// Begin with two sockets, each with its own endpoint and its external one. `silence` is what it means if nothing comes.
    pub(super) fn begin(
        &mut self,
        ends: [(SocketId, SocketAddr, SocketAddr); 2],
        silence: Fact<Hairpin>,
        rng: &mut Rng,
        now: Instant,
    ) {
        let mut end = |(socket, local, mapped)| {
            Some(End {
                socket,
                local,
                mapped,
                bytes: indication(rng)?,
            })
        };
        let [one, other] = ends;
        self.ends = end(one).zip(end(other)).map(|(one, other)| [one, other]);
        self.begun = Some(now);
        self.silence = Some(silence);
        if self.ends.is_none() {
            self.result = Some(Fact::NotTestable(Obstacle::NotReached));
        }
    }

    /// It will not be done.
    pub(super) fn give_up(&mut self, why: Obstacle) {
        self.result.get_or_insert(Fact::NotTestable(why));
    }

    pub(super) fn is_begun(&self) -> bool {
        self.begun.is_some() || self.result.is_some()
    }

    pub(super) fn result(&self) -> Option<Fact<Hairpin>> {
        self.result
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let begun = self.begun.filter(|_| self.result.is_none())?;
        Some(begun + SEND_AT.get(self.sent / 2).copied().unwrap_or(GIVE_UP))
    }

    /// A packet that is due; notes the end when its time has come.
    pub(super) fn next_packet(&mut self, now: Instant) -> Option<Transmit> {
        if self.due()? > now {
            return None;
        }
        if self.sent / 2 >= SEND_AT.len() {
            self.result = self.silence;
            return None;
        }
        let [one, other] = self.ends.as_ref()?;
        let (from, to) = if self.sent.is_multiple_of(2) {
            (one, other)
        } else {
            (other, one)
        };
        self.sent += 1;
        Some(Transmit {
            socket: from.socket,
            to: to.mapped,
            bytes: from.bytes.clone(),
            ttl: None,
        })
    }

    /// Was this datagram one of the two?
    pub(super) fn handle_datagram(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8]) -> bool {
        let Some(ends) = &self.ends else { return false };
        let sender = ends.iter().find(|end| end.bytes == bytes && end.socket != socket);
        let Some(sender) = sender.filter(|_| ends.iter().any(|end| end.socket == socket)) else {
            return false;
        };
        let seen = if from.ip() == sender.local.ip() {
            Hairpin::Internal
        } else {
            Hairpin::External
        };
        if self.result.is_none() {
            self.result = Some(Fact::Known(seen));
        }
        true
    }
}
