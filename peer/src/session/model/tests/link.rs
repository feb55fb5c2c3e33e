//! One bottleneck in virtual time, and senders behind it that keep to a window as quinn's do.
//!
//! A queue that drops at its end, a rate, a delay, losses from a seeded generator. Packets are acknowledged by fives or
//! after 25 ms; a packet is lost when a third after it arrived, or after 9/8 of a round trip. quinn's pacer is imitated:
//! 1.25 windows a smoothed round trip, in bursts of two milliseconds.

#![allow(clippy::cast_possible_truncation)] // times of a simulation fit into 64 bits, whole packets into both

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::super::Model;
use super::rivals::Cubic;

const MTU: u64 = 1442;
const ACK_EVERY: usize = 5;
const ACK_DELAY: u64 = 25_000_000;
const SECOND: u64 = 1_000_000_000;

/// A path. `queue` is the time in which the link carries a full queue.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) rate: u64,
    pub(super) rtt: Duration,
    pub(super) loss_per_mille: u32,
    pub(super) queue: Duration,
    /// Another rate from some time on.
    pub(super) later: Option<(Duration, u64)>,
    /// From when to when everything that is sent is lost.
    pub(super) dead: Option<(Duration, Duration)>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Share of the link that each sender had while it was measured.
    pub(super) shares: Vec<f64>,
    /// Most packets that were lost at the queue in any round trip, of all senders; and as a share of what was sent in it.
    pub(super) lost_packets: u64,
    pub(super) lost_share: f64,
    /// Mean time in the queue while it was measured.
    pub(super) queue: Duration,
}

/// A congestion controller, as the senders drive it.
pub(super) trait Driven {
    fn window(&self) -> u64;
    fn on_sent(&mut self, in_flight: u64);
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, in_flight: u64, rtt: (Duration, Duration));
    fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64);
}

impl Driven for Model {
    fn window(&self) -> u64 {
        Self::window(self)
    }
    fn on_sent(&mut self, in_flight: u64) {
        Self::on_sent(self, in_flight);
    }
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, in_flight: u64, _: (Duration, Duration)) {
        Self::on_ack(self, now, sent, bytes, in_flight, false);
    }
    fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64) {
        Self::on_loss(self, now, sent, bytes, false);
    }
}

/// Run senders over the link and measure between two times; names: `model`, `cubic`, `filter`.
pub(super) fn run(link: Link, names: &[&str], from: Duration, to: Duration) -> Outcome {
    let mut world = World::new(link, names, nanos(from));
    while let Some(Reverse((time, _, event))) = world.events.pop() {
        if time > nanos(to) {
            break;
        }
        world.now = time;
        world.step(event);
    }
    world.outcome(nanos(to))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Pace(usize),
    Arrive(usize, u64),
    AckTimer(usize, u64),
    Ack(usize, Vec<u64>),
    Probe(usize),
}

struct Sender {
    control: Box<dyn Driven>,
    /// Packets from `first` on: when it was sent, `None` once it arrived or was given up.
    packets: VecDeque<Option<u64>>,
    first: u64,
    largest: u64,
    in_flight: u64,
    tokens: f64,
    refilled: u64,
    pacing: bool,
    smoothed: u64,
    least: u64,
    heard: u64,
    /// Arrived, not yet acknowledged; and how many acknowledgements were sent.
    pending: Vec<u64>,
    acks: u64,
    delivered: u64,
}

struct World {
    link: Link,
    start: Instant,
    from: u64,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    busy: u64,
    seed: u64,
    senders: Vec<Sender>,
    /// Sent and dropped by the queue in this round trip, and when it began.
    round: (u64, u64, u64),
    worst: (u64, f64),
    waited: (u128, u64),
}

impl World {
    fn new(link: Link, names: &[&str], from: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            link,
            start,
            from,
            now: 0,
            events: BinaryHeap::new(),
            count: 0,
            busy: 0,
            seed: 0x9e37_79b9_7f4a_7c15,
            senders: names.iter().map(|name| Sender::new(name, start)).collect(),
            round: (0, 0, 0),
            worst: (0, 0.0),
            waited: (0, 0),
        };
        for who in 0..names.len() {
            world.at(who as u64 * SECOND / 10, Event::Probe(who));
        }
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Pace(who) => {
                self.senders[who].pacing = false;
                self.send(who);
            }
            Event::Probe(who) => self.probe(who),
            Event::Arrive(who, packet) => self.arrive(who, packet),
            Event::AckTimer(who, acks) if self.senders[who].acks == acks => self.acknowledge(who),
            Event::AckTimer(..) => {}
            Event::Ack(who, packets) => self.acknowledged(who, packets),
        }
    }

    /// Nothing was heard for long: one packet, whatever the window.
    fn probe(&mut self, who: usize) {
        let wait = 3 * self.senders[who].smoothed + ACK_DELAY;
        let quiet = self.now - self.senders[who].heard >= wait;
        if self.senders[who].heard == 0 || quiet {
            self.transmit(who);
            self.send(who);
        }
        self.at(self.now + wait, Event::Probe(who));
    }

    fn send(&mut self, who: usize) {
        loop {
            let sender = &mut self.senders[who];
            if sender.in_flight + MTU >= sender.control.window() {
                return;
            }
            let wait = sender.pace(self.now);
            if wait > 0 {
                if !sender.pacing {
                    sender.pacing = true;
                    self.at(self.now + wait, Event::Pace(who));
                }
                return;
            }
            sender.tokens -= MTU as f64;
            self.transmit(who);
        }
    }

    fn transmit(&mut self, who: usize) {
        let now = self.now;
        let sender = &mut self.senders[who];
        let packet = sender.first + sender.packets.len() as u64;
        sender.packets.push_back(Some(now));
        sender.in_flight += MTU;
        sender.control.on_sent(sender.in_flight);
        if now - self.round.2 > nanos(self.link.rtt) {
            let (sent, dropped, _) = self.round;
            if dropped > self.worst.0 {
                self.worst = (dropped, dropped as f64 / sent as f64);
            }
            self.round = (0, 0, now);
        }
        self.round.0 += 1;
        let rate = self
            .link
            .later
            .filter(|(when, _)| now >= nanos(*when))
            .map_or(self.link.rate, |(_, rate)| rate);
        let waits = self.busy.saturating_sub(now);
        // At least sixteen packets: quinn sends ten at once, and a queue of milliseconds on a slow link would hold one.
        let room = nanos(self.link.queue).max(16 * MTU * 8 * SECOND / rate);
        if waits > room {
            self.round.1 += 1;
            return;
        }
        if now >= self.from {
            self.waited = (self.waited.0 + u128::from(waits), self.waited.1 + 1);
        }
        self.busy = self.busy.max(now) + MTU * 8 * SECOND / rate;
        let dead = self.link.dead.map(|(from, to)| nanos(from)..nanos(to));
        if dead.is_some_and(|dead| dead.contains(&now)) {
            return;
        }
        if self.random() % 1000 < u64::from(self.link.loss_per_mille) {
            return;
        }
        self.at(self.busy + nanos(self.link.rtt) / 2, Event::Arrive(who, packet));
    }

    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed >> 11
    }

    fn arrive(&mut self, who: usize, packet: u64) {
        let (now, from) = (self.now, self.from);
        let sender = &mut self.senders[who];
        if now >= from {
            sender.delivered += MTU;
        }
        let gap = sender.pending.last().is_some_and(|last| last + 1 != packet);
        sender.pending.push(packet);
        if sender.pending.len() >= ACK_EVERY || gap {
            self.acknowledge(who);
        } else if sender.pending.len() == 1 {
            let acks = sender.acks;
            self.at(now + ACK_DELAY, Event::AckTimer(who, acks));
        }
    }

    fn acknowledge(&mut self, who: usize) {
        let packets = std::mem::take(&mut self.senders[who].pending);
        self.senders[who].acks += 1;
        self.at(self.now + nanos(self.link.rtt) / 2, Event::Ack(who, packets));
    }

    fn acknowledged(&mut self, who: usize, packets: Vec<u64>) {
        let (start, now) = (self.start, self.now);
        self.senders[who].acknowledged(start, now, &packets);
        self.send(who);
    }

    fn outcome(mut self, to: u64) -> Outcome {
        let last = self.round;
        if last.1 > self.worst.0 {
            self.worst = (last.1, last.1 as f64 / last.0 as f64);
        }
        let rate = self.link.later.map_or(self.link.rate, |(_, rate)| rate);
        let possible = rate as f64 / 8.0 * (to - self.from) as f64 / SECOND as f64;
        Outcome {
            shares: self
                .senders
                .iter()
                .map(|s| s.delivered as f64 / possible)
                .collect(),
            lost_packets: self.worst.0,
            lost_share: self.worst.1,
            queue: Duration::from_nanos((self.waited.0 / u128::from(self.waited.1.max(1))) as u64),
        }
    }
}

impl Sender {
    fn new(name: &str, start: Instant) -> Self {
        Self {
            control: match name {
                "model" => Box::new(Model::new(start, MTU as u16)),
                "cubic" => Box::new(Cubic::new(MTU, false)),
                "filter" => Box::new(Cubic::new(MTU, true)),
                _ => panic!("no such controller"),
            },
            packets: VecDeque::new(),
            first: 0,
            largest: 0,
            in_flight: 0,
            tokens: 10.0 * MTU as f64,
            refilled: 0,
            pacing: false,
            smoothed: SECOND * 15 / 100,
            least: u64::MAX,
            heard: 0,
            pending: Vec::new(),
            acks: 0,
            delivered: 0,
        }
    }

    /// How long until the next packet may leave.
    fn pace(&mut self, now: u64) -> u64 {
        let window = self.control.window() as f64;
        let per_nano = 1.25 * window / self.smoothed.max(1) as f64;
        let capacity =
            (window * 2e6 / self.smoothed.max(1) as f64).clamp(10.0 * MTU as f64, 256.0 * MTU as f64);
        self.tokens = (self.tokens + per_nano * (now - self.refilled) as f64).min(capacity);
        self.refilled = now;
        if self.tokens >= MTU as f64 {
            return 0;
        }
        ((capacity - self.tokens) / per_nano) as u64 + 1
    }

    fn acknowledged(&mut self, start: Instant, now: u64, packets: &[u64]) {
        let time = |nanos| start + Duration::from_nanos(nanos);
        self.heard = now;
        for &packet in packets {
            let Some(sent) = self.take(packet) else { continue };
            self.in_flight -= MTU;
            let rtt = (
                Duration::from_nanos(self.smoothed),
                Duration::from_nanos(self.least),
            );
            self.control
                .on_ack(time(now), time(sent), MTU, self.in_flight, rtt);
            if packet >= self.largest {
                self.largest = packet;
                let latest = now - sent;
                self.smoothed = if self.least == u64::MAX {
                    latest
                } else {
                    (7 * self.smoothed + latest) / 8
                };
                self.least = self.least.min(latest);
            }
        }
        let old = self.smoothed / 8 * 9;
        let mut lost = (0, 0);
        for packet in self.first..self.largest {
            let at = (packet - self.first) as usize;
            if let Some(sent) = self.packets[at]
                && (packet + 3 <= self.largest || now - sent >= old)
            {
                self.packets[at] = None;
                self.in_flight -= MTU;
                lost = (lost.0 + MTU, sent);
            }
        }
        while self.packets.front().is_some_and(Option::is_none) {
            self.packets.pop_front();
            self.first += 1;
        }
        if lost.0 > 0 {
            self.control.on_loss(time(now), time(lost.1), lost.0);
        }
    }

    fn take(&mut self, packet: u64) -> Option<u64> {
        let at = packet.checked_sub(self.first)?;
        self.packets.get_mut(at as usize)?.take()
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}
