//! `croc`, whose two ends meet by a code at a relay of their own kind, which also carries the data.
//!
//! The relay is the same program and runs on the lab's server for as long as a turn. Written for version 10, which takes the
//! code from the environment.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::BenchError;
use super::job::{Job, needed};
use super::rivals::{ESTABLISHED, Field, LISTENING, RivalRun, has_socket};
use super::usage::Before;

/// Where the relay listens for those who look for each other: its usual port. Data go through the next four.
const RELAY: u16 = 9009;

/// What both ends are told. It is not secret: nobody else is in the lab.
const CODE: &str = "7009-knothole-bench";

/// How long the relay may take until it listens, and an end to answer it.
const START: Duration = Duration::from_secs(10);

/// One file or folder, from the start of the receiving `croc` to its end; the sender waits for it with the code, since one
/// that comes first finds nobody and gives up.
pub(super) fn croc(field: Field<'_>, what: &Path, into: &Path) -> Result<RivalRun, BenchError> {
    let program = needed("croc")?;
    let mut command = end(field, &program);
    command.args(["relay", "--host", &field.server.ip().to_string()]);
    let relay = Job::start(field.server, command, "croc-relay", field.dir)?;
    relay.until(START, field.stop, |_| has_socket(field.server, RELAY, LISTENING))?;
    let server = Before::of(relay.id());
    let mut command = client(field, &program);
    command.arg("send").arg(what);
    let sender = Job::start(field.from, command, "croc-send", field.dir)?;
    // It may read the whole file first.
    sender.until(field.limit, field.stop, |_| {
        has_socket(field.server, RELAY, ESTABLISHED)
    })?;
    let mut command = client(field, &program);
    command.args(["--yes", "--overwrite"]).current_dir(into);
    let receiver = Job::start(field.to, command, "croc-receive", field.dir)?;
    receiver.until_either_ended(&sender, field.limit, field.stop)?;
    // Who has ended tells at once whether it is worth while to wait for the other.
    let (sent, received) = if sender.has_ended() {
        let sent = sender.finish(field.limit, field.stop)?;
        (sent, receiver.finish(field.limit, field.stop)?)
    } else {
        let received = receiver.finish(field.limit, field.stop)?;
        (sender.finish(START + field.limit, field.stop)?, received)
    };
    Ok(RivalRun {
        bytes: None,
        seconds: received.seconds,
        sender: sent.used,
        receiver: received.used,
        server: Some(server.after()),
    })
}

/// One that knows this lab's relay and no other.
fn client(field: Field<'_>, program: &Path) -> Command {
    let mut command = end(field, program);
    let relay = format!("{}:{RELAY}", field.server.ip());
    // What is on standard input would be sent instead of the file.
    command.args(["--ignore-stdin", "--relay", &relay]);
    command
}

/// The program, with a configuration of its own and nothing of the person's.
fn end(field: Field<'_>, program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("CROC_SECRET", CODE).env("HOME", field.dir);
    for variable in [
        "CROC_RELAY",
        "CROC_RELAY6",
        "CROC_PASS",
        "CROC_CONFIG_DIR",
        "XDG_CONFIG_HOME",
    ] {
        command.env_remove(variable);
    }
    command
}
