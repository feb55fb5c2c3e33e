//! [`Link`]: the machine that a [`LinkSpec`] describes. See the [module](super) for how to drive it.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::due::{Arrival, DueTimes, Flip};
use super::spec::{LinkSpec, Loss};

/// One direction of a link.
#[derive(Debug)]
pub struct Link {
    spec: LinkSpec,
    rng: ChaCha8Rng,
    /// When the last bit that was admitted has left the rate limiter.
    free_at: Option<Instant>,
    /// Latest moment at which a packet in order comes out.
    last_due: Option<Instant>,
    in_burst: bool,
    stats: LinkStats,
}

/// What a link has done so far, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets offered.
    pub offered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub queue_drops: u64,
    /// Dropped because they were larger than the MTU.
    pub oversized: u64,
    /// Delivered a second time.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Copies that came out with a bit flipped.
    pub corrupted: u64,
}

impl Link {
    /// An idle link. The same seed and the same packets give the same fates.
    #[must_use]
    pub fn new(spec: LinkSpec, seed: u64) -> Self {
        Self {
            spec,
            rng: ChaCha8Rng::seed_from_u64(seed),
            free_at: None,
            last_due: None,
            in_burst: false,
            stats: LinkStats::default(),
        }
    }

    /// A packet of `len` bytes (IP header included) enters at `now`; when does it come out?
    pub fn admit(&mut self, len: usize, now: Instant) -> DueTimes {
        self.stats.offered += 1;
        if len > self.spec.mtu {
            self.stats.oversized += 1;
            return DueTimes::default();
        }
        if self.is_lost() {
            self.stats.lost += 1;
            return DueTimes::default();
        }
        let Some(first) = self.pass(len, now) else {
            self.stats.queue_drops += 1;
            return DueTimes::default();
        };
        let twice = self.spec.duplicate > 0.0 && self.chance(self.spec.duplicate);
        let second = if twice { self.pass(len, now) } else { None };
        self.stats.duplicated += u64::from(second.is_some());
        DueTimes::new(first, second)
    }

    /// Changes the description from now on. Packets under way are not affected; the queue starts anew.
    pub fn set_spec(&mut self, spec: LinkSpec) {
        self.spec = spec;
        self.free_at = None;
        self.last_due = None;
        self.in_burst = false;
    }

    /// The description.
    #[must_use]
    pub fn spec(&self) -> &LinkSpec {
        &self.spec
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    fn is_lost(&mut self) -> bool {
        match self.spec.loss {
            Loss::None => false,
            Loss::Uniform(probability) => self.chance(probability),
            Loss::Burst { rate, length } => {
                let leave = 1.0 / length.max(1.0);
                // In the steady state rate = enter / (enter + leave).
                let enter = leave * rate / (1.0 - rate).max(f64::EPSILON);
                let change = if self.in_burst { leave } else { enter };
                if self.chance(change) {
                    self.in_burst = !self.in_burst;
                }
                self.in_burst
            }
        }
    }

    /// How one copy comes out, or `None` when the queue has no room for it.
    fn pass(&mut self, len: usize, now: Instant) -> Option<Arrival> {
        let at = self.emerge(len, now)?;
        let corrupt = self.spec.corrupt > 0.0 && self.chance(self.spec.corrupt);
        let flip = corrupt.then(|| Flip::drawn(self.rng.next_u32()));
        self.stats.corrupted += u64::from(corrupt);
        Some(Arrival { at, flip })
    }

    /// When one copy comes out.
    fn emerge(&mut self, len: usize, now: Instant) -> Option<Instant> {
        let sent = self.serialise(len, now)?;
        let due = self.in_flight(sent);
        if let Some(reorder) = self.spec.reorder
            && self.chance(reorder.probability)
        {
            self.stats.reordered += 1;
            return Some(due + reorder.by);
        }
        let due = self.last_due.map_or(due, |last| due.max(last));
        self.last_due = Some(due);
        Some(due)
    }

    /// When the last bit has left the rate limiter.
    fn serialise(&mut self, len: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.spec.rate else {
            return Some(now);
        };
        let rate = rate.max(1);
        let free_at = self.free_at.unwrap_or(now).max(now);
        let waiting = (free_at - now).as_nanos() * u128::from(rate) / 8_000_000_000;
        let queue = u128::try_from(self.spec.queue).unwrap_or(u128::MAX);
        let bytes = u64::try_from(len).unwrap_or(u64::MAX);
        // An idle line takes a packet whatever the queue holds.
        if waiting > 0 && waiting + u128::from(bytes) > queue {
            return None;
        }
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(rate);
        let sent = free_at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = Some(sent);
        Some(sent)
    }

    fn in_flight(&mut self, sent: Instant) -> Instant {
        if self.spec.jitter.is_zero() {
            return sent + self.spec.delay;
        }
        let shift = self.spec.jitter.mul_f64(self.unit() * 2.0);
        (sent + self.spec.delay + shift)
            .checked_sub(self.spec.jitter)
            .map_or(sent, |due| due.max(sent))
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// An even number in 0.0..1.0.
    fn unit(&mut self) -> f64 {
        f64::from(self.rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
    }
}
