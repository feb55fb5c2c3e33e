//! What the handles of a node ask its driver for.

use knothole_proto::connector::PairEvent;
use knothole_proto::id::{Name, PeerId};
use knothole_proto::pairing::Code;
use knothole_proto::wire::{OddsRow, PathPolicy};
use tokio::sync::{mpsc, oneshot};

use super::link::LinkUse;
use crate::node::{ConnectError, LookupError, PairError, Peer};

/// Questions and orders that may wait for the driver; senders wait when it is full.
pub(crate) const REQUESTS_MAX: usize = 64;

/// A link to a peer.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) link: LinkUse,
    /// It was there before, so the server was not asked whether the peer still is.
    pub(crate) used: bool,
}

/// A question or an order to the driver.
pub(crate) enum Request {
    /// These are the paired machines now.
    SetPeers(Vec<Peer>),
    /// A link to this peer is wanted.
    Connect {
        peer: PeerId,
        policy: PathPolicy,
        /// Do not take a link that is there already: it did not answer.
        afresh: bool,
        reply: oneshot::Sender<Result<Granted, ConnectError>>,
    },
    /// Which key holds this name?
    Lookup {
        name: Name,
        reply: oneshot::Sender<Result<Option<PeerId>, LookupError>>,
    },
    /// How do attempts between two networks end at the server?
    Odds { reply: oneshot::Sender<Vec<OddsRow>> },
    /// Pair with whoever comes, or with the machine that made this code.
    Pair {
        code: Option<Code>,
        steps: mpsc::Sender<Result<PairEvent, PairError>>,
    },
    /// Stop.
    Shutdown { reply: oneshot::Sender<()> },
}
