//! Scenarios as files: those that are shipped come out as they say, and those that make no sense are refused with their
//! line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)] // a test that panics has failed, and says so

#[path = "scenarios/bad.rs"]
mod bad;
#[path = "scenarios/documented.rs"]
mod documented;
#[path = "scenarios/shipped.rs"]
mod shipped;
#[path = "scenarios/timeline.rs"]
mod timeline;
