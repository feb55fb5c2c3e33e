//! The command line of the lab: arguments in, words and exit codes out. What is done stands in the library.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)] // here, and only here, is what talks to a person

mod bench;
mod demo;
mod kinds;
mod lab;
mod matrix;
mod promises;
mod role;
mod run;
mod signals;
mod size;
mod soak;
mod text;
mod verify;
mod within;
mod yardstick;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

/// A laboratory of simulated networks: what works behind every kind of NAT, and why.
#[derive(Parser, Debug)]
#[command(name = "knothole-netsim", version, max_term_width = text::COLUMNS)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Demo(demo::DemoArgs),
    Up(lab::UpArgs),
    Exec(lab::ExecArgs),
    Ls(lab::LsArgs),
    Down(lab::DownArgs),
    Run(run::RunArgs),
    Kinds(kinds::KindsArgs),
    Verify(verify::VerifyArgs),
    Matrix(matrix::MatrixArgs),
    Soak(soak::SoakArgs),
    Bench(bench::BenchArgs),
    #[command(hide = true)]
    Keep(lab::KeepArgs),
    #[command(hide = true)]
    Within(within::WithinArgs),
    #[command(hide = true)]
    Role(role::RoleArgs),
    #[command(hide = true)]
    Yardstick(yardstick::YardstickArgs),
}

/// Parse the process's arguments and do what they say. Threads must not exist yet: a namespace of users can only be
/// entered by a process that has one.
pub(crate) fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Kinds(args) => kinds::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Up(args) => lab::up(&args),
        Command::Exec(args) => lab::exec(&args),
        Command::Ls(args) => lab::ls(&args),
        Command::Down(args) => lab::down(&args),
        Command::Keep(args) => lab::keep(&args),
        Command::Within(args) => within::run(args),
        Command::Verify(args) => verify::run(&args),
        Command::Role(args) => role::run(args),
        Command::Yardstick(args) => yardstick::run(&args),
    }
}

/// Prints one line of data. Whoever reads it may have seen enough and be gone: that is the `Err`.
fn say(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Says what failed, and ends with this code.
fn fail(json: bool, code: u8, message: &str) -> ExitCode {
    if json {
        // Whoever is gone need not know.
        let _ = say(json!({ "schema": 1, "event": "error", "code": code, "message": message }));
    } else {
        eprintln!("knothole-netsim: {message}");
    }
    ExitCode::from(code)
}

/// Reads the name of a kind of NAT.
fn kind(name: &str) -> Result<&'static knothole_netsim::nat::NatKind, String> {
    knothole_netsim::nat::kind(name).ok_or_else(|| {
        let names: Vec<&str> = knothole_netsim::nat::kinds()
            .iter()
            .map(|kind| kind.name)
            .collect();
        format!("the kinds are {}", names.join(", "))
    })
}
