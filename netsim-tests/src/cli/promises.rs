//! `knothole-netsim matrix --promises`: what is promised of pairs of NATs, and whether it is kept.

use std::process::ExitCode;

use serde_json::json;

use super::matrix::{LABS, MatrixArgs, Where};
use super::{fail, say};
use knothole_netsim::demo::Stop;
use knothole_netsim::parallel;
use knothole_netsim::promises::{self, Kept, Plan, Promise, Report, World};

/// Attempts for each row, unless said: in memory enough for a share of 99 in 100 to mean something; in namespaces each takes
/// some ten seconds.
const RUNS_IN_MEMORY: u32 = 1_000;
const RUNS_IN_NAMESPACES: u32 = 30;

/// Try every promise. 1: one is not kept; 130: it was stopped before the end.
pub(super) fn run(args: &MatrixArgs) -> ExitCode {
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(message) => return fail(args.json, 2, &message),
    };
    let stop = Stop::default();
    if let Err(error) = super::signals::raise_on_interrupt(stop.clone()) {
        tracing::warn!(%error, "Ctrl-C will end the promises without their last words");
    }
    let result = promises::run(&plan, &stop, &mut |row| {
        if args.json && say(line(row)).is_err() {
            // Nobody reads any more.
            stop.raise();
        } else if !args.json {
            eprintln!(
                "{}: {}",
                row.name,
                if row.is_kept() { "kept" } else { "NOT KEPT" }
            );
        }
    });
    match result {
        Ok(report) => conclude(args.json, &plan, &report),
        Err(error) => fail(args.json, 3, &error.to_string()),
    }
}

fn plan(args: &MatrixArgs) -> Result<Plan, String> {
    let all = promises::promises();
    let unknown = args
        .row
        .iter()
        .find(|name| !all.iter().any(|row| row.name == name.as_str()));
    if let Some(name) = unknown {
        let names: Vec<&str> = all.iter().map(|row| row.name).collect();
        return Err(format!(
            "no promise is called {name}; there are {}",
            names.join(", ")
        ));
    }
    let wanted = |row: &Promise| args.row.is_empty() || args.row.iter().any(|name| name == row.name);
    let chosen: Vec<Promise> = all.into_iter().filter(wanted).collect();
    let (runs, jobs, world) = match args.world {
        Where::Sim => (
            RUNS_IN_MEMORY,
            parallel::all_cores(),
            World::Memory { cold: args.cold },
        ),
        Where::Netns => {
            let executable = std::env::current_exe()
                .map_err(|error| format!("cannot find this program's file ({error})"))?;
            let engine = args.nat.engine();
            (
                RUNS_IN_NAMESPACES,
                LABS,
                World::Namespaces {
                    executable,
                    engine,
                    cold: args.cold,
                },
            )
        }
    };
    Ok(Plan {
        promises: chosen,
        runs: args.runs.unwrap_or(runs),
        seed: args.seed,
        jobs: args.jobs.unwrap_or(jobs),
        world,
    })
}

fn line(row: &Kept) -> serde_json::Value {
    let mut value = json!({ "schema": 1, "event": "promise" });
    if let (Some(target), serde_json::Value::Object(source)) = (value.as_object_mut(), row.json()) {
        target.extend(source);
    }
    value
}

fn conclude(json: bool, plan: &Plan, report: &Report) -> ExitCode {
    let missed = report.rows.iter().filter(|row| !row.is_kept()).count();
    let runs: u64 = report.rows.iter().map(|row| u64::from(row.runs)).sum();
    let seconds = report.took.as_secs_f64();
    // A reader that has seen enough is no failure: what could not be said is not said.
    let _ = if json {
        say(json!({
            "schema": 1, "event": "done", "world": plan.world.word(), "complete": report.is_complete(),
            "rows": report.rows.len(), "missed": missed, "attempts": runs, "seconds": seconds,
        }))
    } else {
        let rows = report.rows.len();
        say(format_args!(
            "{}\n{rows} promises, {} kept; {runs} attempts in {seconds:.1} s",
            promises::text(report),
            rows - missed
        ))
    };
    if !report.is_complete() {
        ExitCode::from(130)
    } else if missed > 0 {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    }
}
