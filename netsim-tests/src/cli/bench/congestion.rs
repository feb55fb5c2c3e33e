//! `knothole-netsim bench congestion`: the table of congestion controllers.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use knothole::session::reference;
use knothole_netsim::bench::{self, BenchError, CongestionPlan, CongestionRow};
use knothole_netsim::demo::Stop;
use knothole_netsim::netns::become_lab_root;
use serde_json::json;

use crate::cli::say;

/// Compares congestion controllers over round trips, losses and queues.
#[derive(Args, Debug)]
pub(crate) struct CongestionArgs {
    /// Rate of the link in Mbit/s
    #[arg(long, env = "KNOTHOLE_RATE", default_value_t = 1000, value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Round trips in milliseconds
    #[arg(long, env = "KNOTHOLE_RTT", value_delimiter = ',', value_name = "MS")]
    rtt: Vec<u64>,
    /// Losses each way in percent
    #[arg(long, env = "KNOTHOLE_LOSS", value_delimiter = ',', value_name = "PERCENT")]
    loss: Vec<f64>,
    /// Queues before the link: deep is 50 ms of its rate, shallow 2 ms
    #[arg(long, env = "KNOTHOLE_QUEUE", value_delimiter = ',')]
    queue: Vec<Queue>,
    /// Controllers
    #[arg(long, env = "KNOTHOLE_CONTROLLER", value_delimiter = ',')]
    controller: Vec<Controller>,
    /// Seconds for each
    #[arg(long, env = "KNOTHOLE_SECONDS", default_value_t = 10.0)]
    seconds: f64,
    /// Seconds at the start that do not count
    #[arg(long, env = "KNOTHOLE_START", default_value_t = 4.0)]
    start: f64,
    /// Runs of each
    #[arg(long, env = "KNOTHOLE_RUNS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// One JSON object a row
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Queue {
    Deep,
    Shallow,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Controller {
    Own,
    Cubic,
    Bbr,
}

/// Measures and prints. Threads must not exist yet.
pub(crate) fn run(args: &CongestionArgs) -> ExitCode {
    let stop = match super::prepare(args.json, become_lab_root()) {
        Ok(stop) => stop,
        Err(code) => return code,
    };
    match measure(args, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::failed(args.json, &error),
    }
}

fn measure(args: &CongestionArgs, stop: &Stop) -> Result<(), BenchError> {
    let plan = args.plan()?;
    if !args.json {
        let _ = say(format!(
            "link {} Mbit/s; goodput in Gbit/s after {} s, for {} s",
            args.rate,
            args.start,
            (args.seconds - args.start).max(0.0)
        ));
        let _ = say(format!(
            "{:>6} {:>6} {:>8} {:>6} {:>7} {:>7}-{:<7} {:>6} {:>6} {:>8}",
            "rtt", "loss", "queue", "who", "Gbit/s", "min", "max", "link", "queue", "lab"
        ));
        let _ = say(format!(
            "{:>6} {:>6} {:>8} {:>6} {:>7} {:>15} {:>6} {:>6} {:>8}",
            "ms", "%", "", "", "median", "", "%", "drop %", "drops"
        ));
    }
    bench::congestion(&plan, stop, &mut |row| {
        // A reader that has seen enough is no failure; the rest is quick to interrupt.
        let _ = if args.json {
            say(object(row))
        } else {
            say(line(row, args.rate))
        };
    })
}

impl CongestionArgs {
    fn plan(&self) -> Result<CongestionPlan, BenchError> {
        let mut plan = CongestionPlan::whole(super::executable()?);
        plan.rate_mbit = self.rate;
        plan.time = Duration::try_from_secs_f64(self.seconds).unwrap_or(plan.time);
        plan.start = Duration::try_from_secs_f64(self.start).unwrap_or(plan.start);
        plan.runs = self.runs;
        if !self.rtt.is_empty() {
            plan.rtts_ms.clone_from(&self.rtt);
        }
        if !self.loss.is_empty() {
            plan.losses_percent.clone_from(&self.loss);
        }
        if !self.queue.is_empty() {
            let queue = |queue: &Queue| match queue {
                Queue::Deep => bench::Queue::Deep,
                Queue::Shallow => bench::Queue::Shallow,
            };
            plan.queues = self.queue.iter().map(queue).collect();
        }
        if !self.controller.is_empty() {
            let controller = |controller: &Controller| match controller {
                Controller::Own => reference::Controller::Own,
                Controller::Cubic => reference::Controller::Cubic,
                Controller::Bbr => reference::Controller::Bbr,
            };
            plan.controllers = self.controller.iter().map(controller).collect();
        }
        Ok(plan)
    }
}

fn line(row: &CongestionRow, rate_mbit: u64) -> String {
    let weather = row.weather;
    let queue = match weather.queue {
        bench::Queue::Deep => "deep",
        bench::Queue::Shallow => "shallow",
    };
    let head = format!(
        "{:>6} {:>6} {:>8} {:>6}",
        weather.rtt_ms, weather.loss_percent, queue, row.controller
    );
    let Some(gbit) = row.gbit else {
        let error = row.runs.iter().find_map(|run| run.error.as_deref());
        let error = error.and_then(|error| error.lines().next());
        return format!("{head} {}", error.unwrap_or("nothing arrived after the start"));
    };
    let overflow = row.runs.iter().map(|run| run.overflow).fold(0.0, f64::max);
    let drops: u64 = row.runs.iter().map(|run| run.device_drops).sum();
    format!(
        "{head} {:>7.3} {:>7.3}-{:<7.3} {:>6.1} {:>6.2} {:>8}",
        gbit.median,
        gbit.min,
        gbit.max,
        gbit.median * 100_000.0 / rate_mbit as f64,
        overflow * 100.0,
        drops
    )
}

fn object(row: &CongestionRow) -> serde_json::Value {
    let mut value = json!({ "schema": 1, "event": "congestion" });
    if let (Some(target), Ok(serde_json::Value::Object(source))) =
        (value.as_object_mut(), serde_json::to_value(row))
    {
        target.extend(source);
    }
    value
}
