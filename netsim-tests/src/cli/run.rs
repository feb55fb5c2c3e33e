//! `knothole-netsim run FILE.toml`: a scenario, told as it happens, with a verdict for each expectation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{fail, say};
use knothole_netsim::netns;
use knothole_netsim::role::{RoleError, Stop};
use knothole_netsim::scenario::{
    InNetns, InSim, NodeRole, Report, Scenario, Stage, StageError, Told, Verdict, WorldKind, run as carry_out,
};

/// An expectation was not met.
const NOT_MET: u8 = 12;

/// The file makes no sense, or the machine cannot do what it asks for.
const CONFIGURATION: u8 = 3;

/// Runs a scenario: who is there, what happens, what must come of it.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The scenario; docs/scenarios.md describes the format
    file: PathBuf,
    /// In memory, or between namespaces with real programs [default: the first that the file names, else sim]
    #[arg(long, env = "KNOTHOLE_WORLD", value_parser = world, value_name = "sim|netns")]
    world: Option<WorldKind>,
    /// Where all randomness comes from, instead of the file's own
    #[arg(long, env = "KNOTHOLE_SEED")]
    seed: Option<u64>,
    /// Keep the logs of the programs, or the journal of the world in memory, in this folder, and the captures
    #[arg(long, value_name = "DIR", env = "KNOTHOLE_KEEP_LOGS")]
    keep_logs: Option<PathBuf>,
    /// One JSON object a line instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Run it.
pub(crate) fn run(args: &RunArgs) -> ExitCode {
    let scenario = match Scenario::read(&args.file) {
        Ok(scenario) => scenario,
        Err(error) => return fail(args.json, CONFIGURATION, &error.to_string()),
    };
    let world = args.world.unwrap_or(scenario.worlds[0]);
    let seed = args.seed.unwrap_or(scenario.seed);
    begin(args, &scenario, world, seed);
    let report = match world {
        WorldKind::Sim => in_sim(args, &scenario, seed),
        WorldKind::Netns => in_netns(args, &scenario, seed),
    };
    match report {
        Ok(report) => {
            conclude(args, &report, world, seed);
            if report.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(NOT_MET)
            }
        }
        Err(error) => {
            let code = fail(args.json, exit_code(&error), &error.to_string());
            if exit_code(&error) == 1 && !args.json {
                eprintln!("  repeat: {}", command(args, world, seed));
            }
            code
        }
    }
}

fn in_sim(args: &RunArgs, scenario: &Scenario, seed: u64) -> Result<Report, StageError> {
    let mut stage = InSim::build(scenario, seed, args.keep_logs.is_some())?;
    if let Some(dir) = &args.keep_logs {
        fs::create_dir_all(dir).map_err(|source| files(dir, source))?;
        stage.begin_captures(scenario, dir)?;
    }
    let report = play(args, scenario, &mut stage);
    if let Some(dir) = &args.keep_logs {
        stage.end_captures()?;
        let lines: Vec<String> = stage.journal().map(ToString::to_string).collect();
        let file = dir.join("journal.txt");
        let written = fs::write(&file, lines.join("\n") + "\n");
        written.map_err(|source| files(&file, source))?;
    }
    report
}

fn in_netns(args: &RunArgs, scenario: &Scenario, seed: u64) -> Result<Report, StageError> {
    netns::become_lab_root()?;
    let stop = Stop::default();
    if let Err(error) = super::signals::raise_on_interrupt(stop.clone()) {
        tracing::warn!(%error, "Ctrl-C will end the lab without its last words");
    }
    let executable = std::env::current_exe().map_err(|source| files(Path::new("this program"), source))?;
    let scratch;
    let dir = match &args.keep_logs {
        Some(dir) => {
            fs::create_dir_all(dir).map_err(|source| files(dir, source))?;
            fs::canonicalize(dir).map_err(|source| files(dir, source))?
        }
        None => {
            let made = tempfile::Builder::new().prefix("knothole-run-").tempdir();
            scratch = made.map_err(|source| files(&std::env::temp_dir(), source))?;
            scratch.path().to_owned()
        }
    };
    let mut stage = InNetns::build(scenario, seed, &executable, &dir, &stop)?;
    play(args, scenario, &mut stage)
}

fn play(args: &RunArgs, scenario: &Scenario, stage: &mut dyn Stage) -> Result<Report, StageError> {
    carry_out(scenario, stage, &mut |told| {
        // Whoever reads along sees each step when it happens; if nobody reads any more, the run goes on.
        let _ = if args.json {
            say(told_json(told))
        } else {
            say(told_text(told))
        };
    })
}

fn begin(args: &RunArgs, scenario: &Scenario, world: WorldKind, seed: u64) {
    let (file, title) = (args.file.display().to_string(), &scenario.title);
    let word = world.word();
    let hosts = scenario
        .nodes
        .iter()
        .filter(|node| node.role == NodeRole::Host)
        .count();
    let _ = if args.json {
        say(json!({
            "schema": 1, "event": "scenario", "file": file, "title": title, "world": word, "seed": seed,
            "nodes": scenario.nodes.len(), "nats": scenario.nats.len(), "items": scenario.timeline.len(),
        }))
    } else {
        say(format_args!("{title}\n  {file}, world {word}, seed {seed}"))
    };
    if world == WorldKind::Sim && hosts > 0 && !args.json {
        let _ = say(format_args!("  {hosts} plain hosts have no part in this world"));
    }
}

fn told_text(told: &Told<'_>) -> String {
    let mark = match told.verdict {
        Verdict::Done => "      ",
        Verdict::Met => "ok    ",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skip  ",
    };
    let late = told.late.map_or(String::new(), |late| {
        format!(" ({:.1} s late)", late.as_secs_f64())
    });
    let saw = match (told.saw.is_empty(), told.verdict) {
        (true, _) => String::new(),
        (false, Verdict::Failed) => format!("\n                    line {}, saw: {}", told.line, told.saw),
        (false, _) => format!("\n                    {}", told.saw),
    };
    format!(
        "{:>9.3} s  {mark}  {}{late}{saw}",
        told.at.as_secs_f64(),
        told.text
    )
}

fn told_json(told: &Told<'_>) -> serde_json::Value {
    let event = match told.verdict {
        Verdict::Done => "step",
        _ => "verdict",
    };
    json!({
        "schema": 1, "event": event, "at_ms": ms(told.at), "line": told.line, "what": told.text,
        "verdict": told.verdict.word(), "saw": told.saw, "late_ms": told.late.map(ms),
    })
}

fn conclude(args: &RunArgs, report: &Report, world: WorldKind, seed: u64) {
    let command = command(args, world, seed);
    let (met, failed, skipped) = (report.met, report.failed.len(), report.skipped.len());
    let _ = if args.json {
        say(json!({
            "schema": 1, "event": "report", "good": report.is_good(), "steps": report.steps, "met": met,
            "failed": failed, "failed_lines": report.failed, "skipped": skipped, "skipped_lines": report.skipped,
            "took_ms": ms(report.took), "trace": report.trace, "command": command,
        }))
    } else {
        say(format_args!(
            "{} steps; expectations: {met} met, {failed} failed; {skipped} skipped\nrepeat: {command}",
            report.steps
        ))
    };
}

fn command(args: &RunArgs, world: WorldKind, seed: u64) -> String {
    let file = args.file.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let file = if file.chars().all(plain) {
        file
    } else {
        format!("'{}'", file.replace('\'', "'\\''"))
    };
    format!(
        "knothole-netsim run {file} --world {} --seed {seed}",
        world.word()
    )
}

fn exit_code(error: &StageError) -> u8 {
    match error {
        StageError::Lab(_) | StageError::Unavailable { .. } => CONFIGURATION,
        StageError::Role(RoleError::Timeout { .. }) => 8,
        StageError::Role(RoleError::Stopped) | StageError::Stopped => 130,
        _ => 1,
    }
}

fn files(path: &Path, source: std::io::Error) -> StageError {
    StageError::Files {
        what: path.display().to_string(),
        source,
    }
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn world(word: &str) -> Result<WorldKind, String> {
    match word {
        "sim" => Ok(WorldKind::Sim),
        "netns" => Ok(WorldKind::Netns),
        _ => Err("the worlds are sim and netns".to_owned()),
    }
}
