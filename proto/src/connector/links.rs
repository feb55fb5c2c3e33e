//! The connector's links: introductions, rounds, paths, and their ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{LINKS_MAX, ORPHAN_LIFETIME};
use super::link::{Backoff, LinkState};
use super::machine::Connector;
use super::questions::Question;
use super::{ConnectFailure, Event, Link, LinkEnd, LinkId, Output};
use crate::id::{Instance, PairSecret, PeerId, RequestId, SessionId};
use crate::path::{Path, SocketId, Why};
use crate::punch::{self, LocalSocket, PunchAgent, Round, Setup};
use crate::wire::probe::ProbeKeys;
use crate::wire::{CloseReason, Connect, ConnectRefusal, Introduction, PathPolicy, Role, ToServer};

/// After a change of the network the caller waits this long before it asks for another round, so that the server has
/// the new addresses, and several changes at once lead to one round.
const SETTLE: Duration = Duration::from_millis(250);

impl Connector {
    pub(super) fn on_introduction(&mut self, introduction: Introduction, now: Instant) {
        let question = introduction
            .request
            .and_then(|request| self.questions.answered(request));
        let known = self
            .peers
            .get(&introduction.peer)
            .filter(|known| known.tag == introduction.tag);
        let welcome = question.is_some() || introduction.role == Role::Caller || self.config.accepting;
        let Some(secret) = known.map(|known| known.secret.clone()).filter(|_| welcome) else {
            self.say(ToServer::Leave {
                session: introduction.session,
            });
            return self.decline(question, ConnectFailure::NotPaired, now);
        };
        let run = (introduction.peer, introduction.peer_instance);
        let id = match (self.runs.get(&run).copied(), question) {
            (Some(id), Some(Question::Round(old))) if id != old => {
                self.end_unless_direct(old, now);
                id
            }
            (Some(id), _) => id,
            (None, Some(Question::Round(old))) => {
                // The machine is the same, its run another: nobody there knows of this link.
                self.say(ToServer::Leave {
                    session: introduction.session,
                });
                return self.end_unless_direct(old, now);
            }
            (None, _) if self.links.len() >= LINKS_MAX => {
                self.say(ToServer::Leave {
                    session: introduction.session,
                });
                return self.decline(question, ConnectFailure::Refused(ConnectRefusal::TooMany), now);
            }
            (None, _) => {
                self.doubt_other_runs(introduction.peer, now);
                self.make_link(&introduction, now)
            }
        };
        self.introduce(id, &introduction, &secret, now);
        match question {
            Some(Question::Connect { request, policy, .. }) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.wanted = Some(policy);
                    link.why = if link.agent.is_some() {
                        Why::Punching
                    } else {
                        link.why
                    };
                }
                self.announce(id, Some(request), now);
            }
            _ if self.links.get(&id).is_some_and(|link| link.told.is_none()) => self.announce(id, None, now),
            _ => self.publish(id, now),
        }
        self.drain_agent(id, now);
        while let Some(probe) = self.early.take(introduction.session.tag(), now) {
            self.on_probe(id, probe.socket, probe.from, &probe.bytes, now);
        }
    }

    /// A datagram came that names a session of this link.
    pub(super) fn on_probe(
        &mut self,
        id: LinkId,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) {
        if let Some(agent) = self.links.get_mut(&id).and_then(|link| link.agent.as_mut()) {
            agent.handle_datagram(socket, from, bytes, now);
            self.drain_agent(id, now);
        }
    }

    /// The server has ended a session.
    pub(super) fn on_session_closed(&mut self, session: SessionId, why: CloseReason, now: Instant) {
        let found = self.links.iter().find(|(_, link)| link.session == Some(session));
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        if why == CloseReason::PeerLeft {
            return self.end_unless_direct(id, now);
        }
        self.lose_session(id, now);
        if let Some(link) = self.links.get_mut(&id).filter(|link| link.asks()) {
            // A peer that moved from one network to another is back before the server misses it.
            let soon = Duration::from_millis(self.rng.below(100));
            link.backoff.restart(now + soon);
        }
    }

    /// The session of a link is gone at the server, and the relay channel with it. A direct path stays.
    pub(super) fn lose_session(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.session = None;
        link.backoff.stop();
        if link.channel.take().is_some() {
            self.event(Event::Channel {
                link: id,
                channel: None,
            });
        }
        self.publish(id, now);
    }

    /// End a link.
    pub(super) fn close(&mut self, id: LinkId, why: LinkEnd) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        self.runs.remove(&(link.peer, link.instance));
        for session in std::iter::once(link.keyed).chain(link.keyed_before) {
            self.tags.remove(&session.tag());
        }
        if let Some(session) = link.session {
            self.say(ToServer::Leave { session });
        }
        self.event(Event::LinkDown { link: id, why });
    }

    /// Tell of a link, and where its traffic runs.
    pub(super) fn announce(&mut self, id: LinkId, request: Option<RequestId>, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.told = None;
        let up = Link {
            link: id,
            peer: link.peer,
            peer_name: link.peer_name.clone(),
            role: link.role,
            request,
            channel: link.channel,
            policy: link.policy,
        };
        self.event(Event::LinkUp(up));
        self.publish(id, now);
    }

    /// The next round of a link comes after the next pause.
    pub(super) fn pause_rounds(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.backoff.pause(&mut self.rng, now);
        }
    }

    /// What is due on the links.
    pub(super) fn keep_links(&mut self, now: Instant) {
        let due = |link: &LinkState| link.due().is_some_and(|(at, _)| at <= now);
        let ids: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| due(link))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(agent) = self.links.get_mut(&id).and_then(|link| link.agent.as_mut()) {
                agent.handle_timeout(now);
                self.drain_agent(id, now);
            }
            let Some(link) = self.links.get_mut(&id) else {
                continue;
            };
            if link.orphan_at.is_some_and(|at| at <= now) {
                self.close(id, LinkEnd::PeerGone);
            } else if link.backoff.due().is_some_and(|at| at <= now) {
                self.ask_for_round(id, now);
            }
        }
    }

    /// Carry out what the agent of a link wants.
    pub(super) fn drain_agent(&mut self, id: LinkId, now: Instant) {
        let Some(agent) = self.links.get_mut(&id).and_then(|link| link.agent.as_mut()) else {
            return;
        };
        let mut events = Vec::new();
        while let Some(event) = agent.poll_event() {
            events.push(event);
        }
        let mut probes = Vec::new();
        while let Some(probe) = agent.poll_transmit() {
            probes.push(probe);
        }
        for probe in probes {
            if self.budget.admit(probe.transmit.to.ip(), probe.consent, now) {
                self.push(Output::Transmit(probe.transmit));
            }
        }
        for event in events {
            self.on_punch(id, event, now);
        }
    }

    /// Own addresses or sockets changed.
    pub(super) fn teach_agents(&mut self) {
        let sockets = self.sockets();
        for agent in self.links.values_mut().filter_map(|link| link.agent.as_mut()) {
            agent.handle_local(sockets.clone(), self.local.clone());
        }
    }

    /// The network is another one: check every direct path, and ask for new rounds.
    pub(super) fn renew_links(&mut self, now: Instant) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.doubt(id, now);
            if let Some(link) = self
                .links
                .get_mut(&id)
                .filter(|link| link.asks() && link.agent.is_some())
            {
                link.backoff.restart(now + SETTLE);
            }
        }
    }

    fn decline(&mut self, question: Option<Question>, why: ConnectFailure, now: Instant) {
        if let Some(question) = question {
            self.give_up(question, why, now);
        }
    }

    /// The peer has left this link. A direct path is checked, and its loss ends the link; without one it ends now.
    fn end_unless_direct(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if link.direct.is_none() {
            return self.close(id, LinkEnd::PeerGone);
        }
        link.left = true;
        self.lose_session(id, now);
        self.doubt(id, now);
    }

    /// A machine appears with another run: the one before has probably ended.
    fn doubt_other_runs(&mut self, peer: PeerId, now: Instant) {
        let runs = self.runs.range((peer, Instance(0))..=(peer, Instance(u64::MAX)));
        let links: Vec<LinkId> = runs.map(|(_, link)| *link).collect();
        for link in links {
            self.doubt(link, now);
        }
    }

    /// Check a direct path: there is reason to believe that it is dead.
    fn doubt(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if let Some(agent) = &mut link.agent {
            agent.handle_doubt(now);
        }
        self.drain_agent(id, now);
    }

    fn make_link(&mut self, introduction: &Introduction, now: Instant) -> LinkId {
        self.links_made += 1;
        let id = LinkId(self.links_made);
        let link = LinkState {
            peer: introduction.peer,
            instance: introduction.peer_instance,
            peer_name: introduction.peer_name.clone(),
            tag: introduction.tag,
            role: introduction.role,
            wanted: None,
            policy: introduction.policy,
            session: None,
            keyed: introduction.session,
            keyed_before: None,
            channel: introduction.channel,
            agent: None,
            direct: None,
            why: Why::Punching,
            told: None,
            introduced: now,
            left: false,
            backoff: Backoff::default(),
            orphan_at: None,
        };
        self.runs.insert((link.peer, link.instance), id);
        self.tags.insert(introduction.session.tag(), id);
        self.links.insert(id, link);
        id
    }

    /// Take over what an introduction says about a link.
    fn introduce(&mut self, id: LinkId, introduction: &Introduction, secret: &PairSecret, now: Instant) {
        let start = self.clock.start(introduction, now);
        let sockets = self.sockets();
        let seed = self.seed.child("punch", self.rng.u64());
        let (own, punch, local) = (self.config.own, self.punch_config(), self.local.clone());
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let round = Round {
            number: introduction.round,
            start,
            remote: introduction.candidates.clone(),
        };
        let keys = || ProbeKeys::new(secret, introduction.session, own, introduction.peer);
        link.session = Some(introduction.session);
        link.left = false;
        link.role = introduction.role;
        link.policy = introduction.policy;
        link.backoff.asked();
        link.orphan_at = None;
        let rekeyed = link.keyed != introduction.session;
        if rekeyed {
            let before = std::mem::replace(&mut link.keyed, introduction.session);
            if let Some(older) = link.keyed_before.replace(before) {
                self.tags.remove(&older.tag());
            }
            self.tags.insert(introduction.session.tag(), id);
        }
        match &mut link.agent {
            _ if introduction.policy == PathPolicy::RelayOnly => {
                link.why = Why::Policy;
                self.hide(id);
            }
            Some(agent) => {
                if rekeyed {
                    agent.handle_keys(keys(), introduction.role, now);
                }
                agent.handle_round(&round, now);
            }
            None => {
                link.why = Why::Punching;
                let role = introduction.role;
                let setup = Setup {
                    keys: keys(),
                    role,
                    sockets,
                    local,
                    round,
                };
                link.agent = Some(PunchAgent::new(punch, setup, &seed, now));
            }
        }
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let changed = std::mem::replace(&mut link.channel, introduction.channel) != introduction.channel;
        if changed && link.told.is_some() {
            let channel = introduction.channel;
            self.event(Event::Channel { link: id, channel });
        }
    }

    /// The policy allows no direct path any more.
    fn hide(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.direct = None;
        let Some(mut agent) = link.agent.take() else {
            return;
        };
        agent.handle_end();
        while let Some(event) = agent.poll_event() {
            if let punch::Event::SourceGone { socket, remote } = event {
                self.event(Event::SourceGone {
                    link: id,
                    socket,
                    remote,
                });
            }
        }
    }

    fn on_punch(&mut self, id: LinkId, event: punch::Event, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match event {
            punch::Event::Source { socket, remote } => {
                self.event(Event::Source {
                    link: id,
                    socket,
                    remote,
                });
            }
            punch::Event::SourceGone { socket, remote } => {
                self.event(Event::SourceGone {
                    link: id,
                    socket,
                    remote,
                });
            }
            punch::Event::Locked {
                how,
                socket,
                remote,
                rtt,
            } => {
                link.direct = Some(Path::Direct {
                    how,
                    socket,
                    remote,
                    rtt,
                });
                if link.session.is_some() {
                    link.backoff.stop();
                }
            }
            punch::Event::Lost if link.left => return self.close(id, LinkEnd::PeerGone),
            punch::Event::Lost => {
                link.direct = None;
                link.why = Why::PathLost;
                if link.asks() {
                    link.backoff.restart(now);
                }
            }
            punch::Event::Failed(why) => {
                link.why = why;
                if link.asks() {
                    link.backoff.pause(&mut self.rng, now);
                }
            }
        }
        self.publish(id, now);
    }

    /// Tell where the traffic of a link runs, if that has changed.
    fn publish(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.orphan_at = match link.is_orphan() {
            true => link.orphan_at.or(Some(now + ORPHAN_LIFETIME)),
            false => None,
        };
        let path = link.path();
        if link.told != Some(path) {
            link.told = Some(path);
            let after = now.saturating_duration_since(link.introduced);
            self.event(Event::Path {
                link: id,
                path,
                after,
            });
        }
    }

    fn ask_for_round(&mut self, id: LinkId, now: Instant) {
        let registered = self.control.is_registered();
        let waiting = self.questions.is_asked(id);
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.backoff.asked();
        if !registered || waiting {
            return;
        }
        let (peer, tag, policy) = (link.peer, link.tag, link.wanted.unwrap_or_default());
        match self.questions.ask(Question::Round(id), now) {
            Some(request) => self.say(ToServer::Connect(Connect {
                request,
                peer,
                tag,
                policy,
            })),
            None => self.pause_rounds(id, now),
        }
    }

    /// The sockets that pairs can be made with: those that reach the server, and those with an own address.
    fn sockets(&self) -> Vec<LocalSocket> {
        let by_family = |v6| if v6 { SocketId::V6 } else { SocketId::V4 };
        let own = self.local.iter().map(|candidate| candidate.addr.is_ipv6());
        let mut sockets: Vec<LocalSocket> = Vec::new();
        for (id, v6) in self.nat.sockets().chain(own.map(|v6| (by_family(v6), v6))) {
            if sockets.iter().all(|socket| socket.id != id) {
                sockets.push(LocalSocket { id, v6 });
            }
        }
        sockets
    }

    fn punch_config(&self) -> punch::PunchConfig {
        let mut punch = self.config.punch.clone();
        punch.allow_loopback |= self.config.allow_loopback;
        punch
    }
}
