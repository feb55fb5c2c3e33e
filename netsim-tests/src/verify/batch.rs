//! [`verify_in_namespaces`]: many kinds, several at a time in one lab.

use std::thread;

use crate::nat::{NatKind, Side};
use crate::netns::LabError;

use super::SERVERS;
use super::coturn;
use super::expect::expected;
use super::facts::{Disagreement, Facts};
use super::ground::{Depth, GroundError};
use super::measure::measure;
use super::namespaces::{Namespaces, Yard, shortened};
use super::report::{Report, Second, World};

/// Kinds that are measured at the same time. Almost all of it is waiting; ten kinds keep two processors a third busy and
/// have some 800 descriptors open, below the usual limit of 1024.
const AT_ONCE: usize = 10;

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
        let sides: Vec<Side> = kinds.iter().map(|kind| kind.side(&SERVERS)).collect();
        let sites = sides.iter().cloned().chain(sides.iter().map(shortened)).collect();
        let yard = Yard::build(sites, world)?;
        let (yard, sides, count) = (&yard, &sides, kinds.len());
        let results = thread::scope(|scope| {
            let behaviour = |site: usize| {
                let depth = Namespaces::behaviour(&sides[site]);
                scope.spawn(move || verify_site(yard, site, &sides[site], (world, depth), second))
            };
            let timers = |site: usize| {
                let short = shortened(&sides[site]);
                let depth = Namespaces::timers();
                scope.spawn(move || verify_site(yard, count + site, &short, (world, depth), false))
            };
            let started: Vec<_> = (0..count).map(|site| (behaviour(site), timers(site))).collect();
            let joined = started.into_iter().map(|(one, other)| (join(one), join(other)));
            joined.collect::<Vec<_>>()
        });
        for (kind, (behaviour, timers)) in kinds.iter().zip(results) {
            let (behaviour, timers) = (behaviour?, timers?);
            let mut measured = behaviour.measured;
            measured.absorb(timers.measured);
            report(Report {
                kind,
                world,
                measured,
                disagreements: [behaviour.disagreements, timers.disagreements].concat(),
                known: None,
                second: behaviour.second,
            });
        }
    }
    Ok(())
}

/// What was found at one site.
struct Found {
    measured: Facts,
    disagreements: Vec<Disagreement>,
    second: Option<Second>,
}

fn verify_site(
    yard: &Yard,
    site: usize,
    side: &Side,
    (world, depth): (World, Depth),
    second: bool,
) -> Result<Found, VerifyError> {
    let (mut ground, stage) = yard.ground(site, world);
    let measured = measure(&mut ground, &stage, &depth)?;
    let mut described = expected(side, &stage);
    if !depth.behaviour {
        described.retain_timers();
    }
    let second = match second {
        true => coturn::opinion(&mut ground, &stage, &measured)?,
        false => None,
    };
    Ok(Found {
        disagreements: described.disagreements(&measured),
        measured,
        second,
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
