//! The node's decisions behind one facade: registration, clock, introductions, punching, pairing.

mod io;

pub use io::{
    Command, ConnectFailure, Event, Input, Link, LinkEnd, LinkId, Nat, Output, PairEvent, PairFailure,
    Transmit,
};

/// Why the connector wants to be called at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Tell the server that this node is alive, and compare clocks.
    Refresh,
}
