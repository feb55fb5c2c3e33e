//! Why an interactive lab could not be made, found or entered. Text for people, no behaviour.

use std::path::PathBuf;

use crate::netns::LabError;
use crate::scenario::{ScenarioError, StageError};

/// Why an interactive lab could not be made, found or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InteractiveError {
    /// The folder for the state of labs belongs to somebody else or is open to others.
    #[error("{} is not a folder of this user alone: remove it, or set XDG_RUNTIME_DIR to one that is", .0.display())]
    Untrusted(PathBuf),
    /// A file or folder of the state.
    #[error("{}: {source}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A lab of that name is up.
    #[error(
        "a lab called {0} is up already: `knothole-netsim down {0}` ends it, --name gives the new one another name"
    )]
    Exists(String),
    /// There is none of that name.
    #[error("no lab is called {name}: {known}")]
    UnknownLab {
        /// What was asked for.
        name: String,
        /// Which there are.
        known: String,
    },
    /// There is none at all.
    #[error("no lab is up: `knothole-netsim up FILE.toml` makes one")]
    NoLab,
    /// There are several, and none was named.
    #[error("several labs are up, name one: {0}")]
    Several(String),
    /// The lab has no node of that name.
    #[error("lab {lab} has no node {node}: its nodes are {known}")]
    UnknownNode {
        /// Which lab.
        lab: String,
        /// What was asked for.
        node: String,
        /// Which there are.
        known: String,
    },
    /// The lab's keeper has ended.
    #[error("the keeper of lab {0} has ended: `knothole-netsim down {0}` cleans up, `up` makes it anew")]
    Gone(String),
    /// No name for a lab.
    #[error("{0:?} is no name for a lab: lower-case letters, digits and hyphens, 32 at most")]
    Name(String),
    /// The keeper did not get there.
    #[error("the lab did not come up: {0}")]
    Keeper(String),
    /// The program that was to run.
    #[error("cannot run {program} ({source})")]
    Program {
        /// Which.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The scenario makes no sense.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The scenario cannot be built here.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The machine does not allow it.
    #[error(transparent)]
    Lab(#[from] LabError),
}
