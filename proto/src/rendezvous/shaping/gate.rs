//! The limits, as threads that forward see them: no locks, no queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::id::{ChannelId, PeerId};
use crate::quota::SharedBucket;

/// Time that a unit of the queue takes at the limit, at the most: a larger one would keep others waiting, and itself for
/// longer than anything may wait. From 52 Mbit/s on the largest batches stay whole.
const UNIT_TIME: Duration = Duration::from_millis(10);

/// A rate of bytes and how many may pass at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate {
    /// Counted on the datagrams as they arrive, without IP and UDP headers. 0: nothing.
    pub bits_per_second: u64,
    /// Bytes that may pass at once after a rest.
    pub burst: u64,
}

impl ByteRate {
    /// A rate with the usual burst: 50 ms of it, but at least 256 KiB, which is four full receive buffers. A larger burst
    /// lets queues grow behind the server; a smaller one could not pay for a single batch.
    pub const fn new(bits_per_second: u64) -> Self {
        let burst = bits_per_second / 8 / 20;
        let least = 256 * 1024;
        Self {
            bits_per_second,
            burst: if burst > least { burst } else { least },
        }
    }

    /// Bytes that come back in `time`.
    pub(super) fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.bits_per_second) * time.as_nanos() / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Time in which so many bytes come back; `None` if never.
    fn time_of(self, bytes: u64) -> Option<Duration> {
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(self.bits_per_second).max(1);
        (self.bits_per_second > 0).then(|| Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

/// How much the relay may forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Over all channels together.
    pub total: ByteRate,
    /// For what one key sends, over all its channels; `None`: as much as its fair share of the total.
    pub per_key: Option<ByteRate>,
}

impl RelayConfig {
    /// This total in bit/s, and no limit for a single key.
    pub const fn new(total: u64) -> Self {
        Self {
            total: ByteRate::new(total),
            per_key: None,
        }
    }

    /// The same with a limit in bit/s for each key.
    #[must_use]
    pub const fn with_per_key(self, bits_per_second: u64) -> Self {
        Self {
            per_key: Some(ByteRate::new(bits_per_second)),
            ..self
        }
    }
}

/// One direction of a channel: what one of its two ends sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneId {
    /// The channel.
    pub channel: ChannelId,
    /// Which of its ends sends: the second?
    pub from_second: bool,
}

impl LaneId {
    /// The other direction.
    pub(super) const fn opposite(self) -> Self {
        Self {
            from_second: !self.from_second,
            ..self
        }
    }
}

/// A key with a limit, shared by the lanes of all that it sends.
#[derive(Debug)]
pub struct SendingKey {
    peer: PeerId,
    bucket: SharedBucket,
    /// Memory of what waits in its lanes, in bytes. While there is any, whatever comes later has to wait behind it.
    held: AtomicU64,
}

impl SendingKey {
    /// One that has sent nothing lately.
    pub const fn new(peer: PeerId, now: Instant) -> Self {
        Self {
            peer,
            bucket: SharedBucket::new(now),
            held: AtomicU64::new(0),
        }
    }

    /// Has it all of its limit to itself again? Then nothing is lost by forgetting it.
    pub fn is_rested(&self, now: Instant) -> bool {
        self.bucket.is_full(now)
    }

    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// What forwarding threads and the queue share about a lane.
#[derive(Debug, Default)]
pub struct Lane {
    /// Who sends in it, if that is limited.
    key: Option<Arc<SendingKey>>,
    /// Something of this lane waits, so whatever comes later has to wait behind it.
    waits: AtomicBool,
    /// What it had been granted of the queue's turns and had used when it last had nothing waiting.
    served: AtomicU64,
}

impl Lane {
    /// A lane of this key; without one, of a key without a limit.
    pub const fn new(key: Option<Arc<SendingKey>>) -> Self {
        Self {
            key,
            waits: AtomicBool::new(false),
            served: AtomicU64::new(0),
        }
    }

    pub(super) fn key(&self) -> Option<PeerId> {
        self.key.as_ref().map(|key| key.peer)
    }

    /// Memory of what waits in all lanes of its key, if that has a limit.
    pub(super) fn held_of_key(&self) -> u64 {
        self.key.as_ref().map_or(0, |key| key.held())
    }

    /// So much more waits in this lane.
    pub(super) fn hold(&self, footprint: u64) {
        if let Some(key) = &self.key {
            key.held.fetch_add(footprint, Ordering::Relaxed);
        }
    }

    /// So much waits in this lane no more.
    pub(super) fn release(&self, footprint: u64) {
        if let Some(key) = &self.key {
            key.held.fetch_sub(footprint, Ordering::Relaxed);
        }
    }

    pub(super) fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// In bytes of turns of the queue that it was in.
    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn set_served(&self, bytes: u64) {
        self.served.store(bytes, Ordering::Relaxed);
    }
}

/// Why something may not leave now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The relay forwards nothing.
    ForEver,
    /// The key's limit; it has enough at that moment if it sends nothing else.
    ByKey(Instant),
    /// The total; there is enough at that moment if nobody else sends.
    ByTotal(Instant),
}

/// The limits.
#[derive(Debug)]
pub struct Gate {
    config: RelayConfig,
    total: SharedBucket,
    /// Somebody waits for the total, or for a socket: everybody has to.
    congested: AtomicBool,
}

impl Gate {
    /// Full buckets.
    pub const fn new(config: RelayConfig, now: Instant) -> Self {
        Self {
            config,
            total: SharedBucket::new(now),
            congested: AtomicBool::new(false),
        }
    }

    /// Longest unit for the queue, in bytes; the driver splits what is longer, but never a frame.
    pub fn unit_max(&self) -> u64 {
        self.passes_in(UNIT_TIME)
    }

    /// Most bytes of one lane that can pass in this time, after the burst.
    pub(super) fn passes_in(&self, time: Duration) -> u64 {
        let rates = [Some(self.config.total), self.config.per_key];
        let bytes = rates.into_iter().flatten().map(|rate| rate.bytes_in(time));
        bytes.min().unwrap_or(0)
    }

    /// What it was made with.
    pub const fn config(&self) -> RelayConfig {
        self.config
    }

    /// May so many bytes of this lane leave at once? If not, they belong into the queue.
    pub fn pass(&self, lane: &Lane, bytes: u64, now: Instant) -> bool {
        // A thread that reads an old value lets one batch more pass; its tokens are counted all the same.
        !self.must_wait(lane) && self.take(lane, bytes, now).is_ok()
    }

    /// Has what comes in this lane to wait behind something else?
    pub(super) fn must_wait(&self, lane: &Lane) -> bool {
        self.congested.load(Ordering::Relaxed) || lane.waits.load(Ordering::Relaxed) || lane.held_of_key() > 0
    }

    /// Pay for so many bytes.
    ///
    /// # Errors
    /// What they have to wait for; nothing is paid.
    pub(super) fn take(&self, lane: &Lane, bytes: u64, now: Instant) -> Result<(), Blocked> {
        let total = self.config.total;
        let (Some(cost), Some(depth)) = (total.time_of(bytes), total.time_of(total.burst)) else {
            return Err(Blocked::ForEver);
        };
        self.take_of_key(lane, bytes, now)?;
        self.total.take(cost, depth, now).map_err(|at| {
            self.give_back_to_key(lane, bytes);
            Blocked::ByTotal(at)
        })
    }

    /// What was paid for was not sent.
    pub(super) fn give_back(&self, lane: &Lane, bytes: u64) {
        if let Some(cost) = self.config.total.time_of(bytes) {
            self.total.give_back(cost);
        }
        self.give_back_to_key(lane, bytes);
    }

    pub(super) fn set_congested(&self, congested: bool) {
        self.congested.store(congested, Ordering::Relaxed);
    }

    fn take_of_key(&self, lane: &Lane, bytes: u64, now: Instant) -> Result<(), Blocked> {
        let (Some(key), Some(rate)) = (&lane.key, self.config.per_key) else {
            return Ok(());
        };
        match (rate.time_of(bytes), rate.time_of(rate.burst)) {
            (Some(cost), Some(depth)) => key.bucket.take(cost, depth, now).map_err(Blocked::ByKey),
            _ => Err(Blocked::ForEver),
        }
    }

    fn give_back_to_key(&self, lane: &Lane, bytes: u64) {
        let rate = self.config.per_key;
        if let (Some(key), Some(cost)) = (&lane.key, rate.and_then(|rate| rate.time_of(bytes))) {
            key.bucket.give_back(cost);
        }
    }
}
