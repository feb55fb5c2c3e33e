//! What is wrong with a scenario file, and where. Text for people, no behaviour.

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong with a scenario, at a place of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Bytes from the beginning of the text.
    pub(super) at: usize,
    /// What stands there, or what is missing.
    pub(super) what: String,
    /// What would be right there.
    pub(super) expected: String,
}

impl Trouble {
    pub(super) fn new(at: usize, what: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            at,
            what: what.into(),
            expected: expected.into(),
        }
    }

    /// The same for people: with a file and a line.
    pub(super) fn in_file(self, file: &Path, text: &str) -> ScenarioError {
        ScenarioError::Content {
            file: file.to_owned(),
            line: line_of(text, self.at),
            what: self.what,
            expected: self.expected,
        }
    }
}

/// The line, from 1, in which a byte stands.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// Why a scenario cannot be run as it is written. Nothing was built.
#[derive(Debug)]
pub enum ScenarioError {
    /// The file cannot be read.
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in it makes no sense.
    Content {
        /// Which file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What stands there, or what is missing.
        what: String,
        /// What would be right.
        expected: String,
    },
}

impl fmt::Display for ScenarioError {
    /// `FILE:LINE: what; expected ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => {
                write!(
                    f,
                    "{}: cannot be read ({source}); expected a scenario in TOML",
                    file.display()
                )
            }
            Self::Content {
                file,
                line,
                what,
                expected,
            } => write!(f, "{}:{line}: {what}; expected {expected}", file.display()),
        }
    }
}

impl std::error::Error for ScenarioError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Content { .. } => None,
        }
    }
}
