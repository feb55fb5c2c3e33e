//! [`Stage`]: what a world must be able to do so that a scenario can run in it. No behaviour.

use std::net::IpAddr;
use std::time::Duration;

use super::model::{Action, NatIndex, NodeIndex, PathKind, WorldKind};
use crate::sim::Violation;

/// A world with a scenario's topology in it, at or after time zero: the server runs, whoever can be registered is, and
/// the pairs know each other.
pub trait Stage {
    /// Which world it is.
    fn world(&self) -> WorldKind;

    /// The server's addresses here.
    fn servers(&self) -> Vec<IpAddr>;

    /// Time since time zero.
    fn now(&self) -> Duration;

    /// Lets time pass until this time since time zero.
    ///
    /// # Errors
    ///
    /// What broke the world, or that a person wants it to end.
    fn pass(&mut self, until: Duration) -> Result<(), StageError>;

    /// Does something. An [`Action::Blackout`] never comes here: it is two [`Action::SetLink`].
    ///
    /// # Errors
    ///
    /// What broke the world; that a program did not do what was expected is no error.
    fn act(&mut self, action: &Action) -> Result<Acted, StageError>;

    /// Where traffic runs; `None` where this world cannot see it.
    fn path(&self, from: NodeIndex, to: NodeIndex) -> Option<PathView>;

    /// Does the server know the node?
    fn is_registered(&self, node: NodeIndex) -> bool;

    /// Answers of one node that came to another so far; `None` where this world cannot see it.
    fn arrivals(&self, from: NodeIndex, to: NodeIndex) -> Option<u64>;

    /// Probes that a node sent since time zero; `None` where this world cannot see it.
    fn probes(&self, node: NodeIndex) -> Option<u64>;

    /// Most entries that a NAT held; `None` where this world cannot see it.
    fn nat_entries(&self, nat: NatIndex) -> Option<usize>;

    /// The hash of everything that happened, where a run repeats exactly.
    fn trace(&self) -> Option<String> {
        None
    }
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It was done.
    Done,
    /// It was done, an expectation in it was met, and this is what was seen.
    Met(String),
    /// It was done, and an expectation in it was not met.
    Failed(String),
    /// This world cannot do it, for this reason.
    Skipped(String),
}

/// Where traffic runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// Where.
    pub kind: PathKind,
    /// How a direct path came about, or why there is none.
    pub detail: String,
    /// The peer's address, where the path is direct.
    pub remote: Option<String>,
}

impl PathView {
    /// There is no link.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            kind: PathKind::None,
            detail: "no link".to_owned(),
            remote: None,
        }
    }

    /// For people: `direct (punched), 5.5.16.2:40000`.
    #[must_use]
    pub fn words(&self) -> String {
        let remote = self
            .remote
            .as_ref()
            .map_or(String::new(), |remote| format!(", {remote}"));
        match self.kind {
            PathKind::Direct => format!("direct ({}){remote}", self.detail),
            kind => format!("{}: {}", kind.word(), self.detail),
        }
    }
}

/// Why a scenario cannot go on. That an expectation is not met is none of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The world in memory found a broken rule, which is a fault of the project.
    #[error("a rule was broken: {0}")]
    Rule(#[from] Violation),
    /// The lab cannot be built or changed here.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Lab(#[from] crate::netns::LabError),
    /// A program of the project did not do its part.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Role(#[from] crate::role::RoleError),
    /// A file or folder of the run.
    #[error("{what}: {source}")]
    Files {
        /// Which.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The scenario asks for something that this world does not have.
    #[error("{what} is not available in the {} world; {instead}", world.word())]
    Unavailable {
        /// What.
        what: String,
        /// Where.
        world: WorldKind,
        /// What to do.
        instead: String,
    },
    /// A person stopped it.
    #[error("stopped")]
    Stopped,
}
