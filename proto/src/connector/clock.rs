//! The server's clock as this node sees it: an offset, estimated from the exchange with the shortest round trip.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::config::{CLOCK_SAMPLES, START_AHEAD_MAX};
use crate::wire::{Introduction, ServerTime};

#[derive(Debug)]
pub(super) struct Clock {
    epoch: Instant,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Server time minus own time, in microseconds.
    offset: i64,
    rtt: Duration,
}

impl Clock {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            samples: VecDeque::new(),
        }
    }

    /// Another server, or the same one after a restart, has another clock.
    pub(super) fn reset(&mut self) {
        self.samples.clear();
    }

    /// The own clock in microseconds, for a question.
    pub(super) fn own(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// The server's clock stood at `server` between the own moments `sent_us` and `now`.
    pub(super) fn sample(&mut self, sent_us: u64, server: ServerTime, now: Instant) {
        let Some(rtt_us) = self.own(now).checked_sub(sent_us) else {
            return;
        };
        if self.samples.len() == CLOCK_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            offset: difference(server.0, sent_us + rtt_us / 2),
            rtt: Duration::from_micros(rtt_us),
        });
    }

    /// Round trip to the server in microseconds; 0 if unknown.
    pub(super) fn rtt_us(&self) -> u32 {
        self.best().map_or(0, |sample| {
            u32::try_from(sample.rtt.as_micros()).unwrap_or(u32::MAX).max(1)
        })
    }

    /// When this introduction's round starts, on the own clock. A start that has passed is now.
    pub(super) fn start(&self, introduction: &Introduction, now: Instant) -> Instant {
        self.moment(introduction.start, introduction, now)
    }

    /// A moment that an introduction names, on the own clock. One that has passed is now.
    pub(super) fn moment(&self, named: ServerTime, introduction: &Introduction, now: Instant) -> Instant {
        // Without an exchange the message's own time stamp serves: late by the way it took.
        let estimate = || difference(introduction.now.0, self.own(now));
        let offset = self.best().map_or_else(estimate, |sample| sample.offset);
        let named_us = named.0.saturating_add_signed(offset.saturating_neg());
        let ahead = named_us.saturating_sub(self.own(now));
        now + Duration::from_micros(ahead).min(START_AHEAD_MAX)
    }

    fn best(&self) -> Option<&Sample> {
        self.samples.iter().min_by_key(|sample| sample.rtt)
    }
}

fn difference(a: u64, b: u64) -> i64 {
    let wide = i128::from(a) - i128::from(b);
    i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Instance, PairTag, PeerId, SessionId};
    use crate::testing;
    use crate::wire::{PathPolicy, Role};

    fn introduction(start: u64, now: u64) -> Introduction {
        Introduction {
            session: SessionId::from_bytes([0; 16]),
            round: 0,
            role: Role::Caller,
            request: None,
            peer: PeerId::from_bytes([0; 32]),
            peer_name: None,
            peer_instance: Instance(0),
            tag: PairTag([0; 16]),
            candidates: Vec::new(),
            channel: None,
            policy: PathPolicy::Auto,
            start: ServerTime(start),
            now: ServerTime(now),
            second: ServerTime(start),
            networks: Default::default(),
            guess: false,
            again: false,
        }
    }

    #[test]
    fn the_shortest_exchange_decides() {
        let epoch = testing::epoch();
        let us = Duration::from_micros;
        let mut clock = Clock::new(epoch);
        // The server is 1,000,000 us ahead; the first exchange is lopsided by 40 ms.
        clock.sample(0, ServerTime(1_090_000), epoch + us(100_000));
        clock.sample(200_000, ServerTime(1_210_000), epoch + us(220_000));
        assert_eq!(clock.rtt_us(), 20_000);
        let now = epoch + us(300_000);
        assert_eq!(
            clock.start(&introduction(1_450_000, 1_290_000), now),
            epoch + us(450_000)
        );
        assert_eq!(
            clock.start(&introduction(1_250_000, 1_290_000), now),
            now,
            "late: at once"
        );
    }

    #[test]
    fn without_an_exchange_the_message_itself_tells_the_time() {
        let epoch = testing::epoch();
        let now = epoch + Duration::from_secs(5);
        let clock = Clock::new(epoch);
        let start = clock.start(&introduction(77_200_000, 77_000_000), now);
        assert_eq!(start, now + Duration::from_millis(200));
        let far = clock.start(&introduction(u64::MAX, 0), now);
        assert_eq!(far, now + START_AHEAD_MAX, "no server parks a node");
        assert_eq!(clock.start(&introduction(0, u64::MAX), now), now);
    }
}
