//! A control connection as the registry remembers it, and the index by key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::command::ConnId;
use super::config::{HELLO_WITHIN, REFRESH, REFRESHES_MISSED};
use crate::addr::{Candidate, canonical};
use crate::id::{Instance, Name, PairTag, PeerId};
use crate::quota::Bucket;
use crate::wire::Network;

/// One run of one node.
pub(super) type Run = (PeerId, Instance);

/// A control connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: PeerId,
    pub(super) from: SocketAddr,
    pub(super) heard: Instant,
    pub(super) messages: Bucket,
    pub(super) connects: Bucket,
    /// What the hello told; `None` before it.
    pub(super) node: Option<Node>,
}

/// What a node told about itself.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) instance: Instance,
    pub(super) name: Option<Name>,
    pub(super) accepting: bool,
    /// Registered; until then its claim is being written.
    pub(super) live: bool,
    pub(super) candidates: Vec<Candidate>,
    /// In ascending order.
    pub(super) accept: Vec<PairTag>,
    pub(super) network: Network,
    pub(super) rtt: Option<Duration>,
}

impl Connection {
    pub(super) fn new(peer: PeerId, from: SocketAddr, now: Instant) -> Self {
        Self {
            peer,
            from: canonical(from),
            heard: now,
            messages: Bucket::new(now),
            connects: Bucket::new(now),
            node: None,
        }
    }

    /// When it counts as gone unless it is heard of.
    pub(super) fn expires(&self) -> Instant {
        let patience = match self.node {
            None => HELLO_WITHIN,
            Some(_) => REFRESH * REFRESHES_MISSED,
        };
        self.heard + patience
    }

    /// The node, once it is registered.
    pub(super) fn live(&self) -> Option<&Node> {
        self.node.as_ref().filter(|node| node.live)
    }
}

/// All control connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: BTreeMap<ConnId, Connection>,
    /// Oldest first.
    of_key: BTreeMap<PeerId, Vec<ConnId>>,
}

impl Connections {
    pub(super) fn insert(&mut self, conn: ConnId, connection: Connection) {
        self.of_key.entry(connection.peer).or_default().push(conn);
        self.all.insert(conn, connection);
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Connection> {
        let connection = self.all.remove(&conn)?;
        if let Some(conns) = self.of_key.get_mut(&connection.peer) {
            conns.retain(|of_key| *of_key != conn);
            if conns.is_empty() {
                self.of_key.remove(&connection.peer);
            }
        }
        Some(connection)
    }

    pub(super) fn get(&self, conn: ConnId) -> Option<&Connection> {
        self.all.get(&conn)
    }

    pub(super) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.all.get_mut(&conn)
    }

    /// The connections of a key, oldest first.
    pub(super) fn of_key(&self, peer: PeerId) -> &[ConnId] {
        self.of_key.get(&peer).map_or(&[], Vec::as_slice)
    }

    /// Another connection of the same run, which is what a reconnect leaves behind.
    pub(super) fn same_run(&self, conn: ConnId, run: Run) -> Option<ConnId> {
        let is_it = |other: &&ConnId| {
            let node = self.get(**other).and_then(|connection| connection.node.as_ref());
            **other != conn && node.is_some_and(|node| node.instance == run.1)
        };
        self.of_key(run.0).iter().find(is_it).copied()
    }

    /// The newest connection of this key that may be introduced to a caller with this tag.
    pub(super) fn callee(&self, peer: PeerId, tag: PairTag, caller: ConnId) -> Option<ConnId> {
        let accepts = |conn: &&ConnId| {
            let node = self.get(**conn).and_then(Connection::live);
            **conn != caller
                && node.is_some_and(|node| node.accepting && node.accept.binary_search(&tag).is_ok())
        };
        self.of_key(peer).iter().rev().find(accepts).copied()
    }

    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.all.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn live_count(&self) -> usize {
        self.all
            .values()
            .filter(|connection| connection.live().is_some())
            .count()
    }
}
