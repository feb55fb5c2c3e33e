//! The Knothole rendezvous server: sockets, TLS and a disk around the machines of [`knothole_proto::rendezvous`] and
//! [`knothole_proto::stun`]. It decides nothing itself beyond how many handshakes it takes on.
//!
//! One UDP port carries STUN, control connections (QUIC) and relay frames, told apart by their first byte. A datagram
//! is read by a `worker` and goes to `datagrams`, where frames are forwarded and STUN is answered on the spot; QUIC goes
//! on through `inbox` to quinn, and its messages through `control` to the one task that owns the registry. Names reach the disk through
//! `store` before anybody is told that they hold them.
//!
//! ```no_run
//! # async fn run() -> Result<(), knothole_rendezvous::StartError> {
//! use knothole_rendezvous::{Config, Server};
//!
//! let server = Server::start(Config::default()).await?;
//! let url = server.ready().server_url.clone();
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod cli;
mod config;
mod control;
mod data;
mod datagrams;
mod identity;
mod inbox;
mod listening;
mod private_files;
mod public_host;
mod server;
mod socket;
mod store;
mod tls;
mod udp;
mod worker;

pub use config::{Config, RELAY_TOTAL_BITS, StartError};
pub use data::{DataError, Inspected};
pub use datagrams::{DatagramStats, WorkerStats};
pub use identity::IdentityError;
pub use knothole_proto::stun::StunPolicy;
pub use private_files::FileError;
pub use public_host::{PublicHost, PublicHostError};
pub use server::{Inspection, Ready, Server, Stats};
pub use store::StoreError;
