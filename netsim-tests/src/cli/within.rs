//! `knothole-netsim within --hosts FILE --resolv FILE -- CMD...`: a program of a scenario gets the lab's names, and this
//! process becomes it. It is started where it is to run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use knothole_netsim::interactive::{Surroundings, become_program};

/// Becomes a program that finds the lab's names in /etc/hosts.
#[derive(Args, Debug)]
pub(crate) struct WithinArgs {
    #[arg(long)]
    hosts: PathBuf,
    #[arg(long)]
    resolv: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Become it.
pub(crate) fn run(args: WithinArgs) -> ExitCode {
    let surroundings = Surroundings {
        hosts: args.hosts,
        resolv: args.resolv,
    };
    let error = become_program(&surroundings, &args.command, &[]);
    super::lab::fail(false, &error)
}
