//! Is the fingerprint of a network right behind every kind of NAT the lab has? The machine against the model in memory, and
//! the program itself in namespaces. Both are held against the description of the kind, never against each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test that panics has failed

mod expected;
mod memory;
#[cfg(target_os = "linux")]
mod real;
