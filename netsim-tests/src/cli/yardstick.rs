//! `knothole-netsim yardstick send|receive ...`: one plain end of a measurement, as a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use knothole::session::reference::{self, Reference};
use knothole::{Identity, PeerId};
use knothole_netsim::bench::yardstick::{Received, quic, tar, tcp};
use serde_json::json;

use super::{fail, say};

/// One end of a connection that everything else is compared with.
#[derive(Args, Debug)]
pub(crate) struct YardstickArgs {
    #[command(subcommand)]
    end: End,
}

#[derive(Subcommand, Debug)]
enum End {
    /// Counts what one connection brings
    Receive {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long, value_parser = milliseconds)]
        time: Duration,
        /// Unpack what comes into this folder, with tar, to its end
        #[arg(long, requires = "quic")]
        tar: Option<PathBuf>,
        #[command(flatten)]
        quic: Quic,
    },
    /// Sends for a time
    Send {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, value_parser = milliseconds)]
        time: Duration,
        /// Pack this folder, with tar, and send that
        #[arg(long, requires = "quic")]
        tar: Option<PathBuf>,
        #[command(flatten)]
        quic: Quic,
    },
}

/// QUIC, if any of it is given; else TCP.
#[derive(Args, Debug)]
struct Quic {
    /// Congestion control
    #[arg(long, requires = "key", requires = "peer")]
    quic: Option<Controller>,
    /// File of this end's key
    #[arg(long)]
    key: Option<PathBuf>,
    /// The other end's id
    #[arg(long)]
    peer: Option<PeerId>,
    /// Bytes in flight
    #[arg(long)]
    window: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Controller {
    Own,
    Cubic,
    Bbr,
}

/// Be that end.
pub(crate) fn run(args: &YardstickArgs) -> ExitCode {
    let done = match &args.end {
        End::Receive {
            listen,
            time,
            tar,
            quic,
        } => receive(*listen, *time, tar.as_deref(), quic).map(|received| {
            let _ = say(json!({ "schema": 1, "event": "summary", "received": received }));
        }),
        End::Send { to, time, tar, quic } => send(*to, *time, tar.as_deref(), quic),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(true, 1, &message),
    }
}

fn receive(listen: SocketAddr, time: Duration, tar: Option<&Path>, quic: &Quic) -> Result<Received, String> {
    let mut ready = || {
        // Whoever started this waits for it; if it is gone, so is the sender.
        let _ = say(json!({ "schema": 1, "event": "ready" }));
    };
    match (quic.end()?, tar) {
        (Some(end), Some(dir)) => {
            tar::receive(&end, listen, dir, &mut ready).map_err(|error| error.to_string())
        }
        (Some(end), None) => quic::receive(&end, listen, time, &mut ready).map_err(|error| error.to_string()),
        (None, _) => tcp::receive(listen, &mut ready).map_err(|error| error.to_string()),
    }
}

fn send(to: SocketAddr, time: Duration, tar: Option<&Path>, quic: &Quic) -> Result<(), String> {
    match (quic.end()?, tar) {
        (Some(end), Some(dir)) => tar::send(&end, to, dir).map_err(|error| error.to_string()),
        (Some(end), None) => quic::send(&end, to, time).map_err(|error| error.to_string()),
        (None, _) => tcp::send(to, time).map_err(|error| error.to_string()),
    }
}

impl Quic {
    fn end(&self) -> Result<Option<Reference>, String> {
        let (Some(controller), Some(key), Some(peer)) = (self.quic, &self.key, self.peer) else {
            return Ok(None);
        };
        Ok(Some(Reference {
            identity: Identity::load(key).map_err(|error| error.to_string())?,
            peer,
            controller: match controller {
                Controller::Own => reference::Controller::Own,
                Controller::Cubic => reference::Controller::Cubic,
                Controller::Bbr => reference::Controller::Bbr,
            },
            window: self.window,
        }))
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").and_then(|number| number.parse().ok());
    number
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a time such as 500ms".to_owned())
}
