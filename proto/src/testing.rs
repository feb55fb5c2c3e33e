//! What the unit tests share: one moment to count from. Machines never read a clock; the tests do so once.

use std::sync::LazyLock;
use std::time::Instant;

/// The same moment at every call.
#[allow(clippy::disallowed_methods)]
pub(crate) fn epoch() -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}
