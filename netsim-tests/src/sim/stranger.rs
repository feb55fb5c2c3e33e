//! A stranger who sees every packet and may send any, but knows no secret.
//!
//! It copies probes, STUN and relay frames that are about to enter a network: as they were, from its own address, with
//! a bit flipped, or back to where they came from; each a while later, or in a hurry, so that the copy comes before
//! the packet. QUIC is left alone: its encryption and packet numbers are not what this world is about. The
//! copies do not pass the links of the receiver, so that a run with a stranger draws the same chances as one without.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use knothole_proto::seed::{Rng, Seed};
use knothole_proto::wire::Kind;

use super::topology::{Hop, Origin, Packet};
use crate::nat::Flow;

/// Where the stranger sits.
pub(super) const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 6666);

/// Slowest copy, in milliseconds: longer than any answer is waited for.
const LATE_MS: u64 = 8_000;

/// How the stranger goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Copies come after their packets.
    Replay,
    /// Copies come before their packets, if they come from the stranger's own address; others after them.
    Race,
}

impl Mischief {
    /// The word on command lines.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Race => "race",
        }
    }

    /// The mischief called `word`.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        [Self::Replay, Self::Race]
            .into_iter()
            .find(|mischief| mischief.word() == word)
    }
}

/// The stranger.
#[derive(Debug)]
pub(super) struct Stranger {
    mischief: Mischief,
    rng: Rng,
    copies: u64,
}

impl Stranger {
    pub(super) fn new(mischief: Mischief, seed: &Seed) -> Self {
        Self {
            mischief,
            rng: seed.rng(),
            copies: 0,
        }
    }

    /// Sees a packet that enters a link, and answers what it sends: when, to where it goes on, and the packet.
    pub(super) fn hear(&mut self, hop: Hop, packet: &Packet) -> Vec<(Duration, Hop, Packet)> {
        let inwards = matches!(hop, Hop::In(_));
        let wanted = matches!(Kind::of(&packet.bytes), Kind::Probe | Kind::Stun | Kind::Relay);
        if !inwards || !wanted {
            return Vec::new();
        }
        let late = |rng: &mut Rng| Duration::from_millis(200 + rng.below(LATE_MS));
        let early = match self.mischief {
            Mischief::Replay => late(&mut self.rng),
            Mischief::Race => Duration::from_micros(1),
        };
        let exact = packet.flow;
        let copied = match packet.origin {
            Origin::Host(host) => Origin::Copied(host),
            other => other,
        };
        let own = Flow {
            src: ADDRESS,
            ..exact
        };
        let mut copies = vec![
            (late(&mut self.rng), exact, copied, packet.bytes.clone()),
            (early, own, Origin::Stranger, packet.bytes.clone()),
        ];
        let mut bent = packet.bytes.clone();
        let at = usize::try_from(self.rng.below(bent.len() as u64)).unwrap_or(0);
        bent[at] ^= 1 << self.rng.below(8);
        copies.push((Duration::from_micros(2), exact, Origin::Stranger, bent));
        self.copies += copies.len() as u64;
        let copy = |(after, flow, origin, bytes)| {
            let copy = Packet {
                flow,
                origin,
                bytes,
                ..packet.clone()
            };
            (after, hop, copy)
        };
        copies.into_iter().map(copy).collect()
    }

    /// How many packets it sent.
    pub(super) fn copies(&self) -> u64 {
        self.copies
    }
}
