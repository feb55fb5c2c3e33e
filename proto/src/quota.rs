//! Quotas: how often something may happen, for one thing or for every source of a fixed-size table.
//!
//! All of them are the generic cell rate algorithm (ITU-T I.371 annex A), which is a token bucket that stores one
//! moment instead of a level: the moment at which the bucket would be full again. Nothing here grows.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::addr::canonical;
use crate::seed::Seed;

/// How often: one unit per `interval`, and up to `burst` units at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time in which one unit comes back.
    pub interval: Duration,
    /// Units that a full bucket holds.
    pub burst: u32,
}

impl Rate {
    /// One unit per `interval`, `burst` at once.
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst }
    }

    /// The same rate for a group that is `factor` times as large.
    pub const fn times(self, factor: u32) -> Self {
        Self {
            interval: Duration::from_nanos(nanos(self.interval) / factor as u64),
            burst: self.burst.saturating_mul(factor),
        }
    }

    const fn depth(self) -> Duration {
        self.interval.saturating_mul(self.burst)
    }
}

const fn nanos(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(duration.subsec_nanos() as u64)
}

/// The bucket of one thing.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub const fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Take one unit; `false` if there is none, and then nothing is taken.
    pub fn admit(&mut self, rate: Rate, now: Instant) -> bool {
        self.take(rate.interval, rate.depth(), now)
    }

    /// Take what comes back in `cost`, out of a bucket that fills up in `depth`.
    pub fn take(&mut self, cost: Duration, depth: Duration, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + cost;
        let fits = full_at.saturating_duration_since(now) <= depth;
        if fits {
            self.full_at = full_at;
        }
        fits
    }
}

/// A bucket that several threads take from without waiting for each other.
#[derive(Debug)]
pub struct SharedBucket {
    start: Instant,
    /// When it is full again, in nanoseconds after `start`: enough for 584 years.
    full_at: AtomicU64,
}

impl SharedBucket {
    /// A full bucket.
    pub const fn new(now: Instant) -> Self {
        Self {
            start: now,
            full_at: AtomicU64::new(0),
        }
    }

    /// Take what comes back in `cost`, out of a bucket that fills up in `depth`.
    ///
    /// # Errors
    /// The moment at which there will be enough if nobody else takes any; nothing is taken.
    pub fn take(&self, cost: Duration, depth: Duration, now: Instant) -> Result<(), Instant> {
        let (cost, depth) = (nanos(cost), nanos(depth));
        let now = nanos(now.saturating_duration_since(self.start));
        let taken = |full_at: u64| full_at.max(now).saturating_add(cost);
        let fits = |full_at: u64| (taken(full_at) - now <= depth).then(|| taken(full_at));
        // Nothing else is published by it, so no order with other memory is needed.
        match self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => Ok(()),
            Err(full_at) => Err(self.start + Duration::from_nanos(taken(full_at).saturating_sub(depth))),
        }
    }

    /// Is nothing missing?
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Ordering::Relaxed) <= nanos(now.saturating_duration_since(self.start))
    }

    /// Put back what was taken and not used.
    pub fn give_back(&self, cost: Duration) {
        let less = |full_at: u64| Some(full_at.saturating_sub(nanos(cost)));
        // Never fails: there is always something to store.
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Buckets in a page: 4 KiB of them, as much as an operating system gives at a time.
const PAGE: usize = 512;

/// When each bucket of a page is full again.
type Page = [u64; PAGE];

/// Buckets for any number of sources in a fixed amount of memory.
///
/// A source is hashed, with a key that nobody outside knows, to one of the buckets; sources that meet in one bucket
/// share it. So a flood from many sources costs no memory, and nobody can choose whom to collide with.
#[derive(Debug)]
pub struct BucketTable {
    /// The moment from which the buckets count.
    start: Instant,
    /// When each bucket is full again, in nanoseconds after `start`. A page in which no source ever hit a bucket is not
    /// there, and costs nothing: simulations make thousands of tables a second.
    pages: Vec<Option<Box<Page>>>,
    len: u64,
    key: [u8; 32],
}

impl BucketTable {
    /// A table of `len` full buckets (at least one). Each takes 8 bytes.
    pub fn new(len: usize, seed: &Seed, now: Instant) -> Self {
        Self {
            start: now,
            pages: vec![None; len.max(1).div_ceil(PAGE)],
            len: len.max(1) as u64,
            key: seed.child("bucket table", 0).rng().bytes(),
        }
    }

    /// Take one unit of the bucket of this source.
    pub fn admit(&mut self, source: &[u8], rate: Rate, now: Instant) -> bool {
        let hash = blake3::keyed_hash(&self.key, source);
        let mut head = [0; 8];
        head.copy_from_slice(&hash.as_bytes()[..8]);
        let slot = usize::try_from(u64::from_le_bytes(head) % self.len).unwrap_or(0);
        let Some(page) = self.pages.get_mut(slot / PAGE) else {
            return false;
        };
        let page = page.get_or_insert_with(|| Box::new([0; PAGE]));
        let full_at = &mut page[slot % PAGE];
        let mut bucket = Bucket::new(self.start + Duration::from_nanos(*full_at));
        let admitted = bucket.admit(rate, now);
        *full_at = nanos(bucket.full_at.saturating_duration_since(self.start));
        admitted
    }

    /// Take one unit of the bucket of the network that this address is in: the address itself for IPv4; for IPv6 the
    /// /64, which is what one subscriber's machine can choose from at will, and eight times as much for the /48 around.
    pub fn admit_prefix(&mut self, from: SocketAddr, rate: Rate, now: Instant) -> bool {
        match canonical(from).ip() {
            IpAddr::V4(ip) => self.admit(&ip.octets(), rate, now),
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                self.admit(&octets[..8], rate, now) && self.admit(&octets[..6], rate.times(8), now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // The one moment from which a test counts.
    fn epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let epoch = epoch();
        let rate = Rate::new(Duration::from_millis(200), 10);
        let mut bucket = Bucket::new(epoch);
        let given = (0..100).filter(|_| bucket.admit(rate, epoch)).count();
        assert_eq!(given, 10);
        let given = (0..100)
            .filter(|n| bucket.admit(rate, epoch + Duration::from_millis(100) * *n))
            .count();
        assert_eq!(given, 49, "one per 200 ms over the 9.9 s that follow");
        assert!(!bucket.admit(rate, epoch), "an earlier moment gives nothing back");
    }

    #[test]
    fn a_shared_bucket_says_when_there_will_be_enough_and_takes_things_back() {
        let epoch = epoch();
        let bucket = SharedBucket::new(epoch);
        let ms = Duration::from_millis;
        assert_eq!(bucket.take(ms(30), ms(50), epoch), Ok(()));
        assert_eq!(bucket.take(ms(30), ms(50), epoch), Err(epoch + ms(10)));
        assert_eq!(bucket.take(ms(30), ms(50), epoch + ms(10)), Ok(()));
        bucket.give_back(ms(30));
        assert_eq!(bucket.take(ms(30), ms(50), epoch + ms(10)), Ok(()));
        assert!(
            bucket.take(ms(51), ms(50), epoch + ms(1000)).is_err(),
            "never fits"
        );
    }

    #[test]
    fn threads_that_take_at_once_get_no_more_than_there_is() {
        let epoch = epoch();
        let bucket = SharedBucket::new(epoch);
        let take = || {
            let fits = |_: &u32| {
                bucket
                    .take(Duration::from_micros(1), Duration::from_millis(10), epoch)
                    .is_ok()
            };
            (0..5_000).filter(fits).count()
        };
        let given: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(given, 10_000);
    }

    #[test]
    fn sources_have_buckets_of_their_own_and_the_table_never_grows() {
        let epoch = epoch();
        let rate = Rate::new(Duration::from_secs(1), 3);
        let mut table = BucketTable::new(1 << 12, &Seed::from_number(1), epoch);
        let flood = |table: &mut BucketTable, last: u8| {
            let from = SocketAddr::from(([9, 9, 9, last], 1));
            (0..50).filter(|_| table.admit_prefix(from, rate, epoch)).count()
        };
        assert_eq!((flood(&mut table, 1), flood(&mut table, 2)), (3, 3));
        for n in 0..100_000_u32 {
            table.admit(&n.to_be_bytes(), rate, epoch);
        }
        let pages = table.pages.iter().flatten().count();
        assert_eq!((table.pages.len(), pages), ((1 << 12) / PAGE, (1 << 12) / PAGE));
    }

    #[test]
    fn an_ipv6_subscriber_cannot_multiply_itself() {
        let epoch = epoch();
        let rate = Rate::new(Duration::from_secs(1), 3);
        let mut table = BucketTable::new(1 << 14, &Seed::from_number(1), epoch);
        let mut given = |address: &dyn Fn(u16) -> [u16; 8]| {
            (0..1000)
                .filter(|n| table.admit_prefix(SocketAddr::from((address(*n), 1)), rate, epoch))
                .count()
        };
        assert_eq!(given(&|n| [0x2a00, 1, 1, 1, 0, 0, 0, n]), 3, "one /64");
        assert_eq!(given(&|n| [0x2a00, 2, 2, n, 0, 0, 0, 1]), 24, "one /48");
    }
}
