//! The server's clock as the nodes see it: microseconds since the registry began.

use std::time::{Duration, Instant};

use super::config::{LEAD_EXTRA, RTT_ASSUMED, RTT_MAX, SECOND_EXTRA};
use crate::wire::ServerTime;

/// The clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub(super) const fn new(now: Instant) -> Self {
        Self { epoch: now }
    }

    /// This moment on the server's clock.
    pub(super) fn at(self, moment: Instant) -> ServerTime {
        let micros = moment.saturating_duration_since(self.epoch).as_micros();
        ServerTime(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// A round trip as a node tells it; 0 stands for "unknown".
pub(super) fn told_rtt(rtt_us: u32) -> Option<Duration> {
    (rtt_us > 0).then(|| Duration::from_micros(rtt_us.into()).min(RTT_MAX))
}

/// How long after an introduction punching starts: so long that the message has reached both.
pub(super) fn lead(one: Option<Duration>, other: Option<Duration>) -> Duration {
    larger(one, other) * 3 / 4 + LEAD_EXTRA
}

/// How long after an introduction that begins which needs an exchange: so long that each side has measured something at
/// the server and told the other.
pub(super) fn second(one: Option<Duration>, other: Option<Duration>) -> Duration {
    larger(one, other) * 5 / 2 + SECOND_EXTRA
}

fn larger(one: Option<Duration>, other: Option<Duration>) -> Duration {
    one.unwrap_or(RTT_ASSUMED).max(other.unwrap_or(RTT_ASSUMED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lead_follows_the_slower_side() {
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(lead(ms(10), ms(20)), Duration::from_millis(65));
        assert_eq!(lead(ms(10), ms(400)), Duration::from_millis(350));
        assert_eq!(lead(None, None), Duration::from_millis(125));
        assert_eq!(second(ms(10), ms(400)), Duration::from_millis(1060));
        assert_eq!(second(None, None), Duration::from_millis(310));
        assert_eq!(told_rtt(0), None);
        assert_eq!(told_rtt(u32::MAX), Some(RTT_MAX));
    }
}
