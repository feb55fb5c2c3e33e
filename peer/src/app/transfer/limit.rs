//! A limit on the rate of transfers.
//!
//! Bytes are paid for before they move. What was not used is not saved up, so that the rate holds over any second and not
//! only on average.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest time that one payment stands for; larger writes are cut into pieces of this.
const SLICE: Duration = Duration::from_millis(50);

/// Smallest piece that a write is cut into, in bytes; below it the cutting would cost more than it smooths.
const SLICE_LEN_MIN: u64 = 4096;

/// So many bytes a second, for all who hold a clone together.
#[derive(Clone, Debug)]
pub struct Limit {
    bytes_per_second: u64,
    /// When everything that was paid for has moved.
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl Limit {
    /// At least 1 byte a second.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: Arc::default(),
        }
    }

    /// How many bytes should move in one go.
    pub fn slice_len(&self) -> usize {
        let slices = 1000 / u64::try_from(SLICE.as_millis()).unwrap_or(1).max(1);
        usize::try_from((self.bytes_per_second / slices).max(SLICE_LEN_MIN)).unwrap_or(usize::MAX)
    }

    /// Wait until so many bytes may move.
    pub async fn take(&self, bytes: u64) {
        let turn = self.reserve(bytes, Instant::now());
        tokio::time::sleep_until(turn.into()).await;
    }

    /// When so many bytes may move that are wanted now.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = free_at.map_or(now, |free_at| free_at.max(now));
        // Beyond what a clock can say the last payment stands for all.
        *free_at = turn.checked_add(cost).or(Some(turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_share_a_limit_stay_within_it_together() {
        let (one, began) = (Limit::new(1_000_000), Instant::now());
        let other = one.clone();
        let turns = (0..100).flat_map(|_| [one.reserve(10_000, began), other.reserve(10_000, began)]);
        let last = turns.max().unwrap() - began;
        assert_eq!(last, Duration::from_millis(1990), "2 MB, less the last piece");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let (limit, began) = (Limit::new(1_000_000), Instant::now());
        limit.reserve(100_000, began);
        let later = began + Duration::from_secs(60);
        let turns: Vec<_> = (0..11).map(|_| limit.reserve(100_000, later)).collect();
        assert_eq!((turns[0], turns[10]), (later, later + Duration::from_secs(1)));
        assert_eq!(limit.slice_len(), 50_000);
        assert_eq!(Limit::new(0).slice_len(), 4096);
    }
}
