//! The one task that owns the registry: everything reaches it through one bounded queue, and it waits for nobody.
//!
//! It feeds the registry, carries out its commands, and keeps what the registry does not know: the connection behind
//! each number, the socket it came through, and whether it is proven where it came from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knothole_proto::addr::canonical;
use knothole_proto::id::PeerId;
use knothole_proto::rendezvous::{Command, ConnId, Registry, Stats, StoreFailed};
use knothole_proto::wire::ToServer;
use quinn::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info, trace, warn};

use super::connection::{Outgoing, codes};
use super::proof::{self, Proof};
use crate::datagrams::{Datagrams, Via};
use crate::store::{Claim, Stored};

/// Messages of all connections that may wait for the registry. At a few microseconds each, a full queue is a delay of
/// milliseconds; then nodes' streams wait.
const QUEUE: usize = 1024;

/// Inputs handled before timers and moved ends get their turn.
const TURN: usize = 256;

/// How long a proof is waited for until the connection is looked at again, whatever became of it: a few round trips of a long path. Longer,
/// and a node whose first challenge was lost is followed later.
const RELOOK: Duration = Duration::from_secs(1);

/// How often; a node says something every 15 s, and then it is looked at anyhow.
const RELOOKS_MAX: u32 = 15;

/// What reaches the hub.
#[derive(Debug)]
pub(crate) enum ToHub {
    /// A connection was established.
    Connected {
        id: ConnId,
        peer: PeerId,
        /// Number of its socket.
        wire: usize,
        /// Where its handshake came from, which proves that address.
        from: SocketAddr,
        connection: Connection,
        queue: mpsc::Sender<Outgoing>,
    },
    /// It said something.
    Message { id: ConnId, message: ToServer },
    /// It said something that is no message.
    Garbage { id: ConnId },
    /// It is gone.
    Disconnected { id: ConnId },
    /// A claim is on the disk, or could not be written.
    Stored(Stored),
    /// Say goodbye to everybody.
    Shutdown,
    /// End the hub.
    Stop,
    /// Tell how things stand.
    Report(oneshot::Sender<Report>),
}

impl From<Stored> for ToHub {
    fn from(stored: Stored) -> Self {
        Self::Stored(stored)
    }
}

/// How things stand.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) registry: Stats,
    /// Connections that the hub knows, in whatever state.
    pub(crate) links: usize,
}

/// The queue to the hub.
pub(crate) fn queue() -> (mpsc::Sender<ToHub>, mpsc::Receiver<ToHub>) {
    mpsc::channel(QUEUE)
}

/// The registry and what it is wired to.
pub(crate) struct Hub {
    pub(crate) registry: Registry,
    pub(crate) datagrams: Arc<Datagrams>,
    pub(crate) store: mpsc::Sender<Claim>,
    pub(crate) links: BTreeMap<ConnId, Link>,
    /// Connections whose new address is to be proven, at most one for each.
    pub(crate) proofs: JoinSet<ConnId>,
}

/// A connection as the hub sees it.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
    queue: mpsc::Sender<Outgoing>,
    wire: usize,
    peer: PeerId,
    /// Where it is, proven.
    at: SocketAddr,
    /// What it takes until it is somewhere else.
    awaits: Option<Awaited>,
}

/// A proof that somebody waits for, until this is dropped.
#[derive(Debug)]
struct Awaited {
    proof: Option<Arc<Proof>>,
    /// How often it is looked at again.
    looks: u32,
    task: AbortHandle,
}

impl Awaited {
    fn is_for(&self, proof: &Arc<Proof>) -> bool {
        self.proof.as_ref().is_some_and(|own| Arc::ptr_eq(own, proof))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hub {
    /// Work until told to stop.
    pub(crate) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<ToHub>,
        mut moved: mpsc::Receiver<[ConnId; 2]>,
    ) {
        let mut turn = Vec::with_capacity(TURN);
        loop {
            let deadline = self.registry.poll_timeout().map(|(at, _)| at.into());
            tokio::select! {
                count = inputs.recv_many(&mut turn, TURN) => {
                    if count == 0 {
                        return;
                    }
                    for input in turn.drain(..) {
                        if matches!(input, ToHub::Stop) {
                            return;
                        }
                        self.handle(input, Instant::now());
                        self.carry_out(Instant::now());
                    }
                }
                Some(ends) = moved.recv() => {
                    for id in ends {
                        self.look(id, Instant::now());
                    }
                }
                // Those that nobody waits for any more were aborted.
                Some(proven) = self.proofs.join_next() => {
                    if let Ok(id) = proven {
                        self.look(id, Instant::now());
                    }
                }
                // The branch is off without a deadline; the moment then does not matter.
                () = sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    self.registry.handle_timeout(Instant::now());
                }
            }
            self.carry_out(Instant::now());
        }
    }

    fn handle(&mut self, input: ToHub, now: Instant) {
        match input {
            ToHub::Connected {
                id,
                peer,
                wire,
                from,
                connection,
                queue,
            } => {
                let link = Link {
                    connection,
                    queue,
                    wire,
                    peer,
                    at: canonical(from),
                    awaits: None,
                };
                self.connected(id, link, now);
            }
            ToHub::Message { id, message } => {
                self.look(id, now);
                self.registry.handle_message(id, message, now);
            }
            ToHub::Garbage { id } => self.registry.handle_garbage(id, now),
            ToHub::Disconnected { id } => {
                if let Some(link) = self.links.remove(&id) {
                    debug!(conn = id.0, peer = ?link.peer, "disconnected");
                    self.datagrams.relay.forget(id);
                    self.registry.handle_disconnected(id, now);
                }
            }
            ToHub::Stored(Stored { id, result }) => self.registry.handle_stored(id, result, now),
            ToHub::Shutdown => {
                info!(connections = self.links.len(), "saying goodbye");
                self.registry.handle_shutdown(now);
            }
            ToHub::Stop => {}
            ToHub::Report(answer) => {
                let report = Report {
                    registry: self.registry.stats(),
                    links: self.links.len(),
                };
                // Whoever asked may have gone.
                let _ = answer.send(report);
            }
        }
    }

    fn connected(&mut self, id: ConnId, link: Link, now: Instant) {
        let (peer, at) = (link.peer, link.at);
        debug!(conn = id.0, ?peer, %at, "connected");
        self.datagrams.relay.connect(id, peer, link.via(), now);
        self.links.insert(id, link);
        self.registry.handle_connected(id, peer, at, now);
    }

    /// Has this connection moved? It counts when the new address is proven; until then what is for the node goes where it was.
    fn look(&mut self, id: ConnId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if canonical(link.connection.remote_address()) == link.at {
            link.look_again(id, None, &mut self.proofs);
            return;
        }
        let path = proof::path(&link.connection).filter(|(at, _)| *at != link.at);
        let Some((at, proof)) = path else { return };
        if !proof.is_there() {
            link.look_again(id, Some(proof), &mut self.proofs);
            return;
        }
        // The last words of a connection are short as well, and prove nothing.
        if link.connection.close_reason().is_some() {
            return;
        }
        debug!(conn = id.0, peer = ?link.peer, before = %link.at, %at, "a node moved");
        link.at = at;
        link.awaits = None;
        self.datagrams.relay.move_end(id, link.via());
        self.registry.handle_address(id, at, now);
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(command) = self.registry.poll_command() {
            match command {
                Command::Send { conn, message } => {
                    trace!(conn = conn.0, ?message, "to node");
                    self.tell(conn, Outgoing::Message(message));
                }
                Command::Close { conn } => self.tell(conn, Outgoing::Close),
                Command::Store { claim, record } => {
                    if self.store.try_send(Claim { id: claim, record }).is_err() {
                        warn!("too many names wait for the disk");
                        self.registry.handle_stored(claim, Err(StoreFailed), now);
                    }
                }
                Command::OpenChannel { channel, ends } => {
                    let at = |id| Some((id, self.links.get(&id)?.at));
                    if let [Some(one), Some(other)] = ends.map(at)
                        && !self.datagrams.relay.open(channel, [one, other])
                    {
                        warn!("the relay's table is full");
                    }
                }
                Command::CloseChannel { channel } => self.datagrams.relay.close(channel),
            }
        }
    }

    fn tell(&self, id: ConnId, what: Outgoing) {
        let Some(link) = self.links.get(&id) else { return };
        match link.queue.try_send(what) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(Outgoing::Message(_))) => {
                debug!(conn = id.0, peer = ?link.peer, "a node does not read; closing its connection");
                link.connection.close(codes::SLOW, b"");
            }
            Err(mpsc::error::TrySendError::Full(Outgoing::Close)) => link.connection.close(codes::DONE, b""),
            // Its task has ended, and says so in the queue.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
}

impl Link {
    /// The hub looks again when this proof is there, and after a while anyhow: quinn gives up an address whose challenge was lost,
    /// and takes another proof when the node is heard from there once more. `None`: quinn is where the node was before.
    fn look_again(&mut self, id: ConnId, proof: Option<Arc<Proof>>, proofs: &mut JoinSet<ConnId>) {
        let looks = match (&self.awaits, &proof) {
            (None, None) => return,
            (Some(awaited), Some(proof)) if !awaited.is_for(proof) => RELOOKS_MAX,
            (None, Some(_)) => RELOOKS_MAX,
            (Some(awaited), _) if !awaited.task.is_finished() => return,
            (Some(awaited), _) => awaited.looks.saturating_sub(1),
        };
        self.awaits = None;
        if looks == 0 {
            return;
        }
        let given = proof.clone();
        let task = proofs.spawn(async move {
            let proven = async {
                match given {
                    Some(given) => given.come().await,
                    None => std::future::pending().await,
                }
            };
            let _ = timeout(RELOOK, proven).await;
            id
        });
        self.awaits = Some(Awaited { proof, looks, task });
    }

    fn via(&self) -> Via {
        Via {
            to: self.at,
            wire: self.wire,
            source: self.connection.local_ip(),
        }
    }
}
