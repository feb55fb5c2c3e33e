//! `knothole-netsim bench`: everybody through the same lab, and the table of what came of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use knothole_netsim::bench::{self, BenchError, Contestant, Outcome, Plan, Report, Road, Shares, Way};
use knothole_netsim::demo::Stop;
use knothole_netsim::fabric::NatEngine;
use knothole_netsim::nat::NatKind;
use knothole_netsim::netns::become_lab_root;
use serde_json::{Value, json};

use super::table;
use crate::cli::say;
use crate::cli::size::parse_size;

/// Mbit/s that a server's relay forwards if it is told nothing else.
const USUAL_LIMIT: u64 = knothole_rendezvous::RELAY_TOTAL_BITS / 1_000_000;

/// Where Linux has files in memory.
const MEMORY: &str = "/dev/shm";

/// What is compared, and over what.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Only these: tcp, quic, iperf3, speed, speed-relay, send, send-relay, scp, rsync, sendme, wormhole, croc,
    /// folder, tar, scp-folder, rsync-folder, sendme-folder, wormhole-folder, croc-folder
    #[arg(long, env = "KNOTHOLE_ONLY", value_delimiter = ',', value_name = "NAME", value_parser = contestant)]
    only: Vec<Contestant>,
    /// Rounds, in which everybody takes a turn
    #[arg(long, env = "KNOTHOLE_RUNS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds of each stream
    #[arg(long, env = "KNOTHOLE_SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Size of the large file
    #[arg(long, env = "KNOTHOLE_SIZE", default_value = "2GiB", value_parser = parse_size)]
    size: u64,
    /// Files of 4 KiB in the folder
    #[arg(long, env = "KNOTHOLE_FILES", default_value_t = 20_000, value_name = "N")]
    files: u32,
    /// Round trip in milliseconds
    #[arg(long, env = "KNOTHOLE_RTT", default_value_t = 0, value_name = "MS")]
    rtt: u64,
    /// Rate of the sender's link in Mbit/s [default: as much as the lab carries]
    #[arg(long, env = "KNOTHOLE_RATE", value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: Option<u64>,
    /// Loss on the sender's link in percent, each way
    #[arg(long, env = "KNOTHOLE_LOSS", default_value_t = 0.0, value_name = "PERCENT", value_parser = percent)]
    loss: f64,
    /// Queue in front of the rate
    #[arg(long, env = "KNOTHOLE_QUEUE", value_name = "SIZE", value_parser = parse_size)]
    queue: Option<u64>,
    /// NAT in front of the sender (`knothole-netsim kinds` lists them)
    #[arg(long, env = "KNOTHOLE_NAT", default_value = "port-restricted", value_name = "KIND", value_parser = crate::cli::kind)]
    nat: &'static NatKind,
    /// Let the kernel play the NAT (needs nft)
    #[arg(long, env = "KNOTHOLE_KERNEL")]
    kernel: bool,
    /// Three transfers at once, and nothing else: through a relay with the server's usual limit, through one without, directly
    #[arg(long, env = "KNOTHOLE_SHARES", conflicts_with = "only")]
    shares: bool,
    /// Those three only through a relay with this limit in Mbit/s
    #[arg(long, env = "KNOTHOLE_RELAY_MBIT", requires = "shares", value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    relay_mbit: Option<u64>,
    /// Folder for the files [default: in memory, where there is such a folder]
    #[arg(long, env = "KNOTHOLE_DIR")]
    dir: Option<PathBuf>,
    /// One JSON object a run, and one with everything at the end
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Measures and prints. Threads must not exist yet.
pub(crate) fn run(args: &CompareArgs) -> ExitCode {
    let stop = match super::prepare(args.json, become_lab_root()) {
        Ok(stop) => stop,
        Err(code) => return code,
    };
    let done = match args.shares {
        true => share(args, &stop),
        false => compare(args, &stop),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::failed(args.json, &error),
    }
}

fn compare(args: &CompareArgs, stop: &Stop) -> Result<(), BenchError> {
    let plan = args.plan()?;
    let mut turns = Vec::new();
    bench::run(&plan, stop, &mut |contestant, round, outcome| {
        if args.json {
            // A reader that has seen enough is no failure.
            let _ = say(turn(contestant, round, outcome));
        } else {
            eprintln!("{}", table::turn(contestant, round, args.runs, outcome));
        }
        turns.push((contestant, outcome.clone()));
    })?;
    let report = bench::sum_up(&turns);
    let _ = if args.json {
        say(whole(args, &report))
    } else {
        say(format!(
            "{}\n\n{}",
            table::head(&args.conditions()),
            table::text(&report)
        ))
    };
    Ok(())
}

fn share(args: &CompareArgs, stop: &Stop) -> Result<(), BenchError> {
    let plan = args.plan()?;
    let ways = match args.relay_mbit {
        Some(mbit) => vec![Way::LimitedRelay(mbit)],
        None => vec![Way::LimitedRelay(USUAL_LIMIT), Way::Relay, Way::Direct],
    };
    for way in ways {
        let shares = bench::shares(&plan, way, stop)?;
        let _ = if args.json {
            say(shares_object(way, &shares))
        } else {
            say(table::shares(way, &shares))
        };
    }
    Ok(())
}

impl CompareArgs {
    fn plan(&self) -> Result<Plan, BenchError> {
        let memory = Path::new(MEMORY);
        let usual = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        Ok(Plan {
            who: if self.only.is_empty() {
                Contestant::ALL.to_vec()
            } else {
                self.only.clone()
            },
            runs: self.runs,
            time: Duration::from_secs(self.seconds),
            size: self.size,
            files: self.files,
            road: Road {
                nat: self.nat,
                engine: if self.kernel {
                    NatEngine::Kernel
                } else {
                    NatEngine::Model
                },
                rtt: Duration::from_millis(self.rtt),
                rate: self.rate.map(|mbit| mbit * 1_000_000),
                loss: self.loss / 100.0,
                queue: self
                    .queue
                    .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            },
            dir: self.dir.clone().unwrap_or(usual),
            executable: super::executable()?,
        })
    }

    /// Over what, in words.
    fn conditions(&self) -> String {
        let rate = self
            .rate
            .map_or("no rate limit".to_owned(), |mbit| format!("{mbit} Mbit/s"));
        let (by, loss) = (if self.kernel { "kernel" } else { "model" }, self.loss);
        let (nat, rtt) = (self.nat.name, self.rtt);
        format!(
            "{rtt} ms round trip, {rate}, {loss} % loss, {nat} NAT ({by}), {}",
            machine()
        )
    }
}

/// How busy the machine is otherwise: what is measured beside other work is noise.
fn machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{processors} processors, load {load} at the end")
}

fn turn(contestant: Contestant, round: u32, outcome: &Outcome) -> Value {
    let head = json!({ "schema": 1, "event": "turn", "contestant": contestant, "round": round });
    let more = match outcome {
        Outcome::Ran(sample) => serde_json::to_value(sample).unwrap_or_default(),
        Outcome::Missing(program) => json!({ "missing": true, "lacks": program }),
        Outcome::Failed(why) => json!({ "error": why }),
    };
    joined(head, more)
}

fn whole(args: &CompareArgs, report: &Report) -> Value {
    let head = json!({
        "schema": 1, "event": "report", "runs": args.runs, "seconds": args.seconds, "size": args.size,
        "files": args.files, "file_size": bench::SMALL, "rtt_ms": args.rtt, "rate_mbit": args.rate,
        "loss_percent": args.loss, "queue": args.queue, "nat": args.nat.name, "machine": machine(),
    });
    joined(head, serde_json::to_value(report).unwrap_or_default())
}

fn shares_object(way: Way, shares: &Shares) -> Value {
    let (word, limit) = match way {
        Way::LimitedRelay(mbit) => ("limited-relay", Some(mbit)),
        Way::Relay => ("relay", None),
        Way::Direct => ("direct", None),
    };
    let head = json!({ "schema": 1, "event": "shares", "way": word, "relay_mbit": limit });
    joined(head, serde_json::to_value(shares).unwrap_or_default())
}

fn joined(mut one: Value, other: Value) -> Value {
    if let (Some(target), Value::Object(source)) = (one.as_object_mut(), other) {
        target.extend(source);
    }
    one
}

fn contestant(name: &str) -> Result<Contestant, String> {
    Contestant::named(name).ok_or_else(|| {
        let names: Vec<&str> = Contestant::ALL.iter().map(|one| one.name()).collect();
        format!("the names are {}", names.join(", "))
    })
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shares_are_checked_when_they_are_read() {
        assert_eq!(contestant("send-relay"), Ok(Contestant::SendRelay));
        assert!(contestant("fastest").unwrap_err().contains("scp-folder"));
        assert_eq!(percent("0.1"), Ok(0.1));
        for bad in ["", "-1", "101", "NaN", "1%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
