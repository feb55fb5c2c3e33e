//! `wormhole`, whose two ends meet by a code at a mailbox server and then talk straight to each other.
//!
//! The mailbox server is another package, a plugin of Twisted. It runs on the lab's server for as long as a turn. No transit
//! relay: the receiving host is public, so the sender's connection always comes through.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::BenchError;
use super::job::{Job, installed, needed};
use super::rivals::{ESTABLISHED, Field, LISTENING, RivalRun, has_socket};
use super::usage::Before;

/// Where the mailbox server listens: its usual port.
const MAILBOX: u16 = 4000;

/// What both ends are told. It is not secret: nobody else is in the lab.
const CODE: &str = "7-knothole-bench";

/// What a person must install for the mailbox server.
const PLUGIN: &str = "twist with magic-wormhole-mailbox-server";

/// How long an interpreter may take until it has read its modules and done something: a second on an idle machine.
const PYTHON: Duration = Duration::from_secs(30);

/// One file or folder, from the start of `wormhole send` to its end; the receiver waits for it with the code.
pub(super) fn wormhole(field: Field<'_>, what: &Path, into: &Path) -> Result<RivalRun, BenchError> {
    let program = needed("wormhole")?;
    let mailbox = mailbox(field, &program)?;
    let server = Before::of(mailbox.id());
    let mut command = client(field, &program);
    command.args(["receive", "--accept-file", "--hide-progress", CODE]);
    command.current_dir(into);
    let receiver = Job::start(field.to, command, "wormhole-receive", field.dir)?;
    receiver.until(PYTHON, field.stop, |_| {
        has_socket(field.server, MAILBOX, ESTABLISHED)
    })?;
    let mut command = client(field, &program);
    command
        .args(["send", "--hide-progress", "--code", CODE])
        .arg(what);
    let sender = Job::start(field.from, command, "wormhole-send", field.dir)?;
    sender.until_either_ended(&receiver, field.limit, field.stop)?;
    // Who has ended tells at once whether it is worth while to wait for the other.
    let (sent, received) = if receiver.has_ended() {
        let received = receiver.finish(field.limit, field.stop)?;
        (sender.finish(field.limit, field.stop)?, received)
    } else {
        let sent = sender.finish(field.limit, field.stop)?;
        (sent, receiver.finish(PYTHON + field.limit, field.stop)?)
    };
    Ok(RivalRun {
        bytes: None,
        seconds: sent.seconds,
        sender: sent.used,
        receiver: received.used,
        server: Some(server.after()),
    })
}

/// The mailbox server, once it listens.
fn mailbox(field: Field<'_>, wormhole: &Path) -> Result<Job, BenchError> {
    let twist = twist(field, wormhole)?;
    let port = format!("tcp:{MAILBOX}:interface={}", field.server.ip());
    let mut command = python(field, &twist);
    command.args(["wormhole-mailbox", "--port", &port, "--channel-db", ":memory:"]);
    let job = Job::start(field.server, command, "wormhole-mailbox", field.dir)?;
    job.until(PYTHON, field.stop, |_| {
        has_socket(field.server, MAILBOX, LISTENING)
    })?;
    Ok(job)
}

/// A `twist` that knows the mailbox server: perhaps beside `wormhole` itself, in a folder that is on nobody's `PATH`.
fn twist(field: Field<'_>, wormhole: &Path) -> Result<PathBuf, BenchError> {
    let mut candidates = beside(wormhole, "twist");
    // Debian calls it so.
    candidates.extend(["twist", "twist3"].iter().flat_map(|name| installed(name)));
    for twist in candidates {
        let mut command = python(field, &twist);
        command.args(["wormhole-mailbox", "--help"]);
        let asked = Job::start(field.server, command, "twist", field.dir)?;
        match asked.finish(PYTHON, field.stop) {
            Ok(_) => return Ok(twist),
            // It does not know that word, or cannot even start.
            Err(BenchError::Rival(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(BenchError::Missing(PLUGIN))
}

/// Another program of the installation that a program belongs to, links followed.
fn beside(program: &Path, other: &str) -> Vec<PathBuf> {
    let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let file = real.parent().map(|folder| folder.join(other));
    file.filter(|file| file.is_file()).into_iter().collect()
}

/// One end, which knows this lab's servers and no others.
fn client(field: Field<'_>, program: &Path) -> Command {
    let url = format!("ws://{}:{MAILBOX}/v1", field.server.ip());
    let mut command = python(field, program);
    command.args(["--relay-url", &url, "--transit-helper", ""]);
    command
}

fn python(field: Field<'_>, program: &Path) -> Command {
    let mut command = Command::new(program);
    // A zipped folder is a temporary file, and no disk is to be measured. Some versions refuse to speak ASCII.
    command.env("TMPDIR", field.dir).env("LC_ALL", "C.UTF-8");
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_leads_to_the_installation_that_a_program_belongs_to() {
        let dir = tempfile::tempdir().unwrap();
        let (home, bin) = (dir.path().join("home"), dir.path().join("bin"));
        for folder in [&home, &bin] {
            fs::create_dir(folder).unwrap();
        }
        for program in ["wormhole", "twist"] {
            fs::write(home.join(program), "").unwrap();
        }
        std::os::unix::fs::symlink(home.join("wormhole"), bin.join("wormhole")).unwrap();
        let twist = home.canonicalize().unwrap().join("twist");
        assert_eq!(beside(&bin.join("wormhole"), "twist"), [twist]);
        assert!(beside(&bin.join("wormhole"), "twist3").is_empty());
    }
}
