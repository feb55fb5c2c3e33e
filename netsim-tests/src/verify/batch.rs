//! [`verify_in_namespaces`]: many kinds, several at a time in one lab.

use std::thread;

use crate::nat::{Kernel, NatKind, Side};
use crate::netns::LabError;

use super::SERVERS;
use super::coturn::{self, Words};
use super::expect::expected;
use super::facts::{Disagreement, Facts, Path, Property};
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

/// Verifies kinds between namespaces; kinds that `world` has no form of are passed over. Each is measured twice at the same time, once as it is and once with timers that are
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
    let kinds: Vec<&'static NatKind> = kinds.iter().copied().filter(|kind| exists(kind, world)).collect();
    for kinds in kinds.chunks(AT_ONCE) {
        let sides: Vec<Side> = kinds.iter().map(|kind| kind.side(&SERVERS)).collect();
        let sites = sides.iter().cloned().chain(sides.iter().map(shortened)).collect();
        let yard = Yard::build(sites, world)?;
        let (yard, sides, count) = (&yard, &sides, kinds.len());
        let results = thread::scope(|scope| {
            let mut started = Vec::new();
            for (site, side) in sides.iter().enumerate() {
                let run = move || behaviour(yard, site, side);
                started.push((site, scope.spawn(run)));
                if second {
                    let slot = 2 * count + site;
                    let run = move || opinion(yard, count + site, slot);
                    started.push((site, scope.spawn(run)));
                }
                let (_, stage) = yard.ground(count + site);
                for stage in stage.split() {
                    let run = move || timers(yard, count + site, side, &stage);
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
        for (kind, mut found) in kinds.iter().zip(found) {
            let known = known_to_differ(kind, world);
            let excused = known.map_or(&[][..], |(_, properties)| properties);
            found
                .disagreements
                .retain(|disagreement| !excused.contains(&disagreement.property));
            let second = found.second.and_then(|words| words.judge(&found.measured));
            report(Report {
                kind,
                world,
                measured: found.measured,
                disagreements: found.disagreements,
                known: known.map(|(why, _)| why),
                second,
            });
        }
    }
    Ok(())
}

/// Can the kind be had in this world?
fn exists(kind: &NatKind, world: World) -> bool {
    world != World::Kernel || !matches!(kind.kernel, Kernel::Absent(_))
}

/// In what a world is known to differ from the description of a kind, and why.
fn known_to_differ(kind: &NatKind, world: World) -> Option<(&'static str, &'static [Property])> {
    match kind.kernel {
        // So far no kind differs in anything else.
        Kernel::Differs(why) if world == World::Kernel => Some((why, &[Property::Overloads])),
        _ => None,
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
fn behaviour(yard: &Yard, site: usize, side: &Side) -> Result<Found, VerifyError> {
    let (mut ground, stage) = yard.ground(site);
    let measured = measure(&mut ground, &stage, &Namespaces::behaviour(side))?;
    Ok(Found {
        disagreements: expected(side, &stage).disagreements(&measured),
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
fn timers(yard: &Yard, site: usize, side: &Side, stage: &Stage) -> Result<Found, VerifyError> {
    let (mut ground, _) = yard.ground(site);
    let measured = measure(&mut ground, stage, &Namespaces::timers())?;
    let paths: Vec<Path> = stage.views().iter().map(|view| view.path).collect();
    let mut described = expected(&shortened(side), stage);
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
