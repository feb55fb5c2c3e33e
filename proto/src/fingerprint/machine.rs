//! [`Fingerprinter`]: inputs, outputs and deadlines. What is asked next is decided in [`plan`](super::plan).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::burst::Bursts;
use super::depth::Depth;
use super::facts::Fingerprint;
use super::flows::Flows;
use super::hairpin::HairpinTest;
use super::io::{FingerprintConfig, Input, Learnt, Output};
use super::question::{Outcome, Purpose, Question, Reply, Step};
use super::side::{Side, Stage};
use crate::path::SocketId;
use crate::seed::{Rng, Seed};
use crate::stun::BindingAnswer;
use crate::transmit::Transmit;

/// Most datagrams of one run. About 40 are usual, 80 where many get lost; the bound holds whatever a server says.
pub const PACKETS_MAX: u16 = 160;

/// Time between two datagrams: the pace at which a counting NAT shows its step up to thousands of foreign flows a second
/// (`nat-techniques` section 3.3). Longer lets more of them in between; shorter overtakes small queues.
pub(super) const GAP: Duration = Duration::from_millis(2);

/// After this a run ends with what it has. The longest way (a counter, and everything asked twice) takes 7 s.
const RUN_MAX: Duration = Duration::from_secs(10);

/// Most sockets of one run: eight for each of five bursts, and some twenty for the rest.
const SOCKETS_MAX: u16 = 64;

/// Most routers that are remembered: those of the packets with a short life, and a traceroute's worth.
const HOPS_MAX: usize = 16;

/// Most public addresses that are remembered; beyond it more only repeat that there are several.
const ADDRESSES_MAX: usize = 16;

/// A call that comes later than it was asked for by this much shows that the machine stood still. Timers of systems are late by
/// a millisecond or two; what is less than this costs no question its answer.
const SLACK: Duration = Duration::from_millis(5);

/// What waits in the sockets of a machine that stood still is heard within this time. Longer only delays the end of a question that has
/// no answer.
const CATCH_UP: Duration = Duration::from_millis(20);

/// By how much an answer is later than the shortest round trip if its first question was lost: just below the time to
/// the first repeat.
const LATE: Duration = Duration::from_millis(80);

/// Facts that were told already.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) blocked: bool,
    pub(super) hairpin: bool,
    pub(super) filtering: bool,
    pub(super) other_port: Option<bool>,
}

/// A run.
#[derive(Debug)]
pub struct Fingerprinter {
    pub(super) config: FingerprintConfig,
    pub(super) rng: Rng,
    pub(super) begun: Instant,
    pub(super) sides: Vec<Side>,
    pub(super) bursts: Bursts,
    pub(super) hairpin: HairpinTest,
    pub(super) depth: Depth,
    pub(super) flows: Flows,
    pub(super) hops: Vec<(u8, IpAddr)>,
    /// Public addresses and how often each was seen.
    pub(super) addresses: BTreeMap<IpAddr, u16>,
    pub(super) rtt: Option<Duration>,
    /// Something got lost.
    pub(super) lossy: bool,
    pub(super) packets: u16,
    pub(super) told: Told,
    questions: Vec<Question>,
    sockets: BTreeMap<SocketId, Option<SocketAddr>>,
    outputs: VecDeque<Output>,
    next_send: Instant,
    /// When it asked to be called.
    expected: Option<Instant>,
    done: bool,
}

impl Fingerprinter {
    /// A run against this server. Without any address to ask it ends at once.
    pub fn new(config: FingerprintConfig, seed: &Seed, now: Instant) -> Self {
        let mut run = Self {
            config,
            rng: seed.child("fingerprint", 0).rng(),
            begun: now,
            sides: Vec::new(),
            bursts: Bursts::default(),
            hairpin: HairpinTest::default(),
            depth: Depth::default(),
            flows: Flows::default(),
            hops: Vec::new(),
            addresses: BTreeMap::new(),
            rtt: None,
            lossy: false,
            packets: 0,
            told: Told::default(),
            questions: Vec::new(),
            sockets: BTreeMap::new(),
            outputs: VecDeque::new(),
            next_send: now,
            expected: None,
            done: false,
        };
        run.start(now);
        run.advance(now);
        run
    }

    /// Something happened. Drain [`Fingerprinter::poll_output`] afterwards.
    pub fn handle_input(&mut self, input: Input<'_>, now: Instant) {
        if self.done {
            return;
        }
        self.forgive(now);
        match input {
            Input::Opened { socket, local } => {
                if let Some(known) = self.sockets.get_mut(&socket) {
                    *known = Some(local);
                }
            }
            Input::NotOpened { socket } => self.fail(socket),
            Input::Datagram { socket, from, bytes } => self.handle_datagram(socket, from, bytes, now),
            Input::Hop { ttl, router } => {
                if self.hops.len() < HOPS_MAX && !self.hops.contains(&(ttl, router)) {
                    self.hops.push((ttl, router));
                }
            }
            Input::Timeout => {}
        }
        self.advance(now);
    }

    /// What is to be done; call it until it says [`Output::Wait`].
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.forgive(now);
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if self.done {
                return Output::Wait(None);
            }
            if now >= self.begun + RUN_MAX {
                self.finish(now);
                continue;
            }
            if let Some(transmit) = self.next_transmit(now) {
                return Output::Transmit(transmit);
            }
            if self.outputs.is_empty() && !self.done {
                let due = self.next_due();
                self.expected = Some(due);
                return Output::Wait(Some(due));
            }
        }
    }

    /// What is known at this moment; what is not says why not.
    pub fn so_far(&self, now: Instant) -> Fingerprint {
        self.result(now)
    }

    /// Ask for a fresh socket for this destination.
    pub(super) fn open(&mut self, towards: SocketAddr) -> Option<SocketId> {
        let number = u16::try_from(self.sockets.len())
            .ok()
            .filter(|number| *number < SOCKETS_MAX)?;
        let socket = SocketId(number);
        self.sockets.insert(socket, None);
        self.outputs.push_back(Output::Open { socket, towards });
        Some(socket)
    }

    pub(super) fn local(&self, socket: SocketId) -> Option<SocketAddr> {
        self.sockets.get(&socket).copied().flatten()
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.questions.push(question);
    }

    pub(super) fn learnt(&mut self, fact: Learnt) {
        self.outputs.push_back(Output::Learnt(fact));
    }

    /// Is nothing under way any more?
    pub(super) fn is_idle(&self) -> bool {
        self.questions.is_empty()
    }

    /// The end: say what is known.
    pub(super) fn finish(&mut self, now: Instant) {
        if self.done {
            return;
        }
        // What one silence told is no fact.
        for side in &mut self.sides {
            side.hushed = false;
        }
        let result = self.result(now);
        self.outputs.push_back(Output::Done(Box::new(result)));
        self.questions.clear();
        self.done = true;
    }

    /// While the machine stands still no answer is heard, however many came: that time is no question's, nor is the moment that it
    /// takes to hear them.
    fn forgive(&mut self, now: Instant) {
        let late = self
            .expected
            .take()
            .map_or(Duration::ZERO, |expected| now.saturating_duration_since(expected));
        if late > SLACK {
            for question in &mut self.questions {
                question.allow(late + CATCH_UP);
            }
        }
    }

    fn next_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if now < self.next_send {
            return None;
        }
        // In the order in which they are due, so that a burst leaves in the order of its numbers.
        while let Some(number) = self.first_due(now) {
            let question = self.questions.get_mut(number)?;
            let socket = question.asking.socket;
            match question.step(&mut self.rng, now) {
                Step::Send { to, bytes, ttl } => {
                    return self.send(
                        Transmit {
                            socket,
                            to,
                            bytes,
                            ttl,
                        },
                        now,
                    );
                }
                Step::Over => {
                    let question = self.questions.remove(number);
                    self.conclude(&question, Outcome::Silent, now);
                    self.advance(now);
                }
                Step::Nothing => return None,
            }
            if self.done {
                return None;
            }
        }
        match self.hairpin.next_packet(now) {
            Some(packet) => self.send(packet, now),
            None => {
                // Its time may be over, which may have been the last thing to wait for.
                self.advance(now);
                None
            }
        }
    }

    /// Count a datagram, and let it go if there is room for it.
    fn send(&mut self, transmit: Transmit, now: Instant) -> Option<Transmit> {
        if self.packets >= PACKETS_MAX {
            self.finish(now);
            return None;
        }
        self.packets += 1;
        self.next_send = now + GAP;
        self.flows.note(transmit.socket, transmit.to, now);
        Some(transmit)
    }

    fn first_due(&self, now: Instant) -> Option<usize> {
        let ready =
            |question: &Question| self.local(question.asking.socket).is_some() && question.due() <= now;
        let numbered = self
            .questions
            .iter()
            .enumerate()
            .filter(|(_, question)| ready(question));
        numbered
            .min_by_key(|(_, question)| question.due())
            .map(|(number, _)| number)
    }

    fn next_due(&self) -> Instant {
        let ready = self
            .questions
            .iter()
            .filter(|question| self.local(question.asking.socket).is_some());
        let questions = ready.map(Question::due).chain(self.hairpin.due()).min();
        let sending = questions.map(|due| due.max(self.next_send));
        let others = sending.into_iter().chain(self.hush_at());
        others.fold(self.begun + RUN_MAX, Instant::min)
    }

    /// When an answer from the server's other port would have come if nothing filtered it and nothing got lost; `None` where that tells
    /// nothing, or was told.
    pub(super) fn hush_at(&self) -> Option<Instant> {
        let number = self.v4()?;
        let awaited = self.sides.get(number)?.awaits_other_port();
        let asked = |question: &&Question| question.side == number && question.purpose == Purpose::FilterPort;
        let question = self.questions.iter().find(asked)?;
        let at = question.hushed_at(self.rtt?);
        at.filter(|_| awaited && self.told.other_port.is_none())
    }

    fn fail(&mut self, socket: SocketId) {
        if self.local(socket).is_some() {
            return;
        }
        let (failed, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.questions)
            .into_iter()
            .partition(|question| question.asking.socket == socket);
        self.questions = rest;
        for question in failed {
            self.set(&question, Outcome::NoSocket);
        }
    }

    fn handle_datagram(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Instant) {
        if self.hairpin.handle_datagram(socket, from, bytes) {
            return;
        }
        let on_it = self
            .questions
            .iter_mut()
            .enumerate()
            .filter(|(_, question)| question.asking.socket == socket);
        let found = on_it
            .into_iter()
            .find_map(|(number, question)| Some((number, question.handle_datagram(from, bytes, now)?)));
        let Some((number, reply)) = found else { return };
        let question = self.questions.remove(number);
        match reply {
            Reply::Refusal => self.set(&question, Outcome::Refused),
            Reply::Answer(answer) => self.take_answer(&question, &answer, now),
        }
    }

    fn take_answer(&mut self, question: &Question, answer: &BindingAnswer, now: Instant) {
        let age = question.age(now);
        if question.sent() == 1 {
            self.rtt = Some(self.rtt.map_or(age, |rtt| rtt.min(age)));
        }
        self.lossy |= self.rtt.is_some_and(|rtt| age > rtt + LATE);
        if answer.mapped.is_ipv4()
            && (self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&answer.mapped.ip()))
        {
            *self.addresses.entry(answer.mapped.ip()).or_default() += 1;
        }
        if question.purpose == Purpose::Seen(super::question::Place::Main)
            && let Some(side) = self.sides.get_mut(question.side)
            && side.stage == Stage::Reach
        {
            side.learn_places(answer, self.config.others.as_deref());
        }
        self.set(question, Outcome::Answered(answer.mapped));
    }
}
