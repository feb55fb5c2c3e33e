//! Handshakes that peers begin: each on a link, and only with that link's peer.

use std::sync::Arc;
use std::time::Duration;

use quinn::Incoming;
use tokio::time::timeout;

use super::link::LinkUse;
use super::run::Driver;
use crate::net::link_of;
use crate::session::{CODE_DONE, Connection};

/// How long a peer may take to finish its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

impl Driver {
    /// Finish the handshake beside the loop, or drop it without an answer.
    pub(crate) fn on_incoming(&mut self, incoming: Incoming) {
        let link = link_of(incoming.remote_address()).and_then(|link| self.links.get(&link));
        let slot = Arc::clone(&self.handshakes).try_acquire_owned();
        let (Some(entry), Ok(slot), true) = (link, slot, self.config.accepting) else {
            incoming.ignore();
            return;
        };
        let link = LinkUse::new(&entry.shared);
        let (quic, accepted) = (self.ports.quic.clone(), self.ports.accepted.clone());
        tokio::spawn(async move {
            let transport = Arc::clone(link.transport());
            let handshake = quic.accept(incoming, link.peer(), transport.epoch());
            let connection = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    tracing::debug!(peer = ?link.peer(), %error, "a handshake of the peer failed");
                    return;
                }
                Err(_) => return,
            };
            drop(slot);
            let connection = Connection::new(connection, link);
            if let Err(refused) = accepted.try_send(connection) {
                tracing::warn!("a connection of a peer was closed: the application takes none");
                refused.into_inner().close_with(CODE_DONE, b"busy");
            }
        });
    }
}
