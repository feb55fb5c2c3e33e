//! Is the namespace lab what it claims to be? Real sockets in real namespaces; needs root or an environment in which
//! network namespaces can be made. Where they cannot, every test says `skipped: <reason>` and passes, unless `CI=true`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code"
)]

mod classify;
mod hygiene;
mod kernel;
mod quirks;
mod race;
mod routing;
mod speed;
mod support;
mod wire;
