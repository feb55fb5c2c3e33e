//! Punching: two nodes that were told of each other find out which pairs of addresses work, and keep one open.
//!
//! A *pair* is one own socket and one remote address. Both sides send [probes](crate::wire::probe) on every pair from
//! a common start; an authentic question is answered at once, and met with a check of one's own if its source was
//! not known. A pair is *proven* when an own nonce came back on it **and** the peer's authentic probe on it says that
//! the peer's did: both directions work, and both sides know. The first proven pair is locked and carries traffic.
//!
//! ```text
//!            start                                    lost (silence, consent expired)
//!   waiting ───────> probing ──proof──> locked ──────────────────────────> recovering
//!                      │ 2 s              ▲ │ 50, 200, 1000 ms: better pair   │ new round
//!                      ▼                  │ ▼                                 ▼
//!                    failed ──late proof──┘ kept alive                      probing
//! ```

mod agent;
mod choice;
pub mod config;
mod extras;
mod locked;
mod pacer;
mod pair;
mod round;
mod seen;
mod tactics;
mod upkeep;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::addr::{Candidate, OfferedCandidate};
use crate::path::{How, SocketId, Why};
use crate::transmit::Transmit;
use crate::wire::Role;
use crate::wire::network::Span;
use crate::wire::probe::ProbeKeys;

pub use crate::plan::Plan;
pub use agent::{Cost, PunchAgent};
pub(crate) use choice::usable;
pub use config::PunchConfig;
pub use tactics::{Orders, sockets_wanted};

/// Why a punching agent wants to be called at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Timer {
    /// A probe is due.
    Probe,
    /// Is another proven path better than the used one?
    Choice,
    /// The round has failed unless something was proven.
    Verdict,
    /// The used path needs a sign of life, or did not give one.
    Upkeep,
    /// A source was silent for so long that it can be forgotten.
    Forget,
    /// The plan of the round has something to send.
    Tactics,
    /// Sockets that no path came to use can be closed.
    Retire,
}

/// What there was of a link's QUIC traffic since the last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficReport {
    /// Something was sent on the direct path.
    pub sent: bool,
    /// Something arrived on it.
    pub received: bool,
    /// Something arrived through the relay.
    pub relayed: bool,
}

/// One of the node's sockets, as pairs are made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSocket {
    /// The socket.
    pub id: SocketId,
    /// Does it speak IPv6? Otherwise IPv4; none speaks both.
    pub v6: bool,
}

/// What an agent is told at its beginning.
#[derive(Debug)]
pub struct Setup {
    /// Keys of the session.
    pub keys: ProbeKeys,
    /// Which side this is. The caller chooses between proven pairs, the callee follows.
    pub role: Role,
    /// The own sockets.
    pub sockets: Vec<LocalSocket>,
    /// The own addresses, by which a remote one is known to be on the same network.
    pub local: Vec<Candidate>,
    /// The first round.
    pub round: Round,
}

/// One round of punching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// Its number, as probes carry it.
    pub number: u8,
    /// When both sides send their first probe.
    pub start: Instant,
    /// Where the peer may be.
    pub remote: Vec<OfferedCandidate>,
    /// What the plan of the two asks of this side; `None`: to probe what was offered, and no more.
    pub orders: Option<Orders>,
}

/// A probe to send, and how much its destination has agreed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The datagram.
    pub transmit: Transmit,
    /// What the destination is to the sender.
    pub consent: Consent,
}

/// How much a destination has agreed to being sent probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consent {
    /// Somebody named the address, and nobody vouches for it.
    Claimed,
    /// The server saw the peer's authenticated traffic from its IP address.
    Attested,
    /// The same, but the port is a guess, or a socket opens the own router towards it: part of a plan that both sides agreed to.
    Guessed,
    /// The peer was heard from exactly there, and it was no copy.
    Heard,
}

/// What an agent has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's datagrams come from here as well.
    Source {
        /// The socket it came in on.
        socket: SocketId,
        /// Where from.
        remote: SocketAddr,
    },
    /// Nothing authentic came from here for long.
    SourceGone {
        /// The socket.
        socket: SocketId,
        /// The address.
        remote: SocketAddr,
    },
    /// Traffic is to take this path.
    Locked {
        /// What kind of path it is.
        how: How,
        /// The socket it leaves from.
        socket: SocketId,
        /// Where to.
        remote: SocketAddr,
        /// Round trip of the probes.
        rtt: Duration,
    },
    /// The used path fell silent, and there is no other one.
    Lost,
    /// The round ended without a path.
    Failed(Why),
    /// The peer is to be told where this side is to be found.
    Aim {
        /// Ports; what they mean depends on the plan.
        spans: Vec<Span>,
        /// The own router is open towards the ports that the peer named.
        opened: bool,
    },
    /// A fresh socket is of no more use.
    Unused {
        /// Which.
        socket: SocketId,
    },
}
