//! `knothole-netsim kinds`: every named NAT in RFC 4787 terms.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::say;
use super::text::wrap;
use knothole_netsim::nat::{Families, Kernel, NatKind, kinds};
use knothole_netsim::oracle::easy_kinds;
use knothole_netsim::sim::SERVER_IP;

/// Where the text of a kind begins, in columns: behind the longest name.
const TEXT_AT: usize = 26;

/// Lists the kinds of NAT by name.
#[derive(Args, Debug)]
pub(crate) struct KindsArgs {
    /// One JSON object a line instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Print them.
pub(crate) fn run(args: &KindsArgs) -> ExitCode {
    let easy: Vec<&str> = easy_kinds().map(|kind| kind.name).collect();
    let line = |kind: &NatKind| {
        let easy = easy.contains(&kind.name);
        if args.json {
            as_json(kind, easy).to_string()
        } else {
            as_text(kind, easy)
        }
    };
    // A reader that has seen enough is no failure.
    let _ = kinds().iter().try_for_each(|kind| say(line(kind)));
    ExitCode::SUCCESS
}

fn as_json(kind: &NatKind, easy: bool) -> serde_json::Value {
    let (form, note) = match kind.kernel {
        Kernel::Alike => ("alike", None),
        Kernel::Differs(note) => ("differs", Some(note)),
        Kernel::Absent(note) => ("absent", Some(note)),
    };
    json!({
        "schema": 1, "event": "kind", "name": kind.name, "doc": kind.doc, "nats": nats(kind), "easy": easy,
        "ipv4": kind.families.v4, "ipv6": kind.families.v6, "kernel": form, "kernel_note": note,
    })
}

fn as_text(kind: &NatKind, easy: bool) -> String {
    let hosts = match kind.families {
        Families { v6: false, .. } => "",
        Families { v4: false, .. } => "hosts have IPv6 only; ",
        Families { .. } => "hosts have IPv4 and IPv6; ",
    };
    let easy = if easy { " (easy)" } else { "" };
    let mut lines = vec![
        format!("{hosts}{}{easy}", nats(kind).join("  +  ")),
        kind.doc.to_owned(),
    ];
    match kind.kernel {
        Kernel::Alike => {}
        Kernel::Differs(note) => lines.push(format!("in the kernel: {note}")),
        Kernel::Absent(note) => lines.push(format!("not in the kernel: {note}")),
    }
    let mut label = kind.name;
    let text = lines.into_iter().map(|line| {
        let name = std::mem::take(&mut label);
        wrap(&format!("{name:<TEXT_AT$}{line}"), TEXT_AT)
    });
    text.collect::<Vec<_>>().join("\n")
}

/// The NATs of a kind, innermost first, each in a line.
fn nats(kind: &NatKind) -> Vec<String> {
    let chain = kind.chain(&[SERVER_IP]);
    if chain.is_empty() {
        return vec!["no NAT".to_owned()];
    }
    chain.iter().map(ToString::to_string).collect()
}
