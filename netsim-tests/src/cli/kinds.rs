//! `knothole-netsim kinds`: every named NAT in RFC 4787 terms.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use knothole_netsim::nat::kinds;

/// Lists the kinds of NAT by name.
#[derive(Args, Debug)]
pub(crate) struct KindsArgs {
    /// One JSON object a line instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Print them.
pub(crate) fn run(args: &KindsArgs) -> ExitCode {
    for kind in kinds() {
        if args.json {
            println!(
                "{}",
                json!({ "schema": 1, "event": "kind", "name": kind.name, "doc": kind.doc })
            );
        } else {
            println!("{:<20} {}", kind.name, kind.doc);
        }
    }
    ExitCode::SUCCESS
}
