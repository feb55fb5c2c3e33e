//! The measurement itself: two hosts and a server, on which the contestants take turns, round after round.
//!
//! Alternating, because a machine is not the same after a minute: what is compared was measured side by side.

use std::path::PathBuf;
use std::time::Duration;

use knothole::session::reference::Controller;
use serde::Serialize;

use super::contestant::{Contestant, Load};
use super::load::{self, Cargo, Warm};
use super::own::Own;
use super::plain::{Ends, Plain};
use super::rivals::{self, Field, RivalRun};
use super::usage::Used;
use super::yardstick::gbit;
use super::{BenchError, croc, temporary_in, wormhole};
use crate::demo::PathSeen;
use crate::demo::meeting::{Cast, Meeting};
use crate::fabric::NatEngine;
use crate::link::LinkSpec;
use crate::nat::NatKind;
use crate::role::{RoleError, Stop};
use crate::sim::Place;

/// Slowest transfer that is waited for, in bytes a second; what is slower is given up.
const SLOWEST: u64 = 2 << 20;

/// Small files that a transfer must get done in a second, likewise: some programs wait for an answer after each.
const SLOWEST_FILES: u64 = 20;

/// How long anything may take besides.
const GRACE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who takes part, in the order of a round.
    pub who: Vec<Contestant>,
    /// Rounds.
    pub runs: u32,
    /// How long a stream is measured.
    pub time: Duration,
    /// Bytes of the large file.
    pub size: u64,
    /// Small files in the folder.
    pub files: u32,
    /// What lies between the two hosts.
    pub road: Road,
    /// Folder for the files; in memory, or the disk is measured.
    pub dir: PathBuf,
    /// The lab's own executable.
    pub executable: PathBuf,
}

/// What lies between the hosts. All that is narrow or bad is in the sender's access link, the same both ways; each of the
/// two links has a quarter of the round trip each way. The way over the server is as long.
#[derive(Clone, Copy, Debug)]
pub struct Road {
    /// The NAT in front of the sending host; the receiving one is public, or programs without hole punching could not
    /// reach it.
    pub nat: &'static NatKind,
    /// Who plays it.
    pub engine: NatEngine,
    /// Round trip.
    pub rtt: Duration,
    /// Bits a second; `None`: as much as the lab carries.
    pub rate: Option<u64>,
    /// Loss each way, 0 to 1.
    pub loss: f64,
    /// Bytes of queue before the rate, if not the usual.
    pub queue: Option<usize>,
}

impl Road {
    fn links(&self) -> [LinkSpec; 2] {
        let plain = LinkSpec::delay(self.rtt / 4);
        let mut narrow = plain;
        if let Some(rate) = self.rate {
            narrow = narrow.with_rate(rate);
        }
        if self.loss > 0.0 {
            narrow = narrow.with_loss(self.loss);
        }
        if let Some(queue) = self.queue {
            narrow = narrow.with_queue(queue);
        }
        [narrow, plain]
    }

    /// The lab, without any program in it.
    pub(super) fn meeting(&self, plan: &Plan, stop: &Stop) -> Result<Meeting, BenchError> {
        let open =
            crate::nat::kind("open").ok_or_else(|| BenchError::Rival("no kind is called open".to_owned()))?;
        let cast = Cast {
            names: ["a", "b"],
            kinds: [self.nat, open],
            place: Place::Apart,
            late: Duration::ZERO,
            links: self.links(),
            server_delay: Duration::ZERO,
            seed: 0,
            executable: plan.executable.clone(),
            engine: self.engine,
        };
        Ok(Meeting::new_in(&plan.dir, cast, stop)?)
    }
}

/// One run of one contestant.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Of a stream, from its first byte to its last; of files, from the start of the command to its end.
    pub seconds: f64,
    /// The rate that follows.
    pub gbit: f64,
    /// The rate that the program itself tells, which leaves out how long it took to begin and to end.
    pub said_gbit: Option<f64>,
    /// The path, of programs that have several.
    pub path: Option<PathSeen>,
    /// What the sending program used.
    pub sender: Used,
    /// What the receiving one used.
    pub receiver: Used,
    /// What the server used, of whoever goes through one.
    pub server: Option<Used>,
}

impl Sample {
    pub(super) fn new(bytes: u64, seconds: f64, sender: Used, receiver: Used) -> Self {
        Self {
            bytes,
            seconds,
            gbit: gbit(bytes, seconds),
            said_gbit: None,
            path: None,
            sender,
            receiver,
            server: None,
        }
    }
}

/// What came of a turn.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It ran.
    Ran(Sample),
    /// This program is not installed: the contestant's own, or one that it needs.
    Missing(&'static str),
    /// It failed; why, in one line.
    Failed(String),
}

/// Lets everybody take turns, and tells what came of each turn, with the number of the round. Who is missing
/// is not asked again.
///
/// # Errors
/// [`BenchError`] of the lab and of its files, and when stopped.
pub fn run(
    plan: &Plan,
    stop: &Stop,
    observe: &mut dyn FnMut(Contestant, u32, &Outcome),
) -> Result<(), BenchError> {
    let course = Course::build(plan, stop)?;
    let mut who = plan.who.clone();
    for round in 1..=plan.runs {
        let mut fit = Vec::new();
        for contestant in who {
            let outcome = match course.turn(contestant) {
                Ok(sample) => Outcome::Ran(sample),
                Err(BenchError::Missing(program)) => Outcome::Missing(program),
                Err(
                    error @ (BenchError::Lab(_)
                    | BenchError::Role(RoleError::Stopped | RoleError::Files { .. })),
                ) => {
                    return Err(error);
                }
                Err(error) => {
                    Outcome::Failed(error.to_string().lines().next().unwrap_or_default().to_owned())
                }
            };
            observe(contestant, round, &outcome);
            if !matches!(outcome, Outcome::Missing(_)) {
                fit.push(contestant);
            }
        }
        who = fit;
    }
    Ok(())
}

/// The stage: everything that stands while the contestants come and go.
struct Course<'a> {
    plan: &'a Plan,
    stop: &'a Stop,
    cargo: Cargo,
    /// Where files arrive.
    arrived: PathBuf,
    /// Knothole's server and receiver, if Knothole takes part. They end before the lab does.
    own: Option<Own>,
    meeting: Meeting,
    dir: tempfile::TempDir,
}

impl<'a> Course<'a> {
    fn build(plan: &'a Plan, stop: &'a Stop) -> Result<Self, BenchError> {
        let dir = temporary_in(&plan.dir)?;
        let has = |load| plan.who.iter().any(|one| one.load() == load);
        let size = has(Load::File).then_some(plan.size);
        let files = has(Load::Folder).then_some(plan.files);
        let cargo = Cargo::make(dir.path(), size, files)
            .map_err(|source| BenchError::files("the files to send", source))?;
        let arrived = dir.path().join("arrived");
        empty(&arrived)?;
        let mut meeting = plan.road.meeting(plan, stop)?;
        let own = plan.who.iter().any(|one| one.is_own());
        let own = own.then(|| Own::start(&mut meeting, &arrived)).transpose()?;
        Ok(Self {
            plan,
            stop,
            cargo,
            arrived,
            own,
            meeting,
            dir,
        })
    }

    /// One run.
    fn turn(&self, contestant: Contestant) -> Result<Sample, BenchError> {
        self.stop.check()?;
        let warm = self.warm(contestant)?;
        let sample = match contestant {
            Contestant::Tcp | Contestant::Quic | Contestant::Tar => self.plain(contestant),
            Contestant::Iperf3 => {
                rivals::iperf3(self.field()?, self.plan.time).map(|run| self.sample(contestant, run))
            }
            _ if contestant.is_own() => self.own(contestant),
            _ => self.rival(contestant),
        };
        if contestant.load() != Load::Stream {
            let whole = sample.and_then(|sample| self.whole(contestant, sample));
            empty(&self.arrived)?;
            drop(warm);
            return whole;
        }
        sample
    }

    /// Memory for what is to arrive.
    fn warm(&self, contestant: Contestant) -> Result<Option<Warm>, BenchError> {
        let bytes = match contestant.load() {
            Load::Stream => return Ok(None),
            Load::File => self.cargo.size,
            Load::Folder => self.cargo.folder_bytes(),
        };
        Warm::up(self.dir.path(), bytes)
            .map(Some)
            .map_err(|source| BenchError::files("room for what arrives", source))
    }

    fn plain(&self, contestant: Contestant) -> Result<Sample, BenchError> {
        let lab = self.meeting.lab();
        let ends = Ends {
            from: lab.host("a")?,
            to: lab.host("b")?,
            executable: &self.plan.executable,
            dir: self.dir.path(),
        };
        let folders = [self.cargo.folder.as_path(), self.arrived.as_path()];
        let (plain, time) = match contestant {
            Contestant::Tcp => (Plain::Tcp, self.plan.time),
            Contestant::Tar => (Plain::Tar(folders), self.limit(contestant)),
            _ => (Plain::Quic(Controller::Own, None), self.plan.time),
        };
        let run = ends.run(plain, time, self.stop)?;
        let received = run.received;
        if contestant == Contestant::Tar {
            // As everywhere: the files' bytes, from the start of the command to its end.
            return Ok(Sample::new(
                self.cargo.folder_bytes(),
                run.seconds,
                run.sender,
                run.receiver,
            ));
        }
        Ok(Sample::new(
            received.bytes,
            received.seconds,
            run.sender,
            run.receiver,
        ))
    }

    fn own(&self, contestant: Contestant) -> Result<Sample, BenchError> {
        let own = self.own.as_ref();
        let own = own.ok_or_else(|| BenchError::Rival("knothole was not started".to_owned()))?;
        let relay = match contestant {
            Contestant::SpeedRelay | Contestant::SendRelay => "only",
            _ => "never",
        };
        let limit = self.limit(contestant);
        match contestant.load() {
            Load::Stream => own.speed(&self.meeting, self.plan.time, relay, limit, self.stop),
            Load::File => own.send(&self.meeting, &self.cargo.file, relay, limit, self.stop),
            Load::Folder => own.send(&self.meeting, &self.cargo.folder, relay, limit, self.stop),
        }
    }

    fn rival(&self, contestant: Contestant) -> Result<Sample, BenchError> {
        let mut field = self.field()?;
        field.limit = self.limit(contestant);
        let what = match contestant.load() {
            Load::Folder => &self.cargo.folder,
            _ => &self.cargo.file,
        };
        let run = match contestant {
            Contestant::Scp | Contestant::ScpFolder => rivals::over_ssh(field, "scp", what, &self.arrived)?,
            Contestant::Rsync | Contestant::RsyncFolder => {
                rivals::over_ssh(field, "rsync", what, &self.arrived)?
            }
            Contestant::Wormhole | Contestant::WormholeFolder => {
                wormhole::wormhole(field, what, &self.arrived)?
            }
            Contestant::Croc | Contestant::CrocFolder => croc::croc(field, what, &self.arrived)?,
            _ => rivals::sendme(field, what, &self.arrived)?,
        };
        Ok(self.sample(contestant, run))
    }

    fn sample(&self, contestant: Contestant, run: RivalRun) -> Sample {
        let bytes = match contestant.load() {
            Load::Folder => self.cargo.folder_bytes(),
            Load::File | Load::Stream => self.cargo.size,
        };
        Sample {
            server: run.server,
            ..Sample::new(run.bytes.unwrap_or(bytes), run.seconds, run.sender, run.receiver)
        }
    }

    /// Is everything there? Whoever loses files is no contestant.
    fn whole(&self, contestant: Contestant, sample: Sample) -> Result<Sample, BenchError> {
        let expected = match contestant.load() {
            Load::Folder => (u64::from(self.cargo.files), self.cargo.folder_bytes()),
            Load::File | Load::Stream => (1, self.cargo.size),
        };
        let found = load::count(&self.arrived).map_err(|source| BenchError::files("what arrived", source))?;
        if found == expected {
            return Ok(sample);
        }
        let ((files, bytes), (all, all_bytes)) = (found, expected);
        Err(BenchError::Rival(format!(
            "{}: {files} of {all} files and {bytes} of {all_bytes} bytes arrived",
            contestant.name()
        )))
    }

    fn field(&self) -> Result<Field<'_>, BenchError> {
        let lab = self.meeting.lab();
        Ok(Field {
            from: lab.host("a")?,
            to: lab.host("b")?,
            server: lab.host("server")?,
            dir: self.dir.path(),
            stop: self.stop,
            limit: self.plan.time + GRACE,
        })
    }

    fn limit(&self, contestant: Contestant) -> Duration {
        let seconds = match contestant.load() {
            Load::Stream => self.plan.time.as_secs() + 1,
            Load::File => self.cargo.size / SLOWEST,
            Load::Folder => u64::from(self.cargo.files) / SLOWEST_FILES,
        };
        GRACE + Duration::from_secs(seconds)
    }
}

fn empty(dir: &std::path::Path) -> Result<(), BenchError> {
    load::empty(dir).map_err(|source| BenchError::files("the folder for what arrives", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_spread_over_both_links_and_the_rest_is_in_the_senders() {
        let road = Road {
            nat: crate::nat::kind("open").unwrap(),
            engine: NatEngine::Model,
            rtt: Duration::from_millis(100),
            rate: Some(1_000_000),
            loss: 0.01,
            queue: Some(5_000),
        };
        let [sender, receiver] = road.links();
        let around = 2 * (sender.delay + receiver.delay);
        assert_eq!(around, road.rtt);
        assert_eq!((sender.rate, sender.queue), (Some(1_000_000), 5_000));
        assert!(sender.counts_packets() && !receiver.counts_packets());
        let free = Road {
            rate: None,
            loss: 0.0,
            queue: None,
            ..road
        };
        assert!(free.links().iter().all(|link| !link.counts_packets()));
    }
}
