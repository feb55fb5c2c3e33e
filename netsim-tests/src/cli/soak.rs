//! `knothole-netsim soak`: random attempts until a number, a time, or a failure.

use std::io;
use std::num::NonZeroUsize;
use std::ops::{ControlFlow, Range};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::say;
use knothole_netsim::nat::NatKind;
use knothole_netsim::parallel;
use knothole_netsim::sim::{
    Attempt, Choice, Failure, Fleet, Mischief, Outcome, PLACES, Place, Tally, Weather, World,
};

/// Time between two lines on how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Attempts that a thread takes at a time: some milliseconds of work, so that threads meet seldom.
const BATCH: u64 = 16;

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
    /// What the links are like, instead of anything: calm, ordinary, rough, storm, steady
    #[arg(long, value_parser = weather)]
    weather: Option<Weather>,
    /// Somebody who sees and copies packets: none, replay, race; instead of one in eight attempts
    #[arg(long, value_parser = stranger)]
    stranger: Option<Stranger>,
    /// Where the two are, instead of anywhere: apart, one-network, one-carrier, one-carrier-internal, one-carrier-hairpin,
    /// behind-carrier
    #[arg(long, value_parser = place)]
    place: Option<Place>,
    /// A timeline of changes after the two have met, for calm weather: none, random; instead of one calm attempt in sixteen
    #[arg(long, value_parser = changes)]
    changes: Option<Changes>,
    /// The side whose introductions come too late: a, b
    #[arg(long, requires = "skew_ms", value_parser = side)]
    late: Option<usize>,
    /// So many milliseconds after the other side it starts
    #[arg(long, requires = "late", value_name = "MS")]
    skew_ms: Option<u64>,
    /// The caller asks right after its start, and knows nothing of its network
    #[arg(long)]
    cold: bool,
    /// All machines are busy: programs hear late and wake late
    #[arg(long)]
    busy: bool,
    /// Threads; the results do not depend on it [default: all cores]
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Several nodes on one server in a run of misfortunes, instead of attempts of two
    #[arg(long, conflicts_with_all = ["a", "b", "weather", "stranger", "place", "changes", "late", "cold", "busy"])]
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

/// What the command line says about changes.
#[derive(Clone, Copy, Debug)]
struct Changes(bool);

/// Runs the attempts.
pub(crate) fn run(arguments: &SoakArgs) -> ExitCode {
    let choice = Choice {
        a: arguments.a,
        b: arguments.b,
        weather: arguments.weather,
        stranger: arguments.stranger.map(|stranger| stranger.0),
        place: arguments.place,
        skew: arguments.late.zip(arguments.skew_ms.map(Duration::from_millis)),
        changes: arguments.changes.map(|changes| changes.0),
        cold: arguments.cold,
        busy: arguments.busy,
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

/// Runs the attempts on all threads; what is told is in the order of the seeds.
fn hurry(seeds: Range<u64>, choice: &Choice, arguments: &SoakArgs, begun: Instant) -> Result<Tally, Failure> {
    let mut shown = begun;
    let mut result = Ok(Tally::new());
    let batches = seeds.clone().step_by(usize::try_from(BATCH).unwrap_or(1));
    let batches = batches.map(|first| first..seeds.end.min(first.saturating_add(BATCH)));
    let jobs = arguments.jobs.unwrap_or_else(parallel::all_cores);
    parallel::in_order(
        batches,
        jobs,
        |seeds| batch(seeds, choice, arguments.json),
        |(part, lines, failure)| {
            let Ok(tally) = &mut result else {
                return ControlFlow::Break(());
            };
            tally.merge(&part);
            let (runs, gone) = (tally.runs, lines.iter().try_for_each(say).is_err());
            if !arguments.json && shown.elapsed() > PROGRESS {
                shown = Instant::now();
                eprintln!("{runs} attempts, {:.0} a second", rate(runs, begun.elapsed()));
            }
            let over = gone || failure.is_some() || is_over(arguments, begun);
            if let Some(failure) = failure {
                result = Err(failure);
            }
            if over {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    result
}

/// Runs a few attempts, until one breaks a rule: what they come to, a line for each if wanted, and the failure.
fn batch(
    seeds: Range<u64>,
    choice: &Choice,
    lines: bool,
) -> (Tally, Vec<serde_json::Value>, Option<Failure>) {
    let (mut tally, mut told) = (Tally::new(), Vec::new());
    for seed in seeds {
        let attempt = choice.attempt(seed);
        match attempt.run() {
            Ok(outcome) => {
                tally.add(&outcome);
                if lines {
                    told.push(line(&attempt, &outcome));
                }
            }
            Err(failure) => return (tally, told, Some(failure)),
        }
    }
    (tally, told, None)
}

fn line(attempt: &Attempt, outcome: &Outcome) -> serde_json::Value {
    json!({
        "schema": 1, "event": "attempt", "seed": attempt.seed, "a": attempt.a.name, "b": attempt.b.name,
        "weather": attempt.weather.name, "place": attempt.place.word(), "changes": attempt.changes, "oracle": attempt.expect().word(), "direct": outcome.direct,
        "to_direct_ms": outcome.to_direct.map(|time| time.as_secs_f64() * 1000.0),
        "plans": outcome.plans.iter().map(|plan| plan.word()).collect::<Vec<_>>(),
        "probes": outcome.costs.map(|cost| cost.probes), "sockets": outcome.costs.map(|cost| cost.sockets),
        "nat_entries": outcome.nat_entries(), "trace": hex(&outcome.trace),
    })
}

/// Runs the attempts and prints the journal of each, also of one that breaks a rule.
fn narrate(seeds: Range<u64>, choice: &Choice) -> Result<Tally, Failure> {
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
fn sail(seeds: Range<u64>, arguments: &SoakArgs, begun: Instant) -> Result<Tally, Failure> {
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
            "attempts_per_core_second": runs as f64 / busy(),
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
        "speed          {rate:.0} attempts a second, {:.0} for each second of one core",
        runs as f64 / busy()
    ))
}

/// Seconds of processor time that this process has had, on all cores together.
fn busy() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let whole = Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    );
    whole.as_secs_f64().max(1e-9)
}

fn rate(runs: u64, took: Duration) -> f64 {
    runs as f64 / took.as_secs_f64().max(1e-9)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the name of a weather.
pub(super) fn weather(name: &str) -> Result<Weather, String> {
    Weather::named(name).ok_or_else(|| {
        let names: Vec<&str> = Weather::all().map(|weather| weather.name).collect();
        format!("the weathers are {}", names.join(", "))
    })
}

fn place(word: &str) -> Result<Place, String> {
    Place::named(word).ok_or_else(|| format!("the places are {}", PLACES.map(Place::word).join(", ")))
}

fn side(word: &str) -> Result<usize, String> {
    let names = ["a", "b"];
    let place = names.iter().position(|name| *name == word);
    place.ok_or_else(|| "one of a, b".to_owned())
}

fn changes(word: &str) -> Result<Changes, String> {
    match word {
        "none" => Ok(Changes(false)),
        "random" => Ok(Changes(true)),
        _ => Err("one of none, random".to_owned()),
    }
}

fn stranger(word: &str) -> Result<Stranger, String> {
    match (word, Mischief::named(word)) {
        ("none", _) => Ok(Stranger(None)),
        (_, Some(mischief)) => Ok(Stranger(Some(mischief))),
        _ => Err("one of none, replay, race".to_owned()),
    }
}
