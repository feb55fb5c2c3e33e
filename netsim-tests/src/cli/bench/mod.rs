//! `knothole-netsim bench`: how fast, compared with everybody else in the same lab.

mod ceiling;
mod compare;
mod congestion;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use knothole_netsim::bench::BenchError;
use knothole_netsim::demo::Stop;
use knothole_netsim::netns::LabError;
use knothole_netsim::role::RoleError;

use super::fail;
use super::signals::raise_on_interrupt;

/// How fast: raw TCP, raw QUIC, Knothole direct and relayed, and scp, rsync, iperf3 and sendme where they are on PATH, in turns through one lab.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    compare: compare::CompareArgs,
}

#[derive(Subcommand, Debug)]
enum What {
    Ceiling(ceiling::CeilingArgs),
    Congestion(congestion::CongestionArgs),
}

/// Measures and prints. Threads must not exist yet.
pub(crate) fn run(args: &BenchArgs) -> ExitCode {
    match &args.what {
        None => compare::run(&args.compare),
        Some(What::Ceiling(args)) => ceiling::run(args),
        Some(What::Congestion(args)) => congestion::run(args),
    }
}

/// What every measurement needs before it: the right to build a lab, and somebody who hears Ctrl-C.
fn prepare(json: bool, root: Result<(), LabError>) -> Result<Stop, ExitCode> {
    root.map_err(|error| failed(json, &error.into()))?;
    let stop = Stop::default();
    if let Err(error) = raise_on_interrupt(stop.clone()) {
        tracing::warn!(%error, "Ctrl-C will end the lab without its last words");
    }
    Ok(stop)
}

/// This program, which plays the parts.
fn executable() -> Result<PathBuf, BenchError> {
    std::env::current_exe().map_err(|source| {
        BenchError::Role(RoleError::Files {
            what: "this program",
            source,
        })
    })
}

fn failed(json: bool, error: &BenchError) -> ExitCode {
    let code = match error {
        BenchError::Lab(_) => 3,
        BenchError::Role(RoleError::Timeout { .. }) => 8,
        BenchError::Role(RoleError::Stopped) => 130,
        _ => 1,
    };
    fail(json, code, &error.to_string())
}
