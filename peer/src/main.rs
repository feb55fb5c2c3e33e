//! The program `knothole`. Everything it does stands in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    knothole::cli::run_from(std::env::args_os())
}
