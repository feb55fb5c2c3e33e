//! Programs that a scenario runs on machines: started, waited for, looked at.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::fabric::HostHandle;
use crate::netns::LabError;
use crate::role::Stop;
use crate::scenario::model::Run;
use crate::scenario::stage::{Acted, StageError};

/// Bytes of output that are looked at; what a program says beyond is thrown away.
const OUTPUT_MAX: u64 = 1 << 20;

/// How often it is looked whether a program ended or listens.
const POLL: Duration = Duration::from_millis(20);

/// Characters of output in a message.
const SHOWN: usize = 200;

/// Where a program finds the names of the lab.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    /// The lab's executable, which gives a program its surroundings and becomes it.
    pub(super) executable: PathBuf,
    /// Its `/etc/hosts` and `/etc/resolv.conf`.
    pub(super) hosts: PathBuf,
    pub(super) resolv: PathBuf,
}

/// A program in the background, killed with all its descendants when dropped.
#[derive(Debug)]
pub(super) struct Background {
    child: Child,
}

impl Drop for Background {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Starts a program that goes on running; waits until it listens, if that is asked for.
pub(super) fn background(
    run: &Run,
    host: HostHandle<'_>,
    around: &Surroundings,
    stop: &Stop,
) -> Result<(Option<Background>, Acted), StageError> {
    let mut command = around.command(run);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Background {
        child: host.spawn(command)?,
    };
    let Some(port) = run.listens else {
        return Ok((Some(running), Acted::Done));
    };
    let deadline = Instant::now() + run.timeout;
    loop {
        stop.check()?;
        if host.run(|| listens(port))? {
            return Ok((Some(running), Acted::Met(format!("listens on port {port}"))));
        }
        if let Ok(Some(status)) = running.child.try_wait() {
            return Ok((None, Acted::Failed(format!("ended, {}", status_words(status)))));
        }
        if Instant::now() >= deadline {
            let words = format!(
                "does not listen on port {port} after {} s",
                run.timeout.as_secs_f64()
            );
            return Ok((None, Acted::Failed(words)));
        }
        std::thread::park_timeout(POLL);
    }
}

/// Runs a program to its end and compares what came of it with what is expected.
pub(super) fn to_the_end(
    run: &Run,
    host: HostHandle<'_>,
    around: &Surroundings,
    stop: &Stop,
) -> Result<Acted, StageError> {
    let mut command = around.command(run);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut running = Background {
        child: host.spawn(command)?,
    };
    let stdout = running.child.stdout.take().map(collect);
    let stderr = running.child.stderr.take().map(collect);
    let status = loop {
        stop.check()?;
        if let Some(status) = running.child.try_wait().map_err(LabError::Thread)? {
            break status;
        }
        if begun.elapsed() >= run.timeout {
            return Ok(Acted::Failed(format!(
                "still running after {} s",
                run.timeout.as_secs_f64()
            )));
        }
        std::thread::park_timeout(POLL);
    };
    // What it started in the background may hold its output open.
    end(&mut running.child);
    let text = |reader: Option<JoinHandle<Vec<u8>>>| {
        let bytes = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(judge(run, status, &text(stdout), &text(stderr)))
}

impl Surroundings {
    /// The lab's executable as this program, in a process group of its own.
    fn command(&self, run: &Run) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .args(["within", "--hosts"])
            .arg(&self.hosts)
            .arg("--resolv")
            .arg(&self.resolv)
            .arg("--")
            .args(&run.command)
            .stdin(Stdio::null())
            .process_group(0);
        command
    }
}

fn judge(run: &Run, status: ExitStatus, stdout: &str, stderr: &str) -> Acted {
    if status.code() != Some(run.expect.exit) {
        let said = if stderr.trim().is_empty() { stdout } else { stderr };
        let words = format!(
            "{}, expected exit code {}: {}",
            status_words(status),
            run.expect.exit,
            short(said)
        );
        return Acted::Failed(words);
    }
    for (name, wanted, got) in [
        ("standard output", &run.expect.stdout, stdout),
        ("standard error", &run.expect.stderr, stderr),
    ] {
        if let Some(wanted) = wanted
            && !got.contains(wanted.as_str())
        {
            return Acted::Failed(format!("{name} lacks {wanted:?}: {}", short(got)));
        }
    }
    Acted::Met(format!("{}: {}", status_words(status), short(stdout)))
}

fn status_words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// The beginning of a program's output, in one line and without what a terminal would obey.
fn short(text: &str) -> String {
    let clean: String = text.trim().chars().take(SHOWN).collect();
    if clean.is_empty() {
        return "no output".to_owned();
    }
    format!("{clean:?}")
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What breaks off is what there is; the rest is read so that the program never waits for a reader.
        let _ = from.by_ref().take(OUTPUT_MAX).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut from, &mut std::io::sink());
        bytes
    })
}

/// Kills a program and what it started, as far as that is still in its group.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Nobody may be left to kill.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// Does anybody in the namespace of this thread listen on a TCP port?
fn listens(port: u16) -> bool {
    // Columns: number, local address:port, remote, state; all hexadecimal, 0A is LISTEN.
    let is = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let local = columns.next().and_then(|local| local.rsplit(':').next());
        local.is_some_and(|local| u16::from_str_radix(local, 16) == Ok(port)) && columns.nth(1) == Some("0A")
    };
    ["tcp", "tcp6"].iter().any(|family| {
        let table = fs::read_to_string(Path::new("/proc/thread-self/net").join(family));
        table.unwrap_or_default().lines().any(is)
    })
}
