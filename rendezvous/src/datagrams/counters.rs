//! Counters of what happened to datagrams. Each only grows; nothing is decided by them.
//!
//! Every receiving task has its own, so that counting costs no traffic between processors; reading adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Those of one worker, which is number n of the sockets at every address. On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct WorkerCounters {
    pub(crate) received_batches: Counter,
    pub(crate) forwarded_bytes: Counter,
    pub(crate) forwarded_frames: Counter,
    pub(crate) forwarded_batches: Counter,
    pub(crate) unknown: Counter,
    pub(crate) unknown_channel: Counter,
    pub(crate) wrong_source: Counter,
    pub(crate) relay_malformed: Counter,
    pub(crate) control_full: Counter,
    pub(crate) stun_full: Counter,
    pub(crate) receive_errors: Counter,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Counters {
    workers: Vec<WorkerCounters>,
}

impl Counters {
    /// For so many workers, at least one.
    pub(crate) fn new(workers: usize) -> Self {
        let workers = (0..workers.max(1)).map(|_| WorkerCounters::default());
        Self {
            workers: workers.collect(),
        }
    }

    pub(crate) fn of(&self, worker: usize) -> &WorkerCounters {
        &self.workers[worker % self.workers.len()]
    }

    /// Dropped datagrams of all workers.
    pub(crate) fn read(&self) -> DatagramStats {
        let sum = |counter: fn(&WorkerCounters) -> &Counter| self.sum(counter);
        DatagramStats {
            unknown: sum(|worker| &worker.unknown),
            relay_malformed: sum(|worker| &worker.relay_malformed),
            control_full: sum(|worker| &worker.control_full),
            stun_full: sum(|worker| &worker.stun_full),
            receive_errors: sum(|worker| &worker.receive_errors),
        }
    }

    /// One counter of all workers.
    pub(crate) fn sum(&self, counter: fn(&WorkerCounters) -> &Counter) -> u64 {
        self.workers.iter().map(|worker| counter(worker).get()).sum()
    }

    /// What each worker did.
    pub(crate) fn workers(&self) -> Vec<WorkerStats> {
        let stats = |worker: &WorkerCounters| WorkerStats {
            received_batches: worker.received_batches.get(),
            forwarded_bytes: worker.forwarded_bytes.get(),
            forwarded_frames: worker.forwarded_frames.get(),
            forwarded_batches: worker.forwarded_batches.get(),
        };
        self.workers.iter().map(stats).collect()
    }
}

/// Datagrams that were dropped, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramStats {
    /// Neither QUIC nor STUN nor a relay frame, or sent to a socket that does not speak it.
    pub unknown: u64,
    /// Looked like a relay frame and was none.
    pub relay_malformed: u64,
    /// QUIC of control connections that came faster than it could be read.
    pub control_full: u64,
    /// STUN answers that found the socket full.
    pub stun_full: u64,
    /// Errors of the receive call.
    pub receive_errors: u64,
}

/// What one of the receiving tasks did, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Receive buffers with anything in them.
    pub received_batches: u64,
    /// Bytes of frames that left.
    pub forwarded_bytes: u64,
    /// Frames that left.
    pub forwarded_frames: u64,
    /// Calls into the kernel that took them.
    pub forwarded_batches: u64,
}
