//! One run of a yardstick between two hosts: a receiver on one, a sender on the other, each a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knothole::Identity;
use knothole::session::reference::Controller;

use super::BenchError;
use super::program::{Program, unexpected, yardstick};
use super::usage::Used;
use super::yardstick::Received;
use crate::fabric::HostHandle;
use crate::role::Stop;

/// Where the receivers listen; one port for all, because a run ends before the next begins.
const PORT: u16 = 6000;

/// How long a program may take to begin and to end, besides the time that it is to send for. The kernel sends what it has
/// buffered even over a bad link.
const GRACE: Duration = Duration::from_secs(40);

/// Which yardstick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain<'a> {
    /// The kernel's TCP.
    Tcp,
    /// QUIC with this congestion control, and this window if not the usual one, in bytes.
    Quic(Controller, Option<u32>),
    /// QUIC as nodes have it, between `tar` of one folder and `tar` into another.
    Tar([&'a Path; 2]),
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(super) struct PlainRun {
    pub(super) received: Received,
    pub(super) sender: Used,
    pub(super) receiver: Used,
    /// From the start of the sender to the end of both.
    pub(super) seconds: f64,
}

/// Who takes part: the sending host, the receiving one, and where the programs and their files are.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) from: HostHandle<'a>,
    pub(super) to: HostHandle<'a>,
    pub(super) executable: &'a Path,
    pub(super) dir: &'a Path,
}

impl Ends<'_> {
    /// Sends for a time.
    pub(super) fn run(&self, plain: Plain<'_>, time: Duration, stop: &Stop) -> Result<PlainRun, BenchError> {
        let at = SocketAddr::new(self.to.ip(), PORT);
        let limit = time + GRACE;
        let receiver = self.start(self.to, "receiver", &self.receiver(plain, at, time)?)?;
        receiver.wait_for("ready", GRACE, stop)?;
        let begun = Instant::now();
        let sender = self.start(self.from, "sender", &self.sender(plain, at, time)?)?;
        let sent = sender.finish(limit, stop)?;
        let summary = receiver.wait_for("summary", limit, stop)?;
        let received = serde_json::from_value(summary["received"].clone())
            .map_err(|error| unexpected("receiver", format!("its summary is none: {error}")))?;
        Ok(PlainRun {
            received,
            sender: sent,
            receiver: receiver.finish(limit, stop)?,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn start(&self, host: HostHandle<'_>, label: &str, arguments: &[String]) -> Result<Program, BenchError> {
        let command = yardstick(self.executable, arguments);
        Program::start(host, command, label, self.dir.join(format!("{label}.log")))
    }

    fn receiver(&self, plain: Plain<'_>, at: SocketAddr, time: Duration) -> Result<Vec<String>, BenchError> {
        let time = format!("{}ms", time.as_millis());
        let mut line = words(&["receive", "--listen", &at.to_string(), "--time", &time]);
        line.extend(self.options(plain, false)?);
        Ok(line)
    }

    fn sender(&self, plain: Plain<'_>, at: SocketAddr, time: Duration) -> Result<Vec<String>, BenchError> {
        let time = format!("{}ms", time.as_millis());
        let mut line = words(&["send", "--to", &at.to_string(), "--time", &time]);
        line.extend(self.options(plain, true)?);
        Ok(line)
    }

    /// What both ends are told about the transport: nothing means TCP.
    fn options(&self, plain: Plain<'_>, sends: bool) -> Result<Vec<String>, BenchError> {
        let (controller, window, folders) = match plain {
            Plain::Tcp => return Ok(Vec::new()),
            Plain::Quic(controller, window) => (controller, window, None),
            Plain::Tar(folders) => (Controller::Own, None, Some(folders)),
        };
        let mut keys = ["receiver.key", "sender.key"];
        if sends {
            keys.reverse();
        }
        let [own, other] = keys;
        let (own, _) = self.identity(own)?;
        let (_, other) = self.identity(other)?;
        let own = own.to_string_lossy();
        let mut line = words(&[
            "--quic",
            controller_word(controller),
            "--key",
            &own,
            "--peer",
            &other,
        ]);
        if let Some([from, into]) = folders {
            let folder = if sends { from } else { into };
            line.extend(words(&["--tar", &folder.to_string_lossy()]));
        }
        if let Some(window) = window {
            line.extend(words(&["--window", &window.to_string()]));
        }
        Ok(line)
    }

    /// A throw-away key: its file, and the id that the other end must see.
    fn identity(&self, name: &str) -> Result<(PathBuf, String), BenchError> {
        let path = self.dir.join("keys").join(name);
        let identity = Identity::load_or_create(&path)
            .map_err(|error| unexpected("yardstick", format!("no key: {error}")))?;
        Ok((path, identity.peer_id().to_string()))
    }
}

/// The word for a controller on the command line.
pub(super) fn controller_word(controller: Controller) -> &'static str {
    match controller {
        Controller::Own => "own",
        Controller::Cubic => "cubic",
        Controller::Bbr => "bbr",
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
