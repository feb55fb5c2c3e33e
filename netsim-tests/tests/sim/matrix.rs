//! The matrix of the world in memory: what it comes to is kept as text, so that a change of behaviour is a change of it.

use std::num::NonZeroUsize;
use std::path::Path;

use knothole_netsim::demo::Stop;
use knothole_netsim::matrix::{Cell, Plan, Report, World, run, table};
use knothole_netsim::nat::{NatKind, kind, kinds};
use knothole_netsim::sim::Weather;

/// Writes the text anew instead of comparing it, if set.
const RENEW: &str = "KNOTHOLE_RENEW_SNAPSHOTS";

fn plan(kinds: impl IntoIterator<Item = &'static NatKind>, runs: u32, jobs: usize) -> Plan {
    let kinds: Vec<_> = kinds.into_iter().collect();
    Plan {
        callers: kinds.clone(),
        callees: kinds,
        runs,
        seed: 0,
        jobs: NonZeroUsize::new(jobs).unwrap(),
        world: World::Memory {
            weather: Weather::STEADY,
        },
        traces: false,
    }
}

fn cells(plan: &Plan) -> Vec<Cell> {
    run(plan, &Stop::default(), &mut |_| {}).unwrap().cells
}

fn some() -> impl Iterator<Item = &'static NatKind> {
    ["open", "port-restricted", "symmetric", "udp-blocked"]
        .map(|name| kind(name).unwrap())
        .into_iter()
}

/// What is the same for the same seed: the table, and for each cell with a direct path how long it took and what it cost.
fn written(report: &Report) -> String {
    let mut text = table(report, false);
    text.push_str("\ndirect after ms (median, 95 %), probes of one side (most), entries of a NAT (most)\n");
    for cell in report.cells.iter().filter(|cell| cell.direct > 0) {
        let time = |share| Cell::quantile(&cell.times, share).unwrap();
        let (probes, entries) = (cell.probes.last().unwrap(), cell.nat_entries.unwrap());
        let (a, b) = (cell.a, cell.b);
        text.push_str(&format!(
            "{a} {b} {} {} {probes} {entries}\n",
            time(0.5),
            time(0.95)
        ));
    }
    text
}

#[test]
fn the_matrix_of_all_kinds_is_the_one_on_record_and_the_oracle_agrees() {
    let plan = plan(kinds(), 20, 2);
    let report = run(&plan, &Stop::default(), &mut |_| {}).unwrap();
    let wrong: Vec<_> = report
        .disagreements()
        .map(|cell| (cell.a, cell.b, &cell.reason))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (path, text) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/matrix-sim.txt"),
        written(&report),
    );
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<_> = text
        .lines()
        .filter(|line| !kept.lines().any(|old| old == *line))
        .take(20)
        .collect();
    assert!(
        kept == text,
        "these lines are new:\n{}\nif that is meant: {RENEW}=1 cargo test -p knothole-netsim --test sim matrix",
        changed.join("\n")
    );
}

#[test]
fn the_number_of_threads_and_the_other_cells_make_no_difference() {
    let alone = cells(&plan(some(), 3, 1));
    assert_eq!(cells(&plan(some(), 3, 5)), alone);
    let two = [kind("port-restricted").unwrap(), kind("symmetric").unwrap()];
    for cell in cells(&plan(two, 3, 2)) {
        let same = alone.iter().find(|other| (other.a, other.b) == (cell.a, cell.b));
        assert_eq!(same, Some(&cell));
    }
}

#[test]
fn who_stops_a_matrix_gets_the_cells_that_were_done() {
    let (stop, mut seen) = (Stop::default(), 0);
    let report = run(&plan(some(), 3, 2), &stop, &mut |_| {
        seen += 1;
        if seen == 3 {
            stop.raise();
        }
    })
    .unwrap();
    assert!(
        !report.is_complete() && report.cells.len() == seen && seen >= 3,
        "{seen}"
    );
    assert!(
        table(&report, false).contains(" ."),
        "what was not tried is a dot"
    );
}
