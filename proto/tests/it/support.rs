//! What the tests share.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

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
