//! `knothole-netsim soak`: random attempts until a number, a time, or a failure.

use std::io;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::say;
use knothole_netsim::nat::NatKind;
use knothole_netsim::sim::{
    Attempt, Choice, Failure, Fleet, Mischief, Outcome, Tally, WEATHERS, Weather, World, soak,
};

/// Time between two lines on how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs random attempts in virtual time; a failure comes with its seed and the command that repeats it.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How many attempts
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// How many minutes at most
    #[arg(long)]
    minutes: Option<f64>,
    /// The first seed; the others follow it
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The NAT in front of the caller, instead of any
    #[arg(long, value_name = "KIND", value_parser = super::kind)]
    a: Option<&'static NatKind>,
    /// The NAT in front of the callee, instead of any
    #[arg(long, value_name = "KIND", value_parser = super::kind)]
    b: Option<&'static NatKind>,
    /// What the links are like, instead of anything: calm, ordinary, rough, storm
    #[arg(long, value_parser = weather)]
    weather: Option<Weather>,
    /// Somebody who sees and copies packets: none, replay, race; instead of one in eight attempts
    #[arg(long, value_parser = stranger)]
    stranger: Option<Stranger>,
    /// Several nodes on one server in a run of misfortunes, instead of attempts of two
    #[arg(long, conflicts_with_all = ["a", "b", "weather", "stranger"])]
    fleet: bool,
    /// Print every event of every attempt
    #[arg(long)]
    journal: bool,
    /// One JSON object per attempt, and one at the end
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// What the command line says about the stranger.
#[derive(Clone, Copy, Debug)]
struct Stranger(Option<Mischief>);

/// Runs the attempts.
pub(crate) fn run(arguments: &SoakArgs) -> ExitCode {
    let choice = Choice {
        a: arguments.a,
        b: arguments.b,
        weather: arguments.weather,
        stranger: arguments.stranger.map(|stranger| stranger.0),
    };
    let seeds = arguments.seed..arguments.seed.saturating_add(arguments.seeds);
    let begun = Instant::now();
    let result = if arguments.fleet {
        sail(seeds, arguments, begun)
    } else if arguments.journal {
        narrate(seeds, &choice)
    } else {
        hurry(seeds, &choice, arguments, begun)
    };
    // A reader that has seen enough is no failure: what could not be said is not said.
    match result {
        Ok(tally) => {
            let _ = conclude(&tally, begun.elapsed(), arguments.json);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            if arguments.json {
                let (seed, what, command) = (failure.seed, failure.violation.to_string(), &failure.command);
                let _ = say(json!({
                    "schema": 1, "event": "failure", "seed": seed, "what": what, "command": command,
                }));
            }
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn hurry(
    seeds: std::ops::Range<u64>,
    choice: &Choice,
    arguments: &SoakArgs,
    begun: Instant,
) -> Result<Tally, Failure> {
    let (mut shown, mut runs) = (begun, 0u64);
    soak(seeds, choice, |attempt, outcome| {
        runs += 1;
        let mut over = is_over(arguments, begun);
        if arguments.json {
            over |= say(line(attempt, outcome)).is_err();
        } else if shown.elapsed() > PROGRESS {
            shown = Instant::now();
            eprintln!("{runs} attempts, {:.0} a second", rate(runs, begun.elapsed()));
        }
        if over {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
}

fn line(attempt: &Attempt, outcome: &Outcome) -> serde_json::Value {
    json!({
        "schema": 1, "event": "attempt", "seed": attempt.seed, "a": attempt.a.name, "b": attempt.b.name,
        "weather": attempt.weather.name, "oracle": attempt.expect().word(), "direct": outcome.direct,
        "to_direct_ms": outcome.to_direct.map(|time| time.as_secs_f64() * 1000.0),
        "probes": outcome.probes, "nat_entries": outcome.nat_entries, "trace": hex(&outcome.trace),
    })
}

/// Runs the attempts and prints the journal of each, also of one that breaks a rule.
fn narrate(seeds: std::ops::Range<u64>, choice: &Choice) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    for seed in seeds {
        let attempt = choice.attempt(seed);
        let mut world = World::at(attempt.epoch, seed);
        world.keep_journal();
        let result = attempt.run_in(&mut world);
        let gone = world.journal().try_for_each(say).is_err();
        tally.add(&result?);
        if gone {
            break;
        }
    }
    Ok(tally)
}

/// Runs fleets. What they have in common with attempts goes into the tally: runs, pairs that are direct, events, time.
fn sail(seeds: std::ops::Range<u64>, arguments: &SoakArgs, begun: Instant) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    for seed in seeds {
        let mut fleet = Fleet::new(seed)?;
        if arguments.journal {
            fleet.world().keep_journal();
        }
        let result = fleet.run();
        let mut over = fleet.world().journal().try_for_each(say).is_err();
        let outcome = result?;
        tally.add_fleet(&outcome);
        if arguments.json {
            over |= say(json!({
                "schema": 1, "event": "fleet", "seed": seed, "nodes": outcome.nodes,
                "misfortunes": outcome.misfortunes, "pairs": outcome.pairs.0, "direct": outcome.pairs.1,
                "trace": hex(&outcome.trace),
            }))
            .is_err();
        }
        if over || is_over(arguments, begun) {
            break;
        }
    }
    Ok(tally)
}

/// Is the time over that was given?
fn is_over(arguments: &SoakArgs, begun: Instant) -> bool {
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs_f64((minutes * 60.0).clamp(0.0, 1e9)));
    limit.is_some_and(|limit| begun.elapsed() > limit)
}

/// Says what it came to; of fleets every pair that met in the end counts as an attempt.
fn conclude(tally: &Tally, took: Duration, json: bool) -> io::Result<()> {
    let ms = |share| tally.to_direct(share).map(|time| time.as_millis());
    let (runs, direct) = (tally.runs, tally.direct);
    let rate = rate(runs, took);
    if json {
        return say(json!({
            "schema": 1, "event": "done", "attempts": runs, "direct": direct, "relay": runs - direct,
            "to_direct_ms": { "p50": ms(0.5), "p95": ms(0.95), "p99": ms(0.99) },
            "probes_max": tally.probes_max, "nat_entries_max": tally.nat_entries_max, "events": tally.events,
            "seconds": took.as_secs_f64(), "attempts_per_second": rate,
        }));
    }
    say(format_args!("attempts       {runs}, no rule broken"))?;
    say(format_args!(
        "direct         {direct} ({:.2} %)",
        100.0 * direct as f64 / runs.max(1) as f64
    ))?;
    if let (Some(p50), Some(p95), Some(p99)) = (ms(0.5), ms(0.95), ms(0.99)) {
        say(format_args!(
            "to direct      {p50} ms median, {p95} ms 95 %, {p99} ms 99 %"
        ))?;
    }
    if tally.probes_max > 0 {
        say(format_args!(
            "probes         {} at most by one side",
            tally.probes_max
        ))?;
        say(format_args!("nat entries    {} at most", tally.nat_entries_max))?;
    }
    say(format_args!(
        "virtual time   {:.0} s",
        tally.virtual_time.as_secs_f64()
    ))?;
    say(format_args!(
        "speed          {rate:.0} attempts a second, {} events",
        tally.events
    ))
}

fn rate(runs: u64, took: Duration) -> f64 {
    runs as f64 / took.as_secs_f64().max(1e-9)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weather(name: &str) -> Result<Weather, String> {
    Weather::named(name).ok_or_else(|| {
        let names: Vec<&str> = WEATHERS.iter().map(|weather| weather.name).collect();
        format!("the weathers are {}", names.join(", "))
    })
}

fn stranger(word: &str) -> Result<Stranger, String> {
    match (word, Mischief::named(word)) {
        ("none", _) => Ok(Stranger(None)),
        (_, Some(mischief)) => Ok(Stranger(Some(mischief))),
        _ => Err("one of none, replay, race".to_owned()),
    }
}
