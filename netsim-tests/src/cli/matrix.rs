//! `knothole-netsim matrix`: every kind of NAT against every other, as a table, as JSON, as a page.

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ValueEnum};
use serde_json::json;

use super::{fail, say};
use knothole_netsim::demo::Stop;
use knothole_netsim::fabric::NatEngine;
use knothole_netsim::matrix::{self, Cell, MatrixError, Plan, Report, World};
use knothole_netsim::nat::{NatKind, kind, kinds};
use knothole_netsim::oracle::easy_kinds;
use knothole_netsim::sim::Weather;
use knothole_netsim::{netns, parallel};

/// Attempts in each cell, unless said: enough in memory for a share to mean something; in namespaces each takes seconds.
const RUNS_IN_MEMORY: u32 = 20;
const RUNS_IN_NAMESPACES: u32 = 1;

/// Labs at a time, unless said: each has four programs with work to do.
pub(super) const LABS: NonZeroUsize = NonZeroUsize::new(2).unwrap();

/// Most attempts in each cell: beyond it the time for all kinds is counted in days.
const RUNS_MAX: u32 = 100_000;

/// Time between two words on how far it is.
const PROGRESS: Duration = Duration::from_millis(200);

/// Tries every kind of NAT against every other and holds the result against what must come of it.
#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    /// In memory with virtual time, or with the real programs in namespaces
    #[arg(long, value_enum, default_value_t, env = "KNOTHOLE_WORLD")]
    pub(super) world: Where,
    /// Kinds of NAT for both sides: names (`knothole-netsim kinds` lists them), easy, all
    #[arg(long, value_delimiter = ',', default_value = "all", env = "KNOTHOLE_KINDS", value_name = "KIND,..", value_parser = some_kinds)]
    kinds: Vec<Kinds>,
    /// Kinds in front of the caller, instead of --kinds
    #[arg(long, value_delimiter = ',', env = "KNOTHOLE_A", value_name = "KIND,..", value_parser = some_kinds)]
    a: Vec<Kinds>,
    /// Kinds in front of the callee, instead of --kinds
    #[arg(long, value_delimiter = ',', env = "KNOTHOLE_B", value_name = "KIND,..", value_parser = some_kinds)]
    b: Vec<Kinds>,
    /// Attempts in each cell [default: 20 in memory, 1 in namespaces; of a promise 1000 and 30]
    #[arg(long, env = "KNOTHOLE_RUNS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RUNS_MAX)))]
    pub(super) runs: Option<u32>,
    /// Where all randomness comes from; equal seeds give equal results in memory
    #[arg(long, env = "KNOTHOLE_SEED", default_value_t = 0)]
    pub(super) seed: u64,
    /// What the links are like in memory: steady, calm, ordinary, rough, storm
    #[arg(long, env = "KNOTHOLE_WEATHER", default_value = "steady", value_parser = super::soak::weather)]
    weather: Weather,
    /// What plays the NATs in namespaces
    #[arg(long, env = "KNOTHOLE_NAT", value_enum, default_value_t)]
    pub(super) nat: Player,
    /// Cells at a time [default: all cores in memory, 2 in namespaces]
    #[arg(long, env = "KNOTHOLE_JOBS", value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Instead of all pairs: what is promised of pairs, one row each, and whether it is kept
    #[arg(long, env = "KNOTHOLE_PROMISES", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, conflicts_with_all = ["kinds", "a", "b", "weather", "html"])]
    promises: bool,
    /// Only these rows of the promises
    #[arg(
        long,
        value_delimiter = ',',
        env = "KNOTHOLE_ROW",
        value_name = "NAME,..",
        requires = "promises"
    )]
    pub(super) row: Vec<String>,
    /// Promises: the caller knows nothing of its network when it asks
    #[arg(long, env = "KNOTHOLE_COLD", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, requires = "promises")]
    pub(super) cold: bool,
    /// Write a page for a browser into this file as well
    #[arg(long, env = "KNOTHOLE_HTML", value_name = "FILE")]
    html: Option<PathBuf>,
    /// One JSON object for each cell, and one at the end
    #[arg(long, env = "KNOTHOLE_JSON", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) json: bool,
}

/// The world, as the command line says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Where {
    #[default]
    Sim,
    Netns,
}

/// Who plays the NATs, as the command line says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Player {
    /// The lab's own NAT
    #[default]
    Model,
    /// Rules in the kernel; needs the program nft
    Kernel,
}

impl Player {
    pub(super) fn engine(self) -> NatEngine {
        match self {
            Self::Model => NatEngine::Model,
            Self::Kernel => NatEngine::Kernel,
        }
    }
}

/// What one word on the command line stands for.
#[derive(Clone, Debug)]
struct Kinds(Vec<&'static NatKind>);

/// Try everything. Success means that the oracle agrees with every cell.
pub(crate) fn run(args: &MatrixArgs) -> ExitCode {
    if let Some(missing) = missing(args) {
        return fail(args.json, 3, &missing);
    }
    if args.promises {
        return super::promises::run(args);
    }
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(error) => {
            return fail(
                args.json,
                1,
                &format!("cannot find this program's file ({error})"),
            );
        }
    };
    // Before hours of work, not after them.
    if let Some(file) = &args.html
        && let Err(error) = std::fs::write(file, "")
    {
        return fail(
            args.json,
            2,
            &format!("cannot write {} ({error})", file.display()),
        );
    }
    let stop = Stop::default();
    if let Err(error) = super::signals::raise_on_interrupt(stop.clone()) {
        tracing::warn!(%error, "Ctrl-C will end the matrix without its last words");
    }
    let mut progress = Progress::new(&plan);
    let result = matrix::run(&plan, &stop, &mut |cell| {
        if args.json && say(line(cell)).is_err() {
            // Nobody reads any more.
            stop.raise();
        }
        progress.step();
    });
    progress.clear();
    match result {
        Ok(report) => conclude(args, &report),
        Err(MatrixError::Lab(error)) => fail(args.json, 3, &error.to_string()),
    }
}

/// What this machine lacks for what is asked.
fn missing(args: &MatrixArgs) -> Option<String> {
    if args.world == Where::Sim {
        return None;
    }
    match netns::become_lab_root().and_then(|()| netns::probe()) {
        Ok(probe) => probe.kernel_nat.err().filter(|_| args.nat == Player::Kernel),
        Err(error) => Some(error.to_string()),
    }
}

fn plan(args: &MatrixArgs) -> io::Result<Plan> {
    let chosen = |side: &[Kinds]| distinct(if side.is_empty() { &args.kinds } else { side });
    let (runs, jobs, world) = match args.world {
        Where::Sim => {
            let weather = args.weather;
            (RUNS_IN_MEMORY, parallel::all_cores(), World::Memory { weather })
        }
        Where::Netns => {
            let executable = std::env::current_exe()?;
            (
                RUNS_IN_NAMESPACES,
                LABS,
                World::Namespaces {
                    executable,
                    engine: args.nat.engine(),
                },
            )
        }
    };
    Ok(Plan {
        callers: chosen(&args.a),
        callees: chosen(&args.b),
        runs: args.runs.unwrap_or(runs),
        seed: args.seed,
        jobs: args.jobs.unwrap_or(jobs),
        world,
        traces: args.html.is_some(),
    })
}

/// Each kind once, in the order in which they were named first.
fn distinct(named: &[Kinds]) -> Vec<&'static NatKind> {
    let mut chosen: Vec<&'static NatKind> = Vec::new();
    for kind in named.iter().flat_map(|kinds| &kinds.0) {
        if !chosen.iter().any(|known| known.name == kind.name) {
            chosen.push(kind);
        }
    }
    chosen
}

fn line(cell: &Cell) -> serde_json::Value {
    let mut value = json!({ "schema": 1, "event": "cell" });
    if let (Some(target), serde_json::Value::Object(source)) = (value.as_object_mut(), cell.json()) {
        target.extend(source);
    }
    value
}

/// Shows what there is. 12: the oracle disagrees; 130: it was stopped before the end.
fn conclude(args: &MatrixArgs, report: &Report) -> ExitCode {
    // A reader that has seen enough is no failure: what could not be said is not said.
    let _ = if args.json {
        say(done(report))
    } else {
        let paint =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        say(format_args!(
            "{}\n{}",
            matrix::table(report, paint),
            summary(report)
        ))
    };
    if let Some(file) = &args.html
        && let Err(code) = write_page(args.json, file, report)
    {
        return code;
    }
    if !report.is_complete() {
        ExitCode::from(130)
    } else if report.disagreements().next().is_some() {
        ExitCode::from(12)
    } else {
        ExitCode::SUCCESS
    }
}

fn write_page(json: bool, file: &Path, report: &Report) -> Result<(), ExitCode> {
    std::fs::write(file, matrix::page(report))
        .map_err(|error| fail(json, 1, &format!("cannot write {} ({error})", file.display())))?;
    if !json {
        eprintln!("page: {}", file.display());
    }
    Ok(())
}

fn done(report: &Report) -> serde_json::Value {
    let seconds = report.took.as_secs_f64();
    json!({
        "schema": 1, "event": "done", "world": report.plan.world.word(), "complete": report.is_complete(),
        "cells": report.cells.len(), "disagreements": report.disagreements().count(),
        "attempts": report.attempts(), "seconds": seconds,
        "attempts_per_second": report.attempts() as f64 / seconds.max(1e-9),
    })
}

fn summary(report: &Report) -> String {
    let (cells, wanted) = (
        report.cells.len(),
        report.plan.callers.len() * report.plan.callees.len(),
    );
    let mut lines = Vec::new();
    if !report.is_complete() {
        lines.push(format!("stopped after {cells} of {wanted} cells"));
    }
    let count = |test: &dyn Fn(&Cell) -> bool| report.cells.iter().filter(|cell| test(cell)).count();
    let direct = count(&|cell| cell.direct == cell.runs);
    let none = count(&|cell| cell.failed == cell.runs);
    let relayed = count(&|cell| cell.direct == 0 && cell.relay > 0);
    let some = cells - direct - none - relayed;
    lines.push(format!(
        "{cells} cells: {direct} direct, {some} in part, {relayed} relayed, {none} without the server"
    ));
    let seconds = report.took.as_secs_f64();
    let rate = report.attempts() as f64 / seconds.max(1e-9);
    let rate = if rate >= 10.0 {
        format!("{rate:.0}")
    } else {
        format!("{rate:.1}")
    };
    lines.push(format!(
        "{} attempts in {seconds:.1} s: {rate} a second",
        report.attempts()
    ));
    let wrong: Vec<&Cell> = report.disagreements().collect();
    if wrong.is_empty() {
        lines.push("the oracle agrees with every cell".to_owned());
    } else {
        lines.push(format!("the oracle does not agree with {} of them:", wrong.len()));
    }
    for cell in wrong {
        lines.push(format!(
            "\n{} x {}: {}, but {} direct, {} relayed, {} failed of {}",
            cell.a,
            cell.b,
            cell.oracle.word(),
            cell.direct,
            cell.relay,
            cell.failed,
            cell.runs
        ));
        lines.extend(
            cell.reason
                .iter()
                .map(|reason| format!("  {}", reason.replace('\n', "\n  "))),
        );
        lines.push(format!("  {}", cell.command));
    }
    lines.join("\n")
}

/// How far it is, in one line that is written over, for a person at a terminal.
struct Progress {
    begun: Instant,
    shown: Option<Instant>,
    cells: usize,
    wanted: usize,
    terminal: bool,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        Self {
            begun: Instant::now(),
            shown: None,
            cells: 0,
            wanted: plan.callers.len() * plan.callees.len(),
            terminal: io::stderr().is_terminal(),
        }
    }

    fn step(&mut self) {
        self.cells += 1;
        if self.terminal && self.shown.is_none_or(|at| at.elapsed() > PROGRESS) {
            self.shown = Some(Instant::now());
            let (cells, wanted, seconds) = (self.cells, self.wanted, self.begun.elapsed().as_secs());
            self.write(&format!("{cells} of {wanted} cells, {seconds} s"));
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            self.write("");
        }
    }

    /// From the first column on, with the rest of the line cleared (ECMA-48).
    fn write(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        // A terminal that is gone has nobody before it.
        let _ = write!(stderr, "\r\u{1b}[K{text}").and_then(|()| stderr.flush());
    }
}

fn some_kinds(word: &str) -> Result<Kinds, String> {
    match word {
        "all" => Ok(Kinds(kinds().iter().collect())),
        "easy" => Ok(Kinds(easy_kinds().collect())),
        name => kind(name).map(|kind| Kinds(vec![kind])).ok_or_else(|| {
            let names: Vec<&str> = kinds().iter().map(|kind| kind.name).collect();
            format!("the kinds are all, easy, {}", names.join(", "))
        }),
    }
}
