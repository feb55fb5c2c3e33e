//! What is said and returned when something did not work: what failed, the likely cause, one thing to try.

use std::process::ExitCode;

use serde_json::json;

use super::{complain, say};
use crate::{DataError, FileError, IdentityError, StartError, StoreError};

/// All went well.
pub(super) const DONE: u8 = 0;
/// None of the others.
const OTHER: u8 = 1;
/// Wrong arguments.
pub(super) const USAGE: u8 = 2;
/// The configuration cannot work on this machine.
pub(super) const CONFIG: u8 = 3;

/// Why a command ends without having done its job.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
    /// One thing to try.
    pub(super) hint: Option<String>,
}

impl Failure {
    pub(super) fn other(message: impl Into<String>) -> Self {
        Self {
            code: OTHER,
            message: message.into(),
            hint: None,
        }
    }

    /// Wrong arguments, in the words of the library that reads them, without the advice that follows these.
    pub(super) fn usage(text: &str) -> Self {
        let what = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = what
            .split_whitespace()
            .skip_while(|word| *word == "error:")
            .collect();
        Self {
            code: USAGE,
            message: words.join(" "),
            hint: Some("knothole-rendezvous --help".to_owned()),
        }
    }

    pub(super) fn config(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code: CONFIG,
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    /// Say it on stderr, or on stdout as JSON, and return the exit code.
    pub(super) fn tell(&self, json: bool) -> ExitCode {
        if json {
            let event = json!({
                "schema": 1, "event": "error", "code": self.code, "message": self.message, "hint": self.hint,
            });
            say(&event);
        } else {
            complain(&format_args!("knothole-rendezvous: {}", self.message));
            if let Some(hint) = &self.hint {
                complain(&format_args!("  try: {hint}"));
            }
        }
        ExitCode::from(self.code)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match &error {
            StartError::PortInUse { addr } => Self::config(
                message,
                format!(
                    "stop the other program (ss -lunp 'sport = {}' names it), or --listen ADDR:PORT with another port",
                    addr.port()
                ),
            ),
            StartError::PortForbidden { .. } => {
                Self::config(message, "--listen ADDR:PORT with a port above 1023")
            }
            StartError::NotOurAddress { .. } => Self::config(
                message,
                "--listen with an address that `ip addr` shows, and --public HOST for the one that others see",
            ),
            StartError::Socket { .. } => Self::config(message, "--listen ADDR:PORT with another address"),
            StartError::AlternateNeedsAddress { .. } => Self::config(
                message,
                "--listen ADDR:PORT with the first address, or --alt PORT for a second port alone",
            ),
            StartError::Data(data) => Self::config(message, data_hint(data)),
            StartError::Tls(_) | StartError::Entropy(_) | StartError::Interrupted => Self::other(message),
        }
    }
}

fn data_hint(error: &DataError) -> String {
    match error {
        DataError::File(file)
        | DataError::Identity(IdentityError::File(file))
        | DataError::Store(StoreError::File(file)) => file_hint(file),
        DataError::Identity(_) => {
            "put the key back from a backup; without it nodes will not trust this server. A new --data directory starts afresh"
                .to_owned()
        }
        DataError::Store(StoreError::Missing { .. } | StoreError::Damaged { .. }) => {
            "put the file back from a backup; or start afresh with a new --data directory, where every name is free"
                .to_owned()
        }
        DataError::Store(StoreError::InUse { .. }) => {
            "stop the other server, or give this one its own --data directory".to_owned()
        }
        DataError::Store(StoreError::Format { .. }) => "run the version that wrote it".to_owned(),
        DataError::Token => "delete it, and the next start makes a new one".to_owned(),
    }
}

fn file_hint(error: &FileError) -> String {
    match error {
        FileError::TooOpen { .. } => {
            "that command, if nobody else can have read it; else a new --data directory".to_owned()
        }
        FileError::Io { .. } => "--data DIR with a directory that this user may write".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Args;
    use super::*;

    #[test]
    fn wrong_arguments_are_named_in_one_line() {
        let parsed = Args::try_parse_from(["knothole-rendezvous", "run", "--open", "--publik", "x"]);
        let failure = Failure::usage(&parsed.unwrap_err().render().to_string());
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (USAGE, "unexpected argument '--publik' found")
        );
    }
}
