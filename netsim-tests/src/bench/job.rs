//! Other people's programs: started on a host, waited for, and asked what they used. Their words matter only if they fail.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::BenchError;
use super::usage::{Used, Watch, has_ended};
use crate::fabric::HostHandle;
use crate::role::Stop;

/// How often it is looked whether a program has ended; what is measured is too long by half of this.
const LOOK: Duration = Duration::from_millis(5);

/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(2);

/// Characters of a program's complaint that are shown.
const SHOWN: usize = 160;

/// Where installations put servers that are not for everybody's `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Where a program is; [`BenchError::Missing`] if it is not installed.
pub(super) fn needed(program: &'static str) -> Result<PathBuf, BenchError> {
    let found = installed(program).into_iter().next();
    found.ok_or(BenchError::Missing(program))
}

/// Everywhere that a program is, in the order in which a shell would look.
pub(super) fn installed(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    let files = folders.map(|folder| folder.join(program));
    files.filter(|file| file.is_file()).collect()
}

/// A running program.
pub(super) struct Job {
    name: String,
    child: Child,
    watch: Option<Watch>,
    begun: Instant,
    out: PathBuf,
    err: PathBuf,
}

/// What came of one that ended well.
pub(super) struct Ended {
    pub(super) used: Used,
    pub(super) seconds: f64,
    /// Its standard output.
    pub(super) out: String,
}

impl Job {
    /// Starts it; what it says is kept below `dir`.
    pub(super) fn start(
        host: HostHandle<'_>,
        mut command: Command,
        name: &str,
        dir: &Path,
    ) -> Result<Self, BenchError> {
        let (out, err) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let file = |path: &Path| {
            File::create(path).map_err(|source| BenchError::files("the log of a program", source))
        };
        command
            .stdin(Stdio::null())
            .stdout(file(&out)?)
            .stderr(file(&err)?);
        let begun = Instant::now();
        let child = host.spawn(command)?;
        Ok(Self {
            name: name.to_owned(),
            watch: Some(Watch::start(child.id())),
            child,
            begun,
            out,
            err,
        })
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits until this holds; the program must go on running until then.
    pub(super) fn until(
        &self,
        limit: Duration,
        stop: &Stop,
        mut holds: impl FnMut(&Self) -> Result<bool, BenchError>,
    ) -> Result<(), BenchError> {
        loop {
            stop.check()?;
            if holds(self)? {
                return Ok(());
            }
            if has_ended(self.child.id()) {
                return Err(self.complaint("ended early"));
            }
            if self.begun.elapsed() > limit {
                return Err(self.complaint("nothing happened in time"));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Waits until this one or the other has ended, well or not. Who waits for one of two that talk to each other waits long if
    /// the other has failed.
    pub(super) fn until_either_ended(
        &self,
        other: &Self,
        limit: Duration,
        stop: &Stop,
    ) -> Result<(), BenchError> {
        while !has_ended(self.id()) && !has_ended(other.id()) {
            stop.check()?;
            if self.begun.elapsed() > limit {
                return Err(self.complaint("not done in time"));
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// Has it ended?
    pub(super) fn has_ended(&self) -> bool {
        has_ended(self.id())
    }

    /// Waits until it has ended by itself, and well.
    pub(super) fn finish(mut self, limit: Duration, stop: &Stop) -> Result<Ended, BenchError> {
        while !has_ended(self.child.id()) {
            stop.check()?;
            if self.begun.elapsed() > limit {
                return Err(self.complaint("not done in time"));
            }
            std::thread::park_timeout(LOOK);
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        let used = self.used();
        match self.child.wait() {
            Ok(status) if status.success() => Ok(Ended {
                used,
                seconds,
                out: self.said(),
            }),
            Ok(status) => Err(self.complaint(&status.to_string())),
            Err(error) => Err(self.complaint(&error.to_string())),
        }
    }

    /// Ends it once those that it started have ended; a server's time with one client is known only then.
    pub(super) fn end(mut self) -> Used {
        let id = self.child.id();
        let children = format!("/proc/{id}/task/{id}/children");
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && fs::read_to_string(&children).is_ok_and(|all| !all.is_empty()) {
            std::thread::park_timeout(LOOK);
        }
        self.ask_to_end();
        self.used()
    }

    fn ask_to_end(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile; it stays to be waited for, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + GRACE;
        while !has_ended(self.child.id()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                return;
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn used(&mut self) -> Used {
        self.watch
            .take()
            .map(|watch| watch.finish(false))
            .unwrap_or_default()
    }

    /// Why it is of no use, in its own words if it has any.
    fn complaint(&self, otherwise: &str) -> BenchError {
        let err = fs::read_to_string(&self.err).unwrap_or_default();
        let out = self.said();
        let words = complaint_of(&err)
            .or_else(|| complaint_of(&out))
            .unwrap_or(otherwise);
        // A terminal must not obey what a program says.
        let clean = words
            .chars()
            .filter(|c| !c.is_control())
            .take(SHOWN)
            .collect::<String>();
        BenchError::Rival(format!("{}: {clean}", self.name))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.watch.is_some() && !has_ended(self.child.id()) {
            self.ask_to_end();
        }
        // Somebody has to, or it stays as a zombie.
        let _ = self.child.wait();
    }
}

/// The line of a program's talk that says what is wrong: one that begins with a word for that, or the first.
fn complaint_of(said: &str) -> Option<&str> {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| {
        let first = line.split_whitespace().next().unwrap_or_default();
        first.to_ascii_lowercase().ends_with("error:")
    };
    lines().find(is_error).or_else(|| lines().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_the_line_that_says_what_is_wrong() {
        let talk = "\nSending 9 Bytes file named 'x'\nTransferError: no connection\nbye\n";
        assert_eq!(complaint_of(talk), Some("TransferError: no connection"));
        let ssh = "ssh: connect to host 5.5.5.5 port 22: Connection refused\nrsync error: unexplained error (code 255)\n";
        assert_eq!(
            complaint_of(ssh),
            Some("ssh: connect to host 5.5.5.5 port 22: Connection refused"),
            "the cause comes first"
        );
        assert_eq!(complaint_of(" \n"), None);
    }
}
