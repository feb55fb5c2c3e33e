//! Introductions: which of them this node follows, and what each makes of a link.

use std::time::Instant;

use super::config::LINKS_MAX;
use super::link::{Backoff, LinkState};
use super::machine::Connector;
use super::questions::Question;
use super::{ConnectFailure, Event, LinkId};
use crate::id::{Instance, PairSecret, PeerId};
use crate::path::Why;
use crate::plan::Plan;
use crate::punch::{self, PunchAgent, Round, Setup};
use crate::wire::probe::ProbeKeys;
use crate::wire::{ConnectRefusal, Introduction, Network, PathPolicy, Role, ToServer};

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
        self.tell_plan(id);
        self.drain_agent(id, now);
        while let Some(probe) = self.early.take(introduction.session.tag(), now) {
            self.on_probe(id, probe.socket, probe.from, &probe.bytes, now);
        }
    }

    fn decline(&mut self, question: Option<Question>, why: ConnectFailure, now: Instant) {
        if let Some(question) = question {
            self.give_up(question, why, now);
        }
    }

    /// A machine appears with another run: the one before has probably ended.
    fn doubt_other_runs(&mut self, peer: PeerId, now: Instant) {
        let runs = self.runs.range((peer, Instance(0))..=(peer, Instance(u64::MAX)));
        let links: Vec<LinkId> = runs.map(|(_, link)| *link).collect();
        for link in links {
            self.doubt(link, now);
        }
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
            round: introduction.round,
            informed: false,
            again: false,
            plan: Plan::Unknown,
            peer_network: Network::default(),
            round_begun: now,
            probes_before: 0,
            reported: false,
            sockets_opened: 0,
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
        let orders = self.orders(id, introduction, now);
        let sockets = self.main_sockets();
        let seed = self.seed.child("punch", self.rng.u64());
        let (own, punch, local) = (self.config.own, self.punch_config(), self.local.clone());
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let round = Round {
            number: introduction.round,
            start,
            remote: introduction.candidates.clone(),
            orders,
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
            match event {
                punch::Event::SourceGone { socket, remote } => self.event(Event::SourceGone {
                    link: id,
                    socket,
                    remote,
                }),
                punch::Event::Unused { socket } => self.close_socket(socket),
                _ => {}
            }
        }
    }
}
