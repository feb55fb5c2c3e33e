//! The agent that punches for one link. It decides; it sends nothing, opens no session, and does not talk to the server.
//!
//! To drive it: feed each datagram of the link's sessions to [`PunchAgent::handle_datagram`], each further round to
//! [`PunchAgent::handle_round`], and call [`PunchAgent::handle_timeout`] when [`PunchAgent::poll_timeout`] says. After
//! every call drain [`PunchAgent::poll_transmit`] and [`PunchAgent::poll_event`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::choice::{how, rank, usable};
use super::config::{
    ANSWER_BURST, ANSWERS_PER_SECOND, CHOICES_MS, JITTER_US, OLD_KEYS, PAIRS_MAX, PROBE_BURST,
    PROBES_PER_SECOND, SCHEDULE_FOLLOW_UP_MS, SCHEDULE_HEARD_MS, SCHEDULE_PROVEN_MS, SCHEDULE_TRIGGERED_MS,
    SCHEDULE_UNATTESTED_MS, SOURCE_LIFETIME,
};
use super::extras::Extras;
use super::pacer::Pacer;
use super::pair::Pair;
use super::round::{Progress, merge};
use super::seen::Seen;
use super::upkeep::Upkeep;
use super::{Event, LocalSocket, Outgoing, PunchConfig, Round, Setup, Timer, TrafficReport};
use crate::addr::{Candidate, canonical};
use crate::path::SocketId;
use crate::seed::{Rng, Seed};
use crate::transmit::Transmit;
use crate::wire::Role;
use crate::wire::probe::{Flags, Probe, ProbeKeys};

/// See the module.
#[derive(Debug)]
pub struct PunchAgent {
    pub(super) config: PunchConfig,
    pub(super) keys: ProbeKeys,
    pub(super) old_keys: Option<(ProbeKeys, Instant)>,
    pub(super) role: Role,
    pub(super) sockets: Vec<LocalSocket>,
    pub(super) local: Vec<Candidate>,
    pub(super) progress: Progress,
    pub(super) pairs: Vec<Pair>,
    pub(super) used: Option<Used>,
    pub(super) choices: Option<Choices>,
    seen: Seen,
    pub(super) extras: Extras,
    pub(super) effort: Cost,
    pub(super) seed: Seed,
    pub(super) pacer: Pacer,
    answers: Pacer,
    pub(super) rng: Rng,
    pub(super) transmits: VecDeque<Outgoing>,
    pub(super) events: VecDeque<Event>,
}

/// What an agent has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Probes, answers and openers among them.
    pub probes: u32,
    /// Pairs of endpoints that it sent something on for the first time.
    pub nat_entries: u32,
}

/// The pair that carries traffic.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) index: usize,
    pub(super) upkeep: Upkeep,
}

/// The moments at which the caller looks for a better pair.
#[derive(Debug)]
pub(super) struct Choices {
    pub(super) base: Instant,
    pub(super) next: usize,
}

/// Under which keys a probe came, and so must its answer: the peer may not have the new ones yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Present,
    Old,
}

impl PunchAgent {
    /// An agent whose first probes leave at the start of its first round.
    pub fn new(config: PunchConfig, setup: Setup, seed: &Seed, now: Instant) -> Self {
        let mut agent = Self {
            progress: Progress::new(&setup.round, &config),
            config,
            keys: setup.keys,
            old_keys: None,
            role: setup.role,
            sockets: setup.sockets,
            local: setup.local,
            pairs: Vec::new(),
            used: None,
            choices: None,
            seen: Seen::default(),
            extras: Extras::default(),
            effort: Cost::default(),
            seed: seed.clone(),
            pacer: Pacer::new(PROBES_PER_SECOND, PROBE_BURST, now),
            answers: Pacer::new(ANSWERS_PER_SECOND, ANSWER_BURST, now),
            rng: seed.rng(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        agent.handle_round(&setup.round, now);
        agent
    }

    /// Another round: new addresses, a new start. What was proven a moment ago stays proven, what is about to be is not disturbed, and
    /// a used path is used on.
    pub fn handle_round(&mut self, round: &Round, now: Instant) {
        self.progress = Progress::new(round, &self.config);
        let recent = |at: Option<Instant>| at.is_some_and(|at| at + SOURCE_LIFETIME > now);
        let named = |pair: &Pair| {
            round
                .remote
                .iter()
                .any(|offered| canonical(offered.candidate.addr) == pair.remote)
        };
        self.remove_pairs(|pair| !recent(pair.heard) && !named(pair));
        merge(
            &mut self.pairs,
            &round.remote,
            &self.sockets,
            &self.local,
            &self.config,
            now,
        );
        self.progress.had_pairs = !self.pairs.is_empty();
        self.begin_tactics(round, now);
        let used = self.used.as_ref().map(|used| used.index);
        let worst = used.map_or(u8::MAX, |index| rank(self.pairs[index].how));
        for index in (0..self.pairs.len()).filter(|index| used != Some(*index)) {
            if self.pairs[index].is_being_proven(now) {
                continue;
            }
            if !self.pairs[index].is_freshly_proven(now) {
                self.pairs[index].forget_proof();
            }
            let steps = self.steps_for(&self.pairs[index], round, now);
            let pair = &mut self.pairs[index];
            match steps.filter(|_| rank(pair.how) <= worst) {
                Some(steps) => pair.schedule(steps, round.start.max(now)),
                None => pair.stop(),
            }
        }
        if used.is_some() {
            self.progress.verdict_at = None;
            self.choices = Some(Choices {
                base: round.start.max(now),
                next: 0,
            });
        }
        self.send_due(now);
        self.advance_tactics(now);
    }

    /// The link has a new session. The old one's keys are good for a while.
    pub fn handle_keys(&mut self, keys: ProbeKeys, role: Role, now: Instant) {
        let old = std::mem::replace(&mut self.keys, keys);
        self.old_keys = Some((old, now + OLD_KEYS));
        self.role = role;
    }

    /// The own sockets and addresses are these now; pairs with them come with the next round.
    pub fn handle_local(&mut self, sockets: Vec<LocalSocket>, local: Vec<Candidate>) {
        self.sockets = sockets;
        self.local = local;
    }

    /// A datagram came that names a session of this link. Was it an authentic probe?
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> bool {
        let (probe, keys) = match self.keys.open(bytes) {
            Some(probe) => (probe, Keys::Present),
            None => match self.open_old(bytes, now) {
                Some(probe) => (probe, Keys::Old),
                None => return false,
            },
        };
        self.on_probe(socket, canonical(from), &probe, keys, now);
        self.send_due(now);
        true
    }

    /// Traffic of the layer above since the last report.
    pub fn handle_traffic(&mut self, report: TrafficReport, now: Instant) {
        if let Some(used) = &mut self.used {
            used.upkeep.on_traffic(report.sent, report.received, now);
            if report.relayed {
                used.upkeep.on_relayed(now);
            }
        }
    }

    /// There is a reason to doubt the used path: check it now.
    pub fn handle_doubt(&mut self, now: Instant) {
        if let Some(used) = &mut self.used {
            used.upkeep.suspect(now);
        }
        self.keep_up(now);
    }

    /// No direct path is wanted any more: every source that was told of is taken back.
    pub fn handle_end(&mut self) {
        self.used = None;
        self.remove_pairs(|_| true);
        self.close_spares();
    }

    /// The moment of [`Self::poll_timeout`] has come. Calling it early does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.send_due(now);
        self.advance_tactics(now);
        self.choose(now);
        self.judge(now);
        self.keep_up(now);
        self.forget(now);
        self.retire(now);
    }

    /// The next probe to send.
    pub fn poll_transmit(&mut self) -> Option<Outgoing> {
        self.transmits.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let probe = self.pairs.iter().filter_map(Pair::due).min();
        let choice = self.choices.as_ref().and_then(Choices::due);
        let old = self
            .pairs
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.is_used(*index));
        let forget = old.filter_map(|(_, pair)| pair.heard).min();
        let [tactics, retire] = self.extras_due();
        [
            probe.map(|at| (at.max(self.pacer.ready_at()), Timer::Probe)),
            choice.map(|at| (at, Timer::Choice)),
            self.progress.verdict_at.map(|at| (at, Timer::Verdict)),
            self.used.as_ref().map(|used| (used.upkeep.due(), Timer::Upkeep)),
            forget.map(|at| (at + SOURCE_LIFETIME, Timer::Forget)),
            tactics.map(|at| (at, Timer::Tactics)),
            retire.map(|at| (at, Timer::Retire)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What was sent so far.
    pub fn cost(&self) -> Cost {
        self.effort
    }

    /// Is a path in use?
    pub fn has_path(&self) -> bool {
        self.used.is_some()
    }

    /// Is the round still open?
    pub fn is_punching(&self) -> bool {
        self.progress.verdict_at.is_some()
    }

    fn open_old(&self, bytes: &[u8], now: Instant) -> Option<Probe> {
        let (keys, until) = self.old_keys.as_ref()?;
        if *until < now { None } else { keys.open(bytes) }
    }

    fn on_probe(&mut self, socket: SocketId, from: SocketAddr, probe: &Probe, keys: Keys, now: Instant) {
        if !self.seen.take(probe.nonce, socket, from, now) {
            return;
        }
        let Some(index) = self.pair_of(socket, from, now) else {
            return;
        };
        self.recall(probe.echo, index, now);
        let unknown = self.pairs[index].heard.is_none();
        let trial = self.pairs[index].is_on_trial();
        // An address on trial gets two questions and no answer: whoever is there must show that it gets the peer's.
        let wanted = !unknown || trial || self.find(index, now);
        let pair = &mut self.pairs[index];
        pair.hear(now);
        let was_proven = pair.is_proven();
        let was_echoed = pair.echoed.is_some();
        pair.to_echo = probe.nonce;
        let fresh = probe.echo != 0 && pair.take_echo(probe.echo, now);
        if probe.flags.has(Flags::PROVEN) {
            pair.peer_echoed = Some(now);
        }
        self.progress.heard = true;
        self.progress.echoed |= fresh;
        let asked = probe.flags.has(Flags::ANSWER_ME);
        let trial = trial && !fresh;
        if !wanted {
            pair.stop();
        } else if fresh && !was_echoed {
            pair.schedule(SCHEDULE_FOLLOW_UP_MS, now);
        } else if pair.echoed.is_none() && unknown {
            let steps = if trial {
                SCHEDULE_UNATTESTED_MS
            } else {
                SCHEDULE_HEARD_MS
            };
            pair.schedule(steps, now);
        } else if pair.echoed.is_none() && asked && !trial && pair.due().is_none() {
            pair.schedule(SCHEDULE_TRIGGERED_MS, now);
        }
        let proven = pair.is_proven();
        if !trial && !std::mem::replace(&mut pair.announced, true) {
            self.events.push_back(Event::Source { socket, remote: from });
        }
        match &mut self.used {
            Some(used) if used.index == index && fresh => used.upkeep.on_echo(now),
            _ => {}
        }
        if proven && !was_proven && wanted {
            pair.schedule(SCHEDULE_PROVEN_MS, now);
        }
        if proven {
            self.on_proven(index, !was_proven, fresh && probe.flags.has(Flags::IN_USE), now);
        }
        // A lock closes sockets, and pairs go with them.
        let index = self.pairs.iter().position(|pair| pair.is(socket, from));
        // A probe that is about to leave there carries the echo as well.
        let leaves =
            |index: &usize| keys == Keys::Present && self.pairs[*index].due().is_some_and(|at| at <= now);
        if let Some(index) = index.filter(|index| asked && !trial && !leaves(index))
            && self.answers.take(now)
        {
            self.send(index, false, keys, now);
        }
    }

    fn judge(&mut self, now: Instant) {
        if self.progress.verdict_at.is_some_and(|at| at <= now) {
            self.progress.verdict_at = None;
            self.decide_tactics(now);
            self.events.push_back(Event::Failed(self.progress.why()));
        }
    }

    fn forget(&mut self, now: Instant) {
        let stale = |pair: &Pair| pair.heard.is_some_and(|at| at + SOURCE_LIFETIME <= now);
        if self.pairs.iter().any(stale) {
            self.remove_pairs(stale);
        }
        if self.old_keys.as_ref().is_some_and(|(_, until)| *until < now) {
            self.old_keys = None;
        }
    }

    pub(super) fn send_due(&mut self, now: Instant) {
        loop {
            let due =
                |(index, pair): (usize, &Pair)| pair.due().filter(|at| *at <= now).map(|at| (at, index));
            let Some((_, index)) = self.pairs.iter().enumerate().filter_map(due).min() else {
                return;
            };
            if !self.pacer.take(now) {
                return;
            }
            let jitter = Duration::from_micros(self.rng.below(JITTER_US));
            let pair = &mut self.pairs[index];
            pair.advance(jitter, now);
            if pair.admit(now) {
                self.send(index, true, Keys::Present, now);
            }
        }
    }

    pub(super) fn send(&mut self, index: usize, ask: bool, keys: Keys, now: Instant) {
        let in_use = self.is_used(index);
        let pair = &mut self.pairs[index];
        let mut flags = Flags::default();
        for (holds, flag) in [
            (ask, Flags::ANSWER_ME),
            (pair.echoed.is_some(), Flags::PROVEN),
            (in_use, Flags::IN_USE),
        ] {
            flags = if holds { flags.with(flag) } else { flags };
        }
        let nonce = self.rng.nonzero_u64();
        let probe = Probe {
            flags,
            round: self.progress.number,
            nonce,
            echo: pair.to_echo,
            observed: pair.heard.map(|_| pair.remote),
        };
        let sealed = match (keys, &self.old_keys) {
            (Keys::Old, Some((old, _))) => old.seal(&probe),
            _ => self.keys.seal(&probe),
        };
        pair.sent(nonce, ask, now);
        let (socket, remote) = (pair.socket, pair.remote);
        self.count_entry(socket, remote);
        self.effort.probes += 1;
        let pair = &self.pairs[index];
        self.transmits.push_back(Outgoing {
            transmit: Transmit {
                socket: pair.socket,
                to: pair.remote,
                bytes: sealed.to_vec(),
                ttl: None,
            },
            consent: pair.consent(),
        });
        if let Some(used) = self.used.as_mut().filter(|_| in_use) {
            used.upkeep.on_probe(now);
        }
    }

    /// The pair that a probe came on; a new one if its source was not known. An address that may not be probed gets
    /// none, and no more than [`PAIRS_MAX`] are kept: then one goes on which nothing was proven or heard.
    pub(super) fn pair_of(&mut self, socket: SocketId, from: SocketAddr, now: Instant) -> Option<usize> {
        if let Some(index) = self.pairs.iter().position(|pair| pair.is(socket, from)) {
            return Some(index);
        }
        let main = self.sockets.iter().find(|local| local.id == socket);
        let spare = self.extras.spares.contains(&socket).then_some(false);
        let v6 = main.map(|local| local.v6).or(spare)?;
        if !usable(from, self.config.allow_loopback) || v6 != from.is_ipv6() {
            return None;
        }
        if self.pairs.len() >= PAIRS_MAX {
            let silent = self.pairs.iter().rposition(|pair| !pair.announced)?;
            let goes = (self.pairs[silent].socket, self.pairs[silent].remote);
            self.remove_pairs(|pair| pair.is(goes.0, goes.1));
        }
        let attested = self.progress.attested.contains(&from.ip());
        let how = how(from, None, &self.local);
        self.pairs.push(Pair::learnt(socket, from, how, attested, now));
        Some(self.pairs.len() - 1)
    }

    /// Remove what `goes` names, but never the used pair.
    pub(super) fn remove_pairs(&mut self, goes: impl Fn(&Pair) -> bool) {
        let used = self.used.as_ref().map(|used| used.index);
        let mut kept = 0;
        let mut moved = used;
        let mut index = 0;
        let events = &mut self.events;
        self.pairs.retain(|pair| {
            let stays = used == Some(index) || !goes(pair);
            if used == Some(index) {
                moved = Some(kept);
            }
            index += 1;
            kept += usize::from(stays);
            if !stays && pair.announced {
                events.push_back(Event::SourceGone {
                    socket: pair.socket,
                    remote: pair.remote,
                });
            }
            stays
        });
        if let (Some(used), Some(moved)) = (&mut self.used, moved) {
            used.index = moved;
        }
    }

    pub(super) fn is_used(&self, index: usize) -> bool {
        self.used.as_ref().is_some_and(|used| used.index == index)
    }
}

impl Choices {
    pub(super) fn due(&self) -> Option<Instant> {
        CHOICES_MS
            .get(self.next)
            .map(|ms| self.base + Duration::from_millis(*ms))
    }
}
