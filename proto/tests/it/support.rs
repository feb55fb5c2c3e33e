//! What the tests share.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use knothole_proto::punch::TrafficReport;

/// The one moment from which a test counts; machines never read a clock themselves.
#[allow(clippy::disallowed_methods)]
pub(crate) fn epoch() -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A report of traffic that leaves, and comes in or does not.
pub(crate) fn traffic(received: bool) -> TrafficReport {
    TrafficReport {
        sent: true,
        received,
        relayed: false,
    }
}
