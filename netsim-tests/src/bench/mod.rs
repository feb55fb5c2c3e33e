//! How fast: the real programs and everybody else's, one after the other through the same lab.
//!
//! [`run`] lets the [`Contestant`]s of a [`Plan`] take turns, and sums up; [`shares()`] has three transfers at once, mostly
//! through one relay; [`congestion()`] compares congestion controllers. Prints nothing and judges nothing.

mod congestion;
mod contestant;
mod course;
mod croc;
mod job;
mod load;
mod own;
mod plain;
mod program;
mod rivals;
mod shares;
mod stats;
mod summary;
mod usage;
mod wormhole;
pub mod yardstick;

use std::io;
use std::path::Path;

use crate::demo::DemoError;
use crate::fabric::HostHandle;
use crate::netns::LabError;
use crate::role::RoleError;

pub use congestion::{CongestionPlan, CongestionRow, CongestionRun, Queue, Weather, congestion};
pub use contestant::{Contestant, Load};
pub use course::{Outcome, Plan, Road, Sample, run};
pub use load::SMALL;
pub use shares::{Shares, Way, shares};
pub use stats::{Spread, ratio};
pub use summary::{Cost, Line, Report, sum_up};
pub use usage::Used;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The lab cannot be built here.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A program of the project, or a file of it.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// A program that is compared with.
    #[error("{0}")]
    Rival(String),
    /// It, or one that it needs, is not installed.
    #[error("not installed: {0}")]
    Missing(&'static str),
}

impl From<DemoError> for BenchError {
    fn from(error: DemoError) -> Self {
        match error {
            DemoError::Lab(error) => Self::Lab(error),
            DemoError::Role(error) => Self::Role(error),
        }
    }
}

impl BenchError {
    fn files(what: &'static str, source: io::Error) -> Self {
        Self::Role(RoleError::Files { what, source })
    }
}

/// A folder that goes when it is dropped.
fn temporary() -> Result<tempfile::TempDir, BenchError> {
    temporary_in(&std::env::temp_dir())
}

/// The same below `parent`.
fn temporary_in(parent: &Path) -> Result<tempfile::TempDir, BenchError> {
    let made = tempfile::Builder::new()
        .prefix("knothole-bench-")
        .tempdir_in(parent);
    made.map_err(|source| BenchError::files("a temporary folder", source))
}

/// Packets that a host's devices dropped on their way to the wire.
fn lost_by_devices(host: HostHandle<'_>) -> Result<u64, BenchError> {
    let table = host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
    Ok(drops_of(&table.unwrap_or_default()))
}

/// Dropped outgoing packets of all devices in a table like `/proc/net/dev`.
fn drops_of(table: &str) -> u64 {
    // Behind the name stand eight columns of what came in, then what went out: bytes, packets, errors, drops.
    let drops = |line: &str| {
        line.split_once(':')?
            .1
            .split_whitespace()
            .nth(11)?
            .parse::<u64>()
            .ok()
    };
    table.lines().filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::drops_of;

    #[test]
    fn drops_are_those_of_the_outgoing_side() {
        let table = "Inter-| Receive | Transmit\n face |bytes packets errs drop\n    lo: 1 2 3 4 5 6 7 8 9 10 11 0 13 14 15 16\n  \
                     eth0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(drops_of(table), 12);
        assert_eq!(drops_of(""), 0);
    }
}
