//! What is promised of pairs of NATs, in the world in memory: kept as text, so that a change of behaviour is a change of it.

use std::num::NonZeroUsize;
use std::path::Path;

use knothole_netsim::demo::Stop;
use knothole_netsim::promises::{Plan, Promise, Report, World, promises, run, text};

/// Writes the text anew instead of comparing it, if set.
const RENEW: &str = "KNOTHOLE_RENEW_SNAPSHOTS";

fn plan(promises: Vec<Promise>, runs: u32, jobs: usize) -> Plan {
    Plan {
        promises,
        runs,
        seed: 0,
        jobs: NonZeroUsize::new(jobs).unwrap(),
        world: World::Memory { cold: false },
    }
}

fn report(plan: &Plan) -> Report {
    run(plan, &Stop::default(), &mut |_| {}).unwrap()
}

fn named(names: &[&str]) -> Vec<Promise> {
    promises()
        .into_iter()
        .filter(|row| names.contains(&row.name))
        .collect()
}

#[test]
fn every_promise_is_kept_and_what_it_takes_is_what_is_on_record() {
    let report = report(&plan(promises(), 100, 2));
    let (path, text) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/promises-sim.txt"),
        text(&report),
    );
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let missed: Vec<_> = report
        .rows
        .iter()
        .filter(|row| !row.is_kept())
        .map(|row| (row.name, &row.missed, &row.example))
        .collect();
    assert!(missed.is_empty(), "{missed:#?}");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<_> = text
        .lines()
        .filter(|line| !kept.lines().any(|old| old == *line))
        .take(20)
        .collect();
    assert!(
        kept == text,
        "these lines are new:\n{}\nif that is meant: {RENEW}=1 cargo test -p knothole-netsim --test sim promises",
        changed.join("\n")
    );
}

#[test]
fn a_row_is_the_same_whatever_else_is_tried_and_on_however_many_threads() {
    let alone = text(&report(&plan(named(&["steps"]), 30, 1)));
    let among = text(&report(&plan(named(&["steps", "skew"]), 30, 3)));
    assert!(among.starts_with(&alone), "{alone}{among}");
}

#[test]
fn who_stops_gets_the_rows_that_were_done() {
    let stop = Stop::default();
    let report = run(
        &plan(named(&["ipv6", "skew", "steps"]), 10, 2),
        &stop,
        &mut |_| stop.raise(),
    )
    .unwrap();
    assert_eq!(
        (report.rows.len(), report.is_complete(), report.is_kept()),
        (1, false, false)
    );
}
