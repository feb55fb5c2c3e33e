//! What two nodes must know of each other's IPv4 network to choose a plan: the short form of a fingerprint.
//!
//! It goes to the server with every update, and both sides of an introduction get both, so that they come to the same
//! plan. Everything in it is what a node says of itself: a wrong word can make an attempt fail, and no more.

use serde::{Deserialize, Serialize};

/// One node's network. The default knows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Network {
    /// Which destinations see one socket at the same external endpoint.
    pub mapping: Mapping,
    /// Who may send to it.
    pub filtering: Filtering,
    /// How external ports are chosen.
    pub ports: Ports,
    /// Lowest time to live with which a packet opens the outermost filter; 0: not known.
    pub opener_ttl: u8,
    /// Several public addresses were seen, so the next flow may leave from another one.
    pub several_addresses: bool,
    /// The node takes part in plans of more than 50 packets.
    pub guesses: bool,
}

/// RFC 4787 section 4.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mapping {
    /// 0: not known.
    #[default]
    Unknown,
    /// 1: nothing is translated.
    None,
    /// 2: all destinations see the same, or at least two ports of one server do.
    Independent,
    /// 3: those of one address.
    Address,
    /// 4: none but the very same.
    AddressAndPort,
}

/// RFC 4787 section 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Filtering {
    /// 0: not known.
    #[default]
    Unknown,
    /// 1: anyone may.
    Independent,
    /// 2: any port of an address that was sent to.
    Address,
    /// 3: only an endpoint that was sent to.
    AddressAndPort,
}

/// RFC 4787 section 4.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ports {
    /// 0: not known.
    #[default]
    Unknown,
    /// 1: the inside port.
    Preserving,
    /// 2: the inside port for a socket's first destination, then counted.
    PreserveFirst {
        /// Distance of two counted ports in a row; 0: the others follow no counter.
        step: i16,
    },
    /// 3: the one before plus a step.
    Counter {
        /// Distance of two ports in a row, not 0.
        step: i16,
        /// New mappings of others a second.
        rate: u16,
    },
    /// 4: a random one between these two.
    Block {
        /// Lowest.
        low: u16,
        /// Highest.
        high: u16,
    },
    /// 5: a random one from this on.
    From(u16),
    /// 6: a random one.
    Random,
}

impl Ports {
    /// The class in one word, for counters and events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Preserving => "preserving",
            Self::PreserveFirst { .. } => "preserve-first",
            Self::Counter { .. } => "counter",
            Self::Block { .. } => "block",
            Self::From(_) | Self::Random => "random",
        }
    }
}

/// Most spans in one [`Aim`].
pub const SPANS_MAX: usize = 16;

/// Ports at which the sender of it is to be found in this round, at the address that the server sees it at. The server
/// passes it on; it names no address, so it cannot aim anybody elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aim {
    /// The session.
    pub session: crate::id::SessionId,
    /// The round that it belongs to; for another one it means nothing.
    pub round: u8,
    /// At most [`SPANS_MAX`]; what they mean depends on the plan. None where the plan guesses: the sender's own limits do not
    /// allow it now.
    pub spans: Vec<Span>,
    /// The sender's hole towards the ports that the receiver named is open: fire.
    pub opened: bool,
}

/// Ports from `first` to `last`, both included; for a counter that goes down `last` is the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}
