//! Cells of the world in memory.

use knothole_proto::path::Path;
use knothole_proto::seed::Seed;

use super::cell::{Cell, End, Sample};
use super::{Plan, trace};
use crate::demo::{PathSeen, Stop};
use crate::nat::NatKind;
use crate::sim::{Attempt, Outcome, Weather, World};

/// Runs the attempts of a cell; `None` if somebody stopped it before they were done.
pub(super) fn cell(
    plan: &Plan,
    weather: Weather,
    a: &'static NatKind,
    b: &'static NatKind,
    stop: &Stop,
) -> Option<Cell> {
    let attempts: Vec<Attempt> = (0..plan.runs)
        .map(|run| Attempt::new(a, b, weather, seed(plan.seed, [a, b], run)))
        .collect();
    let mut samples = Vec::new();
    for attempt in &attempts {
        stop.check().ok()?;
        samples.push(sample(attempt));
    }
    let first = Attempt::new(a, b, weather, seed(plan.seed, [a, b], 0));
    let foreseen = (first.expect(), first.reaches());
    let command = format!(
        "knothole-netsim matrix --a {} --b {} --runs {} --seed {} --weather {}",
        a.name, b.name, plan.runs, plan.seed, weather.name
    );
    let mut cell = Cell::new([a, b], foreseen, &samples, command);
    let telling = typical(&cell, &samples).and_then(|index| attempts.get(index));
    if let Some(attempt) = telling {
        if !cell.agrees {
            cell.command = attempt.command();
        }
        if plan.traces {
            cell.trace = trace::of(attempt);
        }
    }
    Some(cell)
}

/// The seed of an attempt: its own, whatever else is tried.
fn seed(of_plan: u64, [a, b]: [&NatKind; 2], run: u32) -> u64 {
    let label = format!("matrix {} {}", a.name, b.name);
    Seed::from_number(of_plan).child(&label, run.into()).rng().u64()
}

fn sample(attempt: &Attempt) -> Sample {
    match attempt.observe(&mut World::at(attempt.epoch, attempt.seed)) {
        Ok(outcome) => Sample {
            end: end(&outcome),
            to_direct_ms: outcome
                .to_direct
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            probes: Some(outcome.probes()),
            nat_entries: usize::try_from(outcome.nat_entries()).ok(),
            path: outcome.paths[0].and_then(seen),
            fault: (!outcome.met).then(|| "the server cannot be reached over UDP".to_owned()),
        },
        Err(failure) => Sample {
            end: End::Failed,
            to_direct_ms: None,
            probes: None,
            nat_entries: None,
            path: None,
            fault: Some(failure.violation.to_string()),
        },
    }
}

fn end(outcome: &Outcome) -> End {
    match (outcome.direct, outcome.talked()) {
        (true, _) => End::Direct,
        (false, true) => End::Relay,
        (false, false) => End::Failed,
    }
}

fn seen(path: Path) -> Option<PathSeen> {
    let (kind, detail) = match path {
        Path::Direct { how, .. } => ("direct", how.word()),
        Path::Relay(why) => ("relay", why.sentence()),
        Path::None(_) => return None,
    };
    Some(PathSeen {
        kind: kind.to_owned(),
        detail: detail.to_owned(),
    })
}

/// The attempt that tells most about a cell: one that the oracle does not foresee if there is one, otherwise the first that
/// ended as most did.
fn typical(cell: &Cell, samples: &[Sample]) -> Option<usize> {
    let faulty = samples.iter().position(|sample| sample.fault.is_some());
    let unforeseen = |sample: &Sample| match cell.oracle {
        crate::oracle::Expect::Must => sample.end != End::Direct,
        crate::oracle::Expect::Likely | crate::oracle::Expect::May => sample.end == End::Failed,
        crate::oracle::Expect::Cannot => sample.end != End::Relay,
    };
    let most = [
        (cell.direct, End::Direct),
        (cell.relay, End::Relay),
        (cell.failed, End::Failed),
    ];
    let usual = most
        .into_iter()
        .max_by_key(|(count, _)| *count)
        .map(|(_, end)| end);
    faulty
        .or_else(|| samples.iter().position(unforeseen).filter(|_| !cell.agrees))
        .or_else(|| samples.iter().position(|sample| Some(sample.end) == usual))
}
