//! From an introduction to what its round asks of this side: the plan of both networks, within this node's limits.

use std::net::SocketAddr;
use std::time::Instant;

use super::machine::Connector;
use super::sockets::Owner;
use super::{Event, LinkId};
use crate::addr::canonical;
use crate::path::SocketId;
use crate::plan::{Plan, is_settled, plan};
use crate::punch::{Orders, sockets_wanted};
use crate::wire::{Aim, Introduction, PathPolicy, Report, Role, ToServer};

impl Connector {
    /// What this round asks of this side. Opens the sockets that it takes.
    pub(super) fn orders(&mut self, id: LinkId, introduction: &Introduction, now: Instant) -> Option<Orders> {
        self.begin_round(id, introduction, now);
        if introduction.policy == PathPolicy::RelayOnly {
            return None;
        }
        let [caller, callee] = introduction.networks;
        let (own, peer) = match introduction.role {
            Role::Caller => (caller, callee),
            Role::Callee => (callee, caller),
        };
        let again = introduction.again;
        let mut plan = plan(
            introduction.networks,
            again,
            introduction.guess && self.config.guesses,
        );
        let seen = attested_v4(introduction);
        let direct = self.links.get(&id).is_some_and(|link| link.direct.is_some());
        let together = self.sees_same_address(introduction);
        if plan.guesses() {
            let mut begin = |seen: SocketAddr| self.guessing.begin(id, introduction.peer, seen.ip(), now);
            // Behind one router ports would have to be guessed through its hairpin, which few have.
            let allowed = !direct && !together && seen.is_some_and(&mut begin);
            plan = if allowed { plan } else { Plan::NoGuess };
        }
        if introduction.guess && plan == Plan::NoGuess {
            // The peer does not know of this node's limits, and would send into the void.
            self.say(ToServer::Aim(Aim {
                session: introduction.session,
                round: introduction.round,
                spans: Vec::new(),
                opened: false,
            }));
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.plan = plan;
            link.again = again;
            link.informed = is_settled(introduction.networks);
            link.peer_network = peer;
        }
        let over_v4 = self.main_sockets().iter().any(|socket| socket.id == SocketId::V4);
        let wanted = match seen.filter(|_| over_v4) {
            Some(_) => sockets_wanted(plan, introduction.role, own),
            None => 0,
        };
        Some(Orders {
            plan,
            again,
            second: self.clock.moment(introduction.second, introduction, now),
            own,
            peer,
            sockets: self.open_for(id, wanted),
            stun: self.nat.servers_v4().collect(),
            together,
        })
    }

    /// Tell how the round goes about it, unless the link has what it needs.
    pub(super) fn tell_plan(&mut self, id: LinkId) {
        let link = self.links.get(&id);
        let seeking = link.filter(|link| link.direct.is_none() && link.agent.is_some());
        if let Some((round, plan)) = seeking.map(|link| (link.round, link.plan)) {
            self.event(Event::Plan {
                link: id,
                round,
                plan,
            });
        }
    }

    /// The other side of a session says where it is to be found.
    pub(super) fn on_aim(&mut self, aim: &Aim, now: Instant) {
        let mut links = self.links.iter();
        let found = links.find(|(_, link)| link.session == Some(aim.session));
        let Some((id, link)) = found.map(|(id, link)| (*id, link)) else {
            return;
        };
        if aim.spans.is_empty() && aim.round == link.round && link.plan.guesses() {
            return self.on_declined(id, now);
        }
        self.tell_agent(id, now, |agent| agent.handle_aim(aim, now));
    }

    /// The other side takes no part in the guessing of this round. That the round was begun counts all the same.
    fn on_declined(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.direct.is_none()) else {
            return;
        };
        let peer = link.peer;
        link.plan = Plan::NoGuess;
        self.guessing.end(id, peer, false);
        self.tell_plan(id);
        self.tell_agent(id, now, |agent| agent.handle_declined(now));
    }

    /// The round of a link is decided. Told to the server once, if it still knows the session.
    pub(super) fn end_round(&mut self, id: LinkId, direct: bool, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let (peer, probes) = (
            link.peer,
            link.agent.as_ref().map_or(0, |agent| agent.cost().probes),
        );
        if std::mem::replace(&mut link.reported, true) {
            return;
        }
        let took = now.saturating_duration_since(link.round_begun).as_millis();
        let report = link.session.map(|session| Report {
            session,
            round: link.round,
            direct_ms: direct.then(|| u32::try_from(took).unwrap_or(u32::MAX)),
            probes: u16::try_from(probes.saturating_sub(link.probes_before)).unwrap_or(u16::MAX),
        });
        let should_have = matches!(link.plan, Plan::Dial | Plan::Punch | Plan::Reverse { .. });
        let surprise = !direct && !link.again && link.informed && should_have;
        self.guessing.end(id, peer, direct);
        if let Some(report) = report {
            self.say(ToServer::Report(report));
        }
        if surprise {
            self.doubt_network(false, now);
        }
    }

    /// Does the server see both at one address?
    fn sees_same_address(&self, introduction: &Introduction) -> bool {
        let own = self.told_nat.map(|(reflexive, _)| reflexive.ip());
        let mut attested = introduction.candidates.iter().filter(|offered| offered.attested);
        attested.any(|offered| Some(offered.candidate.addr.ip()) == own)
    }

    fn begin_round(&mut self, id: LinkId, introduction: &Introduction, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.round = introduction.round;
        link.round_begun = now;
        link.reported = false;
        link.probes_before = link.agent.as_ref().map_or(0, |agent| agent.cost().probes);
    }

    fn open_for(&mut self, id: LinkId, wanted: usize) -> Vec<SocketId> {
        let mut sockets = Vec::with_capacity(wanted);
        while sockets.len() < wanted
            && let Some(socket) = self.open_socket(Owner::Link(id), false)
        {
            sockets.push(socket);
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.sockets_opened += u32::try_from(sockets.len()).unwrap_or(0);
        }
        sockets
    }
}

/// Where the server itself sees the peer, over IPv4.
fn attested_v4(introduction: &Introduction) -> Option<SocketAddr> {
    let attested = introduction.candidates.iter().filter(|offered| offered.attested);
    attested
        .map(|offered| canonical(offered.candidate.addr))
        .find(SocketAddr::is_ipv4)
}
