//! The registry's door: hello, token, name, welcome, and the facts that a node tells about itself.

use std::time::Instant;

use super::command::{Command, ConnId};
use super::config::REFRESH;
use super::connection::Node;
use super::names::Verdict;
use super::offer;
use super::registry::Registry;
use crate::addr::{CANDIDATES_MAX, Reach};
use crate::id::{PeerId, Token};
use crate::wire::{ACCEPT_TAGS_MAX, AGENT_LEN_MAX, FromServer, Hello, Refusal, Update, Welcome};

impl Registry {
    /// The first message of a connection.
    pub(super) fn hello(&mut self, conn: ConnId, hello: Hello, now: Instant) {
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        let (peer, from) = (connection.peer, connection.from);
        if !is_lawful(&hello.facts) || hello.agent.len() > AGENT_LEN_MAX {
            return self.refuse(conn, Refusal::Protocol, now);
        }
        if let Err(refusal) = self.admit_key(peer, hello.token.as_ref()) {
            return self.refuse(conn, refusal, now);
        }
        let network_counts = !self.names.knows(peer) && Reach::of(from) != Reach::Loopback;
        let rate = self.config.limits.new_keys_per_network;
        if network_counts && !self.key_networks.admit_prefix(from, rate, now) {
            return self.refuse(conn, Refusal::Busy, now);
        }
        let verdict = self
            .names
            .claim(conn, peer, hello.name.as_ref(), &self.config.limits);
        let node = Node {
            instance: hello.instance,
            name: hello.name,
            accepting: hello.accepting,
            live: false,
            candidates: offer::accept(hello.facts.candidates, self.config.allow_loopback),
            accept: hello.facts.accept,
            network: hello.facts.network,
            rtt: None,
        };
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.node = Some(node);
        }
        match verdict {
            Verdict::Held => self.welcome(conn, now),
            Verdict::Write(claim, record) => self.push(Command::Store { claim, record }),
            Verdict::Refused(refusal) => self.refuse(conn, refusal, now),
        }
    }

    /// The claim of this connection came back from the disk.
    pub(super) fn finish_hello(&mut self, conn: ConnId, stored: bool, now: Instant) {
        if self.connections.get(conn).is_none() {
            return;
        }
        if stored {
            self.welcome(conn, now);
        } else {
            self.refuse(conn, Refusal::Storage, now);
        }
    }

    /// New facts in place of the old ones.
    pub(super) fn update(&mut self, conn: ConnId, facts: Update, now: Instant) {
        if !is_lawful(&facts) {
            return self.refuse(conn, Refusal::Protocol, now);
        }
        let node = self
            .connections
            .get_mut(conn)
            .and_then(|connection| connection.node.as_mut());
        if let Some(node) = node {
            node.candidates = offer::accept(facts.candidates, self.config.allow_loopback);
            node.accept = facts.accept;
            node.network = facts.network;
        }
        self.renew_uninformed(conn, now);
    }

    fn admit_key(&self, peer: PeerId, shown: Option<&Token>) -> Result<(), Refusal> {
        if self.config.open || self.names.knows(peer) {
            return Ok(());
        }
        let shown = shown.ok_or(Refusal::TokenMissing)?;
        // Every token is compared, in constant time each, so that the time tells nothing about any of them.
        let valid = self
            .config
            .tokens
            .iter()
            .fold(false, |valid, token| valid | (token == shown));
        valid.then_some(()).ok_or(Refusal::TokenWrong)
    }

    fn welcome(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let (peer, reflexive) = (connection.peer, connection.from);
        let Some(node) = connection.node.as_mut() else {
            return;
        };
        node.live = true;
        let (name, instance) = (node.name.clone(), node.instance);
        // The same run again means that its old connection is dead, whether or not anybody noticed.
        while let Some(old) = self.connections.same_run(conn, (peer, instance)) {
            self.close(old, now);
        }
        self.counts.welcomed += 1;
        let welcome = Welcome {
            name,
            reflexive,
            server: self.clock.at(now),
            refresh_ms: u32::try_from(REFRESH.as_millis()).unwrap_or(u32::MAX),
            alternate_port: self.config.alternate_port,
            alternate: self.config.alternate,
            relay: self.config.relay,
        };
        self.send(conn, FromServer::Welcome(welcome));
    }
}

/// Are these facts within the limits of the protocol?
fn is_lawful(facts: &Update) -> bool {
    facts.candidates.len() <= CANDIDATES_MAX
        && facts.accept.len() <= ACCEPT_TAGS_MAX
        && facts.accept.is_sorted_by(|one, next| one < next)
}
