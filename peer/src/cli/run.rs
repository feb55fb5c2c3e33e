//! From arguments to the command that they mean.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::args::{Cli, Command};
use super::context::Context;
use super::failure::{Failure, code};
use super::output::Output;
use super::signals::Stop;
use super::{directory, netcheck, pair, ping, recv, send, speed, status, up};
use crate::home::Home;

/// How long threads that wait for a person or a disk may hold up the end of the process.
const LINGER: Duration = Duration::from_millis(200);

/// Do what the arguments say.
pub(super) fn run(cli: Cli, output: &Arc<Output>) -> Result<(), Failure> {
    let home = home()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                code::OTHER,
                format!("no threads can be started: {error}"),
                "check ulimit -u",
            )
        })?;
    let done = runtime.block_on(async {
        let context = Context {
            global: cli.global,
            output: Arc::clone(output),
            home,
            stop: Stop::listen()?,
        };
        // Boxed: the futures of whole commands are large.
        match cli.command {
            None => directory::overview(&context).await,
            Some(Command::Up(args)) => Box::pin(up::run(context, args)).await,
            Some(Command::Pair(args)) => Box::pin(pair::run(&context, args)).await,
            Some(Command::Peers) => directory::peers(&context),
            Some(Command::Forget(args)) => directory::forget(&context, &args).await,
            Some(Command::Id) => directory::id(&context),
            Some(Command::Send(args)) => Box::pin(send::run(&context, args)).await,
            Some(Command::Recv(args)) => Box::pin(recv::run(&context, args)).await,
            Some(Command::Ping(args)) => Box::pin(ping::run(&context, args)).await,
            Some(Command::Netcheck(args)) => Box::pin(netcheck::run(&context, args)).await,
            Some(Command::Speed(args)) => Box::pin(speed::run(&context, args)).await,
            Some(Command::Status) => status::run(&context).await,
        }
    });
    runtime.shutdown_timeout(LINGER);
    done
}

/// Threads for everything but files: one processor is left to those that read, hash and write. The tasks of a connection take
/// turns, and with as many threads as processors they wake each other across them: on two processors that cost 5 % of the processor
/// time of a file and of a stream, and made both slower by 2 to 6 % (`knothole-netsim bench`, twelve runs each in turns).
fn workers() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.saturating_sub(1).max(1)
}

/// Where the node's files are: where `KNOTHOLE_HOME` says, or in the user's usual places.
fn home() -> Result<Home, Failure> {
    if let Some(home) = std::env::var_os("KNOTHOLE_HOME").filter(|home| !home.is_empty()) {
        return Ok(Home::at(Path::new(&home)));
    }
    Home::of_user().ok_or_else(|| {
        Failure::new(
            code::CONFIG,
            "there is no home directory to keep files in",
            "KNOTHOLE_HOME=DIR",
        )
    })
}
