//! `knothole-netsim role PROGRAM ...`: this executable plays one of the project's programs inside a namespace.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

/// Plays a program of the project; everything after its name is that program's command line.
#[derive(Args, Debug)]
pub(crate) struct RoleArgs {
    program: Program,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    Knothole,
    KnotholeRendezvous,
}

/// Run it.
pub(crate) fn run(args: RoleArgs) -> ExitCode {
    let line = |name: &str| std::iter::once(OsString::from(name)).chain(args.arguments);
    match args.program {
        Program::Knothole => knothole::cli::run_from(line("knothole")),
        Program::KnotholeRendezvous => knothole_rendezvous::cli::run_from(line("knothole-rendezvous")),
    }
}
