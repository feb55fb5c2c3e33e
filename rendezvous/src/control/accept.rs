//! Handshakes: from an attempt on an endpoint to a connection in the hands of the hub.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use knothole_proto::id::PeerId;
use knothole_proto::rendezvous::ConnId;
use quinn::{Connection, Endpoint, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error};

use super::connection::{self, OUTGOING, codes};
use super::gate::{Gate, Permit, Verdict};
use super::hub::ToHub;
use crate::identity::peer_of;

/// How long a handshake may take: five round trips of a bad satellite link, with losses.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Everything that accepting needs, for each endpoint a copy.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    pub(crate) gate: Arc<Gate>,
    pub(crate) hub: mpsc::Sender<ToHub>,
    pub(crate) numbers: Arc<AtomicU64>,
    /// Turns true when no new connection shall be taken.
    pub(crate) closing: watch::Receiver<bool>,
}

impl Acceptor {
    /// Accept on this endpoint, which is socket `wire`, until told to close and all its connections are over; or until
    /// the endpoint itself fails, which is the same as the end of this task.
    pub(crate) async fn run(mut self, endpoint: Endpoint, wire: usize) {
        let mut connections: JoinSet<()> = JoinSet::new();
        let mut numbers: HashMap<tokio::task::Id, ConnId> = HashMap::new();
        let mut closing = *self.closing.borrow();
        while !closing || !connections.is_empty() {
            tokio::select! {
                incoming = endpoint.accept(), if !closing => {
                    let Some(incoming) = incoming else { return };
                    if let Some((incoming, permit)) = self.admit(incoming) {
                        let id = ConnId(self.numbers.fetch_add(1, Ordering::Relaxed));
                        let task = connections.spawn(serve(id, wire, incoming, permit, self.hub.clone()));
                        numbers.insert(task.id(), id);
                    }
                }
                Some(ended) = connections.join_next_with_id() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(why) => {
                            if why.is_panic() {
                                error!("the task of a control connection panicked");
                            }
                            why.id()
                        }
                    };
                    // Told here and not by the task, so that it is told however the task ended.
                    if let Some(id) = numbers.remove(&task)
                        && self.hub.send(ToHub::Disconnected { id }).await.is_err()
                    {
                        return;
                    }
                }
                changed = self.closing.changed(), if !closing => {
                    closing = changed.is_err() || *self.closing.borrow();
                }
            }
        }
    }

    fn admit(&self, incoming: Incoming) -> Option<(Incoming, Permit)> {
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        match self.gate.judge(incoming.remote_address(), proven, Instant::now()) {
            Verdict::Accept(permit) => return Some((incoming, permit)),
            // Fails only for an address that is proven already.
            Verdict::Prove => drop(incoming.retry()),
            Verdict::Ignore => incoming.ignore(),
        }
        None
    }
}

/// One connection, from its handshake to its end.
async fn serve(id: ConnId, wire: usize, incoming: Incoming, mut permit: Permit, hub: mpsc::Sender<ToHub>) {
    let from = incoming.remote_address();
    let Ok(connecting) = incoming.accept() else { return };
    let connection = match timeout(HANDSHAKE_WITHIN, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(why)) => {
            debug!(%from, %why, "handshake failed");
            return;
        }
        Err(_) => {
            debug!(%from, "handshake took too long");
            return;
        }
    };
    permit.established();
    let Some(peer) = peer(&connection) else {
        // Not reachable while client certificates are mandatory.
        connection.close(codes::DONE, b"");
        return;
    };
    let (queue, outgoing) = mpsc::channel(OUTGOING);
    let connected = ToHub::Connected {
        id,
        peer,
        wire,
        from,
        connection: connection.clone(),
        queue,
    };
    if hub.send(connected).await.is_ok() {
        connection::serve(id, &connection, &hub, outgoing).await;
    }
}

/// Whose key the connection proved.
fn peer(connection: &Connection) -> Option<PeerId> {
    let certificates = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    peer_of(certificates.first()?)
}
