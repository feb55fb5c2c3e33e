//! `knothole-netsim kinds`: every named NAT in RFC 4787 terms.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::say;
use knothole_netsim::nat::{NatKind, kinds};
use knothole_netsim::sim::SERVER_IP;

/// Lists the kinds of NAT by name.
#[derive(Args, Debug)]
pub(crate) struct KindsArgs {
    /// One JSON object a line instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Print them.
pub(crate) fn run(args: &KindsArgs) -> ExitCode {
    let line = |kind: &NatKind| {
        let (name, doc, nats) = (kind.name, kind.doc, nats(kind));
        if args.json {
            json!({ "schema": 1, "event": "kind", "name": name, "doc": doc, "nats": nats }).to_string()
        } else {
            format!("{name:<20} {}\n{:<20} {doc}", nats.join("  +  "), "")
        }
    };
    // A reader that has seen enough is no failure.
    let _ = kinds().iter().try_for_each(|kind| say(line(kind)));
    ExitCode::SUCCESS
}

/// The NATs of a kind, innermost first, each in a line.
fn nats(kind: &NatKind) -> Vec<String> {
    let chain = kind.chain(&[SERVER_IP]);
    if chain.is_empty() {
        return vec!["no NAT".to_owned()];
    }
    chain.iter().map(ToString::to_string).collect()
}
