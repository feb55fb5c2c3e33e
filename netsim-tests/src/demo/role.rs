//! A program of the project, running in a namespace, listened to through its JSON lines.
//!
//! The lab's executable plays every role itself (`knothole-netsim role ...`), so a demonstration needs nothing that is
//! not already built. A role that is dropped is ended.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DemoError, Stop};

/// Events of a role that wait to be looked at; beyond it the role's output waits, which stops the role, not this process.
const EVENTS_WAITING_MAX: usize = 1024;

/// How often a wait looks whether the person gave up; shorter costs wake-ups, longer makes Ctrl-C feel slow.
const STOP_POLL: Duration = Duration::from_millis(50);

/// How long a role may take to stop by itself before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// A running program.
pub(crate) struct Role {
    name: String,
    child: Child,
    events: Receiver<Value>,
    log: std::path::PathBuf,
}

impl Role {
    /// Prepare the command for a role: `program` is `knothole` or `knothole-rendezvous`. Its talk goes to `log`.
    ///
    /// # Errors
    /// If the log file cannot be made.
    pub(crate) fn command(executable: &Path, program: &str, log: &Path) -> Result<Command, DemoError> {
        let log = File::create(log).map_err(|source| DemoError::Files {
            what: "the log of a role",
            source,
        })?;
        let mut command = Command::new(executable);
        command
            .args(["role", program])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log));
        Ok(command)
    }

    /// Listen to a child that was started from such a command.
    pub(crate) fn new(name: &str, mut child: Child, log: &Path) -> Self {
        let (sender, events) = sync_channel(EVENTS_WAITING_MAX);
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || read_events(BufReader::new(output), &sender));
        }
        Self {
            name: name.to_owned(),
            child,
            events,
            log: log.to_owned(),
        }
    }

    /// The next event, whatever it is; `None` when the program closed its output.
    ///
    /// # Errors
    /// [`DemoError::Timeout`] or [`DemoError::Stopped`].
    pub(crate) fn next(&self, deadline: Instant, stop: &Stop) -> Result<Option<Value>, DemoError> {
        loop {
            stop.check()?;
            match self.events.recv_timeout(STOP_POLL) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(DemoError::Timeout {
                        role: self.name.clone(),
                        log: self.log_tail(),
                    });
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The first event of this kind, skipping others.
    ///
    /// # Errors
    /// As [`Role::next`], and [`DemoError::Role`] if the program ended or reported an error before.
    pub(crate) fn wait_for(&self, kind: &str, deadline: Instant, stop: &Stop) -> Result<Value, DemoError> {
        while let Some(event) = self.next(deadline, stop)? {
            match event["event"].as_str() {
                Some(found) if found == kind => return Ok(event),
                Some("error") => return Err(self.failed(event["message"].as_str().unwrap_or("no message"))),
                _ => {}
            }
        }
        Err(self.failed("ended early"))
    }

    /// Wait until the program ends by itself.
    ///
    /// # Errors
    /// As [`Role::next`].
    pub(crate) fn finish(mut self, deadline: Instant, stop: &Stop) -> Result<ExitStatus, DemoError> {
        while self.next(deadline, stop)?.is_some() {}
        self.child.wait().map_err(|source| DemoError::Files {
            what: "a role's end",
            source,
        })
    }

    /// Process id, for measuring.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn failed(&self, message: &str) -> DemoError {
        DemoError::Role {
            role: self.name.clone(),
            message: message.to_owned(),
            log: self.log_tail(),
        }
    }

    /// Last lines of what the role said.
    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended meanwhile; then there is nobody to tell.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + STOP_GRACE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Read JSON lines until the program closes its output; other lines are for people and are skipped.
fn read_events(output: impl BufRead, sender: &SyncSender<Value>) {
    for line in output.lines() {
        let Ok(line) = line else { return };
        if let Ok(event) = serde_json::from_str(&line)
            && sender.send(event).is_err()
        {
            return;
        }
    }
}
