//! Is the namespace lab what it claims to be? Real sockets in real namespaces; needs root or an environment in which
//! network namespaces can be made. Where they cannot, every test says `skipped: <reason>` and passes, unless `CI=true`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code"
)]

mod capture;
mod classify;
mod hygiene;
mod icmp;
mod kernel;
mod nat64;
mod quirks;
mod race;
mod refusals;
mod routing;
mod speed;
mod support;
mod uplinks;
mod wire;
