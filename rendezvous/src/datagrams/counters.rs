//! Counters of what happened to datagrams. Each only grows; nothing is decided by them.

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

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) unknown: Counter,
    pub(crate) relay_malformed: Counter,
    pub(crate) relay_full: Counter,
    pub(crate) stun_full: Counter,
    pub(crate) receive_errors: Counter,
}

impl Counters {
    pub(crate) fn read(&self) -> DatagramStats {
        DatagramStats {
            unknown: self.unknown.get(),
            relay_malformed: self.relay_malformed.get(),
            relay_full: self.relay_full.get(),
            stun_full: self.stun_full.get(),
            receive_errors: self.receive_errors.get(),
        }
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
    /// Relay frames that found the socket full.
    pub relay_full: u64,
    /// STUN answers that found the socket full.
    pub stun_full: u64,
    /// Errors of the receive call.
    pub receive_errors: u64,
}
