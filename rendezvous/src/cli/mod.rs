//! The command line of the server. This folder alone parses arguments, prints, and knows exit codes.

mod args;
mod check;
mod failure;
mod run;
mod stats;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Args, Command, Global};
use failure::Failure;

/// Run with the arguments of this process.
pub fn main() -> ExitCode {
    run_from(std::env::args_os())
}

/// Run with these arguments, the first of which is the program's name. Returns the process's exit code.
pub fn run_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let given: Vec<OsString> = args.into_iter().collect();
    let args = match Args::try_parse_from(&given) {
        Ok(args) => args,
        Err(why) => return usage(&given, &why),
    };
    // What `check` finds is its output; a log beside it would only repeat it.
    let quieter = u8::from(matches!(args.command, Command::Check(_)));
    start_log(&args.global, quieter);
    let json = args.global.json;
    let ended = match args.command {
        Command::Run(server) => run::run(&server, json),
        Command::Check(server) => check::check(&server, json),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => failure.tell(json),
    }
}

/// Arguments that are none, or a wish for help.
fn usage(given: &[OsString], why: &clap::Error) -> ExitCode {
    // Nobody to tell if stdout and stderr are closed.
    let _ = why.print();
    if !why.use_stderr() {
        return ExitCode::from(failure::DONE);
    }
    if given.iter().any(|arg| arg == "--json") || args::wants_json() {
        return Failure::usage(&why.render().to_string()).tell(true);
    }
    ExitCode::from(failure::USAGE)
}

/// Log to stderr, as `RUST_LOG` says or else as loudly as `-v` and `-q` say.
fn start_log(global: &Global, quieter: u8) {
    let level = match i16::from(global.verbose) - i16::from(global.quiet) - i16::from(quieter) {
        ..=-2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "debug",
        2.. => "trace",
    };
    // The libraries below repeat in their words what is logged here; quinn_udp would also name addresses.
    let quiet = "quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn";
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{quiet}")));
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Fails if a log is running already, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .try_init();
}

/// A line on stdout. Whoever closed it does not want it, and that is no reason to fail.
fn say(line: &dyn Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on stderr.
fn complain(line: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The runtime for a command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| Failure::other(format!("no threads can be started: {why}")))
}
