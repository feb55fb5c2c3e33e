//! Punching: two nodes that were told of each other find out which pairs of addresses work, and keep one open.

pub mod config;

pub use config::PunchConfig;

/// Why a punching agent wants to be called at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Timer {
    /// A probe is due.
    Probe,
    /// Is another proven path better than the used one?
    Choice,
    /// The round has failed unless something was proven.
    Verdict,
    /// The used path needs a sign of life.
    Keepalive,
    /// A suspected path is checked.
    Check,
    /// Something old can be forgotten.
    Forget,
}
