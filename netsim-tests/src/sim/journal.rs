//! What happened, as a running hash and, on request, as lines to read.
//!
//! Every event of a world goes through [`Journal::record`]. Two runs are the same exactly if their hashes are; times
//! in it count from the start of the world. The lines are for people who look at one seed, and are bounded.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// Most lines kept; older ones go. 20,000 lines are about a minute of a world with three hosts.
const LINES_MAX: usize = 20_000;

/// The record of a run.
#[derive(Debug)]
pub(super) struct Journal {
    hasher: blake3::Hasher,
    /// What goes into the hash is collected here, because hashing kilobytes at once is several times as fast as
    /// hashing 60 bytes at a time.
    pending: Vec<u8>,
    events: u64,
    lines: Option<VecDeque<Line>>,
}

/// One line: when, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Time since the start of the world.
    pub at: Duration,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>12.6} {}", self.at.as_secs_f64(), self.text)
    }
}

/// Bytes collected before they are hashed: BLAKE3 reaches its full speed at a few kilobytes.
const PENDING: usize = 8 * 1024;

impl Journal {
    /// An empty record that keeps no lines.
    pub(super) fn new() -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            pending: Vec::with_capacity(PENDING),
            events: 0,
            lines: None,
        }
    }

    /// Keeps lines from now on.
    pub(super) fn keep_lines(&mut self) {
        self.lines.get_or_insert_default();
    }

    /// Records an event: `what` is its number, `who` the host; `text` is called only if lines are kept.
    pub(super) fn record(
        &mut self,
        at: Duration,
        what: u8,
        who: usize,
        bytes: &[u8],
        text: impl FnOnce() -> String,
    ) {
        self.events += 1;
        let time = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        self.pending.extend_from_slice(&time.to_le_bytes());
        self.pending.push(what);
        self.pending.push(u8::try_from(who).unwrap_or(u8::MAX));
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.pending.extend_from_slice(&len.to_le_bytes());
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PENDING {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(Line { at, text: text() });
        }
    }

    /// How many events were recorded.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The hash of everything so far.
    pub(super) fn hash(&self) -> [u8; 32] {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        *hasher.finalize().as_bytes()
    }

    /// The lines kept, oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_sees_time_kind_host_bytes_and_order() {
        let run = |events: &[(u64, u8, usize, &[u8])]| {
            let mut journal = Journal::new();
            for (at, what, who, bytes) in events {
                journal.record(Duration::from_millis(*at), *what, *who, bytes, String::new);
            }
            journal.hash()
        };
        let one = run(&[(1, 1, 0, b"a"), (2, 1, 1, b"b")]);
        assert_eq!(one, run(&[(1, 1, 0, b"a"), (2, 1, 1, b"b")]));
        for other in [
            run(&[(1, 1, 0, b"a"), (3, 1, 1, b"b")]),
            run(&[(1, 1, 0, b"a"), (2, 2, 1, b"b")]),
            run(&[(1, 1, 0, b"a"), (2, 1, 0, b"b")]),
            run(&[(1, 1, 0, b"a"), (2, 1, 1, b"c")]),
            run(&[(2, 1, 1, b"b"), (1, 1, 0, b"a")]),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn lines_are_kept_on_request_and_bounded() {
        let mut journal = Journal::new();
        journal.record(Duration::ZERO, 0, 0, b"", || unreachable!("no lines wanted"));
        journal.keep_lines();
        for n in 0..LINES_MAX + 5 {
            journal.record(Duration::ZERO, 0, 0, b"", || n.to_string());
        }
        assert_eq!(journal.lines().count(), LINES_MAX);
        assert_eq!(journal.lines().next().map(|line| line.text.as_str()), Some("5"));
    }
}
