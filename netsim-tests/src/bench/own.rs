//! Knothole in a measurement: a server and a receiver that stay up, and one command at a time of the sender.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::BenchError;
use super::course::Sample;
use super::program::{Program, unexpected};
use super::usage::{Before, Used};
use super::yardstick::gbit;
use crate::demo::meeting::{Meeting, STEP, path_of};
use crate::role::{Role, Stop};

/// The programs that stay up. The server belongs to the meeting.
pub(super) struct Own {
    up: Role,
    server: u32,
}

impl Own {
    /// Starts the server, pairs the two hosts, and keeps the second reachable with its files in `inbox`.
    pub(super) fn start(meeting: &mut Meeting, inbox: &Path) -> Result<Self, BenchError> {
        meeting.serve()?;
        meeting.pair()?;
        let up = meeting.node(1, "up", &["up", "--inbox", &inbox.to_string_lossy()])?;
        up.wait_for("registered", Instant::now() + STEP, &Stop::default())?;
        let server = meeting.server_id();
        Ok(Self {
            up,
            server: server.ok_or_else(|| unexpected("server", "it was not started".to_owned()))?,
        })
    }

    /// `knothole speed` from the first host to the second.
    pub(super) fn speed(
        &self,
        meeting: &Meeting,
        time: Duration,
        relay: &str,
        limit: Duration,
        stop: &Stop,
    ) -> Result<Sample, BenchError> {
        let seconds = time.as_secs().max(1).to_string();
        let arguments = ["speed", "b", "--seconds", &seconds, "--relay", relay];
        let (summary, _, used) = self.command(meeting, "summary", &arguments, (limit, stop))?;
        let (bytes, seconds) = (number(&summary, "bytes")?, summary["seconds"].as_f64());
        let sample = Sample::new(bytes, seconds.unwrap_or_default(), used[0], used[1]);
        Ok(Sample {
            said_gbit: summary["bits_per_second"].as_f64().map(|bits| bits / 1e9),
            path: Some(path_of(&summary["path"])),
            server: Some(used[2]),
            ..sample
        })
    }

    /// `knothole send` of a file or folder from the first host to the second.
    pub(super) fn send(
        &self,
        meeting: &Meeting,
        what: &Path,
        relay: &str,
        limit: Duration,
        stop: &Stop,
    ) -> Result<Sample, BenchError> {
        let what = what.to_string_lossy();
        let arguments = ["send", &what, "--to", "b", "--relay", relay];
        let (done, seconds, used) = self.command(meeting, "done", &arguments, (limit, stop))?;
        if done["verified"] != true || done["resumed_bytes"] != 0 {
            return Err(unexpected(
                "send",
                format!("it is not a whole new transfer: {done}"),
            ));
        }
        let bytes = number(&done, "bytes")?;
        let sample = Sample::new(bytes, seconds, used[0], used[1]);
        Ok(Sample {
            said_gbit: done["seconds"].as_f64().map(|seconds| gbit(bytes, seconds)),
            path: Some(path_of(&done["path"])),
            server: Some(used[2]),
            ..sample
        })
    }

    /// Runs a command of the sender to its end: its last event, its time, and what sender, receiver and server used.
    fn command(
        &self,
        meeting: &Meeting,
        event: &str,
        arguments: &[&str],
        (limit, stop): (Duration, &Stop),
    ) -> Result<(Value, f64, [Used; 3]), BenchError> {
        // The receiver has much to say during a transfer; nobody reads it, and it must not wait for a reader.
        let _ = self.up.news();
        let before = [self.up.id(), self.server].map(Before::of);
        let begun = Instant::now();
        let program = Program::of(meeting.node(0, arguments[0], arguments)?);
        let last = program.wait_for(event, limit, stop)?;
        let sender = program.finish(limit, stop)?;
        let seconds = begun.elapsed().as_secs_f64();
        let [receiver, server] = before.map(Before::after);
        let _ = self.up.news();
        Ok((last, seconds, [sender, receiver, server]))
    }
}

fn number(event: &Value, key: &str) -> Result<u64, BenchError> {
    event[key]
        .as_u64()
        .ok_or_else(|| unexpected("knothole", format!("no {key} in {event}")))
}
