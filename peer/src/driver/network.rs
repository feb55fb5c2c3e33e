//! What the network does, and what comes of such networks: looked up where it was found out before, and kept for the next time. Both are read and written
//! beside the loop.

use std::net::SocketAddr;

use knothole_proto::connector::Input;
use knothole_proto::fingerprint::Fingerprint;
use knothole_proto::id::RequestId;
use knothole_proto::wire::odds::ODDS_ROWS_MAX;
use knothole_proto::wire::{OddsRow, ToServer};
use tokio::sync::oneshot;

use super::run::Driver;
use crate::netcheck::{recall, remember};
use crate::node::NodeEvent;

/// Questions about odds that may wait for the server, which answers at once.
const ODDS_QUESTIONS_MAX: usize = 8;

/// What is known of a network from before, if anything is.
pub(super) type Recalled = Option<Box<Fingerprint>>;

impl Driver {
    /// Only a registered node may ask: whoever waits is told that there is no answer by the end of the channel.
    pub(super) fn ask_odds(&mut self, reply: oneshot::Sender<Vec<OddsRow>>) {
        self.odds.retain(|_, reply| !reply.is_closed());
        if self.to_server.is_some() && self.odds.len() < ODDS_QUESTIONS_MAX {
            let request = self.request_id();
            self.odds.insert(request, reply);
            self.tell_server(ToServer::Odds { request });
        }
    }

    pub(super) fn on_odds(&mut self, request: RequestId, mut rows: Vec<OddsRow>) {
        rows.truncate(ODDS_ROWS_MAX);
        if let Some(reply) = self.odds.remove(&request) {
            // Whoever asked may have given up.
            let _ = reply.send(rows);
        }
    }

    /// The server sees this node at that address: what is known of a network where it did so before?
    pub(super) fn recall_network(&mut self, seen: SocketAddr) {
        let Some(cache) = self.config.networks.clone().filter(|_| self.config.fingerprint) else {
            self.ports.recalled = None;
            return;
        };
        let (server, found) = (self.config.server.clone(), self.recalled.0.clone());
        tokio::spawn(async move {
            let known = recall(cache, &server.host, server.port, seen).await;
            // Fails only when the node has stopped.
            let _ = found.send(known.map(Box::new)).await;
        });
    }

    pub(super) fn on_recalled(&mut self, known: Recalled) {
        // Dropped at the end: whoever waits for it and asks for a peer then finds the network told to the server before.
        let _waiting = self.ports.recalled.take();
        let Some(known) = known else { return };
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
