//! Scenarios: one file says who is there, what happens, and what must come of it.
//!
//! `docs/scenarios.md` is the reference of the format. [`Scenario::read`] checks a file as a whole, so that nothing is
//! built of one that makes no sense; [`run()`] carries it out, in the world in memory ([`InSim`]) or between namespaces
//! with real programs ([`InNetns`]). Both worlds are a [`Stage`], and get the same steps and the same questions.

mod addresses;
mod error;
mod file;
#[cfg(target_os = "linux")]
mod in_netns;
mod in_sim;
mod links;
mod model;
mod names;
mod reader;
mod recipe;
mod run;
mod sides;
mod stage;
mod timeline;
mod topology;
mod units;
mod words;

pub use error::ScenarioError;
#[cfg(target_os = "linux")]
pub use in_netns::{InNetns, RESOLV, Troupe, begin_captures, build_lab, hosts_file};
pub use in_sim::InSim;
pub use model::{
    Action, Check, Item, LinkPair, Nat, NatIndex, Node, NodeIndex, NodeRole, PathKind, Place, Relay, Run,
    RunExpect, Scenario, Start, UdpWord, What, When, WorldKind,
};
pub use recipe::Recipe;
pub use run::{Report, Told, Verdict, run};
pub use stage::{Acted, PathView, Stage, StageError};
