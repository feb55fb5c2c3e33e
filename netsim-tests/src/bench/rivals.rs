//! Everybody else, where installed: started with throw-away keys and folders, between the same two hosts.
//!
//! None is a dependency. One that is not installed says so, one that fails says why; neither is an error of the measurement.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::BenchError;
use super::job::{Ended, Job, needed};
use super::usage::Used;
use crate::fabric::HostHandle;
use crate::role::Stop;

/// Where `sshd` and `iperf3` listen on the receiving host: their usual ports, so that nothing has to be told.
const SSH: u16 = 22;
const IPERF3: u16 = 5201;

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(10);

/// States of a socket in `/proc/net/tcp`.
pub(super) const LISTENING: &str = "0A";
pub(super) const ESTABLISHED: &str = "01";

/// A folder that `sshd` wants to find empty and root's.
const SSHD_FOLDER: &str = "/run/sshd";

/// What came of a rival's run: time, and what everybody used.
pub(super) struct RivalRun {
    pub(super) bytes: Option<u64>,
    pub(super) seconds: f64,
    pub(super) sender: Used,
    pub(super) receiver: Used,
    /// Of those who meet at a server.
    pub(super) server: Option<Used>,
}

/// The hosts, and a folder for keys and logs.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) from: HostHandle<'a>,
    pub(super) to: HostHandle<'a>,
    /// Public, as the receiving one, and reached by both.
    pub(super) server: HostHandle<'a>,
    pub(super) dir: &'a Path,
    pub(super) stop: &'a Stop,
    pub(super) limit: Duration,
}

/// `scp` or `rsync` to an `sshd` of the measurement's own.
pub(super) fn over_ssh(
    field: Field<'_>,
    program: &'static str,
    what: &Path,
    into: &Path,
) -> Result<RivalRun, BenchError> {
    let program_at = needed(program)?;
    let (ssh, sshd, keygen) = (needed("ssh")?, needed("sshd")?, needed("ssh-keygen")?);
    let keys = Keys::make(field, &keygen)?;
    let _folder = SshdFolder::make();
    let mut command = Command::new(sshd);
    command.args(["-D", "-e", "-f"]).arg(keys.config(field.to.ip())?);
    let server = Job::start(field.to, command, "sshd", field.dir)?;
    server.until(START, field.stop, |_| listens(field.to, SSH))?;
    let options = keys.options();
    let target = format!("{}@{}:{}/", user(), field.to.ip(), into.display());
    let mut command = Command::new(program_at);
    if program == "rsync" {
        let shell = format!("{} {}", ssh.display(), options.join(" "));
        command.args(["-a", "-e", &shell]);
    } else {
        command.args(["-q", "-r"]).args(&options);
    }
    command.arg(what).arg(target);
    let ended = Job::start(field.from, command, program, field.dir)?.finish(field.limit, field.stop)?;
    Ok(of(&ended, server.end()))
}

/// `iperf3` with one stream.
pub(super) fn iperf3(field: Field<'_>, time: Duration) -> Result<RivalRun, BenchError> {
    let program = needed("iperf3")?;
    let at = field.to.ip().to_string();
    let mut command = Command::new(&program);
    command.args(["-s", "-1", "-B", &at]);
    let server = Job::start(field.to, command, "iperf3-server", field.dir)?;
    server.until(START, field.stop, |_| bound(field.to, IPERF3))?;
    let mut command = Command::new(program);
    let seconds = time.as_secs().max(1).to_string();
    command.args(["-c", &at, "-J", "-t", &seconds]);
    let ended = Job::start(field.from, command, "iperf3", field.dir)?.finish(field.limit, field.stop)?;
    let (bytes, seconds) = iperf3_sum(&ended.out)
        .ok_or_else(|| BenchError::Rival("iperf3: its report has no sum of what was received".to_owned()))?;
    let receiver = server.finish(START + field.limit, field.stop)?.used;
    Ok(RivalRun {
        bytes: Some(bytes),
        seconds,
        sender: ended.used,
        receiver,
        server: None,
    })
}

/// `sendme` without any relay. Whoever offers must be reachable, so the data go from the public host to the one behind
/// the NAT: the other way round than with everybody else, over the same links.
pub(super) fn sendme(field: Field<'_>, what: &Path, into: &Path) -> Result<RivalRun, BenchError> {
    let program = needed("sendme")?;
    let shelf = field.dir.join("sendme");
    fs::create_dir_all(&shelf).map_err(|source| BenchError::files("a folder for sendme", source))?;
    let common = ["--relay", "disabled", "--no-progress"];
    let mut command = Command::new(&program);
    command.arg("send").args(common).arg(what).current_dir(&shelf);
    let sender = Job::start(field.to, command, "sendme-send", field.dir)?;
    sender.until(field.limit, field.stop, |job| Ok(ticket(&job.said()).is_some()))?;
    let said = sender.said();
    let mut command = Command::new(program);
    command
        .arg("receive")
        .args(common)
        .args(ticket(&said))
        .current_dir(into);
    let ended =
        Job::start(field.from, command, "sendme-receive", field.dir)?.finish(field.limit, field.stop)?;
    let sent = sender.end();
    Ok(RivalRun {
        bytes: None,
        seconds: ended.seconds,
        sender: sent,
        receiver: ended.used,
        server: None,
    })
}

fn of(client: &Ended, receiver: Used) -> RivalRun {
    RivalRun {
        bytes: None,
        seconds: client.seconds,
        sender: client.used,
        receiver,
        server: None,
    }
}

/// Throw-away keys of an `sshd` and of whoever may log in.
struct Keys {
    dir: PathBuf,
}

impl Keys {
    fn make(field: Field<'_>, keygen: &Path) -> Result<Self, BenchError> {
        let dir = field.dir.join("ssh");
        fs::create_dir_all(&dir).map_err(|source| BenchError::files("a folder for keys", source))?;
        let keys = Self { dir };
        for name in ["host", "user"] {
            let file = keys.dir.join(name);
            if !file.exists() {
                let mut command = Command::new(keygen);
                command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file);
                Job::start(field.from, command, "ssh-keygen", field.dir)?.finish(START, field.stop)?;
            }
        }
        Ok(keys)
    }

    /// The configuration of an `sshd` for this one user.
    fn config(&self, at: IpAddr) -> Result<PathBuf, BenchError> {
        let file = self.dir.join("sshd_config");
        let dir = self.dir.display();
        // Modes are not checked: a temporary folder lies below one that everybody may write to.
        let text = format!(
            "ListenAddress {at}:{SSH}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n\
             Subsystem sftp internal-sftp\n"
        );
        fs::write(&file, text).map_err(|source| BenchError::files("the configuration of sshd", source))?;
        Ok(file)
    }

    /// What a client is told: these keys and nothing of the person's own.
    fn options(&self) -> Vec<String> {
        let key = self.dir.join("user").display().to_string();
        let mut options = vec!["-F".to_owned(), "/dev/null".to_owned(), "-i".to_owned(), key];
        for option in [
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
        ] {
            options.extend(["-o".to_owned(), option.to_owned()]);
        }
        options
    }
}

/// The folder that `sshd` wants, for as long as it is needed, where the system has none.
struct SshdFolder(bool);

impl SshdFolder {
    fn make() -> Self {
        // Where it cannot be made, sshd says what it lacks.
        Self(fs::create_dir(SSHD_FOLDER).is_ok())
    }
}

impl Drop for SshdFolder {
    fn drop(&mut self) {
        if self.0 {
            let _ = fs::remove_dir(SSHD_FOLDER);
        }
    }
}

/// The name of the user that this process is.
fn user() -> String {
    let id = rustix::process::geteuid().as_raw().to_string();
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let is = |line: &&str| line.split(':').nth(2) == Some(id.as_str());
    let line = known.lines().find(is);
    line.and_then(|line| line.split(':').next())
        .unwrap_or("root")
        .to_owned()
}

/// Does somebody answer there? Tried from the host itself.
fn listens(host: HostHandle<'_>, port: u16) -> Result<bool, BenchError> {
    Ok(host.run(|| TcpStream::connect((host.ip(), port)).is_ok())?)
}

/// Is somebody bound there? For servers that take the first connection for the real one.
fn bound(host: HostHandle<'_>, port: u16) -> Result<bool, BenchError> {
    has_socket(host, port, LISTENING)
}

/// Has the host a socket of TCP with this local port in this state?
pub(super) fn has_socket(host: HostHandle<'_>, port: u16, state: &str) -> Result<bool, BenchError> {
    let table = host.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))?;
    Ok(has_row(&table.unwrap_or_default(), port, state))
}

/// The same of a table like `/proc/net/tcp`.
fn has_row(table: &str, port: u16, state: &str) -> bool {
    // Columns: number, local address:port, remote, state; hexadecimal.
    let is = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let local = columns.get(1).and_then(|local| local.rsplit(':').next());
        local.is_some_and(|local| u16::from_str_radix(local, 16) == Ok(port))
            && columns.get(3) == Some(&state)
    };
    table.lines().any(is)
}

/// Bytes and seconds of what the other side received.
fn iperf3_sum(report: &str) -> Option<(u64, f64)> {
    let report: Value = serde_json::from_str(report).ok()?;
    let sum = &report["end"]["sum_received"];
    Some((sum["bytes"].as_u64()?, sum["seconds"].as_f64()?))
}

/// The word by which `sendme receive` finds what is offered: it stands behind that command in what the sender prints.
fn ticket(said: &str) -> Option<&str> {
    let mut words = said.split_whitespace().skip_while(|word| *word != "receive");
    words.next()?;
    words.next().filter(|word| word.len() > 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_iperf3_is_what_arrived() {
        let report =
            r#"{"end":{"sum_sent":{"bytes":9,"seconds":1.0},"sum_received":{"bytes":700,"seconds":1.5}}}"#;
        assert_eq!(iperf3_sum(report), Some((700, 1.5)));
        assert_eq!(iperf3_sum(r#"{"error":"no route"}"#), None);
        assert_eq!(iperf3_sum("iperf3: error"), None);
    }

    #[test]
    fn a_socket_is_found_by_its_own_port_and_state() {
        let table = "  sl  local_address rem_address   st\n   0: 01050505:0FA0 00000000:0000 0A 0\n\
                     \x20  1: 01050505:0FA0 06050505:C000 06 0\n";
        assert!(has_row(table, 4000, LISTENING));
        assert!(!has_row(table, 4000, ESTABLISHED), "it is over");
        assert!(!has_row(table, 49152, "06"), "the other end's port");
    }

    #[test]
    fn a_ticket_is_taken_only_when_it_is_whole() {
        let long = "blob".repeat(20);
        let said = format!("imported directory x, 9 B\nto get this data, use\nsendme receive {long}\n");
        assert_eq!(ticket(&said), Some(long.as_str()));
        assert_eq!(ticket("sendme receive "), None);
        assert_eq!(ticket("sendme receive blob"), None);
        assert_eq!(ticket(""), None);
    }
}
