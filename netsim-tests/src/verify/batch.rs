//! [`verify_in_namespaces`]: many kinds, several at a time in one lab.

use std::thread;

use crate::nat::{Kernel, NatKind, Side};
use crate::netns::LabError;

use super::SERVERS;
use super::coturn::{self, Words};
use super::expect::{expected, expected_of_kernel};
use super::facts::{Disagreement, Facts, Path};
use super::ground::{GroundError, Stage};
use super::measure::measure;
use super::namespaces::{Namespaces, Yard, shortened};
use super::report::{Report, World};

/// Kinds that are measured at the same time. Almost all of it is waiting; eleven kinds keep two processors a third busy
/// and have some 850 descriptors open, below the usual limit of 1024.
const AT_ONCE: usize = 11;

/// Why nothing could be measured; says nothing about a NAT.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// No lab can be made.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A lab was made, and then the machine refused something.
    #[error(transparent)]
    Ground(#[from] GroundError),
}

/// Verifies kinds between namespaces. Each is measured twice at the same time, once as it is and once with timers that are
/// over in a few seconds. `second` asks for the opinion of coturn's client besides, if it is installed.
///
/// `report` is called for each kind, in their order, as soon as it is known.
///
/// # Errors
///
/// What the machine does not allow.
pub fn verify_in_namespaces(
    kinds: &[&'static NatKind],
    world: World,
    second: bool,
    mut report: impl FnMut(Report),
) -> Result<(), VerifyError> {
    for kinds in kinds.chunks(AT_ONCE) {
        let there: Vec<&'static NatKind> = kinds.iter().copied().filter(|kind| exists(kind, world)).collect();
        let mut found = measure_together(&there, world, second)?.into_iter();
        for kind in kinds {
            let found = exists(kind, world).then(|| found.next()).flatten();
            let found = found.unwrap_or_default();
            let second = found.second.and_then(|words| words.judge(&found.measured));
            report(Report {
                kind,
                world,
                measured: found.measured,
                disagreements: found.disagreements,
                known: known(kind, world),
                second,
            });
        }
    }
    Ok(())
}

/// Measures kinds in one lab at the same time.
fn measure_together(
    kinds: &[&'static NatKind],
    world: World,
    second: bool,
) -> Result<Vec<Found>, VerifyError> {
    let sides: Vec<Side> = kinds.iter().map(|kind| kind.side(&SERVERS)).collect();
    let sites = sides.iter().cloned().chain(sides.iter().map(shortened)).collect();
    let yard = Yard::build(sites, world)?;
    let (yard, count) = (&yard, kinds.len());
    let results = thread::scope(|scope| {
        let mut started = Vec::new();
        for (site, kind) in kinds.iter().zip(&sides).enumerate() {
            let run = move || behaviour(yard, site, kind, world);
            started.push((site, scope.spawn(run)));
            if second {
                let run = move || opinion(yard, count + site, 2 * count + site);
                started.push((site, scope.spawn(run)));
            }
            let (_, stage) = yard.ground(count + site);
            for stage in stage.split() {
                let run = move || timers(yard, count + site, kind, world, &stage);
                started.push((site, scope.spawn(run)));
            }
        }
        let joined = started.into_iter().map(|(site, thread)| (site, join(thread)));
        joined.collect::<Vec<_>>()
    });
    let mut found: Vec<Found> = kinds.iter().map(|_| Found::default()).collect();
    for (site, result) in results {
        found[site].absorb(result?);
    }
    Ok(found)
}

/// Does this world have the kind?
fn exists(kind: &NatKind, world: World) -> bool {
    match kind.kernel {
        Kernel::Absent(_) => world != World::Kernel,
        Kernel::Alike | Kernel::Differs(_) => true,
    }
}

/// What the kind says about itself in this world.
fn known(kind: &NatKind, world: World) -> Option<&'static str> {
    match (world, kind.kernel) {
        (World::Kernel, Kernel::Differs(why) | Kernel::Absent(why)) => Some(why),
        _ => None,
    }
}

fn described(kind: &NatKind, side: &Side, stage: &Stage, world: World) -> Facts {
    match world {
        World::Sim | World::Netns => expected(side, stage),
        World::Kernel => expected_of_kernel(kind, side, stage),
    }
}

/// What was found at a site.
#[derive(Default)]
struct Found {
    measured: Facts,
    disagreements: Vec<Disagreement>,
    /// Another program's words for mapping and filter.
    second: Option<Words>,
}

impl Found {
    fn absorb(&mut self, other: Self) {
        self.measured.absorb(other.measured);
        self.disagreements.extend(other.disagreements);
        self.second = self.second.take().or(other.second);
    }
}

/// Everything but the timers.
fn behaviour(
    yard: &Yard,
    site: usize,
    (kind, side): (&&'static NatKind, &Side),
    world: World,
) -> Result<Found, VerifyError> {
    let (mut ground, stage) = yard.ground(site);
    let measured = measure(&mut ground, &stage, &Namespaces::behaviour(side))?;
    Ok(Found {
        disagreements: described(kind, side, &stage, world).disagreements(&measured),
        measured,
        second: None,
    })
}

/// What another program finds. It asks at the site of the timers, where nobody counts ports meanwhile.
fn opinion(yard: &Yard, site: usize, slot: usize) -> Result<Found, VerifyError> {
    let (mut ground, stage) = yard.ground_at(site, slot);
    Ok(Found {
        second: coturn::opinion(&mut ground, &stage)?,
        ..Found::default()
    })
}

/// The timers of one path, at a site where they are short.
fn timers(
    yard: &Yard,
    site: usize,
    (kind, side): (&&'static NatKind, &Side),
    world: World,
    stage: &Stage,
) -> Result<Found, VerifyError> {
    let (mut ground, _) = yard.ground(site);
    let measured = measure(&mut ground, stage, &Namespaces::timers())?;
    let paths: Vec<Path> = stage.views().iter().map(|view| view.path).collect();
    let mut described = described(kind, &shortened(side), stage, world);
    described.retain_timers(&paths);
    Ok(Found {
        disagreements: described.disagreements(&measured),
        measured,
        second: None,
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
