//! The agent's further sockets and what leaves from them: carrying out the steps of a [`Tactics`], remembering what was shot
//! where, and closing what no path came to use.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::agent::PunchAgent;
use super::choice::is_neighbour;
use super::config::{
    NONCE_LIFETIME, PACKETS_MAX, REST, SCHEDULE_ATTESTED_MS, SCHEDULE_DIAL_MS, SCHEDULE_DOUBTFUL_MS,
    SCHEDULE_UNATTESTED_MS, SCHEDULE_UNKNOWN_MS, SCHEDULE_UNLIKELY_MS, SOURCE_LIFETIME, SPARE_LINGER,
};
use super::pair::Pair;
use super::tactics::{Step, Tactics};
use super::{Consent, Event, Orders, Outgoing, Round};
use crate::addr::{Reach, canonical};
use crate::path::{How, SocketId};
use crate::plan::Plan;
use crate::transmit::Transmit;
use crate::wire::Aim;
use crate::wire::network::Mapping;
use crate::wire::probe::{Flags, Probe};

/// What is beside the main sockets.
#[derive(Debug, Default)]
pub(super) struct Extras {
    pub(super) tactics: Option<Tactics>,
    /// Sockets that are open beside the main ones, IPv4 all of them.
    pub(super) spares: Vec<SocketId>,
    /// When those are closed that no path uses.
    retire_at: Option<Instant>,
    /// Probes to places that may be the peer's, so that no pair was made for them.
    shots: VecDeque<Sent>,
    /// Sockets with where something was sent from them: for routers in front of this node an entry each, whether it was a
    /// shot, a question or the probe of a pair. At most [`PACKETS_MAX`]; beyond it they are counted each time.
    places: BTreeSet<(SocketId, SocketAddr)>,
}

#[derive(Debug)]
struct Sent {
    nonce: u64,
    socket: SocketId,
    to: SocketAddr,
    at: Instant,
}

impl PunchAgent {
    /// A fresh socket has this address of its own.
    pub fn handle_opened(&mut self, socket: SocketId, local: SocketAddr, now: Instant) {
        if let Some(tactics) = self.tactics_on(socket) {
            tactics.handle_opened(local);
            self.advance_tactics(now);
        }
    }

    /// A fresh socket could not be opened; it is no longer this agent's.
    pub fn handle_not_opened(&mut self, socket: SocketId, now: Instant) {
        self.extras.spares.retain(|spare| *spare != socket);
        let Some(tactics) = self.tactics_on(socket) else {
            return;
        };
        tactics.handle_not_opened(socket);
        if tactics.is_fresh() {
            // Then the old ports have to do.
            let resting = |pair: &&mut Pair| pair.attested && pair.due().is_none() && pair.heard.is_none();
            for pair in self.pairs.iter_mut().filter(resting) {
                pair.schedule(SCHEDULE_ATTESTED_MS, now);
            }
            self.send_due(now);
        }
    }

    /// A STUN datagram came in on a fresh socket.
    pub fn handle_stun(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Instant) {
        if let Some(tactics) = self.tactics_on(socket) {
            tactics.handle_stun(socket, from, bytes, now);
            self.advance_tactics(now);
        }
    }

    /// The peer says where it is to be found in this round.
    pub fn handle_aim(&mut self, aim: &Aim, now: Instant) {
        if aim.round != self.progress.number {
            return;
        }
        if let Some(tactics) = &mut self.extras.tactics {
            tactics.handle_aim(aim, now);
            self.advance_tactics(now);
        }
    }

    /// The peer takes no part in what this round was to guess: no more of it is sent, and the round is decided like any other.
    pub fn handle_declined(&mut self, now: Instant) {
        let plain = now + self.config.verdict;
        if let Some(at) = &mut self.progress.verdict_at {
            *at = plain.min(*at);
            self.decide_tactics(now);
        }
    }

    /// Begin what the round asks for beyond the addresses that were offered. Its sockets are this agent's from now on.
    pub(super) fn begin_tactics(&mut self, round: &Round, now: Instant) {
        // A path that was lost a moment ago may come back by itself, as long as its socket is there.
        self.end_tactics(
            |pair| pair.heard.is_some_and(|at| at + SOURCE_LIFETIME > now),
            now,
        );
        let Some(orders) = &round.orders else { return };
        if self.used.is_some() {
            // There is a path; what the peer wants of a plan it finds by ordinary probes.
            return self.close(&orders.sockets);
        }
        self.extras.spares.extend(&orders.sockets);
        let main = self
            .sockets
            .iter()
            .find(|socket| !socket.v6)
            .map(|socket| socket.id);
        if let (Some(main), Some(target)) = (main, target(round)) {
            let rng = self.seed.child("tactics", self.rng.u64()).rng();
            let mut tactics = Tactics::new(orders.clone(), self.role, main, target, round.start, rng, now);
            if self.pairs.iter().any(|pair| pair.is_being_proven(now)) {
                tactics.handle_found(now);
            }
            self.extras.tactics = Some(tactics);
        }
        self.extras.retire_at = None;
    }

    /// Carry out the steps that are due.
    pub(super) fn advance_tactics(&mut self, now: Instant) {
        while let Some(step) = self.extras.tactics.as_mut().and_then(|tactics| tactics.poll(now)) {
            match step {
                Step::Ask { socket, to, bytes } => self.ask(socket, to, bytes),
                Step::Shot { socket, to, ttl } => self.shoot(socket, to, ttl, now),
                Step::Tell { spans, opened } => self.events.push_back(Event::Aim { spans, opened }),
                Step::Pair { socket, remote } => {
                    if let Some(index) = self.pair_of(socket, remote, now) {
                        self.pairs[index].schedule(SCHEDULE_ATTESTED_MS, now);
                    }
                }
            }
        }
    }

    /// The peer was heard where it was not heard before. Is that to be looked into? Where many openers are out many finds come
    /// together, and one is enough.
    pub(super) fn find(&mut self, index: usize, now: Instant) -> bool {
        let pair = &self.pairs[index];
        let unforeseen = pair.learnt || self.extras.spares.contains(&pair.socket);
        match &mut self.extras.tactics {
            Some(tactics) if unforeseen => tactics.handle_found(now),
            _ => true,
        }
    }

    /// A nonce came back from a place that was only shot at: the pair may count it. Each counts once.
    pub(super) fn recall(&mut self, nonce: u64, index: usize, now: Instant) {
        let pair = &mut self.pairs[index];
        let sent = &mut self.extras.shots;
        let matches = |shot: &Sent| shot.nonce == nonce && pair.is(shot.socket, shot.to);
        if let Some(shot) = sent
            .iter()
            .position(matches)
            .and_then(|number| sent.remove(number))
            && shot.at + NONCE_LIFETIME >= now
        {
            pair.sent(shot.nonce, true, shot.at);
        }
    }

    /// The round is decided: nothing more is tried, and what was not heard on is closed at once.
    pub(super) fn decide_tactics(&mut self, now: Instant) {
        self.end_tactics(|pair| pair.heard.is_some(), now);
    }

    /// Nothing more is tried. Sockets with a pair that `keeps` them stay open for a while; the others are closed at once.
    fn end_tactics(&mut self, keeps: impl Fn(&Pair) -> bool, now: Instant) {
        self.extras.tactics = None;
        self.extras.shots.clear();
        let pairs = &self.pairs;
        self.extras
            .places
            .retain(|(socket, to)| pairs.iter().any(|pair| pair.is(*socket, *to)));
        let kept: Vec<SocketId> = self
            .pairs
            .iter()
            .filter(|pair| keeps(pair))
            .map(|pair| pair.socket)
            .collect();
        self.keep_spares(|spare| kept.contains(&spare));
        self.extras.retire_at = (!self.extras.spares.is_empty()).then_some(now + SPARE_LINGER);
    }

    fn keep_spares(&mut self, keeps: impl Fn(SocketId) -> bool) {
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.extras.spares)
            .into_iter()
            .partition(|spare| keeps(*spare));
        self.extras.spares = kept;
        self.close(&gone);
    }

    /// Close the sockets that no path came to use, once that is decided.
    pub(super) fn retire(&mut self, now: Instant) {
        if self.extras.retire_at.is_none_or(|at| at > now) {
            return;
        }
        self.extras.retire_at = None;
        let used = self.used_socket();
        self.keep_spares(|spare| Some(spare) == used);
    }

    pub(super) fn close_spares(&mut self) {
        self.keep_spares(|_| false);
        self.extras = Extras::default();
    }

    /// At which moments, after the start, a pair is to be probed in this round; `None`: not at all.
    pub(super) fn steps_for(&self, pair: &Pair, round: &Round, now: Instant) -> Option<&'static [u64]> {
        match pair.consent() {
            Consent::Claimed => return Some(self.unattested_steps(pair, round)),
            Consent::Heard => return Some(SCHEDULE_ATTESTED_MS),
            Consent::Attested | Consent::Guessed => {}
        }
        let Some(orders) = round.orders.as_ref().filter(|_| {
            pair.how == How::Punched && target(round) == Some(pair.remote) && orders_translate(round)
        }) else {
            return Some(SCHEDULE_ATTESTED_MS);
        };
        match orders.plan {
            Plan::Reverse { by } if by == self.role => Some(SCHEDULE_DIAL_MS),
            // Its opener is a shot; until it hears something it is silent.
            Plan::Reverse { .. } => None,
            // Where nothing is known the fresh sockets may be as useless.
            Plan::Fresh if !is_known(orders) => Some(SCHEDULE_ATTESTED_MS),
            Plan::Fresh if orders.again => (!pair.was_tried_since(now, REST)).then_some(SCHEDULE_DOUBTFUL_MS),
            Plan::Fresh
            | Plan::Bracket { .. }
            | Plan::Block { .. }
            | Plan::Birthday { .. }
            | Plan::Steps
            | Plan::NoGuess
            | Plan::Hopeless => Some(SCHEDULE_DOUBTFUL_MS),
            Plan::Unknown => Some(SCHEDULE_UNKNOWN_MS),
            Plan::Dial | Plan::Punch => Some(SCHEDULE_ATTESTED_MS),
        }
    }

    fn unattested_steps(&self, pair: &Pair, round: &Round) -> &'static [u64] {
        let apart = round.orders.as_ref().is_some_and(|orders| !orders.together);
        let inside = Reach::of(pair.remote) == Reach::Private;
        if apart && inside && !is_neighbour(pair.remote, &self.local) {
            SCHEDULE_UNLIKELY_MS
        } else {
            SCHEDULE_UNATTESTED_MS
        }
    }

    /// When something of this is due.
    pub(super) fn extras_due(&self) -> [Option<Instant>; 2] {
        [
            self.extras.tactics.as_ref().and_then(Tactics::due),
            self.extras.retire_at,
        ]
    }

    fn tactics_on(&mut self, socket: SocketId) -> Option<&mut Tactics> {
        let tactics = self.extras.tactics.as_mut();
        tactics.filter(|tactics| tactics.sockets().contains(&socket))
    }

    fn used_socket(&self) -> Option<SocketId> {
        let used = self.used.as_ref()?;
        Some(self.pairs[used.index].socket)
    }

    fn close(&mut self, gone: &[SocketId]) {
        if gone.is_empty() {
            return;
        }
        self.remove_pairs(|pair| gone.contains(&pair.socket));
        self.extras.places.retain(|(socket, _)| !gone.contains(socket));
        self.events
            .extend(gone.iter().map(|socket| Event::Unused { socket: *socket }));
    }

    /// Something leaves from there to there: another entry in a router, unless something did before.
    pub(super) fn count_entry(&mut self, socket: SocketId, to: SocketAddr) {
        let places = &mut self.extras.places;
        if places.contains(&(socket, to)) {
            return;
        }
        if places.len() < PACKETS_MAX {
            places.insert((socket, to));
        }
        self.effort.nat_entries += 1;
    }

    fn ask(&mut self, socket: SocketId, to: SocketAddr, bytes: Vec<u8>) {
        self.count_entry(socket, to);
        self.transmits.push_back(Outgoing {
            transmit: Transmit {
                socket,
                to,
                bytes,
                ttl: None,
            },
            consent: Consent::Heard,
        });
    }

    fn shoot(&mut self, socket: SocketId, to: SocketAddr, ttl: Option<u8>, now: Instant) {
        self.count_entry(socket, to);
        let nonce = self.rng.nonzero_u64();
        let shots = &mut self.extras.shots;
        if shots.len() >= PACKETS_MAX {
            shots.pop_front();
        }
        shots.push_back(Sent {
            nonce,
            socket,
            to,
            at: now,
        });
        let probe = Probe {
            flags: Flags::default().with(Flags::ANSWER_ME),
            round: self.progress.number,
            nonce,
            echo: 0,
            observed: None,
        };
        self.effort.probes += 1;
        self.transmits.push_back(Outgoing {
            transmit: Transmit {
                socket,
                to,
                bytes: self.keys.seal(&probe).to_vec(),
                ttl,
            },
            consent: Consent::Guessed,
        });
    }
}

/// Where the server itself sees the peer, over IPv4: the only place at whose ports may be guessed.
fn target(round: &Round) -> Option<SocketAddr> {
    let seen = round.remote.iter().filter(|offered| offered.attested);
    seen.map(|offered| canonical(offered.candidate.addr))
        .find(SocketAddr::is_ipv4)
}

/// Are both networks known?
fn is_known(orders: &Orders) -> bool {
    [orders.own, orders.peer]
        .iter()
        .all(|network| network.mapping != Mapping::Unknown)
}

/// Is either side's IPv4 address translated? Without that a plan has no reason to spare the peer's address.
fn orders_translate(round: &Round) -> bool {
    let orders = round.orders.as_ref();
    orders.is_some_and(|orders| orders.peer.mapping != Mapping::None || orders.own.mapping != Mapping::None)
}
