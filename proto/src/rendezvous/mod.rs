//! The server's decisions: who holds which name, who meets whom, what the relay forwards.
//!
//! [`Registry`] is the machine behind the control connections; [`RelayTable`] is the small table that the forwarding
//! loop asks for every frame. Both are driven as the crate's first page tells, and neither knows of the other: the
//! registry's commands tell the driver which channels to open in the table.

mod admission;
mod clock;
mod command;
mod config;
mod connection;
mod deadlines;
mod introduction;
mod nameplates;
mod names;
mod offer;
mod outcomes;
mod registry;
mod relay;
mod rooms;
mod sessions;

pub use command::{ClaimId, Command, ConnId, Record, StoreFailed};
pub use config::{Limits, REFRESH, RegistryConfig, Stats, Timer};
pub use outcomes::{BUCKETS_MS, Outcome, Outcomes, Sort};
pub use registry::Registry;
pub use relay::{RelayConfig, RelayStats, RelayTable, Route};
