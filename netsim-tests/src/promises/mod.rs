//! What is promised of pairs of NATs, and whether it is kept: how many become direct, how fast, at what price.
//!
//! A [`Promise`] is a row: pairs of kinds with the conditions to try them under ([`Setup`]), and a [`Bar`]. [`run`] makes many
//! attempts of each, in memory or with the real programs in namespaces, and holds the sum ([`Kept`]) against the bar. It
//! differs from the [matrix](crate::matrix) in that the oracle says what may happen there, and the bar how well here. In memory
//! a row depends on the seed alone: attempt `n` has a seed of its own, made of the report's, the name of the row and `n`.
//! [`text()`] writes the rows for a terminal; nothing here prints.

mod bar;
mod memory;
mod namespaces;
mod rows;
mod sum;
mod text;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::demo::{DemoError, Stop};
use crate::fabric::NatEngine;
use crate::matrix::{IN_MEMORY, IN_NAMESPACES};
use crate::nat::NatKind;
use crate::parallel;
use crate::sim::{Place, Weather};

use namespaces::How;

pub use bar::Bar;
pub use rows::promises;
pub use sum::{Kept, Sample};
pub use text::text;

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Promise {
    /// One word for command lines.
    pub name: &'static str,
    /// Which pairs, in words.
    pub pairs: &'static str,
    /// The pairs and how they are tried; attempts take one after the other.
    pub setups: Vec<Setup>,
    /// What is promised.
    pub bar: Bar,
    /// What others come to under the same conditions, if it was measured.
    pub rival: Option<&'static str>,
}

impl Promise {
    /// The pair that attempt `number` of so many is about.
    pub(crate) fn setup(&self, number: u32, runs: u32) -> Setup {
        let (number, runs, pairs) = (u64::from(number), u64::from(runs), self.setups.len() as u64);
        let at = if runs < pairs {
            number * pairs / runs
        } else {
            number % pairs
        };
        self.setups[usize::try_from(at).unwrap_or(0)]
    }
}

/// One pair and its conditions.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// In front of caller and callee.
    pub kinds: [&'static NatKind; 2],
    /// Where the two are.
    pub place: Place,
    /// What the links are like.
    pub weather: Weather,
    /// A side that starts later than the other, by a time that is drawn for each attempt from nothing to this.
    pub late: Option<(usize, Duration)>,
    /// Ports that the subscriber of a side has, where it is few: an eighth of them is what a stranger may use up.
    pub block: Option<(usize, u16)>,
}

impl Setup {
    /// Two ends of the internet, 50 ms apart and 50 ms from the server.
    #[must_use]
    pub fn new(a: &'static NatKind, b: &'static NatKind) -> Self {
        Self {
            kinds: [a, b],
            place: Place::Apart,
            weather: Weather::STEADY,
            late: None,
            block: None,
        }
    }

    /// Can namespaces do it? Only what the server says to the callee can be held back there: the moment at which it answers the
    /// caller is not to be seen beforehand.
    #[must_use]
    pub fn is_real(&self) -> bool {
        let place = self.place != Place::BehindCarrier;
        let late = self.late.is_none_or(|(side, _)| side == 1);
        place && late && self.weather.one_way == Weather::STEADY.one_way
    }
}

/// Where it is tried.
#[derive(Clone, Debug)]
pub enum World {
    /// In memory, in virtual time.
    Memory {
        /// The caller knows nothing of its network when it asks, and asks at some moment of its survey.
        cold: bool,
    },
    /// Real programs in namespaces; pairs whose conditions these cannot have are left out.
    Namespaces {
        /// The executable that plays the roles: the lab's own.
        executable: PathBuf,
        /// Who plays the NATs.
        engine: NatEngine,
        /// The caller knows nothing of its network when it asks, so that a first round goes by too little.
        cold: bool,
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

    /// The further options that ask for it, each after a space.
    fn how(&self) -> String {
        let (nat, cold) = match self {
            Self::Memory { cold } => (String::new(), cold),
            Self::Namespaces { engine, cold, .. } => (format!(" --nat {}", engine.word()), cold),
        };
        format!("{nat}{}", if *cold { " --cold" } else { "" })
    }
}

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The rows.
    pub promises: Vec<Promise>,
    /// Attempts for each row. With fewer than it has pairs, some pairs all over the row are tried.
    pub runs: u32,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Attempts at a time.
    pub jobs: NonZeroUsize,
    /// Where.
    pub world: World,
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The rows that were finished, in order.
    pub rows: Vec<Kept>,
    /// How many there were to be.
    pub wanted: usize,
    /// Real time that it took.
    pub took: Duration,
}

impl Report {
    /// Was every row finished?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.rows.len() == self.wanted
    }

    /// Is every promise kept?
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_complete() && self.rows.iter().all(Kept::is_kept)
    }
}

/// One attempt to make: which of a row's setups, and the number of the attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) setup: Setup,
    pub(crate) number: u32,
}

/// Tries everything, telling `each` about every row, until `stop` is raised.
///
/// # Errors
/// What makes labs impossible here, where namespaces are wanted.
pub fn run(plan: &Plan, stop: &Stop, each: &mut dyn FnMut(&Kept)) -> Result<Report, DemoError> {
    let begun = Instant::now();
    let chosen: Vec<Promise> = plan.promises.iter().map(|row| possible(plan, row)).collect();
    let mut rows = Vec::new();
    for promise in &chosen {
        let Some(samples) = samples(plan, promise, stop)? else {
            break;
        };
        let kept = Kept::new(promise, &samples, plan);
        each(&kept);
        rows.push(kept);
    }
    Ok(Report {
        rows,
        wanted: chosen.len(),
        took: begun.elapsed(),
    })
}

/// The row with what this world can have of it.
fn possible(plan: &Plan, row: &Promise) -> Promise {
    let mut row = row.clone();
    if !matches!(plan.world, World::Memory { .. }) {
        row.setups.retain(Setup::is_real);
    }
    row
}

/// All attempts of a row; `None` if somebody stopped it.
fn samples(plan: &Plan, promise: &Promise, stop: &Stop) -> Result<Option<Vec<Sample>>, DemoError> {
    let turns = (0..plan.runs).map(|number| Turn {
        setup: promise.setup(number, plan.runs),
        number,
    });
    let work = |turn: Turn| {
        if stop.check().is_err() {
            return Ok(None);
        }
        match &plan.world {
            World::Memory { cold } => Ok(Some(memory::sample(plan.seed, promise.name, turn, *cold))),
            World::Namespaces {
                executable,
                engine,
                cold,
            } => {
                let how = How {
                    executable,
                    engine: *engine,
                    cold: *cold,
                };
                namespaces::sample(plan.seed, how, turn, stop)
            }
        }
    };
    let (mut samples, mut ended) = (Vec::new(), Ok(()));
    let mut whole = true;
    parallel::in_order(turns, plan.jobs, work, |result| match result {
        Ok(Some(sample)) => {
            samples.push(sample);
            ControlFlow::Continue(())
        }
        Ok(None) => {
            whole = false;
            ControlFlow::Break(())
        }
        Err(error) => {
            ended = Err(error);
            ControlFlow::Break(())
        }
    });
    ended.map(|()| whole.then_some(samples))
}
