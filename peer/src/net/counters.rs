//! Datagrams that were not delivered, by reason. Written on the hot path without locks, read for logs.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the socket dropped since the node started, in datagrams.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// QUIC from an address that belongs to no link and is not the server's.
    pub(crate) strangers: AtomicU64,
    /// Relay frames that did not come from the server, or hold no QUIC.
    pub(crate) relay_refused: AtomicU64,
    /// Relay frames of a channel that is not known here, or not yet.
    pub(crate) relay_early: AtomicU64,
    /// First byte of no known kind, or a datagram too long for its kind.
    pub(crate) unknown: AtomicU64,
    /// STUN answers and probes that the driver was too slow to take.
    pub(crate) driver_full: AtomicU64,
    /// Outgoing QUIC for which there was no path.
    pub(crate) no_path: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them in one line, for the log at the end.
    pub(crate) fn line(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "strangers {}, relay refused {}, relay early {}, unknown {}, driver full {}, no path {}",
            read(&self.strangers),
            read(&self.relay_refused),
            read(&self.relay_early),
            read(&self.unknown),
            read(&self.driver_full),
            read(&self.no_path)
        )
    }
}
