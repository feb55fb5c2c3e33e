//! What the controller is compared with: CUBIC, and CUBIC that overlooks a few losses while no queue shows.

#![allow(clippy::cast_possible_truncation)] // times of a simulation fit into 64 bits, whole packets into both

use std::time::{Duration, Instant};

use super::link::Driven;

const BETA: f64 = 0.7;
const C: f64 = 0.4;

/// CUBIC (RFC 9438) in packets, with slow start and the region friendly to Reno.
pub(super) struct Cubic {
    mtu: f64,
    window: f64,
    threshold: f64,
    top: f64,
    /// When the last answer to a loss was.
    since: Option<Instant>,
    /// Acknowledged and lost bytes of this interval and the one before, if few losses are overlooked.
    filter: Option<Tally>,
}

#[derive(Default)]
struct Tally {
    begun: Option<Instant>,
    rtt: Option<(Duration, Duration)>,
    now: (u64, u64),
    before: (u64, u64),
}

impl Cubic {
    pub(super) fn new(mtu: u64, filter: bool) -> Self {
        Self {
            mtu: mtu as f64,
            window: 10.0,
            threshold: f64::INFINITY,
            top: 0.0,
            since: None,
            filter: filter.then(Tally::default),
        }
    }
}

impl Driven for Cubic {
    fn window(&self) -> u64 {
        (self.window * self.mtu) as u64
    }

    fn on_sent(&mut self, _: u64) {}

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, in_flight: u64, rtt: (Duration, Duration)) {
        if let Some(tally) = &mut self.filter {
            tally.rtt = Some(rtt);
            tally.turn(now);
            tally.now.0 += bytes;
        }
        let unused = (in_flight as f64) * 2.0 < self.window * self.mtu;
        if unused || self.since.is_some_and(|since| sent <= since) {
            return;
        }
        let packets = bytes as f64 / self.mtu;
        if self.window < self.threshold {
            self.window += packets;
            return;
        }
        let since = *self.since.get_or_insert(now);
        let time = (now - since).as_secs_f64();
        let k = (self.top * (1.0 - BETA) / C).cbrt();
        let cubic = C * (time + rtt.0.as_secs_f64() - k).powi(3) + self.top;
        let reno = self.top * BETA + 3.0 * (1.0 - BETA) / (1.0 + BETA) * time / rtt.0.as_secs_f64();
        let target = cubic.max(reno).clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window * packets;
    }

    fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64) {
        if self.since.is_some_and(|since| sent <= since) {
            return;
        }
        if self.filter.as_mut().is_some_and(|tally| tally.covers(now, bytes)) {
            return;
        }
        self.since = Some(now);
        self.top = if self.window < self.top {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.window = (self.window * BETA).max(2.0);
        self.threshold = self.window;
    }
}

impl Tally {
    fn covers(&mut self, now: Instant, bytes: u64) -> bool {
        self.turn(now);
        self.now.1 += bytes;
        let lost = self.now.1 + self.before.1;
        let total = lost + self.now.0 + self.before.0;
        let few = self.now.1 <= 2 * 1442 || lost * 50 <= total;
        let queue = self.rtt.is_none_or(|(smoothed, least)| {
            smoothed.saturating_sub(least) > (least / 8).max(Duration::from_millis(4))
        });
        few && !queue
    }

    fn turn(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let length = self
            .rtt
            .map_or(Duration::ZERO, |(smoothed, _)| smoothed)
            .max(Duration::from_millis(50));
        if now - begun >= length {
            self.begun = Some(now);
            self.before = std::mem::take(&mut self.now);
        }
    }
}
