//! The Knothole rendezvous server.
#![forbid(unsafe_code)]

mod identity;
mod private_files;
mod store;
mod tls;
