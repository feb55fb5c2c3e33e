//! When to tell a sender that its queue does not empty: the control law of CoDel (RFC 8289), without the dropping.
//!
//! A queue that fills and empties again is left alone. One whose head has waited too long for a whole interval gets a
//! signal, and further ones at falling intervals until the wait is short again. What a signal is (a mark, or a drop)
//! is the queue's business.

use std::time::{Duration, Instant};

/// Wait that is not worth a signal. RFC 8289 proposes 5 ms for routers; a sender behind a relay gives way by 30 % at a
/// signal (CUBIC), and at the round trips of a detour this much in the queue keeps the limit used meanwhile.
const TARGET: Duration = Duration::from_millis(20);

/// How long the wait must stay above [`TARGET`]: the longest usual round trip, in which a sender can react.
const INTERVAL: Duration = Duration::from_millis(100);

/// Signals of one series that still shorten the interval to the next: at 10 ms each, a hundred a second are loud enough.
const COUNT_MAX: u32 = 100;

/// The state of one queue.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the wait will have been too long for an interval.
    above_until: Option<Instant>,
    /// When the next signal of the running series is due.
    next: Option<Instant>,
    /// Signals in this series.
    count: u32,
}

impl Codel {
    /// The head leaves after having waited so long. `last`: nothing is behind it. Does its sender get a signal?
    pub(super) fn judge(&mut self, waited: Duration, last: bool, now: Instant) -> bool {
        if waited < TARGET || last {
            self.above_until = None;
            self.next = None;
            return false;
        }
        let until = *self.above_until.get_or_insert(now + INTERVAL);
        if now < until {
            return false;
        }
        match self.next {
            Some(next) if now < next => false,
            Some(next) => {
                self.count = (self.count + 1).min(COUNT_MAX);
                self.next = Some(next + self.interval());
                true
            }
            None => {
                // A series soon after another one begins near where that one was.
                self.count = self.count.saturating_sub(2).max(1);
                self.next = Some(now + self.interval());
                true
            }
        }
    }

    fn interval(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // The one moment from which a test counts.
    fn epoch() -> Instant {
        Instant::now()
    }

    /// How many signals in `millis`, with the head of the queue leaving each millisecond after `waited`?
    fn signals(codel: &mut Codel, waited: u64, from: Instant, millis: u64) -> usize {
        let judge = |at: &u64| {
            let now = from + Duration::from_millis(*at);
            codel.judge(Duration::from_millis(waited), false, now)
        };
        (0..millis).filter(judge).count()
    }

    #[test]
    fn a_queue_that_empties_in_time_gets_no_signal() {
        let epoch = epoch();
        let mut codel = Codel::default();
        for round in 0..20 {
            let from = epoch + Duration::from_millis(100) * round;
            assert_eq!(signals(&mut codel, 50, from, 95), 0);
            assert_eq!(signals(&mut codel, 5, from + Duration::from_millis(95), 5), 0);
        }
    }

    #[test]
    fn a_queue_that_stands_gets_one_and_then_more_and_more_often() {
        let epoch = epoch();
        let mut codel = Codel::default();
        assert_eq!(signals(&mut codel, 50, epoch, 150), 1);
        let early = signals(&mut codel, 50, epoch + Duration::from_millis(150), 500);
        let late = signals(&mut codel, 50, epoch + Duration::from_secs(2), 500);
        assert!(early >= 5 && late > early, "{early} and {late}");
    }

    #[test]
    fn the_last_in_the_queue_is_never_at_fault() {
        let epoch = epoch();
        let mut codel = Codel::default();
        let judge = |at: &u64| {
            let now = epoch + Duration::from_millis(*at);
            codel.judge(Duration::from_millis(400), true, now)
        };
        assert_eq!((0..1000).filter(judge).count(), 0);
    }
}
