//! Clocks: the world's time is a `Duration` since its start; each host reads another clock that began elsewhere and
//! runs a little fast or slow.
//!
//! The machines want `Instant`s, and the only way to get a first one is to ask the operating system. [`epoch`] does so
//! once per process. Nothing depends on its value: journals and results hold differences only.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Parts in which drift is counted.
const MILLION: i128 = 1_000_000;

/// The `Instant` that stands for the start of every world in this process.
pub fn epoch() -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

/// The monotonic clock of one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostClock {
    /// What it reads when the world starts.
    start: Instant,
    /// How fast it runs, in parts per million beyond true time; between -1000 and 1000.
    drift: i128,
}

impl HostClock {
    /// A clock that reads `start` when the world starts and gains `drift` parts per million.
    pub(super) fn new(start: Instant, drift: i32) -> Self {
        Self {
            start,
            drift: i128::from(drift.clamp(-1000, 1000)),
        }
    }

    /// What the clock reads at `at`.
    pub(super) fn read(&self, at: Duration) -> Instant {
        self.start + self.elapsed(at)
    }

    /// The first moment at which the clock reads `reading` or more.
    pub(super) fn when(&self, reading: Instant) -> Duration {
        let wanted = reading.saturating_duration_since(self.start);
        let guess = nanos(wanted) * MILLION / (MILLION + self.drift);
        let mut at = duration(guess.max(0));
        while self.elapsed(at) < wanted {
            at += Duration::from_nanos(1);
        }
        at
    }

    fn elapsed(&self, at: Duration) -> Duration {
        if self.drift == 0 {
            return at;
        }
        let true_time = nanos(at);
        duration(true_time + true_time * self.drift / MILLION)
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX / (2 * MILLION))
}

fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_met_early_and_at_most_some_nanoseconds_late() {
        for drift in [-1000, -37, 0, 1, 50, 1000] {
            let clock = HostClock::new(epoch() + Duration::from_secs(77), drift);
            for ns in [0, 1, 999, 1_000_000_007, 86_400_000_000_001] {
                let reading = clock.start + Duration::from_nanos(ns);
                let at = clock.when(reading);
                assert!(clock.read(at) >= reading, "drift {drift}, {ns} ns");
                assert!(
                    clock.read(at) <= reading + Duration::from_nanos(3),
                    "drift {drift}, {ns} ns"
                );
            }
        }
    }

    #[test]
    fn a_fast_clock_gains_what_its_drift_says() {
        let clock = HostClock::new(epoch(), 50);
        let day = Duration::from_secs(86_400);
        assert_eq!(clock.read(day) - epoch(), day + Duration::from_millis(4_320));
    }
}
