//! The node's decisions behind one facade: registration, clock, introductions, punching, pairing.

mod budget;
mod clock;
pub mod config;
mod control;
mod early;
mod guessing;
mod introductions;
mod io;
mod link;
mod links;
mod machine;
mod nat;
mod orders;
mod pairing;
mod questions;
mod sockets;
mod survey;

pub use crate::transmit::Transmit;
pub use config::ConnectorConfig;
pub use io::{
    Command, ConnectFailure, Effort, Event, Input, Link, LinkEnd, LinkId, Nat, Output, PairEvent, PairFailure,
};
pub use machine::Connector;

/// Why the connector wants to be called at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Timer {
    /// Tell the server that this node is alive, and compare clocks.
    Refresh,
    /// Ask a STUN question, again or for the first time.
    Stun,
    /// A question to the server was not answered in time.
    Question,
    /// Ask the server for another round on a link.
    Round,
    /// A link has been without any path for too long.
    Orphan,
    /// Punching.
    Punch(crate::punch::Timer),
    /// Pairing takes too long.
    Pairing,
    /// The survey of the network has something to ask.
    Survey,
}
