//! A machine on which much else runs: its programs stand still every now and then, hear late and wake late.
//!
//! What comes meanwhile waits in the sockets and is heard in one breath, after the timers that have run out: a program
//! whose loop looks at its clock first takes what is late for lost.

use std::time::Duration;

use knothole_proto::seed::{Rng, Seed};

/// Longest time that a program runs before it has to wait, in microseconds.
const RUNS_MAX_US: u64 = 60_000;

/// Longest of the common waits, in microseconds: a few slices of other programs.
const WAITS_MAX_US: u64 = 40_000;

/// Longest of the rare waits, in microseconds: what was pushed out of memory comes back from a disk that others use.
const LONG_WAITS_MAX_US: u64 = 700_000;

/// One wait in so many is a long one.
const LONG_ONE_IN: u64 = 16;

/// When a machine leaves its program waiting.
#[derive(Debug)]
pub(super) struct Busy {
    rng: Rng,
    from: Duration,
    until: Duration,
}

impl Busy {
    pub(super) fn new(seed: &Seed, now: Duration) -> Self {
        Self {
            rng: seed.rng(),
            from: now,
            until: now,
        }
    }

    /// Does the program wait now, and until when? To be asked in the order of time.
    pub(super) fn waits_until(&mut self, now: Duration) -> Option<Duration> {
        while self.until <= now {
            let most = match self.rng.below(LONG_ONE_IN) {
                0 => LONG_WAITS_MAX_US,
                _ => WAITS_MAX_US,
            };
            self.from = self.until + Duration::from_micros(1 + self.rng.below(RUNS_MAX_US));
            self.until = self.from + Duration::from_micros(1 + self.rng.below(most));
        }
        (self.from <= now).then_some(self.until)
    }
}
