//! The program `knothole`: arguments in, words and exit codes out. What is done stands in the rest of the library; this
//! folder alone parses arguments, reads the environment, asks, prints, and knows exit codes.

mod args;
mod context;
mod directory;
mod failure;
mod local;
mod meeting;
mod netcheck;
mod odds;
mod output;
mod pair;
mod ping;
mod places;
mod progress;
mod question;
mod recv;
mod run;
mod seat;
mod send;
mod serve;
mod signals;
mod speed;
mod status;
mod terminal;
mod transfer;
mod up;
mod waiting;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, Global};
use failure::code;
use output::Output;

/// Run with these arguments, the first of which is the program's name, and return the process's exit code.
pub fn run_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&args, &error),
    };
    start_log(&cli.global);
    let output = Arc::new(Output::new(cli.global.json, cli.global.quiet));
    match run::run(cli, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

/// Arguments that are none, or a wish for help.
fn usage(args: &[OsString], error: &clap::Error) -> ExitCode {
    // Nobody to tell if stdout and stderr are closed.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // A script that asked for JSON gets it also for this.
    if args.iter().any(|arg| arg == "--json") || args::wants_json() {
        let fields = serde_json::json!({ "code": code::USAGE, "message": in_a_line(error), "hint": "knothole --help" });
        Output::new(true, true).event("error", fields);
    }
    ExitCode::from(code::USAGE)
}

/// What is wrong with the arguments, without the advice that follows it.
fn in_a_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = what
        .split_whitespace()
        .skip_while(|word| *word == "error:")
        .collect();
    words.join(" ")
}

/// Log to stderr, as `RUST_LOG` says, or else as loudly as `-v` and `-q` say.
fn start_log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        (_, _) => "trace",
    };
    // The libraries below repeat in their words what is logged here; quinn_udp would also name addresses.
    let libraries = "quinn=warn,quinn_proto=warn,quinn_udp=error,rustls=warn";
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{libraries}")));
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Fails if a log is running already, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .try_init();
}
