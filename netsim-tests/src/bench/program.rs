//! Programs of a measurement: started on a host of the lab, listened to, and asked what they used when they have ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::BenchError;
use super::usage::{Used, Watch};
use crate::fabric::HostHandle;
use crate::role::{Role, RoleError, Stop};

/// A program whose facts are JSON lines, with the watch over what it uses.
pub(super) struct Program {
    // Looked at before the role is waited for, which makes the kernel forget.
    watch: Watch,
    role: Role,
}

impl Program {
    /// Starts it; its talk goes to `log`.
    pub(super) fn start(
        host: HostHandle<'_>,
        mut command: Command,
        label: &str,
        log: PathBuf,
    ) -> Result<Self, BenchError> {
        let file = std::fs::File::create(&log)
            .map_err(|source| BenchError::files("the log of a program", source))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(file));
        let child = host.spawn(command)?;
        let watch = Watch::start(child.id());
        Ok(Self {
            watch,
            role: Role::new(label, child, &log),
        })
    }

    /// Takes over a program that was just started.
    pub(super) fn of(role: Role) -> Self {
        Self {
            watch: Watch::start(role.id()),
            role,
        }
    }

    /// The first event of this kind.
    pub(super) fn wait_for(&self, event: &str, limit: Duration, stop: &Stop) -> Result<Value, BenchError> {
        Ok(self.role.wait_for(event, Instant::now() + limit, stop)?)
    }

    /// What it used, once it has ended by itself.
    pub(super) fn finish(self, limit: Duration, stop: &Stop) -> Result<Used, BenchError> {
        let deadline = Instant::now() + limit;
        while self.role.next(deadline, stop)?.is_some() {}
        Ok(self.watch.finish(false))
    }
}

/// The lab's executable as one end of a yardstick.
pub(super) fn yardstick(executable: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(executable);
    command.arg("yardstick").args(arguments);
    command
}

/// What a program said that should have said something else.
pub(super) fn unexpected(role: &str, message: String) -> BenchError {
    BenchError::Role(RoleError::Ended {
        role: role.to_owned(),
        message,
        log: String::new(),
    })
}
