//! The registry: the server's one machine behind all control connections.
//!
//! It decides who is admitted, who holds which name, who is introduced to whom, and who meets at a nameplate. It is
//! not the relay (that is [`super::RelayTable`]) and touches neither sockets nor disk: its [`Command`]s do.
//!
//! # Driving it
//!
//! Call `handle_connected` when a control connection is authenticated (the peer id comes from its certificate), then
//! `handle_message` for each decoded message, `handle_garbage` for one that does not decode, `handle_address` when the
//! transport sees the connection's source change, and `handle_disconnected` at its end. Carry out every [`Command`]
//! in order after each call. A [`Command::Store`] is answered by `handle_stored`, always, also when the connection is
//! gone. A connection that was told to close is forgotten at that moment; whatever is reported of it is ignored.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::clock::{Clock, told_rtt};
use super::command::{ClaimId, Command, ConnId, Record, StoreFailed};
use super::config::{NAMEPLATE_TTL, RETRY_AFTER_MS, RegistryConfig, Stats, Timer};
use super::connection::{Connection, Connections};
use super::deadlines::{Deadlines, Due};
use super::nameplates::Nameplates;
use super::names::Names;
use super::sessions::Sessions;
use crate::addr::canonical;
use crate::id::{PeerId, RequestId, SessionId};
use crate::quota::BucketTable;
use crate::seed::{Rng, Seed};
use crate::wire::{CloseReason, FromServer, PairEnd, Refusal, ToServer};

/// Buckets of the tables of quotas, 8 bytes each. With 1,000 active sources about one in eight shares its bucket.
const QUOTA_BUCKETS: usize = 8192;

/// The machine.
#[derive(Debug)]
pub struct Registry {
    pub(super) config: RegistryConfig,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) connections: Connections,
    pub(super) names: Names,
    pub(super) sessions: Sessions,
    pub(super) nameplates: Nameplates,
    pub(super) deadlines: Deadlines,
    pub(super) pairings: BucketTable,
    pub(super) pairing_networks: BucketTable,
    pub(super) key_networks: BucketTable,
    pub(super) guess_targets: BucketTable,
    pub(super) counts: Stats,
    commands: VecDeque<Command>,
    draining: bool,
}

impl Registry {
    /// A registry that knows the records that were stored in earlier runs.
    pub fn new(config: RegistryConfig, records: Vec<Record>, seed: &Seed, now: Instant) -> Self {
        let table = |number| BucketTable::new(QUOTA_BUCKETS, &seed.child("registry quotas", number), now);
        Self {
            config,
            clock: Clock::new(now),
            rng: seed.child("registry", 0).rng(),
            connections: Connections::default(),
            names: Names::new(records),
            sessions: Sessions::default(),
            nameplates: Nameplates::default(),
            deadlines: Deadlines::default(),
            pairings: table(0),
            pairing_networks: table(1),
            key_networks: table(2),
            guess_targets: table(3),
            counts: Stats::default(),
            commands: VecDeque::new(),
            draining: false,
        }
    }

    /// A control connection of the holder of this key was established; its datagrams come from `from`.
    pub fn handle_connected(&mut self, conn: ConnId, peer: PeerId, from: SocketAddr, now: Instant) {
        let limits = &self.config.limits;
        if self.draining {
            self.send_draining(conn);
            self.push(Command::Close { conn });
        } else if self.connections.len() >= limits.connections
            || self.connections.of_key(peer).len() >= limits.connections_per_key
        {
            self.refuse(conn, Refusal::Busy, now);
        } else {
            let connection = Connection::new(peer, from, now);
            self.deadlines.set(Due::Connection(conn), connection.expires());
            self.connections.insert(conn, connection);
        }
    }

    /// A message arrived on a control connection.
    pub fn handle_message(&mut self, conn: ConnId, message: ToServer, now: Instant) {
        let rate = self.config.limits.messages;
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        if !connection.messages.admit(rate, now) {
            self.refuse(conn, Refusal::Protocol, now);
            return;
        }
        let greeted = connection.node.is_some();
        let live = connection.live().is_some();
        match message {
            ToServer::Hello(hello) if !greeted => self.hello(conn, hello, now),
            _ if !greeted => self.refuse(conn, Refusal::Protocol, now),
            ToServer::Time { sent_us, rtt_us } => self.time(conn, sent_us, rtt_us, now),
            ToServer::Update(facts) => self.update(conn, facts, now),
            ToServer::Bye => self.close(conn, now),
            message if live => self.handle_wish(conn, message, now),
            _ => self.refuse(conn, Refusal::Protocol, now),
        }
        if let Some(connection) = self.connections.get_mut(conn) {
            connection.heard = now;
        }
    }

    /// A message arrived that does not decode.
    pub fn handle_garbage(&mut self, conn: ConnId, now: Instant) {
        if self.connections.get(conn).is_some() {
            self.refuse(conn, Refusal::Protocol, now);
        }
    }

    /// The datagrams of a control connection come from elsewhere now.
    pub fn handle_address(&mut self, conn: ConnId, from: SocketAddr, _now: Instant) {
        let Some(connection) = self.connections.get_mut(conn) else {
            return;
        };
        let reflexive = canonical(from);
        let moved = std::mem::replace(&mut connection.from, reflexive) != reflexive;
        if moved && connection.live().is_some() {
            self.send(conn, FromServer::Observed { reflexive });
        }
    }

    /// A control connection ended.
    pub fn handle_disconnected(&mut self, conn: ConnId, now: Instant) {
        self.forget(conn, now);
    }

    /// A write came back.
    pub fn handle_stored(&mut self, claim: ClaimId, result: Result<(), StoreFailed>, now: Instant) {
        if let Some((conn, stored)) = self.names.stored(claim, result) {
            self.finish_hello(conn, stored, now);
        }
    }

    /// The server is about to stop: everybody is told when to come back, and every connection is closed.
    pub fn handle_shutdown(&mut self, _now: Instant) {
        self.draining = true;
        for id in self.sessions.ids() {
            self.remove_session(id);
        }
        for number in self.nameplates.numbers() {
            self.nameplates.end(number);
            self.nameplates.free(number);
            self.deadlines.clear(Due::Nameplate(number));
        }
        for conn in self.connections.ids() {
            self.send_draining(conn);
            self.push(Command::Close { conn });
            self.connections.remove(conn);
            self.deadlines.clear(Due::Connection(conn));
        }
    }

    /// A deadline has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.deadlines.take(now) {
            match due {
                Due::Connection(conn) => self.expire_connection(conn, now),
                Due::Session(id) => self.end_session(id, CloseReason::Idle, None),
                Due::Nameplate(number) if self.nameplates.rests(number) => self.nameplates.free(number),
                Due::Nameplate(number) => self.end_nameplate(number, PairEnd::Expired, None, now),
            }
        }
    }

    /// What the registry wants done, in order.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next deadline and its reason.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.deadlines.next()
    }

    /// Gauges and counters. Walks all connections; ask at intervals of seconds.
    pub fn stats(&self) -> Stats {
        Stats {
            connections: self.connections.len(),
            connected: self.connections.live_count(),
            keys: self.names.keys(),
            names: self.names.len(),
            claims: self.names.claims(),
            sessions: self.sessions.len(),
            channels: self.sessions.channels(),
            nameplates: self.nameplates.in_use(),
            nameplates_resting: self.nameplates.resting(),
            deadlines: self.deadlines.len(),
            ..self.counts.clone()
        }
    }

    fn handle_wish(&mut self, conn: ConnId, message: ToServer, now: Instant) {
        match message {
            ToServer::Connect(connect) => self.connect(conn, connect, now),
            ToServer::Lookup { request, name } => self.look_up(conn, request, &name),
            ToServer::Leave { session } => self.leave(conn, session),
            ToServer::PairOpen => self.pair_open(conn, now),
            ToServer::PairJoin { nameplate } => self.pair_join(conn, nameplate, now),
            ToServer::PairMessage { nameplate, body } => self.pair_message(conn, nameplate, body, now),
            ToServer::PairLeave { nameplate } => self.pair_leave(conn, nameplate, now),
            ToServer::Aim(aim) => self.aim(conn, aim, now),
            ToServer::Report(report) => self.report(conn, report),
            ToServer::Odds { request } => self.tell_odds(conn, request),
            ToServer::Hello(_) => self.refuse(conn, Refusal::Protocol, now),
            ToServer::Update(_) | ToServer::Time { .. } | ToServer::Bye => {}
        }
    }

    fn time(&mut self, conn: ConnId, sent_us: u64, rtt_us: u32, now: Instant) {
        let server = self.clock.at(now);
        let node = self
            .connections
            .get_mut(conn)
            .and_then(|connection| connection.node.as_mut());
        if let Some(node) = node {
            node.rtt = told_rtt(rtt_us).or(node.rtt);
            self.send(conn, FromServer::Time { sent_us, server });
        }
    }

    fn look_up(&mut self, conn: ConnId, request: RequestId, name: &crate::id::Name) {
        let peer = self.names.holder(name);
        self.send(conn, FromServer::Found { request, peer });
    }

    fn expire_connection(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.connections.get(conn) else {
            return;
        };
        let expires = connection.expires();
        if expires > now {
            self.deadlines.set(Due::Connection(conn), expires);
        } else {
            self.counts.silenced += 1;
            self.close(conn, now);
        }
    }

    /// Refuse a connection with a reason, and end it.
    pub(super) fn refuse(&mut self, conn: ConnId, refusal: Refusal, now: Instant) {
        *self.counts.refused.entry(refusal).or_default() += 1;
        self.send(conn, FromServer::Refused(refusal));
        self.close(conn, now);
    }

    /// End a connection.
    pub(super) fn close(&mut self, conn: ConnId, now: Instant) {
        self.push(Command::Close { conn });
        self.forget(conn, now);
    }

    /// End a session and tell its two ends, except one that knows.
    pub(super) fn end_session(&mut self, session: SessionId, why: CloseReason, except: Option<ConnId>) {
        for conn in self.remove_session(session).into_iter().flatten() {
            if Some(conn) != except {
                self.send(conn, FromServer::SessionClosed { session, why });
            }
        }
    }

    pub(super) fn send(&mut self, conn: ConnId, message: FromServer) {
        self.push(Command::Send { conn, message });
    }

    pub(super) fn push(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    fn remove_session(&mut self, session: SessionId) -> Option<[ConnId; 2]> {
        let removed = self.sessions.remove(session)?;
        self.deadlines.clear(Due::Session(session));
        if let Some(channel) = removed.channel {
            self.push(Command::CloseChannel { channel });
        }
        Some(removed.conns())
    }

    fn forget(&mut self, conn: ConnId, now: Instant) {
        if self.connections.remove(conn).is_none() {
            return;
        }
        self.deadlines.clear(Due::Connection(conn));
        for session in self.sessions.of_conn(conn) {
            self.end_session(session, CloseReason::PeerGone, Some(conn));
        }
        for number in self.nameplates.of_conn(conn) {
            self.end_nameplate(number, PairEnd::PeerLeft, Some(conn), now);
        }
    }

    fn send_draining(&mut self, conn: ConnId) {
        let spread = RETRY_AFTER_MS.end - RETRY_AFTER_MS.start;
        let retry_after = RETRY_AFTER_MS.start + self.rng.below(spread);
        let retry_after_ms = u32::try_from(retry_after).unwrap_or(u32::MAX);
        self.send(conn, FromServer::Draining { retry_after_ms });
    }

    /// End a nameplate, tell those at it except one that knows, and let its number rest.
    pub(super) fn end_nameplate(
        &mut self,
        nameplate: crate::id::Nameplate,
        why: PairEnd,
        except: Option<ConnId>,
        now: Instant,
    ) {
        for conn in self.nameplates.end(nameplate) {
            if Some(conn) != except {
                self.send(conn, FromServer::PairEnded { nameplate, why });
            }
        }
        self.deadlines.set(Due::Nameplate(nameplate), now + NAMEPLATE_TTL);
    }
}
