//! What the handles of a node ask its driver for.

use knothole_proto::connector::PairEvent;
use knothole_proto::id::{Name, PeerId};
use knothole_proto::pairing::Code;
use knothole_proto::wire::PathPolicy;
use tokio::sync::{mpsc, oneshot};

use super::link::LinkUse;
use crate::node::{ConnectError, ConnectOptions, LookupError, PairError, Peer};
use crate::session::Connection;

/// A question or an order to the driver.
pub(crate) enum Request {
    /// These are the paired machines now.
    SetPeers(Vec<Peer>),
    /// A link to this peer is wanted.
    Connect {
        peer: PeerId,
        policy: PathPolicy,
        /// A link that worked a moment ago does not answer: ask the server again.
        afresh: bool,
        reply: oneshot::Sender<Result<LinkUse, ConnectError>>,
    },
    /// Which key holds this name?
    Lookup {
        name: Name,
        reply: oneshot::Sender<Result<Option<PeerId>, LookupError>>,
    },
    /// Pair with whoever comes, or with the machine that made this code.
    Pair {
        code: Option<Code>,
        steps: mpsc::Sender<Result<PairEvent, PairError>>,
    },
    /// Stop.
    Shutdown { reply: oneshot::Sender<()> },
}

pub(crate) async fn connect(
    requests: &mpsc::Sender<Request>,
    peer: PeerId,
    options: ConnectOptions,
) -> Result<Connection, ConnectError> {
    let (reply, answer) = oneshot::channel();
    let request = Request::Connect {
        peer,
        policy: options.policy,
        afresh: false,
        reply,
    };
    requests.send(request).await.map_err(|_| ConnectError::Stopped)?;
    let _link = answer.await.map_err(|_| ConnectError::Stopped)??;
    Err(ConnectError::Stopped)
}
