//! The world in memory: the project's own machines on simulated networks, in virtual time.
//!
//! What runs here is what runs in the programs: the registry, relay table and STUN server of the server, the connector
//! of the nodes. What is modelled is what is not ours: NATs ([`crate::nat`]), links ([`crate::link`]), QUIC as far as
//! anybody notices (reliable messages to the server, small datagrams between nodes), clocks that are not quite
//! right. No thread, no socket, no clock, no entropy: a run depends on its seed alone, and repeats.
//!
//! [`Attempt`] is the common scenario, [`soak()`] runs many; a [`Fleet`] goes through misfortunes; [`World`] is for everything
//! else. After every event the rules
//! of [`Rule`] are checked; a broken one ends the run with the seed and the command that repeats it.

mod app;
mod attempt;
mod build;
mod busy;
mod capture;
mod changes;
mod check;
mod client;
mod clock;
mod cold;
mod control;
mod fleet;
mod journal;
mod late;
mod look;
mod meddle;
mod node;
mod outcome;
mod place;
mod plain;
mod queue;
mod recovery;
mod relay;
mod server;
mod soak;
mod sockets;
mod stranger;
mod topology;
mod weather;
mod world;

pub use app::TrafficStats;
pub use attempt::{Attempt, Failure};
pub use build::{NodeSpec, SERVER_ALTERNATE_IP, SERVER_ALTERNATE_IP6, SERVER_IP, SERVER_IP6, SiteId};
pub use check::{Rule, Sent, Violation};
pub use clock::epoch;
pub use fleet::{Fleet, FleetOutcome};
pub use journal::Line;
pub use late::Skew;
pub use outcome::Outcome;
pub use place::{PLACES, Place};
pub use plain::{Plain, PlainNet, PlainNews, PlainSocket};
pub use server::ServerSpec;
pub use soak::{Choice, Tally, soak};
pub use stranger::Mischief;
pub use topology::HostId;
pub use weather::{WEATHERS, Weather};
pub use world::World;
