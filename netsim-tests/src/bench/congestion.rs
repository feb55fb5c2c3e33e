//! Congestion controllers side by side: the same QUIC, the same links, round trips, losses and queues.
//!
//! The sending host's access link has the rate, the loss (both ways) and the queue; the other one only delays. What is
//! measured is what arrives once the start is over. A first row says what the kernel's TCP gets over the best of these
//! links: if that is far below the rate, the machine is too slow or too busy for the rate, and so are all other rows.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use knothole::session::reference::Controller;
use serde::Serialize;

use super::plain::{Ends, Plain, PlainRun, controller_word};
use super::stats::Spread;
use super::{BenchError, lost_by_devices};
use crate::fabric::{HostSpec, Lab};
use crate::link::LinkSpec;
use crate::nat::NatSpec;
use crate::role::Stop;

/// Bytes that may be in flight: more than any of the links and queues holds, so that only the controller decides. The product
/// of 1 Gbit/s and 150 ms is 19 MB.
const WINDOW: u32 = 64 << 20;

/// How long the queue of a generous router is, as time at the rate of the link: what home routers were sold with.
const DEEP: Duration = Duration::from_millis(50);

/// How long a shallow one is: the order of a switch's share per port.
const SHALLOW: Duration = Duration::from_millis(2);

/// What is compared.
#[derive(Clone, Debug)]
pub struct CongestionPlan {
    /// Rate of the link in Mbit/s.
    pub rate_mbit: u64,
    /// Round trips in milliseconds.
    pub rtts_ms: Vec<u64>,
    /// Losses in percent, each way.
    pub losses_percent: Vec<f64>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Controllers.
    pub controllers: Vec<Controller>,
    /// How long each is given.
    pub time: Duration,
    /// How much of that is the start and does not count.
    pub start: Duration,
    /// How often each is tried; they take turns.
    pub runs: u32,
    /// The lab's own executable.
    pub executable: PathBuf,
}

impl CongestionPlan {
    /// The whole table at this rate.
    #[must_use]
    pub fn whole(executable: PathBuf) -> Self {
        Self {
            rate_mbit: 1000,
            rtts_ms: vec![0, 50, 150],
            losses_percent: vec![0.0, 0.1, 1.0],
            queues: vec![Queue::Deep, Queue::Shallow],
            controllers: vec![Controller::Cubic, Controller::Bbr, Controller::Own],
            time: Duration::from_secs(10),
            start: Duration::from_secs(4),
            runs: 1,
            executable,
        }
    }
}

/// What waits in front of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Queue {
    /// 50 ms at the rate of the link.
    Deep,
    /// 2 ms.
    Shallow,
}

impl Queue {
    fn bytes(self, rate_mbit: u64) -> usize {
        let time = match self {
            Self::Deep => DEEP,
            Self::Shallow => SHALLOW,
        };
        let bytes = u128::from(rate_mbit) * time.as_micros() / 8;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// One link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Weather {
    /// Round trip in milliseconds.
    pub rtt_ms: u64,
    /// Loss each way in percent.
    pub loss_percent: f64,
    /// The queue in front of it.
    pub queue: Queue,
}

/// What one controller made of one link.
#[derive(Clone, Debug, Serialize)]
pub struct CongestionRow {
    /// The link.
    #[serde(flatten)]
    pub weather: Weather,
    /// `tcp` or the controller.
    pub controller: &'static str,
    /// Every run.
    pub runs: Vec<CongestionRun>,
    /// Goodput in Gbit/s once the start is over; `None` if no run came to its end.
    pub gbit: Option<Spread>,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct CongestionRun {
    /// Goodput in Gbit/s once the start is over; `None` if the run failed.
    pub gbit: Option<f64>,
    /// Of the packets that the sender offered to the link, the share that its queue had no room for.
    pub overflow: f64,
    /// Packets that the hosts' devices dropped because the lab did not keep up. With many, the row is about the machine.
    pub device_drops: u64,
    /// Seconds of processor time of the sender.
    pub sender_cpu_seconds: f64,
    /// What went wrong, if something did.
    pub error: Option<String>,
}

/// Tries every controller on every link, and tells each row when it is known. The first is the control: TCP.
///
/// # Errors
/// [`BenchError`] of the lab; a run that fails is part of its row.
pub fn congestion(
    plan: &CongestionPlan,
    stop: &Stop,
    observe: &mut dyn FnMut(&CongestionRow),
) -> Result<(), BenchError> {
    let dir = super::temporary()?;
    let best = Weather {
        rtt_ms: 0,
        loss_percent: 0.0,
        queue: Queue::Deep,
    };
    let course = Course {
        plan,
        stop,
        dir: dir.path(),
    };
    let control = course.run(best, Plain::Tcp)?;
    observe(&row(best, "tcp", vec![control]));
    for queue in &plan.queues {
        for rtt_ms in &plan.rtts_ms {
            for loss_percent in &plan.losses_percent {
                let weather = Weather {
                    rtt_ms: *rtt_ms,
                    loss_percent: *loss_percent,
                    queue: *queue,
                };
                course.compare(weather, observe)?;
            }
        }
    }
    Ok(())
}

struct Course<'a> {
    plan: &'a CongestionPlan,
    stop: &'a Stop,
    dir: &'a std::path::Path,
}

impl Course<'_> {
    fn compare(&self, weather: Weather, observe: &mut dyn FnMut(&CongestionRow)) -> Result<(), BenchError> {
        let controllers = &self.plan.controllers;
        let mut runs = vec![Vec::new(); controllers.len()];
        for _ in 0..self.plan.runs {
            for (controller, runs) in controllers.iter().zip(&mut runs) {
                runs.push(self.run(weather, Plain::Quic(*controller, Some(WINDOW)))?);
            }
        }
        for (controller, runs) in controllers.iter().zip(runs) {
            observe(&row(weather, controller_word(*controller), runs));
        }
        Ok(())
    }

    fn run(&self, weather: Weather, plain: Plain<'_>) -> Result<CongestionRun, BenchError> {
        let lab = lab(weather, self.plan.rate_mbit)?;
        let ends = Ends {
            from: lab.host("a")?,
            to: lab.host("b")?,
            executable: &self.plan.executable,
            dir: self.dir,
        };
        let outcome = match ends.run(plain, self.plan.time, self.stop) {
            Err(BenchError::Role(crate::role::RoleError::Stopped)) => {
                return Err(crate::role::RoleError::Stopped.into());
            }
            outcome => outcome,
        };
        let link = lab
            .stats()
            .links
            .into_iter()
            .find(|(name, _)| name.starts_with("a."));
        let up = link.map(|(_, link)| link.up).unwrap_or_default();
        let device_drops = lost_by_devices(ends.from)? + lost_by_devices(ends.to)?;
        let (run, error) = match outcome {
            Ok(run) => (Some(run), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let steady = |run: &PlainRun| run.received.gbit_within(self.plan.start, self.plan.time);
        Ok(CongestionRun {
            gbit: run.as_ref().and_then(steady),
            overflow: up.queue_drops as f64 / up.offered.max(1) as f64,
            device_drops,
            sender_cpu_seconds: run.map_or(0.0, |run| run.sender.cpu_seconds),
            error,
        })
    }
}

fn row(weather: Weather, controller: &'static str, runs: Vec<CongestionRun>) -> CongestionRow {
    CongestionRow {
        weather,
        controller,
        gbit: Spread::of(runs.iter().filter_map(|run| run.gbit)),
        runs,
    }
}

/// A host behind a NAT and a public one, with this between them.
fn lab(weather: Weather, rate_mbit: u64) -> Result<Lab, BenchError> {
    let part = Duration::from_micros(weather.rtt_ms * 1000 / 4);
    let mut narrow = LinkSpec::delay(part)
        .with_rate(rate_mbit * 1_000_000)
        .with_queue(weather.queue.bytes(rate_mbit));
    if weather.loss_percent > 0.0 {
        narrow = narrow.with_loss(weather.loss_percent / 100.0);
    }
    let inside = IpAddr::from([192, 168, 1, 10]);
    Ok(Lab::builder()
        .host("a", HostSpec::behind(vec![NatSpec::default()], inside))
        .host("b", HostSpec::public([Ipv4Addr::new(5, 5, 5, 1)]))
        .link("a", narrow)
        .link("b", LinkSpec::delay(part))
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_times_at_the_rate_of_the_link() {
        assert_eq!(Queue::Deep.bytes(1000), 6_250_000);
        assert_eq!(Queue::Shallow.bytes(1000), 250_000);
        assert_eq!(Queue::Shallow.bytes(100), 25_000);
    }

    #[test]
    fn a_run_that_failed_does_not_count_and_is_not_hidden() {
        let run = |gbit, error: Option<&str>| CongestionRun {
            gbit,
            overflow: 0.0,
            device_drops: 0,
            sender_cpu_seconds: 0.0,
            error: error.map(str::to_owned),
        };
        let weather = Weather {
            rtt_ms: 50,
            loss_percent: 0.1,
            queue: Queue::Shallow,
        };
        let row = row(
            weather,
            "bbr",
            vec![run(Some(0.5), None), run(None, Some("broke"))],
        );
        assert_eq!(row.gbit.unwrap().median, 0.5);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!((&json["queue"], &json["rtt_ms"]), (&"shallow".into(), &50.into()));
        assert_eq!(json["runs"][1]["error"], "broke");
    }
}
