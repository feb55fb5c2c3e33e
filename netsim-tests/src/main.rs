//! The lab's one executable: commands for people, and the roles that programs play inside it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
