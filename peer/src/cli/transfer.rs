//! What sending and receiving have in common: what is on the screen, and how long either waits for the other.

use std::fmt::Display;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use data_encoding::HEXLOWER;
use knothole_proto::path::Path;
use quinn::ConnectionError;
use serde_json::json;
use tokio::sync::watch;

use super::failure::{Failure, code};
use super::output::{Output, bit_rate, path_fields, path_words, rate, size};
use super::progress::Meter;
use crate::app::transfer::Outcome;
use crate::app::{Event, Listener};
use crate::session::{CODE_DONE, Connection, PathState};
use crate::untrusted::Untrusted;

/// How long either side tries to go on with a transfer whose connection was lost: a restart of a router, or of a laptop that
/// slept. A receiver that waited shorter would not be there when its sender is back.
pub(super) const RETURN_PATIENCE: Duration = Duration::from_secs(120);

/// Was this connection lost? Whoever closed it was done with it, and who ends its streams alone tries nothing more.
pub(super) fn is_lost(connection: &Connection) -> bool {
    match connection.close_reason() {
        None => false,
        Some(ConnectionError::ApplicationClosed(close)) => close.error_code != CODE_DONE,
        Some(_) => true,
    }
}

/// Shows a transfer while it runs.
pub(super) struct Teller {
    /// Where words go.
    pub(super) output: Arc<Output>,
    /// What is being moved, for people; not untrusted any more.
    pub(super) name: String,
    /// The machine at the other side.
    pub(super) peer: String,
    /// Where the bytes go.
    pub(super) path: watch::Receiver<PathState>,
    /// What its line begins with, to tell it from those of others.
    pub(super) label: String,
    /// Since bytes move.
    pub(super) meter: OnceLock<Meter>,
    /// Something got there that was not there before.
    pub(super) moved: Arc<AtomicBool>,
}

impl Listener for Teller {
    fn on(&self, event: Event) {
        let (output, peer) = (&self.output, &self.peer);
        match event {
            Event::Offered => output.talk(format_args!("offered to {peer}, which decides")),
            Event::Accepted { bytes, resumed } => {
                let fields = json!({ "peer": peer, "bytes": bytes, "resumed_bytes": resumed });
                output.event("accepted", fields);
                if resumed > 0 {
                    let (there, all) = (size(resumed), size(bytes));
                    self.talk(format_args!("going on: {there} of {all} are there"));
                }
                self.meter
                    .get_or_init(|| Meter::begin(output, &self.name, peer, &self.label, bytes, resumed));
            }
            Event::Progress { bytes, .. } => {
                self.moved.store(true, Ordering::Relaxed);
                let path = self.path.borrow().path;
                if let Some(meter) = self.meter.get() {
                    meter.at(bytes, &path);
                }
            }
            Event::File { path, outcome } => {
                let shown = Untrusted(&path);
                self.talk(format_args!("{shown}: {}", outcome_words(outcome)));
                let fields = json!({ "peer": peer, "path": path, "outcome": outcome_word(outcome) });
                output.event("file", fields);
            }
        }
    }
}

impl Teller {
    /// Say something of this transfer, which may be one of several.
    fn talk(&self, line: impl Display) {
        match self.label.trim_end() {
            "" => self.output.talk(line),
            label => self.output.talk(format_args!("{label}: {line}")),
        }
    }
}

/// A transfer that ended.
pub(super) struct Done<'a> {
    /// `sent` or `received`.
    pub(super) verb: &'a str,
    /// What, for people.
    pub(super) name: &'a str,
    /// Files that are in their place, verified.
    pub(super) files: u32,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Bytes of them that were there from earlier attempts.
    pub(super) resumed: u64,
    /// From the yes to the end.
    pub(super) took: Duration,
    /// The path at the end.
    pub(super) path: Path,
    /// The file, or the first of them, on this machine.
    pub(super) file: Option<&'a FilePath>,
    /// Files that are not in their place, and why.
    pub(super) others: &'a [(u32, Outcome)],
    /// What was left out because it could not be read.
    pub(super) unreadable: usize,
    /// Of the only file.
    pub(super) hash: Option<[u8; 32]>,
    /// Whose machine is at the other side.
    pub(super) peer: &'a str,
    /// Is it one of several, which the last line must tell apart?
    pub(super) of_several: bool,
    /// Does the last line go to stdout? Not if a file went there.
    pub(super) to_stdout: bool,
}

impl Done<'_> {
    /// Say how it ended, and whether that is a failure.
    pub(super) fn tell(&self, output: &Output) -> Result<(), Failure> {
        let failure = self.failure();
        let kept = self.count(&[Outcome::Kept]);
        // Where another file has the name, nobody compared anything.
        let verified = failure.is_none() && kept == 0;
        let hash = self.hash.map(|hash| HEXLOWER.encode(&hash));
        let file = self.file.map(|file| file.to_string_lossy().into_owned());
        output.event(
            "done",
            json!({
                "bytes": self.bytes, "seconds": self.took.as_secs_f64(), "verified": verified, "resumed_bytes": self.resumed,
                "path": path_fields(&self.path), "file": file, "files": self.files, "blake3": hash, "peer": self.peer,
            }),
        );
        let check = match (&hash, kept) {
            _ if failure.is_some() => String::new(),
            (_, kept) if kept > 0 && self.files == 0 => {
                format!(", {kept} there already and left as they are")
            }
            (_, kept) if kept > 0 => format!(", verified, {kept} there already and left as they are"),
            (Some(hash), _) => format!(", verified {}", hash.get(..8).unwrap_or_default()),
            (None, _) => ", verified".to_owned(),
        };
        let place = match &file {
            Some(file) if self.verb == "received" => format!("\n  {}", Untrusted(file)),
            _ => String::new(),
        };
        let whose = match (self.of_several, self.verb) {
            (false, _) => String::new(),
            (true, "received") => format!(" from {}", self.peer),
            (true, _) => format!(" to {}", self.peer),
        };
        let resumed = match self.resumed {
            0 => String::new(),
            resumed => format!(" ({} were there already)", size(resumed)),
        };
        let line = format!(
            "{} {}{whose}: {}{resumed} in {:.1} s, {}, {}{check}{place}",
            self.verb,
            self.name,
            size(self.bytes),
            self.took.as_secs_f64(),
            bit_rate(rate(self.bytes.saturating_sub(self.resumed), self.took)),
            path_words(&self.path),
        );
        match self.to_stdout {
            true => output.fact(line),
            false => output.talk(line),
        }
        failure.map_or(Ok(()), Err)
    }

    /// How many files ended in one of these ways.
    fn count(&self, wanted: &[Outcome]) -> usize {
        let others = self.others.iter();
        others.filter(|(_, outcome)| wanted.contains(outcome)).count()
    }

    fn failure(&self) -> Option<Failure> {
        let wrong = self.count(&[Outcome::HashMismatch]);
        if wrong > 0 {
            let message = format!("{wrong} files arrived different from what was sent, and were deleted");
            return Some(Failure::new(
                code::VERIFY,
                message,
                "send them again; check memory and disk of both machines",
            ));
        }
        let missing = self.unreadable + self.count(&[Outcome::Incomplete, Outcome::Unwritable]);
        (missing > 0).then(|| {
            let message = format!("{missing} files did not get to their places");
            Failure::new(
                code::PARTIAL,
                message,
                "the same command again; what is there does not go again",
            )
        })
    }
}

/// Number of files and their size, in words: `3 files, 1.2 MiB`.
pub(super) fn amount(files: u32, bytes: u64) -> String {
    let plural = if files == 1 { "" } else { "s" };
    format!("{files} file{plural}, {}", size(bytes))
}

/// A few names for people, escaped: `a, b and 3 more`.
pub(super) fn name_some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    /// Names that are shown; the rest is counted.
    const SHOWN: usize = 3;
    let names: Vec<&str> = names.collect();
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| Untrusted(name).to_string())
        .collect();
    let more = names.len().saturating_sub(SHOWN);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Stored => "stored",
        Outcome::Kept => "was there already and stays",
        Outcome::HashMismatch => "arrived different from what was sent, and was deleted",
        Outcome::Unwritable => "could not be written",
        Outcome::Incomplete => "could not be read, or changed while it was sent",
    }
}

fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Stored => "stored",
        Outcome::Kept => "kept",
        Outcome::HashMismatch => "hash-mismatch",
        Outcome::Unwritable => "unwritable",
        Outcome::Incomplete => "incomplete",
    }
}

#[cfg(test)]
mod tests {
    use knothole_proto::path::Why;

    use super::*;

    fn code_of(others: &[(u32, Outcome)]) -> Option<u8> {
        let done = Done {
            verb: "sent",
            name: "x",
            files: 1,
            bytes: 1,
            resumed: 0,
            took: Duration::from_secs(1),
            path: Path::Relay(Why::Punching),
            file: None,
            others,
            unreadable: 0,
            hash: None,
            peer: "nas",
            of_several: false,
            to_stdout: true,
        };
        done.failure().map(|failure| failure.code)
    }

    #[test]
    fn what_did_not_arrive_decides_the_exit_code() {
        assert_eq!(code_of(&[]), None);
        assert_eq!(code_of(&[(0, Outcome::Kept)]), None);
        assert_eq!(code_of(&[(0, Outcome::Incomplete)]), Some(10));
        assert_eq!(
            code_of(&[(0, Outcome::Unwritable), (1, Outcome::HashMismatch)]),
            Some(11)
        );
    }

    #[test]
    fn a_few_names_are_named_and_the_rest_is_counted() {
        assert_eq!(name_some(["a"].into_iter()), "a");
        assert_eq!(
            name_some(["a", "b\u{1b}", "c", "d", "e"].into_iter()),
            "a, b\\u{1b}, c and 2 more"
        );
    }
}
