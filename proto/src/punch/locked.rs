//! The agent's used path: locking one, choosing a better one, keeping it alive, and losing it.

use std::time::Instant;

use super::Event;
use super::agent::{Choices, Keys, PunchAgent, Used};
use super::choice::{is_better, rank};
use super::config::{KEEPALIVE_JITTER_PERCENT, SCHEDULE_PROVEN_MS, SCHEDULE_RECOVERY_MS, SOURCE_LIFETIME};
use super::pair::Pair;
use super::upkeep::{Upkeep, Verdict};
use crate::wire::Role;

impl PunchAgent {
    /// A pair is proven. `claimed`: the peer says, and not in a recording, that it uses this pair.
    pub(super) fn on_proven(&mut self, index: usize, newly: bool, claimed: bool, now: Instant) {
        if self.used.is_none() {
            self.lock(index, now);
            self.choices = Some(Choices { base: now, next: 0 });
            return;
        }
        if self.is_used(index) {
            return;
        }
        if claimed && self.role == Role::Callee {
            return self.lock(index, now);
        }
        if newly && self.choices.as_ref().and_then(Choices::due).is_none() {
            self.choices = Some(Choices { base: now, next: 0 });
        }
        if claimed {
            // The peer is on another path, perhaps because it changed its network: does the one from here still live?
            self.handle_doubt(now);
        }
    }

    fn lock(&mut self, index: usize, now: Instant) {
        let early = self.config.keepalive
            * u32::try_from(self.rng.below(KEEPALIVE_JITTER_PERCENT)).unwrap_or(0)
            / 100;
        self.used = Some(Used {
            index,
            upkeep: Upkeep::new(self.config.keepalive - early, now),
        });
        self.progress.verdict_at = None;
        self.decide_tactics(now);
        // Pairs went with the sockets that were closed.
        let index = self.used.as_ref().map_or(index, |used| used.index);
        let pair = &mut self.pairs[index];
        let best = rank(pair.how);
        pair.schedule(SCHEDULE_PROVEN_MS, now);
        self.events.push_back(Event::Locked {
            how: pair.how,
            socket: pair.socket,
            remote: pair.remote,
            rtt: pair.rtt().unwrap_or_default(),
        });
        for (other, pair) in self.pairs.iter_mut().enumerate() {
            let hopeless = rank(pair.how) > best || (rank(pair.how) == best && pair.heard.is_none());
            if other != index && hopeless {
                pair.stop();
            }
        }
    }

    pub(super) fn choose(&mut self, now: Instant) {
        let Some(choices) = self
            .choices
            .as_mut()
            .filter(|choices| choices.due().is_some_and(|at| at <= now))
        else {
            return;
        };
        choices.next += 1;
        let Some(used) = &self.used else {
            return;
        };
        if self.role == Role::Callee {
            return;
        }
        let quality = |pair: &Pair| (pair.how, pair.rtt().unwrap_or(SOURCE_LIFETIME));
        let mut best = (used.index, quality(&self.pairs[used.index]));
        for (index, pair) in self.pairs.iter().enumerate() {
            if pair.is_freshly_proven(now) && is_better(quality(pair), best.1) {
                best = (index, quality(pair));
            }
        }
        if best.0 != used.index {
            self.lock(best.0, now);
            self.send_due(now);
        }
    }

    pub(super) fn keep_up(&mut self, now: Instant) {
        let Some(used) = &mut self.used else {
            return;
        };
        let index = used.index;
        match used.upkeep.on_time(now) {
            Verdict::Fine => {}
            Verdict::Probe => self.send(index, true, Keys::Present, now),
            Verdict::ProbeAll => {
                self.send(index, true, Keys::Present, now);
                for other in 0..self.pairs.len() {
                    if other != index && self.pairs[other].echoed.is_some() && self.pacer.take(now) {
                        self.send(other, true, Keys::Present, now);
                    }
                }
            }
            Verdict::Lost => self.lose(index, now),
        }
    }

    /// The used path is dead. Another one that was proven just now takes over; without one both sides try again by
    /// themselves what has worked.
    fn lose(&mut self, index: usize, now: Instant) {
        self.used = None;
        self.choices = None;
        self.pairs[index].forget_proof();
        let alternative = self
            .pairs
            .iter()
            .enumerate()
            .filter(|(_, pair)| pair.is_freshly_proven(now))
            .min_by_key(|(_, pair)| (rank(pair.how), pair.rtt()))
            .map(|(index, _)| index);
        if let Some(other) = alternative {
            self.lock(other, now);
            self.choices = Some(Choices { base: now, next: 0 });
            self.send_due(now);
            return;
        }
        for pair in self.pairs.iter_mut().filter(|pair| pair.announced) {
            pair.forget_proof();
            pair.schedule(SCHEDULE_RECOVERY_MS, now);
        }
        self.events.push_back(Event::Lost);
    }
}
