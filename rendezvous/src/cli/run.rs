//! `run`: serve until a signal, then say goodbye.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::args::ServerArgs;
use super::failure::{DONE, Failure};
use super::say;
use super::stats::Reporter;
use crate::{Ready, Server, StunPolicy};

/// How often it is told how things stand, if anything changed.
const SUMMARY_EVERY: Duration = Duration::from_secs(60);

/// Exit codes of a program that a signal ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;
/// As above, for SIGTERM.
const TERMINATED: u8 = 143;

pub(super) fn run(args: &ServerArgs, json: bool) -> Result<ExitCode, Failure> {
    let config = args.config()?;
    let runtime = super::runtime()?;
    if config.open {
        warn!("open: every node may register and use the relay");
    }
    if config.stun == StunPolicy::Public {
        warn!("public STUN: forged requests make this server send up to three times their bytes to others");
    }
    if let Some(data) = &config.data {
        info!(?data, "key, token and names are kept here");
    }
    let code = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let server = Server::start(config).await?;
        print_ready(server.ready(), json);
        serve(server, &mut signals, json).await
    });
    // After a second signal nothing is waited for.
    runtime.shutdown_background();
    code
}

async fn serve(mut server: Server, signals: &mut Signals, json: bool) -> Result<ExitCode, Failure> {
    let mut summary = interval(SUMMARY_EVERY);
    summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reporter = Reporter::new(json);
    loop {
        tokio::select! {
            _ = signals.next() => {
                info!("stopping; again to stop at once");
                reporter.tell(&server.stats().await);
                return Ok(tokio::select! {
                    () = server.shutdown() => ExitCode::from(DONE),
                    code = signals.next() => ExitCode::from(code),
                });
            }
            part = server.failed() => {
                server.shutdown().await;
                return Err(Failure::other(format!("{part} ended unexpectedly; the log says more")));
            }
            _ = summary.tick() => {
                reporter.tell(&server.stats().await);
            }
        }
    }
}

fn print_ready(ready: &Ready, json: bool) {
    if json {
        say(&json!({
            "schema": 1,
            "event": "ready",
            "server": ready.server_url,
            "listen": ready.listen,
            "alt": ready.alternate,
        }));
    } else {
        say(&format_args!("knothole up --server '{}'", ready.server_url));
    }
}

/// The signals that end a server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let of =
            |kind| signal(kind).map_err(|why| Failure::other(format!("signals cannot be caught: {why}")));
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    /// The exit code that the next one stands for.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}
