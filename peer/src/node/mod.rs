//! The public interface of a node: start it, connect to paired machines, accept their connections, pair new ones.
//!
//! A [`Node`] is a handle on a task that owns everything; methods ask that task and wait for its answer. Dropping the
//! last handle stops the node abruptly; [`Node::shutdown`] says good-bye first.

mod config;
mod error;
mod event;
mod pairing;

use std::time::Duration;

use knothole_proto::id::{Name, PeerId};
use knothole_proto::pairing::Code;
use knothole_proto::wire::OddsRow;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;

pub use crate::net::Bind;
pub use config::{ConnectOptions, NodeConfig, Peer};
pub use error::{ConnectError, LookupError, PairError, StartError};
pub use event::{NodeEvent, Registered};
pub use pairing::{Paired, Pairing};

use crate::driver::Request;
use crate::session::{Connection, Quic};

/// Events that a slow listener may be behind before it misses some.
const EVENTS_BEHIND_MAX: usize = 64;

/// How long the server may take to look up a name; it answers at once, and 5 s are two lost packets on a satellite path.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running node.
#[derive(Debug)]
pub struct Node {
    id: PeerId,
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<NodeEvent>,
    first: Registered,
    registered: watch::Receiver<Option<Registered>>,
    incoming: Mutex<mpsc::Receiver<Connection>>,
    quic: Quic,
}

impl Node {
    /// Bind the sockets, reach the server, register; returns when the server has admitted this node.
    ///
    /// # Errors
    /// Any [`StartError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        crate::driver::start(config).await
    }

    /// This node's id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// What the server last said about this node.
    pub fn registered(&self) -> Registered {
        self.registered
            .borrow()
            .clone()
            .unwrap_or_else(|| self.first.clone())
    }

    /// What happens to the node from now on. A listener that is far behind misses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    /// These are the paired machines now. Links to machines that are no longer among them end.
    pub async fn set_peers(&self, peers: Vec<Peer>) {
        // Fails only when the node has stopped, and then there is nothing to tell.
        let _ = self.requests.send(Request::SetPeers(peers)).await;
    }

    /// Which key holds this name at the server?
    ///
    /// # Errors
    /// Any [`LookupError`].
    pub async fn lookup(&self, name: Name) -> Result<Option<PeerId>, LookupError> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Lookup { name, reply };
        self.requests
            .send(request)
            .await
            .map_err(|_| LookupError::Stopped)?;
        match timeout(LOOKUP_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| LookupError::Stopped)?,
            Err(_) => Err(LookupError::Timeout),
        }
    }

    /// How attempts to connect directly have ended at the server since it started, by what the two networks were.
    ///
    /// # Errors
    /// Any [`LookupError`]; a server of an older version ends the connection instead of answering.
    pub async fn odds(&self) -> Result<Vec<OddsRow>, LookupError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request::Odds { reply })
            .await
            .map_err(|_| LookupError::Stopped)?;
        match timeout(LOOKUP_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| LookupError::ServerLost),
            Err(_) => Err(LookupError::Timeout),
        }
    }

    /// Connect to a paired machine: over the relay at once, directly as soon as a path is proven, as the policy allows.
    ///
    /// # Errors
    /// Any [`ConnectError`].
    pub async fn connect(&self, peer: PeerId, options: ConnectOptions) -> Result<Connection, ConnectError> {
        crate::driver::connect(&self.requests, &self.quic, peer, options).await
    }

    /// The next connection that a paired machine opened; `None` when the node has stopped.
    pub async fn accept(&self) -> Option<Connection> {
        self.incoming.lock().await.recv().await
    }

    /// Begin pairing: the code is for the other machine's person.
    ///
    /// # Errors
    /// Any [`PairError`].
    pub async fn pair_open(&self) -> Result<Pairing, PairError> {
        Pairing::open(&self.requests).await
    }

    /// Finish pairing with the code that the other machine shows.
    ///
    /// # Errors
    /// Any [`PairError`].
    pub async fn pair_join(&self, code: Code) -> Result<Paired, PairError> {
        Pairing::join(&self.requests, code).await
    }

    /// Close every connection, tell the server, stop. Waits at most about two seconds.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.requests.send(Request::Shutdown { reply }).await.is_ok() {
            // The sender is dropped when the driver is gone, which is what is waited for.
            let _ = done.await;
        }
    }

    pub(crate) fn assemble(parts: Parts) -> Self {
        Self {
            id: parts.id,
            requests: parts.requests,
            events: parts.events,
            first: parts.first,
            registered: parts.registered,
            incoming: Mutex::new(parts.incoming),
            quic: parts.quic,
        }
    }
}

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) id: PeerId,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) first: Registered,
    pub(crate) registered: watch::Receiver<Option<Registered>>,
    pub(crate) incoming: mpsc::Receiver<Connection>,
    pub(crate) quic: Quic,
}

/// The channel on which a node's events go out.
pub(crate) fn event_channel() -> broadcast::Sender<NodeEvent> {
    broadcast::Sender::new(EVENTS_BEHIND_MAX)
}
