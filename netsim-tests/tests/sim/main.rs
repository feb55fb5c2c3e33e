//! The project's own machines on simulated networks, in virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used)] // also in the helpers, which clippy does not take for tests

mod attack;
mod attempts;
mod faults;
mod fleet;
mod matrix;
mod networks;
mod pairing;
mod promises;
mod regressions;
mod relay;
mod repeat;
mod stage;
mod stranger;
