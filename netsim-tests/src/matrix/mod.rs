//! Every kind of NAT against every other: how often the two become direct, how fast, at what price, and whether the
//! [oracle](crate::oracle) agrees.
//!
//! A [`Plan`] names the kinds of the caller and of the callee and the [`World`] to try them in; [`run`] makes a [`Cell`] of
//! each pair. In the world in memory a cell depends on the seed alone: attempt `n` of a cell has a seed of its own, made of
//! the plan's, the two names and `n`, so the number of threads and the other cells make no difference. In namespaces the
//! programs themselves run, each attempt in a lab of its own. [`table()`] writes the result for a terminal, [`page()`] as
//! one page for a browser; nothing here prints.

mod cell;
mod memory;
mod namespaces;
mod page;
mod table;
mod trace;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::demo::{DemoError, Stop};
use crate::fabric::NatEngine;
use crate::nat::NatKind;
use crate::parallel;
use crate::sim::Weather;

pub use cell::{Cell, End, PathShare, Sample};
pub use page::page;
pub use table::table;

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Kinds of NAT in front of the caller, one row each.
    pub callers: Vec<&'static NatKind>,
    /// Kinds of NAT in front of the callee, one column each.
    pub callees: Vec<&'static NatKind>,
    /// Attempts in each cell.
    pub runs: u32,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Cells at a time.
    pub jobs: NonZeroUsize,
    /// Where it is tried.
    pub world: World,
    /// Keep a trace of one attempt of each cell, where the world has one.
    pub traces: bool,
}

/// Where a matrix is tried.
#[derive(Clone, Debug)]
pub enum World {
    /// In memory, in virtual time. Times to a direct path count from the wish to connect until both sides are direct.
    Memory {
        /// What the links are like.
        weather: Weather,
    },
    /// Real programs in namespaces. Times count from the start of the caller's command to its first direct answer.
    Namespaces {
        /// The executable that plays the roles: the lab's own.
        executable: PathBuf,
        /// Who plays the NATs. A kind that the kernel has no form of is played by the model all the same.
        engine: NatEngine,
    },
}

impl World {
    /// The word on command lines and in JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Memory { .. } => IN_MEMORY,
            Self::Namespaces { .. } => IN_NAMESPACES,
        }
    }
}

/// The words of the two worlds, on command lines and in JSON.
pub(crate) const IN_MEMORY: &str = "sim";
pub(crate) const IN_NAMESPACES: &str = "netns";

/// What a matrix came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was to be tried.
    pub plan: Plan,
    /// The cells that were finished, row by row.
    pub cells: Vec<Cell>,
    /// Real time that it took.
    pub took: Duration,
}

impl Report {
    /// Was every cell finished?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cells.len() == self.plan.callers.len() * self.plan.callees.len()
    }

    /// The cells that the oracle does not agree with.
    pub fn disagreements(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| !cell.agrees)
    }

    /// Attempts in all finished cells.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.cells.iter().map(|cell| u64::from(cell.runs)).sum()
    }
}

/// Why a matrix could not be made. A person who stops it is no error: the report then holds what there is.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// No lab can be built here, or what it needs besides is missing.
    #[error(transparent)]
    Lab(DemoError),
}

/// Tries everything, telling `each` about every cell in order, until `stop` is raised.
///
/// # Errors
/// [`MatrixError::Lab`] where namespaces are wanted and cannot be had.
pub fn run(plan: &Plan, stop: &Stop, each: &mut dyn FnMut(&Cell)) -> Result<Report, MatrixError> {
    let begun = Instant::now();
    let (mut cells, mut failure) = (Vec::new(), None);
    let pairs = plan
        .callers
        .iter()
        .flat_map(|a| plan.callees.iter().map(move |b| (*a, *b)));
    let work = |(a, b)| match &plan.world {
        World::Memory { weather } => Ok(memory::cell(plan, *weather, a, b, stop)),
        World::Namespaces { executable, engine } => {
            namespaces::cell(plan, (executable.as_path(), *engine), a, b, stop)
        }
    };
    parallel::in_order(pairs, plan.jobs, work, |cell| match cell {
        Ok(Some(cell)) => {
            each(&cell);
            cells.push(cell);
            ControlFlow::Continue(())
        }
        Ok(None) => ControlFlow::Break(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    });
    match failure {
        Some(error) => Err(MatrixError::Lab(error)),
        None => Ok(Report {
            plan: plan.clone(),
            cells,
            took: begun.elapsed(),
        }),
    }
}
