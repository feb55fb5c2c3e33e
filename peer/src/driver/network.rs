//! What the network does: looked up where it was found out before, and kept for the next time. Both are read and written
//! beside the loop.

use std::net::SocketAddr;

use knothole_proto::connector::Input;
use knothole_proto::fingerprint::Fingerprint;

use super::run::Driver;
use crate::netcheck::{recall, remember};
use crate::node::NodeEvent;

impl Driver {
    /// The server sees this node at that address: what is known of a network where it did so before?
    pub(super) fn recall_network(&self, seen: SocketAddr) {
        let Some(cache) = self.config.networks.clone().filter(|_| self.config.fingerprint) else {
            return;
        };
        let (server, found) = (self.config.server.clone(), self.recalled.0.clone());
        tokio::spawn(async move {
            if let Some(fingerprint) = recall(cache, &server.host, server.port, seen).await {
                // Fails only when the node has stopped.
                let _ = found.send(Box::new(fingerprint)).await;
            }
        });
    }

    pub(super) fn on_recalled(&mut self, known: Box<Fingerprint>) {
        tracing::debug!(class = known.class().word(), "this network is known");
        self.tell(NodeEvent::Network(known.clone()));
        self.feed(Input::Network(known));
    }

    pub(super) fn on_fingerprint(&mut self, fingerprint: Box<Fingerprint>) {
        tracing::info!(
            class = fingerprint.class().word(),
            packets = fingerprint.packets,
            "what the network does"
        );
        if let Some(cache) = self.config.networks.clone() {
            let (server, kept) = (self.config.server.clone(), fingerprint.clone());
            tokio::spawn(async move { remember(cache, &server.host, server.port, &kept).await });
        }
        self.tell(NodeEvent::Network(fingerprint));
    }
}
