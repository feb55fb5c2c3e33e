//! The plain ends of a connection that everything else is compared with: as fast as they can, one stream, no files.
//!
//! Each end is a process of its own (`knothole-netsim yardstick ...`), so that its processor time and memory are its own.
//! The sender stops after a time; the receiver counts. Prints nothing.

pub mod quic;
pub mod tar;
pub mod tcp;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Bytes handed over at a time: system calls and wake-ups do not count beside them, and they fit any window.
const BLOCK: usize = 1 << 20;

/// How finely the receiver notes when what came, so that the steady state can be told from the start.
pub const BIN: Duration = Duration::from_millis(100);

/// Longest time that is noted, in bins: an hour. What comes later is counted in the last one.
const BINS_MAX: usize = 36_000;

/// Nothing for so long is the end of a connection whose other side is gone: longer than any retry on a bad link takes.
const SILENCE: Duration = Duration::from_secs(30);

/// What a receiver got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Payload.
    pub bytes: u64,
    /// From the first byte to the last.
    pub seconds: f64,
    /// Bytes in each [`BIN`] from the first byte on.
    pub bins: Vec<u64>,
}

impl Received {
    /// Gbit/s over the whole time.
    #[must_use]
    pub fn gbit(&self) -> f64 {
        gbit(self.bytes, self.seconds)
    }

    /// Gbit/s in the whole bins that begin in this span of time; `None` if there are none.
    #[must_use]
    pub fn gbit_within(&self, from: Duration, to: Duration) -> Option<f64> {
        let index =
            |time: Duration| usize::try_from(time.as_millis() / BIN.as_millis()).unwrap_or(usize::MAX);
        let (first, end) = (index(from), index(to));
        // Bins in which nothing came at the end are not there; they are part of the span all the same.
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        let bytes = self.bins.iter().skip(first).take(count).sum();
        Some(gbit(bytes, BIN.as_secs_f64() * count as f64))
    }
}

/// Bytes in a time, as Gbit/s; 0 for no time.
#[must_use]
pub(crate) fn gbit(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        bytes as f64 * 8e-9 / seconds
    } else {
        0.0
    }
}

/// Counts what comes in.
#[derive(Debug, Default)]
struct Tally {
    first: Option<Instant>,
    last: Option<Instant>,
    received: Received,
}

impl Tally {
    fn count(&mut self, bytes: usize, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.last = Some(now);
        let bins = &mut self.received.bins;
        let bin = (now - first).as_millis() / BIN.as_millis();
        let bin = usize::try_from(bin).unwrap_or(BINS_MAX).min(BINS_MAX - 1);
        if bins.len() <= bin {
            bins.resize(bin + 1, 0);
        }
        bins[bin] += bytes as u64;
        self.received.bytes += bytes as u64;
    }

    fn end(mut self) -> Received {
        if let (Some(first), Some(last)) = (self.first, self.last) {
            self.received.seconds = (last - first).as_secs_f64();
        }
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_state_leaves_out_the_start_and_counts_silence() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut tally = Tally::default();
        for (ms, bytes) in [(0, 10), (50, 10), (100, 1_000), (250, 2_000), (299, 500)] {
            tally.count(bytes, at(ms));
        }
        let received = tally.end();
        assert_eq!(
            (received.bytes, received.bins.as_slice()),
            (3_520, &[20, 1_000, 2_500][..])
        );
        assert!((received.seconds - 0.299).abs() < 1e-9);
        let ms = Duration::from_millis;
        let steady = received.gbit_within(ms(100), ms(300)).unwrap();
        assert!((steady - 3_500.0 * 8e-9 / 0.2).abs() < 1e-12, "{steady}");
        let silent = received.gbit_within(ms(100), ms(500)).unwrap();
        assert!((silent - steady / 2.0).abs() < 1e-12, "{silent}");
        assert_eq!(received.gbit_within(ms(100), ms(100)), None);
        assert_eq!(received.gbit_within(ms(200), ms(100)), None);
    }

    #[test]
    fn nothing_received_is_no_rate() {
        let received = Tally::default().end();
        assert_eq!((received.bytes, received.seconds), (0, 0.0));
        assert!(received.gbit().abs() < f64::EPSILON);
    }
}
