//! The main job, shown: a server and two machines behind NATs, paired by name, a file straight from one to the other.
//!
//! Everything runs for real: programs, sockets, namespaces; only the wires and the NATs between them are the lab's.
//! The steps are told to an observer as they happen; the caller decides how to show them. Not a test of its own: the
//! suites call it with other kinds and sizes and look at the [`Report`].

mod files;
mod late;
mod measure;
pub(crate) mod meeting;
mod sites;
mod stage;

use std::path::PathBuf;
use std::time::Duration;

use crate::nat::NatKind;
use crate::netns::LabError;
use crate::role::RoleError;

pub use crate::role::Stop;

pub use stage::run;

/// What is to be shown.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The NAT in front of the sending machine.
    pub a: &'static NatKind,
    /// The NAT in front of the receiving machine.
    pub b: &'static NatKind,
    /// Bytes of the file.
    pub size: u64,
    /// One-way delay of each machine's access link.
    pub delay: Duration,
    /// The value of `--relay` for the sending side.
    pub relay: String,
    /// The executable that plays the roles: the lab's own.
    pub executable: PathBuf,
}

/// Something that happened, in order.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The server is up, at this address for nodes.
    Server {
        /// Listening address.
        address: String,
    },
    /// A machine exists, behind this kind of NAT.
    Machine {
        /// Its name.
        name: &'static str,
        /// The kind.
        kind: &'static NatKind,
    },
    /// The two know each other.
    Paired {
        /// The code that was used.
        code: String,
        /// How long it took, from the first command to both sides' word.
        took: Duration,
    },
    /// One answer to a ping.
    Pong {
        /// Round trip in milliseconds.
        rtt_ms: f64,
        /// Where it ran.
        path: PathSeen,
        /// Milliseconds since the command began.
        at_ms: u64,
    },
    /// The file has gone over.
    Sent(Transfer),
    /// Both files were read again and compared.
    Compared {
        /// Are they equal?
        equal: bool,
        /// First characters of the hash of what arrived.
        hash: String,
    },
}

/// A path as a program's events tell it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PathSeen {
    /// `direct` or `relay`.
    pub kind: String,
    /// How it came about, or why there is no direct one.
    pub detail: String,
}

/// One file, sent.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Transfer {
    /// Bytes.
    pub bytes: u64,
    /// Seconds, as the sender measured them.
    pub seconds: f64,
    /// The path at the end.
    pub path: PathSeen,
    /// Did the receiver find the hash to be the sender's?
    pub verified: bool,
}

/// What happened, in numbers.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Name of the sender's NAT kind.
    pub a: String,
    /// Name of the receiver's NAT kind.
    pub b: String,
    /// Milliseconds from the ping command to the first answer over a direct path; `None` if it stayed relayed.
    pub to_direct_ms: Option<u64>,
    /// The path of the last ping.
    pub ping: PathSeen,
    /// The transfer.
    pub transfer: Transfer,
    /// Are the two files equal, byte for byte?
    pub equal: bool,
    /// Largest resident memory of the receiving program in KiB.
    pub receiver_peak_kib: u64,
}

impl Report {
    /// The file arrived whole, over a direct path.
    pub fn is_direct_success(&self) -> bool {
        self.equal && self.transfer.verified && self.transfer.path.kind == "direct"
    }
}

/// Why the demonstration did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// The lab cannot be built here.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A program, or a file of it.
    #[error(transparent)]
    Role(#[from] RoleError),
}

impl DemoError {
    fn files(what: &'static str, source: std::io::Error) -> Self {
        Self::Role(RoleError::Files { what, source })
    }
}
