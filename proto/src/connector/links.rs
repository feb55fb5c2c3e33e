//! The connector's links: introductions, rounds, paths, and their ends.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::ORPHAN_LIFETIME;
use super::link::LinkState;
use super::machine::Connector;
use super::questions::Question;
use super::{Event, Link, LinkEnd, LinkId, Output};
use crate::id::{RequestId, SessionId};
use crate::path::{Path, SocketId, Why};
use crate::plan::Plan;
use crate::punch::{self, LocalSocket, PunchAgent};
use crate::wire::{Aim, CloseReason, Connect, ToServer};

/// After a change of the network the caller waits this long before it asks for another round, so that the server has
/// the new addresses, and several changes at once lead to one round.
const SETTLE: Duration = Duration::from_millis(250);

impl Connector {
    /// A datagram came that names a session of this link.
    pub(super) fn on_probe(
        &mut self,
        id: LinkId,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) {
        self.tell_agent(id, now, |agent| {
            agent.handle_datagram(socket, from, bytes, now);
        });
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
        self.guessing.end(id, link.peer, false);
        self.close_sockets_of(id);
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

    /// Something happened to the agent of a link, if it has one.
    pub(super) fn tell_agent(&mut self, id: LinkId, now: Instant, tell: impl FnOnce(&mut PunchAgent)) {
        if let Some(agent) = self.links.get_mut(&id).and_then(|link| link.agent.as_mut()) {
            tell(agent);
            self.drain_agent(id, now);
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
        let sockets = self.main_sockets();
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

    /// The peer has left this link. A direct path is checked, and its loss ends the link; without one it ends now.
    pub(super) fn end_unless_direct(&mut self, id: LinkId, now: Instant) {
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

    /// Check a direct path: there is reason to believe that it is dead.
    pub(super) fn doubt(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if let Some(agent) = &mut link.agent {
            agent.handle_doubt(now);
        }
        self.drain_agent(id, now);
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
                self.end_round(id, true, now);
            }
            punch::Event::Aim { spans, opened } => {
                let (session, round) = (link.session, link.round);
                if let Some(session) = session {
                    self.say(ToServer::Aim(Aim {
                        session,
                        round,
                        spans,
                        opened,
                    }));
                }
                return;
            }
            punch::Event::Unused { socket } => return self.close_socket(socket),
            punch::Event::Lost if link.left => return self.close(id, LinkEnd::PeerGone),
            punch::Event::Lost => {
                link.direct = None;
                link.why = Why::PathLost;
                if link.asks() {
                    link.backoff.restart(now);
                }
            }
            punch::Event::Failed(why) => {
                link.why = reason(why, link.plan);
                if link.asks() {
                    link.backoff.pause(&mut self.rng, now);
                }
                self.end_round(id, false, now);
            }
        }
        self.publish(id, now);
    }

    /// Tell where the traffic of a link runs, if that has changed.
    pub(super) fn publish(&mut self, id: LinkId, now: Instant) {
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
                guess: self.guessing.may(peer, now),
            })),
            None => self.pause_rounds(id, now),
        }
    }

    /// The main sockets that pairs can be made with: those that reach the server, and those with an own address.
    pub(super) fn main_sockets(&self) -> Vec<LocalSocket> {
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

    pub(super) fn punch_config(&self) -> punch::PunchConfig {
        let mut punch = self.config.punch.clone();
        punch.allow_loopback |= self.config.allow_loopback;
        punch
    }
}

/// Why there is no path: where nothing was heard, the plan knows it better.
fn reason(why: Why, plan: Plan) -> Why {
    match (why, plan) {
        (Why::Silence, Plan::Hopeless) => Why::Unforeseeable,
        (Why::Silence, Plan::NoGuess) => Why::NoGuess,
        (why, _) => why,
    }
}
