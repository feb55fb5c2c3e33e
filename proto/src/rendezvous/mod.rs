//! The server's decisions: who holds which name, who meets whom, what the relay forwards.
//!
//! [`Registry`] is the machine behind the control connections; [`RelayTable`] knows where the frames of each channel go;
//! [`Gate`] and [`FairQueue`] say when. All are driven as the crate's first page tells, and none knows of another: the
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
mod shaping;

pub use command::{ClaimId, Command, ConnId, Record, StoreFailed};
pub use config::{Limits, REFRESH, RegistryConfig, Stats, Timer};
pub use outcomes::{BUCKETS_MS, Outcome, Outcomes, Sort};
pub use registry::Registry;
pub use relay::{Ends, RelayStats, RelayTable, Route};
pub use shaping::{
    Blocked, ByteRate, Dropped, FairQueue, Gate, Lane, LaneId, Offered, QueueStats, RelayConfig, Release,
    SendingKey, Unit,
};
