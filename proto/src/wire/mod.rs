//! Everything that crosses the network, as `PROTOCOL.md` describes it: types and bytes, no behaviour.
//!
//! Three kinds of data share a UDP port and are told apart by the first byte of each datagram ([`Kind`]). Messages
//! with meaning ([`ToServer`], [`FromServer`], and what applications say to each other) go through [`codec`] and
//! travel inside QUIC streams. What is sent per packet ([`probe`], [`relay`]) has a fixed layout of its own.

pub mod codec;
mod from_server;
pub mod network;
pub mod odds;
pub mod probe;
pub mod relay;
pub mod segments;
mod to_server;

pub use codec::{CodecError, decode, encode};
pub use from_server::{
    CloseReason, ConnectRefusal, FromServer, Introduction, PairEnd, Refusal, Role, ServerTime, Welcome,
};
pub use network::{Aim, Network, Span};
pub use odds::{NetworkClass, OddsRow};
pub use segments::segments;
pub use to_server::{
    ACCEPT_TAGS_MAX, AGENT_LEN_MAX, Connect, Hello, PAIR_BODY_LEN_MAX, PathPolicy, Report, ToServer, Update,
};

/// Version of the control protocol, in the ALPN of its connections. A change that an older node would misread takes
/// a new one; servers then offer both.
pub const CONTROL_ALPN: &[u8] = b"knothole/1";

/// ALPN of connections between nodes.
pub const PEER_ALPN: &[u8] = b"knothole-peer/1";

/// The port a server listens on unless told otherwise (unassigned by IANA in 2026).
pub const SERVER_PORT: u16 = 5668;

/// What a datagram is, by its first byte (RFC 7983 and RFC 9443 set the ranges of STUN and QUIC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 0..=3: STUN (RFC 8489 section 5).
    Stun,
    /// 4: a probe, [`probe`].
    Probe,
    /// 5: a relay frame, [`relay`].
    Relay,
    /// 64..=255: QUIC with its fixed bit set (RFC 9000 section 17); both ends switch greasing of that bit off.
    Quic,
    /// Anything else, and the empty datagram: dropped and counted.
    Unknown,
}

impl Kind {
    /// Classify one datagram. With receive offload a buffer holds many: look at each.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(&probe::FIRST_BYTE) => Self::Probe,
            Some(&relay::FIRST_BYTE) => Self::Relay,
            Some(64..=255) => Self::Quic,
            _ => Self::Unknown,
        }
    }
}
