//! The executable: everything is in the library, so that another executable can play this role too.

use std::process::ExitCode;

fn main() -> ExitCode {
    knothole_rendezvous::cli::main()
}
