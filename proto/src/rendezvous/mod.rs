//! The server's decisions: who holds which name, who meets whom, what the relay forwards.

mod command;

pub use command::{ClaimId, Command, ConnId, Record, StoreFailed};
