//! The steps of the demonstration, in order. Each is a few lines: start a program, wait for its word.

use std::time::{Duration, Instant};

use super::meeting::{Cast, Meeting, STEP, hash, path_of, silent};
use super::{DemoError, PathSeen, Plan, Progress, Report, Stop, Transfer, files, measure};
use crate::fabric::NatEngine;
use crate::link::LinkSpec;
use crate::sim::Place;

/// Slowest transfer that is still waited for, in bytes a second; below it something is wrong.
const SLOWEST: u64 = 2 << 20;

/// How long the pings may take to become direct or to say that they will not.
const PATIENCE: Duration = Duration::from_secs(5);

/// The machine that sends, and the one that receives.
const NAMES: [&str; 2] = ["desk", "nas"];

/// The meeting, and what is to be shown of it.
struct Stage<'a> {
    plan: &'a Plan,
    meeting: Meeting,
    stop: &'a Stop,
}

/// Carry out the plan, telling `observe` what happens. Whatever the outcome, nothing is left behind.
///
/// # Errors
/// [`DemoError`], with the end of the failing program's log.
pub fn run(plan: &Plan, stop: &Stop, observe: &mut dyn FnMut(Progress)) -> Result<Report, DemoError> {
    let cast = Cast {
        names: NAMES,
        kinds: [plan.a, plan.b],
        place: Place::Apart,
        late: Duration::ZERO,
        links: [LinkSpec::delay(plan.delay); 2],
        server_delay: Duration::ZERO,
        seed: 0,
        executable: plan.executable.clone(),
        engine: NatEngine::Model,
    };
    let mut meeting = Meeting::new(cast, stop)?;
    let address = meeting.serve()?;
    observe(Progress::Server { address });
    for (name, kind) in NAMES.into_iter().zip([plan.a, plan.b]) {
        observe(Progress::Machine { name, kind });
    }
    let (code, took) = meeting.pair()?;
    observe(Progress::Paired { code, took });
    let receiver = meeting.up()?;
    let stage = Stage { plan, meeting, stop };
    let (to_direct_ms, ping) = stage.ping(observe)?;
    let transfer = stage.send()?;
    observe(Progress::Sent(transfer.clone()));
    let (equal, hash) = stage.compare()?;
    observe(Progress::Compared { equal, hash });
    Ok(Report {
        a: plan.a.name.to_owned(),
        b: plan.b.name.to_owned(),
        to_direct_ms,
        ping,
        transfer,
        equal,
        receiver_peak_kib: measure::peak_memory_kib(receiver.id()),
    })
}

impl Stage<'_> {
    /// Ping until direct, or until it is clear that it stays relayed. Returns the moment of the first direct answer.
    fn ping(&self, observe: &mut dyn FnMut(Progress)) -> Result<(Option<u64>, PathSeen), DemoError> {
        let pings = self.meeting.ping(PATIENCE, &self.plan.relay, &mut |pong| {
            observe(Progress::Pong {
                rtt_ms: pong.rtt_ms,
                path: pong.path,
                at_ms: pong.at_ms,
            });
        })?;
        match pings.last {
            Some(last) => Ok((pings.direct_after_ms, last)),
            None => Err(silent("ping", self.meeting.log_of("ping-desk"))),
        }
    }

    fn send(&self) -> Result<Transfer, DemoError> {
        let file = self.meeting.path("holiday.bin");
        files::make(&file, self.plan.size, 1, self.stop)
            .map_err(|source| DemoError::files("the file to send", source))?;
        let file = file.to_string_lossy();
        let arguments = ["send", &file, "--to", "nas", "--relay", &self.plan.relay];
        let role = self.meeting.node(0, "send", &arguments)?;
        let deadline = Instant::now() + STEP + Duration::from_secs(self.plan.size / SLOWEST);
        let done = role.wait_for("done", deadline, self.stop)?;
        let path = if done["path"].is_object() {
            path_of(&done["path"])
        } else {
            path_of(&done)
        };
        Ok(Transfer {
            bytes: done["bytes"].as_u64().unwrap_or_default(),
            seconds: done["seconds"].as_f64().unwrap_or_default(),
            path,
            verified: done["verified"].as_bool().unwrap_or_default(),
        })
    }

    fn compare(&self) -> Result<(bool, String), DemoError> {
        let sent = hash(&self.meeting.path("holiday.bin"), "the file that was sent")?;
        let arrived = self.meeting.path("inbox").join("holiday.bin");
        let arrived = hash(&arrived, "the file that arrived")?;
        Ok((sent == arrived, arrived.chars().take(16).collect()))
    }
}
