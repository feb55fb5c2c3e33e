//! What a node tells whoever listens.

use std::net::SocketAddr;
use std::time::Duration;

use knothole_proto::connector::Nat;
use knothole_proto::fingerprint::Fingerprint;
use knothole_proto::id::{Name, PeerId};
use knothole_proto::punch::Plan;
use knothole_proto::wire::Refusal;

/// What the server knows about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// This node.
    pub id: PeerId,
    /// The name it holds.
    pub name: Option<Name>,
    /// Its public address, as the server sees it.
    pub reflexive: SocketAddr,
    /// What the NAT in front of it does, as far as known.
    pub nat: Nat,
    /// Does the server grant relay channels?
    pub relay: bool,
}

/// Something happened to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The server admitted this node: first, or again after the control connection was lost.
    Registered(Registered),
    /// The control connection is gone; direct connections live on while the node tries again.
    ServerLost,
    /// The server no longer admits this node.
    Refused(Refusal),
    /// More is known about the NAT in front of this node, or its public address changed.
    Nat {
        /// Public address.
        reflexive: SocketAddr,
        /// What kind of NAT.
        nat: Nat,
    },
    /// What the network does to packets: found out now, or known from before.
    Network(Box<Fingerprint>),
    /// How a round of attempts to reach a peer directly goes about it.
    Plan {
        /// The peer.
        peer: PeerId,
        /// Which round of the two, from 0.
        round: u8,
        /// What both sides do; it has a word for programs and its reason in words.
        plan: Plan,
    },
    /// The server is stopping and will be back.
    Draining {
        /// When this node comes back to it.
        retry_after: Duration,
    },
}
