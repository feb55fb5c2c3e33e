//! Did this machine sleep? The clock that timers run on does not count suspended time, so it must be compared with one
//! that does.
//!
//! On Linux and macOS `Instant` stands still while the machine sleeps (rust-lang/rust#87906), so no timer of QUIC or of
//! the connector notices that every NAT mapping may have expired. The calendar clock goes on. A person who sets the
//! calendar clock forward looks like a sleep here, and costs a few packets.

use std::time::{Duration, Instant, SystemTime};

/// How far the calendar clock may run ahead between two looks before it counts as sleep. NTP slews by 0.5 ms per
/// second and steps at start-up only; the shortest mapping lifetime met in the field is about 20 s.
const SLEPT_AT_LEAST: Duration = Duration::from_secs(8);

/// Two readings of two clocks.
#[derive(Debug)]
pub(crate) struct SuspendWatch {
    steady: Instant,
    calendar: SystemTime,
}

impl SuspendWatch {
    pub(crate) fn new(steady: Instant, calendar: SystemTime) -> Self {
        Self { steady, calendar }
    }

    /// Did the machine sleep since the last look?
    pub(crate) fn slept(&mut self, steady: Instant, calendar: SystemTime) -> bool {
        let counted = steady.saturating_duration_since(self.steady);
        let passed = calendar.duration_since(self.calendar).unwrap_or_default();
        (self.steady, self.calendar) = (steady, calendar);
        passed.saturating_sub(counted) >= SLEPT_AT_LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_time_that_only_the_calendar_counts() {
        let (start, noon) = (Instant::now(), SystemTime::now());
        let seconds = Duration::from_secs;
        let mut watch = SuspendWatch::new(start, noon);
        assert!(!watch.slept(start + seconds(5), noon + seconds(5)));
        assert!(
            watch.slept(start + seconds(10), noon + seconds(60)),
            "45 s unseen"
        );
        assert!(
            !watch.slept(start + seconds(15), noon + seconds(65)),
            "reported once"
        );
        assert!(
            !watch.slept(start + seconds(20), noon),
            "a clock set back is no sleep"
        );
    }
}
