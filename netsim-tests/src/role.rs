//! A program of the project, running in a namespace, listened to through its JSON lines.
//!
//! The lab's executable plays every role itself (`knothole-netsim role ...`), so that a lab needs nothing that is not
//! already built. A role that is dropped is ended. Knows no network: the caller starts the child where it is to run.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Events of a role that wait to be looked at; beyond it the role's output waits, which stops the role, not this process.
const EVENTS_WAITING_MAX: usize = 1024;

/// How often a wait looks whether the person gave up; shorter costs wake-ups, longer makes Ctrl-C feel slow.
const STOP_POLL: Duration = Duration::from_millis(50);

/// How long a role may take to stop by itself before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Raised when a person wants things to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// End it.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`RoleError::Stopped`] once raised.
    pub fn check(&self) -> Result<(), RoleError> {
        if self.0.load(Ordering::Relaxed) {
            Err(RoleError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Why a program did not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// A file or folder for it.
    #[error("{what}: {source}")]
    Files {
        /// Which.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended or reported an error.
    #[error("{role}: {message}\n{log}")]
    Ended {
        /// Which.
        role: String,
        /// What it reported.
        message: String,
        /// The end of its log.
        log: String,
    },
    /// It did not get there in time.
    #[error("{role}: nothing happened in time\n{log}")]
    Timeout {
        /// Which.
        role: String,
        /// The end of its log.
        log: String,
    },
    /// A person stopped it.
    #[error("stopped")]
    Stopped,
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Role {
    name: String,
    child: Child,
    events: Receiver<Value>,
    log: PathBuf,
}

impl Role {
    /// Prepare the command for a role: `program` is `knothole` or `knothole-rendezvous`. Its talk goes to `log`.
    ///
    /// # Errors
    /// If the log file cannot be made.
    pub(crate) fn command(executable: &Path, program: &str, log: &Path) -> Result<Command, RoleError> {
        let log = File::create(log).map_err(|source| RoleError::Files {
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
    /// [`RoleError::Timeout`] or [`RoleError::Stopped`].
    pub(crate) fn next(&self, deadline: Instant, stop: &Stop) -> Result<Option<Value>, RoleError> {
        loop {
            stop.check()?;
            match self.events.recv_timeout(STOP_POLL) {
                Ok(event) => return Ok(Some(event)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(RoleError::Timeout {
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
    /// As [`Role::next`], and [`RoleError::Ended`] if the program ended or reported an error before.
    pub(crate) fn wait_for(&self, kind: &str, deadline: Instant, stop: &Stop) -> Result<Value, RoleError> {
        while let Some(event) = self.next(deadline, stop)? {
            match event["event"].as_str() {
                Some(found) if found == kind => return Ok(event),
                Some("error") => return Err(self.failed(event["message"].as_str().unwrap_or("no message"))),
                _ => {}
            }
        }
        Err(self.failed("ended early"))
    }

    /// The events that came since the last look, without waiting; `None` once the program closed its output and all
    /// were seen.
    pub(crate) fn news(&self) -> Option<Vec<Value>> {
        let mut news = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(event) => news.push(event),
                Err(TryRecvError::Empty) => return Some(news),
                Err(TryRecvError::Disconnected) => return (!news.is_empty()).then_some(news),
            }
        }
    }

    /// Ask it to end, without waiting for it.
    pub(crate) fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended meanwhile; then there is nobody to tell.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// End it without a word, as a crash does.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Wait until the program ends by itself.
    ///
    /// # Errors
    /// As [`Role::next`].
    pub(crate) fn finish(mut self, deadline: Instant, stop: &Stop) -> Result<ExitStatus, RoleError> {
        while self.next(deadline, stop)?.is_some() {}
        self.child.wait().map_err(|source| RoleError::Files {
            what: "a role's end",
            source,
        })
    }

    /// Process id, for measuring.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn failed(&self, message: &str) -> RoleError {
        RoleError::Ended {
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
        self.ask_to_end();
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
