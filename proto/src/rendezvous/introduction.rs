//! The registry's main work: telling two nodes of each other, with a moment at which both begin.

use std::time::Instant;

use super::clock;
use super::command::{Command, ConnId};
use super::config::SESSION_IDLE;
use super::connection::{Connection, Run};
use super::deadlines::Due;
use super::offer;
use super::registry::Registry;
use super::sessions::{End, Session};
use crate::id::{ChannelId, RequestId, SessionId};
use crate::plan::{is_settled, is_worth_a_round, wants_guess};
use crate::wire::network::SPANS_MAX;
use crate::wire::{
    Aim, CloseReason, Connect, ConnectRefusal, FromServer, Introduction, Network, PathPolicy, Refusal, Role,
    ServerTime,
};

/// When this round begins.
#[derive(Clone, Copy)]
struct Moment {
    start: ServerTime,
    now: ServerTime,
    second: ServerTime,
}

impl Registry {
    /// A node wants to be introduced, or wants another round.
    pub(super) fn connect(&mut self, conn: ConnId, connect: Connect, now: Instant) {
        let request = connect.request;
        match self.find_session(conn, &connect, now) {
            Ok(id) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    (session.tag, session.guess) = (connect.tag, connect.guess);
                }
                self.introduce(id, Some((conn, request)), now);
            }
            Err(why) => {
                *self.counts.connect_refused.entry(why).or_default() += 1;
                self.send(conn, FromServer::ConnectFailed { request, why });
            }
        }
    }

    /// Pass on where one side of a session is to be found in this round. What does not fit is dropped: it may have
    /// crossed the next introduction.
    pub(super) fn aim(&mut self, conn: ConnId, aim: Aim, now: Instant) {
        if aim.spans.len() > SPANS_MAX {
            return self.refuse(conn, Refusal::Protocol, now);
        }
        let session = self.sessions.get(aim.session);
        let Some(session) = session.filter(|session| session.round == aim.round && session.policy().direct)
        else {
            return;
        };
        let other = match session.role_of(conn) {
            Some(Role::Caller) => session.ends[1].conn,
            Some(Role::Callee) => session.ends[0].conn,
            None => return,
        };
        self.send(other, FromServer::Aim(aim));
    }

    /// A node is done with a session.
    pub(super) fn leave(&mut self, conn: ConnId, session: SessionId) {
        if self
            .sessions
            .get(session)
            .is_some_and(|session| session.role_of(conn).is_some())
        {
            self.end_session(session, CloseReason::PeerLeft, Some(conn));
        }
    }

    /// The session for this wish, ready for its next round.
    fn find_session(
        &mut self,
        conn: ConnId,
        connect: &Connect,
        now: Instant,
    ) -> Result<SessionId, ConnectRefusal> {
        let rate = self.config.limits.connects;
        let caller = self.connections.get_mut(conn).ok_or(ConnectRefusal::Offline)?;
        if !caller.connects.admit(rate, now) {
            return Err(ConnectRefusal::TooFast);
        }
        let own = caller.peer;
        if !self.names.knows(connect.peer) {
            return Err(ConnectRefusal::Unknown);
        }
        let Some(callee) = self.connections.callee(connect.peer, connect.tag, conn) else {
            return Err(if connect.peer == own {
                ConnectRefusal::Yourself
            } else {
                ConnectRefusal::Offline
            });
        };
        let (one, other) = self
            .run(conn)
            .zip(self.run(callee))
            .ok_or(ConnectRefusal::Offline)?;
        let id = self.sessions.of_pair(one, other);
        match id.filter(|id| self.next_round(*id, conn, connect.policy)) {
            Some(id) => Ok(id),
            None => {
                let end = |conn, run, policy| End { conn, run, policy };
                let caller = end(conn, one, connect.policy);
                let callee = end(callee, other, PathPolicy::Auto);
                self.new_session([caller, callee], connect)
            }
        }
    }

    /// Count up the round; `false` if the session had its last one, and then it is over.
    fn next_round(&mut self, id: SessionId, asker: ConnId, policy: PathPolicy) -> bool {
        let next = self.sessions.get_mut(id).and_then(|session| {
            for end in session.ends.iter_mut().filter(|end| end.conn == asker) {
                end.policy = policy;
            }
            session.round = session.round.checked_add(1)?;
            Some(())
        });
        if next.is_none() {
            self.end_session(id, CloseReason::Ended, None);
        }
        next.is_some()
    }

    fn new_session(&mut self, ends: [End; 2], connect: &Connect) -> Result<SessionId, ConnectRefusal> {
        let limits = &self.config.limits;
        let full = |conn| self.sessions.count_of_conn(conn) >= limits.sessions_per_connection;
        if self.sessions.len() >= limits.sessions || ends.iter().any(|end| full(end.conn)) {
            return Err(ConnectRefusal::TooMany);
        }
        let id = SessionId::from_bytes(self.rng.bytes());
        let session = Session {
            ends,
            round: 0,
            informed: false,
            direct: false,
            tag: connect.tag,
            guess: connect.guess,
            channel: None,
            tried: [None; 2],
        };
        self.sessions.insert(id, session);
        Ok(id)
    }

    /// More is known of the network of a node. Sessions whose rounds went by too little knowledge get another round, once, if
    /// there is more to be done than was done.
    pub(super) fn renew_uninformed(&mut self, conn: ConnId, now: Instant) {
        for id in self.sessions.of_conn(conn) {
            let Some(session) = self.sessions.get(id).copied() else {
                continue;
            };
            let networks = session.conns().map(|conn| self.network(conn));
            let waits = !session.informed && !session.direct && session.policy().direct;
            let tried = session.tried[0].map(|tried| tried.plan);
            let better = waits && is_settled(networks) && is_worth_a_round(networks, tried);
            let round = session.round.checked_add(1).filter(|_| better);
            if let (Some(round), Some(session)) = (round, self.sessions.get_mut(id)) {
                session.round = round;
                self.introduce(id, None, now);
            }
        }
    }

    fn introduce(&mut self, id: SessionId, asked: Option<(ConnId, RequestId)>, now: Instant) {
        self.settle_channel(id);
        let Some(session) = self.sessions.get(id).copied() else {
            return;
        };
        if session.policy().policy == PathPolicy::RelayOnly {
            // It never asks anew, and is in use however long ago it was asked for.
            self.deadlines.clear(Due::Session(id));
        } else {
            self.deadlines.set(Due::Session(id), now + SESSION_IDLE);
        }
        let [one, other] = session.conns().map(|conn| self.rtt(conn));
        let moment = Moment {
            start: self.clock.at(now + clock::lead(one, other)),
            now: self.clock.at(now),
            second: self.clock.at(now + clock::second(one, other)),
        };
        let again = self.is_again(id, &session);
        let guess = session.guess && self.may_guess(&session, again, now);
        self.note_round(id, again, guess);
        let [caller, callee] = session.conns();
        self.counts.introduced += 1;
        for (conn, peer, role) in [(callee, caller, Role::Callee), (caller, callee, Role::Caller)] {
            let request = asked
                .filter(|(asker, _)| *asker == conn)
                .map(|(_, request)| request);
            if let Some(introduction) = self.introduction(id, &session, peer, moment) {
                let introduction = Introduction {
                    role,
                    request,
                    guess,
                    again,
                    ..introduction
                };
                self.send(conn, FromServer::Introduction(introduction));
            }
        }
    }

    /// What is told about `peer`.
    fn introduction(
        &self,
        id: SessionId,
        session: &Session,
        peer: ConnId,
        moment: Moment,
    ) -> Option<Introduction> {
        let agreed = session.policy();
        let connection = self.connections.get(peer)?;
        let node = connection.live()?;
        let allow_loopback = self.config.allow_loopback;
        let candidates = agreed
            .direct
            .then(|| offer::offer(connection.from, &node.candidates, allow_loopback));
        Some(Introduction {
            session: id,
            round: session.round,
            role: Role::Caller,
            request: None,
            peer: connection.peer,
            peer_name: node.name.clone(),
            peer_instance: node.instance,
            tag: session.tag,
            candidates: candidates.unwrap_or_default(),
            channel: session.channel,
            policy: agreed.policy,
            start: moment.start,
            now: moment.now,
            second: moment.second,
            networks: session.conns().map(|conn| self.network(conn)),
            guess: false,
            again: false,
        })
    }

    /// Open or close the relay channel as the policies want it now.
    fn settle_channel(&mut self, id: SessionId) {
        let granted = self.config.relay;
        let fresh = ChannelId(self.rng.nonzero_u64());
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let wanted = granted && session.policy().relay;
        let ends = session.conns();
        match session.channel {
            None if wanted => {
                session.channel = Some(fresh);
                self.push(Command::OpenChannel { channel: fresh, ends });
            }
            Some(channel) if !wanted => {
                session.channel = None;
                self.push(Command::CloseChannel { channel });
            }
            _ => {}
        }
    }

    fn run(&self, conn: ConnId) -> Option<Run> {
        let connection = self.connections.get(conn)?;
        Some((connection.peer, connection.live()?.instance))
    }

    pub(super) fn network(&self, conn: ConnId) -> Network {
        let node = self.connections.get(conn).and_then(Connection::live);
        node.map(|node| node.network).unwrap_or_default()
    }

    /// Has what this round would do first been tried in vain? A round in which less was known of the networks does not count.
    fn is_again(&mut self, id: SessionId, session: &Session) -> bool {
        let known = is_settled(session.conns().map(|conn| self.network(conn)));
        if let Some(session) = self.sessions.get_mut(id) {
            session.informed |= known;
            session.direct = false;
        }
        session.round > 0 && (session.informed || !known)
    }

    /// Do both agree to a round of guessing, and has either's address been spared for long enough? Asked, and counted,
    /// only where the plan would guess.
    fn may_guess(&mut self, session: &Session, again: bool, now: Instant) -> bool {
        let networks = session.conns().map(|conn| self.network(conn));
        if !networks.iter().all(|network| network.guesses) || !wants_guess(networks, again) {
            return false;
        }
        let rate = self.config.limits.guesses_per_target;
        let targets = session
            .conns()
            .map(|conn| self.connections.get(conn).map(|conn| conn.from));
        targets
            .into_iter()
            .flatten()
            .all(|target| self.guess_targets.admit_prefix(target, rate, now))
    }

    fn rtt(&self, conn: ConnId) -> Option<std::time::Duration> {
        self.connections.get(conn).and_then(Connection::live)?.rtt
    }
}
