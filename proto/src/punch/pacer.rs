//! A limit on how fast something happens: the virtual-scheduling form of a token bucket. No state but one moment.

use std::time::{Duration, Instant};

/// Allows `burst` at once and one per `spacing` in the long run.
#[derive(Clone, Debug)]
pub(super) struct Pacer {
    spacing: Duration,
    /// How far the schedule may run ahead of the clock.
    slack: Duration,
    /// When the next one would be due if all came at the sustained rate.
    due: Instant,
}

impl Pacer {
    pub(super) fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        let spacing = Duration::from_micros(1_000_000 / per_second.max(1));
        let extra = u32::try_from(burst.saturating_sub(1)).unwrap_or(u32::MAX);
        Self {
            spacing,
            slack: spacing.saturating_mul(extra),
            due: now,
        }
    }

    /// Take one if it is allowed now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let allowed = self.ready_at() <= now;
        if allowed {
            self.due = self.due.max(now) + self.spacing;
        }
        allowed
    }

    /// When the next one is allowed; a moment that may have passed.
    pub(super) fn ready_at(&self) -> Instant {
        self.due.checked_sub(self.slack).unwrap_or(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    #[test]
    fn a_burst_leaves_at_once_and_the_rest_at_the_rate() {
        let now = epoch();
        let mut pacer = Pacer::new(200, 20, now);
        assert_eq!((0..100).filter(|_| pacer.take(now)).count(), 20);
        assert_eq!(pacer.ready_at(), now + Duration::from_millis(5));
        let sent = (1..=1000u64)
            .filter(|ms| pacer.take(now + Duration::from_millis(*ms)))
            .count();
        assert_eq!(sent, 200);
    }
}
