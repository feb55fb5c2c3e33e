//! Senders that back off, behind a limit: they settle at it, with marks and without, alone and several.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use knothole_proto::rendezvous::RelayConfig;

use super::super::support::{epoch, ms};
use super::{Fate, Flow, MBIT, Relay};

/// What CUBIC leaves of its window after congestion, and how steeply it grows again (RFC 9438 section 4).
const BETA: f64 = 0.7;
const C: f64 = 0.4;

/// Bytes of a packet, and packets that leave in one batch at the most.
const PACKET: f64 = 1_452.0;
const BATCH: f64 = 10.0;

/// A sender of QUIC as far as it matters here: a window, reduced once in a round trip by a loss or a mark.
struct Sender {
    flow: Flow,
    number: u64,
    rtt: Duration,
    /// All in packets.
    window: f64,
    /// Does the window follow what it hears?
    adapts: bool,
    before: f64,
    threshold: f64,
    reduced_at: Option<Instant>,
    in_flight: f64,
    marks: bool,
    /// What comes back, and when: packets, and whether they tell of congestion.
    answers: VecDeque<(Instant, f64, bool)>,
    delivered: f64,
}

impl Sender {
    fn new(number: u64, rtt: Duration, marks: bool) -> Self {
        Self {
            flow: Flow::new(number, false),
            number,
            rtt,
            window: 10.0,
            adapts: true,
            before: 0.0,
            threshold: f64::INFINITY,
            reduced_at: None,
            in_flight: 0.0,
            marks,
            answers: VecDeque::new(),
            delivered: 0.0,
        }
    }

    /// The answer to what left the relay now arrives a round trip later.
    fn answer(&mut self, packets: f64, congestion: bool, now: Instant) {
        self.answers.push_back((now + self.rtt, packets, congestion));
    }

    fn hear(&mut self, now: Instant) {
        while let Some((at, packets, congestion)) = self.answers.front().copied()
            && at <= now
        {
            self.answers.pop_front();
            self.in_flight -= packets;
            if congestion && self.adapts {
                self.back_off(now);
            } else if self.adapts {
                self.grow(packets, now);
            }
        }
    }

    fn back_off(&mut self, now: Instant) {
        if self.reduced_at.is_some_and(|at| now < at + self.rtt) {
            return;
        }
        self.before = self.window;
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
        self.reduced_at = Some(now);
    }

    fn grow(&mut self, packets: f64, now: Instant) {
        let Some(reduced_at) = self.reduced_at.filter(|_| self.window >= self.threshold) else {
            self.window += packets;
            return;
        };
        let seconds = (now - reduced_at).as_secs_f64() + self.rtt.as_secs_f64();
        let k = (self.before * (1.0 - BETA) / C).cbrt();
        let target = C * (seconds - k).powi(3) + self.before;
        let cubic = (target - self.window).max(0.0) / self.window;
        // Never slower than Reno would be.
        let reno = 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        self.window += packets * cubic.max(reno);
    }
}

/// Mbit/s of each sender in the steady state: over the second half of so many seconds.
fn steady(config: RelayConfig, senders: &mut [Sender], seconds: u64) -> Vec<f64> {
    let mut relay = Relay::new(config);
    for tick in 0..seconds * 1_000 {
        let now = relay.now;
        for sender in senders.iter_mut() {
            sender.hear(now);
            while sender.window - sender.in_flight >= 1.0 {
                let packets = (sender.window - sender.in_flight).floor().min(BATCH);
                sender.in_flight += packets;
                #[allow(clippy::cast_possible_truncation)] // at most ten packets
                let bytes = (packets * PACKET) as u32;
                match relay.send_marked(&sender.flow, bytes, sender.number, sender.marks) {
                    Fate::Passed => deliver(sender, packets, false, tick, seconds, now),
                    Fate::Waits => {}
                    Fate::Dropped => sender.answer(packets, true, now),
                }
            }
        }
        let mut left = Vec::new();
        relay.run_until(epoch() + ms(tick + 1), &mut |release, now| {
            left.push((release, now))
        });
        for (release, now) in left {
            let sender = senders
                .iter_mut()
                .find(|sender| sender.number == release.payload)
                .unwrap();
            deliver(
                sender,
                f64::from(release.unit.bytes) / PACKET,
                release.mark,
                tick,
                seconds,
                now,
            );
        }
        // What was dropped inside is one batch of its sender; all batches are full ones once windows are large.
        for number in std::mem::take(&mut relay.lost) {
            let now = relay.now;
            let sender = senders.iter_mut().find(|sender| sender.number == number).unwrap();
            let packets = sender.in_flight.min(BATCH);
            sender.answer(packets, true, now);
        }
    }
    let per_second = seconds as f64 / 2.0;
    senders
        .iter()
        .map(|sender| sender.delivered * PACKET * 8.0 / per_second / 1e6)
        .collect()
}

fn deliver(sender: &mut Sender, packets: f64, mark: bool, tick: u64, seconds: u64, now: Instant) {
    if tick >= seconds * 500 {
        sender.delivered += packets;
    }
    sender.answer(packets, mark, now);
}

#[test]
fn a_sender_that_backs_off_settles_at_the_limit() {
    for marks in [true, false] {
        for rtt in [5, 30, 100, 200] {
            for mbit in [10, 100, 1_000] {
                let mut senders = [Sender::new(0, ms(rtt), marks)];
                let got = steady(RelayConfig::new(mbit * MBIT), &mut senders, 60)[0];
                let part = got / mbit as f64;
                assert!(
                    (0.85..=1.01).contains(&part),
                    "{mbit} Mbit/s, {rtt} ms, marks {marks}: {part:.3} of the limit"
                );
            }
        }
    }
}

#[test]
fn several_senders_share_alike_whatever_their_round_trip() {
    let mut senders: Vec<_> = (0..)
        .zip([10, 40, 120])
        .map(|(n, rtt)| Sender::new(n, ms(rtt), true))
        .collect();
    let got = steady(RelayConfig::new(150 * MBIT), &mut senders, 60);
    let all: f64 = got.iter().sum();
    assert!(all >= 0.85 * 150.0, "{got:?}");
    let (least, most) = got.iter().fold((f64::MAX, 0.0_f64), |(least, most), one| {
        (least.min(*one), most.max(*one))
    });
    assert!(least / most >= 0.8, "shares within 20 %: {got:?}");
}

#[test]
fn short_windows_do_not_lose_their_share_to_longer_ones_on_a_slow_relay() {
    let sender = |(number, window)| Sender {
        window,
        adapts: false,
        ..Sender::new(number, ms(1), true)
    };
    let mut senders: Vec<_> = (0..).zip([9.0, 13.0, 20.0]).map(sender).collect();
    let got = steady(RelayConfig::new(20 * MBIT), &mut senders, 20);
    let mean = got.iter().sum::<f64>() / 3.0;
    assert!(mean >= 0.98 * 20.0 / 3.0, "the limit is used: {got:?}");
    let fair = |one: &f64| (one / mean - 1.0).abs() <= 0.1;
    assert!(got.iter().all(fair), "{got:?}");
}
