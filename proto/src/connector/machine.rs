//! The connector itself: takes every input of a node in turn and says what is to be done.
//!
//! It is not a driver: sockets, the control connection and QUIC are elsewhere. To drive it: feed one
//! [`Input`], then call [`Connector::poll_output`] until it says [`Output::Wait`]; repeat. Feed [`Input::Timeout`]
//! when the moment named by the last `Wait` has come. Tell it the peers and the own candidates before the first
//! control connection, so that the hello carries them.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::budget::Budget;
use super::clock::Clock;
use super::control::Control;
use super::early::Early;
use super::guessing::Guessing;
use super::link::LinkState;
use super::nat::Discovery;
use super::pairing::Pairing;
use super::questions::{Question, Questions};
use super::sockets::FreshSockets;
use super::survey::Survey;
use super::{
    Command, ConnectFailure, ConnectorConfig, Effort, Event, Input, LinkEnd, LinkId, Nat, Output, Timer,
};
use crate::addr::{CANDIDATES_MAX, Candidate, canonical};
use crate::id::{Instance, Name, PairSecret, PairTag, PeerId, RequestId, SessionTag};
use crate::path::SocketId;
use crate::punch::{PunchAgent, usable};
use crate::seed::{Rng, Seed};
use crate::wire::probe::session_of;
use crate::wire::{
    ACCEPT_TAGS_MAX, Connect, ConnectRefusal, FromServer, Kind, Network, PathPolicy, ToServer, Update,
};

/// See the module.
#[derive(Debug)]
pub struct Connector {
    pub(super) config: ConnectorConfig,
    pub(super) seed: Seed,
    pub(super) rng: Rng,
    pub(super) peers: BTreeMap<PeerId, Known>,
    /// Host and mapped addresses of this node.
    pub(super) local: Vec<Candidate>,
    pub(super) control: Control,
    pub(super) clock: Clock,
    pub(super) nat: Discovery,
    pub(super) told_nat: Option<(SocketAddr, Nat)>,
    pub(super) told_facts: Update,
    pub(super) network: Network,
    pub(super) survey: Survey,
    pub(super) sockets: FreshSockets,
    pub(super) guessing: Guessing,
    pub(super) questions: Questions,
    pub(super) links: BTreeMap<LinkId, LinkState>,
    pub(super) runs: BTreeMap<(PeerId, Instance), LinkId>,
    pub(super) tags: BTreeMap<SessionTag, LinkId>,
    pub(super) links_made: u64,
    pub(super) early: Early,
    pub(super) budget: Budget,
    pub(super) pairing: Option<Pairing>,
    queue: VecDeque<Output>,
}

/// What is known of a paired machine.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) secret: PairSecret,
    pub(super) tag: PairTag,
}

impl Connector {
    /// A connector that knows nobody and is not connected.
    pub fn new(config: ConnectorConfig, seed: &Seed, now: Instant) -> Self {
        let network = Network {
            guesses: config.guesses,
            ..Network::default()
        };
        Self {
            config,
            network,
            rng: seed.child("connector", 0).rng(),
            seed: seed.clone(),
            peers: BTreeMap::new(),
            local: Vec::new(),
            control: Control::Down,
            clock: Clock::new(now),
            nat: Discovery::default(),
            told_nat: None,
            told_facts: Update::default(),
            survey: Survey::default(),
            sockets: FreshSockets::default(),
            guessing: Guessing::default(),
            questions: Questions::default(),
            links: BTreeMap::new(),
            runs: BTreeMap::new(),
            tags: BTreeMap::new(),
            links_made: 0,
            early: Early::default(),
            budget: Budget::default(),
            pairing: None,
            queue: VecDeque::new(),
        }
    }

    /// Something happened. Drain [`Self::poll_output`] afterwards.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::ControlUp { stun } => self.on_control_up(stun, now),
            Input::ControlDown => self.on_control_down(now),
            Input::Control(message) => self.on_message(message, now),
            Input::Datagram { socket, from, bytes } => self.on_datagram(socket, from, bytes, now),
            Input::Opened { socket, local } => self.on_opened(socket, local, now),
            Input::NotOpened { socket } => self.on_not_opened(socket, now),
            Input::Network(known) => self.on_network(&known),
            Input::LocalCandidates(candidates) => self.on_local(candidates, now),
            Input::Traffic { link, report } => {
                if let Some(agent) = self.links.get_mut(&link).and_then(|link| link.agent.as_mut()) {
                    agent.handle_traffic(report, now);
                }
            }
            Input::Command(command) => self.on_command(command, now),
            Input::Timeout => self.on_timeout(now),
        }
    }

    /// The next thing to do. Ends with [`Output::Wait`]; call until then. What was not taken waits for the next call.
    pub fn poll_output(&mut self, _now: Instant) -> Output {
        match self.queue.pop_front() {
            Some(output) => output,
            None => Output::Wait(self.next_deadline()),
        }
    }

    /// What a link has cost so far; `None` for a link that is not there.
    pub fn effort(&self, link: LinkId) -> Option<Effort> {
        let link = self.links.get(&link)?;
        let cost = link.agent.as_ref().map(PunchAgent::cost).unwrap_or_default();
        Some(Effort {
            probes: cost.probes,
            sockets: link.sockets_opened,
            nat_entries: cost.nat_entries,
        })
    }

    pub(super) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    /// Say something on the control connection, if this node is registered.
    pub(super) fn say(&mut self, message: ToServer) {
        if self.control.is_registered() {
            self.queue.push_back(Output::Control(message));
        }
    }

    /// What the server is to be told of this node.
    pub(super) fn facts(&self) -> Update {
        let mut candidates: Vec<Candidate> = Vec::with_capacity(self.local.len());
        for candidate in self.local.iter().copied().chain(self.nat.reflexive()) {
            let known = candidates.iter().any(|other| other.addr == candidate.addr);
            if !known && candidates.len() < CANDIDATES_MAX {
                candidates.push(candidate);
            }
        }
        let mut accept: Vec<PairTag> = self.peers.values().map(|peer| peer.tag).collect();
        accept.sort_unstable();
        accept.dedup();
        accept.truncate(ACCEPT_TAGS_MAX);
        Update {
            candidates,
            accept,
            network: self.network,
        }
    }

    /// Tell the server what has changed about this node, if anything did.
    pub(super) fn update(&mut self) {
        let facts = self.facts();
        if self.control.is_registered() && facts != self.told_facts {
            self.told_facts = facts.clone();
            self.say(ToServer::Update(facts));
        }
    }

    /// A question has no answer and will get none.
    pub(super) fn give_up(&mut self, question: Question, why: ConnectFailure, now: Instant) {
        match question {
            Question::Connect { request, .. } | Question::Lookup(request) => {
                self.event(Event::ConnectFailed { request, why });
            }
            Question::Round(link) => self.pause_rounds(link, now),
        }
    }

    fn on_message(&mut self, message: FromServer, now: Instant) {
        match message {
            FromServer::Welcome(welcome) => self.on_welcome(welcome, now),
            FromServer::Refused(refusal) => self.on_refused(refusal, now),
            FromServer::Observed { reflexive } => self.on_observed(reflexive, now),
            FromServer::Time { sent_us, server } => self.clock.sample(sent_us, server, now),
            FromServer::Introduction(introduction) => self.on_introduction(introduction, now),
            FromServer::ConnectFailed { request, why } => {
                if let Some(question) = self.questions.answered(request) {
                    self.give_up(question, ConnectFailure::Refused(why), now);
                }
            }
            FromServer::Found { request, peer } => {
                if let Some(Question::Lookup(request)) = self.questions.answered(request) {
                    self.event(Event::Found { request, peer });
                }
            }
            // Drivers ask for these, and take them before they come here.
            FromServer::Odds { .. } => {}
            FromServer::SessionClosed { session, why } => self.on_session_closed(session, why, now),
            FromServer::PairOpened { nameplate, ttl_ms } => self.on_pair_opened(nameplate, ttl_ms, now),
            FromServer::PairJoined { nameplate } => self.on_pair_joined(nameplate, now),
            FromServer::PairMessage { nameplate, body } => self.on_pair_message(nameplate, &body),
            FromServer::PairEnded { nameplate, why } => self.on_pair_ended(nameplate, why),
            FromServer::Aim(aim) => self.on_aim(&aim, now),
            FromServer::Draining { retry_after_ms } => self.event(Event::Draining {
                retry_after: std::time::Duration::from_millis(retry_after_ms.into()),
            }),
        }
    }

    fn on_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::SetPeers(peers) => self.set_peers(peers),
            Command::Connect {
                request,
                peer,
                policy,
            } => self.connect(request, peer, policy, now),
            Command::Close { link } => self.close(link, LinkEnd::Closed),
            Command::Lookup { request, name } => self.look_up(request, name, now),
            Command::PairOpen => self.pair_open(now),
            Command::PairJoin { code } => self.pair_join(code, now),
            Command::PairCancel => self.pair_cancel(),
            Command::Bye => self.bye(),
        }
    }

    fn on_datagram(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Instant) {
        match Kind::of(bytes) {
            Kind::Probe => {
                let Some(tag) = session_of(bytes) else {
                    return;
                };
                match self.tags.get(&tag).copied() {
                    Some(link) => self.on_probe(link, socket, from, bytes, now),
                    None => self.early.keep(tag, socket, canonical(from), bytes, now),
                }
            }
            Kind::Stun => {
                if self.on_fresh_stun(socket, canonical(from), bytes, now) {
                    return;
                }
                if self.nat.handle_datagram(socket, canonical(from), bytes, now) {
                    self.on_nat_news(now);
                }
            }
            Kind::Relay | Kind::Quic | Kind::Unknown => {}
        }
    }

    fn on_local(&mut self, candidates: Vec<Candidate>, now: Instant) {
        let allow_loopback = self.config.allow_loopback;
        let local: Vec<Candidate> = candidates
            .into_iter()
            .map(|candidate| Candidate {
                addr: canonical(candidate.addr),
                ..candidate
            })
            .filter(|candidate| usable(candidate.addr, allow_loopback))
            .take(CANDIDATES_MAX)
            .collect();
        if local == self.local {
            return;
        }
        self.local = local;
        self.on_network_change(now);
    }

    fn set_peers(&mut self, peers: Vec<(PeerId, PairSecret)>) {
        let known = |secret: PairSecret| Known {
            tag: secret.tag(),
            secret,
        };
        self.peers = peers
            .into_iter()
            .map(|(peer, secret)| (peer, known(secret)))
            .collect();
        let still = |link: &LinkState| {
            self.peers
                .get(&link.peer)
                .is_some_and(|known| known.tag == link.tag)
        };
        let gone: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| !still(link))
            .map(|(id, _)| *id)
            .collect();
        for link in gone {
            self.close(link, LinkEnd::Unpaired);
        }
        self.update();
    }

    fn connect(&mut self, request: RequestId, peer: PeerId, policy: PathPolicy, now: Instant) {
        let fail = |why| Event::ConnectFailed { request, why };
        if peer == self.config.own {
            return self.event(fail(ConnectFailure::Refused(ConnectRefusal::Yourself)));
        }
        let Some(tag) = self.peers.get(&peer).map(|known| known.tag) else {
            return self.event(fail(ConnectFailure::NotPaired));
        };
        if !self.control.is_registered() {
            // Without the server a link that is direct serves as it is.
            let direct = |link: &&LinkId| self.links.get(link).is_some_and(|link| link.direct.is_some());
            let runs = self.runs.range((peer, Instance(0))..=(peer, Instance(u64::MAX)));
            match runs.map(|(_, link)| link).find(direct).copied() {
                Some(link) => self.announce(link, Some(request), now),
                None => self.event(fail(ConnectFailure::ServerLost)),
            }
            return;
        }
        let question = Question::Connect {
            request,
            peer,
            policy,
        };
        match self.questions.ask(question, now) {
            Some(request) => self.say(ToServer::Connect(Connect {
                request,
                peer,
                tag,
                policy,
                guess: self.guessing.may(peer, now),
            })),
            None => self.event(fail(ConnectFailure::Refused(ConnectRefusal::TooFast))),
        }
    }

    fn look_up(&mut self, request: RequestId, name: Name, now: Instant) {
        let fail = |why| Event::ConnectFailed { request, why };
        if !self.control.is_registered() {
            return self.event(fail(ConnectFailure::ServerLost));
        }
        match self.questions.ask(Question::Lookup(request), now) {
            Some(request) => self.say(ToServer::Lookup { request, name }),
            None => self.event(fail(ConnectFailure::Refused(ConnectRefusal::TooFast))),
        }
    }

    fn on_timeout(&mut self, now: Instant) {
        self.keep_registered(now);
        self.send_stun(now);
        self.keep_survey(now);
        while let Some(question) = self.questions.expired(now) {
            self.give_up(question, ConnectFailure::Timeout, now);
        }
        self.keep_links(now);
        self.expire_pairing(now);
    }

    fn next_deadline(&self) -> Option<(Instant, Timer)> {
        [
            self.control.due().map(|at| (at, Timer::Refresh)),
            self.nat.due().map(|at| (at, Timer::Stun)),
            self.survey.due().map(|at| (at, Timer::Survey)),
            self.questions.due().map(|at| (at, Timer::Question)),
            self.pairing
                .as_ref()
                .map(|pairing| (pairing.deadline(), Timer::Pairing)),
        ]
        .into_iter()
        .flatten()
        .chain(self.links.values().filter_map(LinkState::due))
        .min()
    }
}
