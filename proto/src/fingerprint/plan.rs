//! What is asked next: the order of a run. [`Fingerprinter::advance`] is called after every change and only ever adds
//! questions; nothing here looks at bytes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::burst::{BURST, Next, SECOND_AFTER, Wave};
use super::facts::{Allocation, Fact, Hairpin, Mapping, Obstacle};
use super::io::Learnt;
use super::machine::{Fingerprinter, GAP};
use super::question::{Asking, Outcome, Place, Purpose, Question};
use super::side::{Side, Stage};
use crate::path::SocketId;
use crate::stun::Change;

/// No answer at all for so long means that UDP is blocked, or the server is down.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// A question with repeats is over after this: more than the request's own patience, which ends it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shortest and longest wait for the answers of a burst; in between two round trips.
const BURST_WAIT: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));

impl Fingerprinter {
    /// The first questions.
    pub(super) fn start(&mut self, now: Instant) {
        let v4 = self.config.server_v4.map(|server| (server, server));
        let nat64 = self.config.server_v4.zip(self.config.nat64);
        let v6 = self.config.server_v6.map(|server| (server, server));
        for (server, via) in v4.filter(|_| nat64.is_none()).or(nat64).into_iter().chain(v6) {
            let Some(main) = self.open(via) else { continue };
            let number = self.sides.len();
            self.sides.push(Side::new(main, server, via));
            let asking = Asking {
                patience: BLOCKED_AFTER,
                ..self.plain(main, via, now)
            };
            self.ask(Question::new(number, Purpose::Seen(Place::Main), asking, 0));
        }
    }

    /// Whatever follows from what is known.
    pub(super) fn advance(&mut self, now: Instant) {
        for number in 0..self.sides.len() {
            self.advance_side(number, now);
        }
        if let Some(number) = self
            .v4()
            .filter(|number| self.stage(*number) == Some(Stage::Rest))
        {
            self.advance_ports(number, now);
            self.advance_hairpin(number, now);
            self.advance_depth(number, now);
        }
        self.tell(now);
        let begun = self
            .sides
            .iter()
            .all(|side| matches!(side.stage, Stage::Rest | Stage::Silent));
        let v4 = self
            .v4()
            .is_some_and(|number| self.stage(number) == Some(Stage::Rest));
        let extras = !v4 || (self.bursts.result.is_some() && self.hairpin.result().is_some());
        if begun && extras && self.is_idle() {
            self.finish(now);
        }
    }

    /// The side that is IPv4 in the end.
    pub(super) fn v4(&self) -> Option<usize> {
        self.sides.iter().position(Side::is_v4)
    }

    /// A question is over without an answer. Where something is known to get lost it is asked once more.
    pub(super) fn conclude(&mut self, question: &Question, outcome: Outcome, now: Instant) {
        if matches!(question.purpose, Purpose::Burst(..)) {
            self.lossy = true;
        }
        let first = question.purpose == Purpose::Seen(Place::Main);
        if self.lossy && question.round == 0 && !question.asking.once && !first {
            let fresh = match question.purpose {
                Purpose::Depth(_) => self.open(question.asking.server),
                _ => Some(question.asking.socket),
            };
            if let Some(socket) = fresh {
                let asking = Asking {
                    socket,
                    at: now,
                    ..question.asking
                };
                return self.ask(Question::new(question.side, question.purpose, asking, 1));
            }
        }
        self.set(question, outcome);
    }

    /// Write down what came of a question.
    pub(super) fn set(&mut self, question: &Question, outcome: Outcome) {
        let Some(side) = self.sides.get_mut(question.side) else {
            return;
        };
        match question.purpose {
            Purpose::Seen(place) => side.set_seen(place, outcome),
            Purpose::Control => side.control = outcome,
            Purpose::FilterBoth => side.filter_both = outcome,
            Purpose::FilterPort => side.filter_port = outcome,
            Purpose::Burst(burst, number) => self.bursts.set(burst, number, outcome),
            Purpose::Depth(ttl) => self.depth.set(ttl, outcome),
        }
    }

    fn stage(&self, number: usize) -> Option<Stage> {
        self.sides.get(number).map(|side| side.stage)
    }

    fn plain(&self, socket: SocketId, server: SocketAddr, at: Instant) -> Asking {
        Asking {
            socket,
            server,
            change: Change::None,
            opener: None,
            at,
            patience: PATIENCE,
            once: false,
        }
    }

    fn advance_side(&mut self, number: usize, now: Instant) {
        let Some(side) = self.sides.get(number) else {
            return;
        };
        match side.stage {
            Stage::Reach => match side.seen_at(Place::Main) {
                Outcome::Answered(reflexive) => {
                    if let Some(local) = self.local(side.main) {
                        self.learnt(Learnt::Address { local, reflexive });
                    }
                    self.ask_places(number, now);
                }
                Outcome::Waiting => {}
                _ => self.set_stage(number, Stage::Silent),
            },
            Stage::Mapping if side.is_mapped() => {
                let (v4, doubtful) = (side.is_v4(), side.is_doubtful());
                if v4 {
                    // Alone in time, because every other flow would move a counter.
                    self.advance_ports(number, now);
                }
                let burst = u32::try_from(BURST).unwrap_or(0) + 1;
                let at = if v4 { now + GAP * burst } else { now };
                if doubtful {
                    self.set_stage(number, Stage::Doubt);
                    self.ask_again(number, at);
                } else {
                    self.settle_mapping(number, at);
                }
            }
            Stage::Doubt if side.is_mapped() => match side.unsure().is_empty() {
                true => self.settle_mapping(number, now),
                false => self.ask_again(number, now),
            },
            Stage::Mapping | Stage::Doubt | Stage::Rest | Stage::Silent => {}
        }
    }

    /// The mapping is as sure as it will be; the filter is asked from `at` on.
    fn settle_mapping(&mut self, number: usize, at: Instant) {
        self.set_stage(number, Stage::Rest);
        if let Some(mapping) = self
            .sides
            .get(number)
            .filter(|side| side.is_v4())
            .map(Side::mapping)
        {
            self.learnt(Learnt::Mapping(mapping));
        }
        self.ask_filter(number, at);
    }

    /// The same places from the same socket once more: no new flow, so a counter stays where it is.
    fn ask_again(&mut self, number: usize, at: Instant) {
        for place in self.sides.get(number).map_or(Vec::new(), Side::unsure) {
            let Some(side) = self.sides.get_mut(number) else {
                return;
            };
            if let (main, Some(server)) = (side.main, side.place(place)) {
                side.set_seen(place, Outcome::Waiting);
                let asking = self.plain(main, server, at);
                self.ask(Question::new(number, Purpose::Seen(place), asking, 0));
            }
        }
    }

    fn set_stage(&mut self, number: usize, stage: Stage) {
        if let Some(side) = self.sides.get_mut(number) {
            side.stage = stage;
        }
    }

    /// The other places of the server, from the main socket.
    fn ask_places(&mut self, number: usize, now: Instant) {
        self.set_stage(number, Stage::Mapping);
        for place in Place::ALL {
            let Some(side) = self.sides.get_mut(number) else {
                return;
            };
            let (main, at) = (side.main, side.place(place));
            if let (Some(at), Outcome::Unasked) = (at, side.seen_at(place)) {
                side.set_seen(place, Outcome::Waiting);
                let asking = self.plain(main, at, now);
                self.ask(Question::new(number, Purpose::Seen(place), asking, 0));
            }
        }
        self.advance_side(number, now);
    }

    /// What lets the filter in, and does the server answer from elsewhere at all?
    fn ask_filter(&mut self, number: usize, at: Instant) {
        let Some(side) = self.sides.get(number) else {
            return;
        };
        let (main, stable) = (side.main, side.is_stable());
        let Some(server) = side.place(Place::Main) else {
            return;
        };
        let answered = |place| {
            side.place(place)
                .filter(|_| side.seen_at(place).answered().is_some())
        };
        let port = answered(Place::OtherPort).map(|port| Change::Port(port.port()));
        let both = answered(Place::OtherBoth).map(Change::AddressAndPort);
        if port.is_none() && both.is_none() {
            return;
        }
        let Some(fresh) = self.open(server) else { return };
        // The main socket has sent to all places, so nothing filters them there.
        let control = both
            .or(port)
            .filter(|_| stable)
            .map(|change| (Purpose::Control, main, change));
        let both = both.map(|change| (Purpose::FilterBoth, fresh, change));
        let port = port.map(|change| (Purpose::FilterPort, fresh, change));
        for (purpose, socket, change) in [control, both, port].into_iter().flatten() {
            let asking = Asking {
                change,
                ..self.plain(socket, server, at)
            };
            let question = Question::new(number, purpose, asking, 0);
            self.set(&question, Outcome::Waiting);
            self.ask(question);
        }
    }

    fn advance_ports(&mut self, number: usize, now: Instant) {
        if self.bursts.result.is_some() {
            return;
        }
        let Some(side) = self.sides.get(number) else {
            return;
        };
        let mapping = side.mapping().known();
        let next = self
            .bursts
            .next(mapping, &self.flows, &|socket| self.local(socket));
        match next {
            Next::Wait => {}
            Next::Known(fact) => {
                self.bursts.result = Some(fact);
                self.learnt(Learnt::Ports(fact));
            }
            Next::Send(wave) => self.try_burst(number, wave, mapping, now),
            Next::Rate(step) => {
                self.try_burst(number, Wave::Later, mapping, now);
                if self.bursts.step.replace(step).is_none() {
                    self.learnt(Learnt::Counted { step });
                }
            }
        }
    }

    fn try_burst(&mut self, number: usize, wave: Wave, mapping: Option<Mapping>, now: Instant) {
        if let Err(why) = self.send_burst(number, wave, mapping, now) {
            self.bursts.result = Some(Fact::NotTestable(why));
        }
    }

    fn send_burst(
        &mut self,
        number: usize,
        wave: Wave,
        mapping: Option<Mapping>,
        now: Instant,
    ) -> Result<(), Obstacle> {
        let Some(side) = self.sides.get(number) else {
            return Err(Obstacle::NotReached);
        };
        // Destinations that such a mapping tells from the first, another one for each try.
        let places: &[Place] = match mapping {
            Some(Mapping::AddressDependent) => &[Place::OtherAddress],
            _ => &[Place::OtherPort, Place::OtherAddress, Place::OtherBoth],
        };
        let mut others = places.iter().filter_map(|place| side.place(*place));
        let to = match wave {
            Wave::OtherDestination => others.nth(self.bursts.count(wave)),
            Wave::First | Wave::Later | Wave::More => side.place(Place::Main),
        };
        let to = to.ok_or(Obstacle::TooLossy)?;
        let sockets = match self
            .bursts
            .all
            .iter()
            .rev()
            .find(|burst| burst.wave == Wave::First)
        {
            Some(first) if wave == Wave::OtherDestination => first.sockets.clone(),
            _ => (0..BURST).filter_map(|_| self.open(to)).collect(),
        };
        if sockets.len() < BURST {
            return Err(Obstacle::NoSocket);
        }
        let at = if wave == Wave::Later { self.later(now) } else { now };
        let (least, most) = BURST_WAIT;
        let patience = (self.rtt.unwrap_or(most) * 2).clamp(least, most);
        let burst = self.bursts.begin(wave, to, sockets.clone());
        let mut at = at;
        for (place, socket) in sockets.into_iter().enumerate() {
            let asking = Asking {
                patience,
                once: true,
                ..self.plain(socket, to, at)
            };
            self.ask(Question::new(number, Purpose::Burst(burst, place), asking, 0));
            at += GAP;
        }
        Ok(())
    }

    /// When the second burst of a counter leaves.
    fn later(&self, now: Instant) -> Instant {
        let first = self
            .bursts
            .all
            .iter()
            .rev()
            .find(|burst| burst.wave == Wave::First);
        let sent = first.and_then(|burst| self.flows.opened(*burst.sockets.first()?, burst.to));
        sent.map_or(now, |sent| sent + SECOND_AFTER).max(now)
    }

    fn advance_hairpin(&mut self, number: usize, now: Instant) {
        if self.hairpin.is_begun() {
            return;
        }
        let Some(side) = self.sides.get(number) else {
            return;
        };
        let (stable, mapping) = (side.is_stable(), side.mapping());
        if self.translated(number) == Some(false) {
            return self.hairpin.give_up(Obstacle::NotTranslated);
        }
        if side.through_nat64() {
            // The own external address is one of another family.
            return self.hairpin.give_up(Obstacle::NoLocalAddress);
        }
        if !stable {
            let why = mapping.obstacle().unwrap_or(Obstacle::NoStablePort);
            return self.hairpin.give_up(why);
        }
        if self.bursts.result.is_none() {
            return;
        }
        let ends = self
            .bursts
            .two()
            .and_then(|[(a, at_a), (b, at_b)]| Some([(a, self.local(a)?, at_a), (b, self.local(b)?, at_b)]));
        // A mapping that may go by address gives the own address another port, unless ports are kept anyway.
        let kept = self.bursts.result == Some(Fact::Known(Allocation::Preserving));
        let silence = match mapping {
            Fact::NotTestable(why) if !kept => Fact::NotTestable(why),
            _ => Fact::Known(Hairpin::Absent),
        };
        // What a server makes up must not send packets to where it could not.
        let honest = |ends: &[(SocketId, SocketAddr, SocketAddr); 2]| {
            let alike = |(_, _, at): &(SocketId, SocketAddr, SocketAddr)| side.reaches_as_far(*at);
            ends.iter().all(alike)
        };
        match ends.filter(honest) {
            Some(ends) => self.hairpin.begin(ends, silence, &mut self.rng, now),
            None => self.hairpin.give_up(Obstacle::TooLossy),
        }
    }

    fn advance_depth(&mut self, number: usize, now: Instant) {
        let Some(side) = self.sides.get(number) else {
            return;
        };
        let answered = |place| {
            side.place(place)
                .filter(|_| side.seen_at(place).answered().is_some())
        };
        let both = answered(Place::OtherBoth).map(|at| (at, Change::AddressAndPort(at)));
        let port = answered(Place::OtherPort).map(|at| (at, Change::Port(at.port())));
        let (Some((elsewhere, change)), Some(server)) = (both.or(port), side.place(Place::Main)) else {
            self.depth.obstacle.get_or_insert(Obstacle::NoOtherAddress);
            return;
        };
        if !side.is_stable() {
            self.depth.obstacle.get_or_insert(Obstacle::NoStablePort);
            return;
        }
        if side.filter_both.answered().is_some() {
            self.depth.obstacle.get_or_insert(Obstacle::NothingFilters);
            return;
        }
        // What ends at the first router opens nothing there, so with a NAT the shortest life is two.
        let lowest = if self.translated(number) == Some(false) {
            1
        } else {
            2
        };
        let burst = GAP * (u32::try_from(BURST).unwrap_or(0) + 1);
        let at = if self.depth.is_begun() { now } else { now + burst };
        for ttl in self.depth.next(lowest) {
            let outcome = match self.open(server) {
                Some(socket) => {
                    let opener = Some((elsewhere, ttl));
                    let asking = Asking {
                        change,
                        opener,
                        ..self.plain(socket, server, at)
                    };
                    self.ask(Question::new(number, Purpose::Depth(ttl), asking, 0));
                    Outcome::Waiting
                }
                None => Outcome::NoSocket,
            };
            self.depth.set(ttl, outcome);
        }
    }

    /// Does the server see another endpoint than this machine has?
    pub(super) fn translated(&self, number: usize) -> Option<bool> {
        let side = self.sides.get(number)?;
        let (seen, local) = (side.seen_at(Place::Main).answered()?, self.local(side.main)?);
        let own = seen.ip() == local.ip() || self.config.local.contains(&seen.ip());
        Some(!(own && seen.port() == local.port()))
    }

    /// Say what has become known.
    fn tell(&mut self, now: Instant) {
        let silent = |side: &Side| side.stage == Stage::Silent;
        if !self.sides.is_empty() && self.sides.iter().all(silent) && !self.told.blocked {
            self.told.blocked = true;
            self.learnt(Learnt::UdpBlocked);
        }
        if let (Some(fact), false) = (self.hairpin.result(), self.told.hairpin) {
            self.told.hairpin = true;
            self.learnt(Learnt::Hairpin(fact));
        }
        self.tell_other_port(now);
        let side = self.v4().and_then(|number| self.sides.get(number));
        let filter = side.filter(|side| side.stage == Stage::Rest && !side.is_filter_open());
        if let (Some(fact), false) = (filter.map(Side::filtering), self.told.filtering) {
            self.told.filtering = true;
            self.learnt(Learnt::Filtering(fact));
        }
    }

    /// What one question tells of the filter: plans wait for it, and it takes a second more to be sure.
    fn tell_other_port(&mut self, now: Instant) {
        let hushed = self.hush_at().is_some_and(|at| at <= now);
        let number = self.v4();
        let Some(side) = number.and_then(|number| self.sides.get_mut(number)) else {
            return;
        };
        side.hushed |= hushed;
        let passes = side.filter_port.answered().is_some();
        let known = side.stage == Stage::Rest && side.is_stable() && (passes || side.hushed);
        if known && self.told.other_port != Some(passes) {
            self.told.other_port = Some(passes);
            self.learnt(Learnt::OtherPort { passes });
        }
    }
}
