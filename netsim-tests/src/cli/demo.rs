//! `knothole-netsim demo`: the main job, shown on a terminal in a dozen lines, or as JSON.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::fail;
use super::size::parse_size;
use super::text::wrap;
use knothole_netsim::demo::{self, DemoError, Plan, Progress, Report, Stop};
use knothole_netsim::nat::NatKind;
use knothole_netsim::netns;
use knothole_netsim::role::RoleError;

/// What stands before a line that continues a step.
const CONTINUED: &str = "           ";

/// Shows the main job: a server and two machines behind NATs, paired by name, a file straight between them.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// NAT in front of the sending machine (`knothole-netsim kinds` lists them)
    #[arg(long, env = "KNOTHOLE_A", default_value = "port-restricted", value_parser = super::kind)]
    a: &'static NatKind,
    /// NAT in front of the receiving machine
    #[arg(long, env = "KNOTHOLE_B", default_value = "port-restricted", value_parser = super::kind)]
    b: &'static NatKind,
    /// Size of the file that is made and sent
    #[arg(long, env = "KNOTHOLE_SIZE", default_value = "256MiB", value_parser = parse_size)]
    size: u64,
    /// One-way delay of each machine's link in milliseconds
    #[arg(long, env = "KNOTHOLE_DELAY", default_value_t = 5, value_name = "MS")]
    delay: u64,
    /// Which paths the sender may take: auto, never or only the relay
    #[arg(long, env = "KNOTHOLE_RELAY", default_value = "auto", value_parser = ["auto", "never", "only"])]
    relay: String,
    /// One JSON object a line on stdout instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Run the demonstration. Success means that the file arrived whole over a direct path.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    if let Err(error) = netns::become_lab_root() {
        return failed(args.json, &error.into());
    }
    let stop = Stop::default();
    if let Err(error) = super::signals::raise_on_interrupt(stop.clone()) {
        tracing::warn!(%error, "Ctrl-C will end the lab without its last words");
    }
    let executable = match std::env::current_exe() {
        Ok(path) => path,
        Err(source) => {
            return failed(
                args.json,
                &DemoError::Role(RoleError::Files {
                    what: "this program",
                    source,
                }),
            );
        }
    };
    let plan = Plan {
        a: args.a,
        b: args.b,
        size: args.size,
        delay: Duration::from_millis(args.delay),
        relay: args.relay.clone(),
        executable,
    };
    let mut show = Show {
        json: args.json,
        shown: None,
        held_back: 0,
    };
    if !args.json {
        println!("Knothole: two machines behind NATs, one server, one file.\n");
    }
    match demo::run(&plan, &stop, &mut |progress| show.progress(&progress)) {
        Ok(report) => show.report(&report),
        Err(error) => failed(args.json, &error),
    }
}

/// Words or JSON.
struct Show {
    json: bool,
    /// The path of the last answer that was shown.
    shown: Option<demo::PathSeen>,
    /// Answers since then that said nothing new.
    held_back: usize,
}

impl Show {
    fn progress(&mut self, progress: &Progress) {
        if self.json {
            println!("{}", progress_json(progress));
        } else if let Progress::Pong { path, .. } = progress
            && self.shown.as_ref() == Some(path)
        {
            self.held_back += 1;
        } else {
            self.tell_held_back();
            if let Progress::Pong { path, .. } = progress {
                self.shown = Some(path.clone());
            }
            println!("{}", wrapped(&progress_text(progress)));
        }
        // Whoever reads along sees each step when it happens; if nobody reads any more, the demonstration goes on.
        let _ = std::io::stdout().flush();
    }

    fn tell_held_back(&mut self) {
        match std::mem::take(&mut self.held_back) {
            0 => {}
            1 => println!("           and one more answer like it"),
            count => println!("           and {count} more answers like it"),
        }
    }

    fn report(&self, report: &Report) -> ExitCode {
        let good = report.is_direct_success();
        if self.json {
            let mut value = json!({ "schema": 1, "event": "report", "success": good });
            if let (Some(target), Ok(serde_json::Value::Object(source))) =
                (value.as_object_mut(), serde_json::to_value(report))
            {
                target.extend(source);
            }
            println!("{value}");
        } else {
            println!("\n{}", wrapped(&verdict(report)));
        }
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit_code(report))
        }
    }
}

/// 11: not verified; 7: verified, but not direct.
fn exit_code(report: &Report) -> u8 {
    if report.equal && report.transfer.verified {
        7
    } else {
        11
    }
}

fn progress_text(progress: &Progress) -> String {
    match progress {
        Progress::Server { address } => format!("  server   {address}, public"),
        Progress::Machine { name, kind } => format!("  {name:<8} behind {}", kind.name),
        Progress::Paired { code, took } => {
            format!(
                "\n  pair     desk shows {code}, nas types it: paired in {:.1} s\n",
                took.as_secs_f64()
            )
        }
        Progress::Pong { rtt_ms, path, at_ms } => {
            format!(
                "  ping     {:>6} ms   round trip {rtt_ms:>6.1} ms   {}",
                at_ms,
                words(path)
            )
        }
        Progress::Sent(transfer) => {
            let mib = transfer.bytes as f64 / f64::from(1 << 20);
            format!(
                "\n  send     {mib:.0} MiB in {:.2} s, {:.0} MiB/s, {}{}",
                transfer.seconds,
                mib / transfer.seconds.max(0.001),
                words(&transfer.path),
                if transfer.verified {
                    ", verified"
                } else {
                    ", NOT verified"
                },
            )
        }
        Progress::Compared { equal: true, hash } => {
            format!("  compare  both files read again: equal (BLAKE3 {hash}...)")
        }
        Progress::Compared { equal: false, .. } => "  compare  the two files DIFFER".to_owned(),
    }
}

/// Lines of a terminal's width, those of a step continued under its text.
fn wrapped(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let indent = if line.starts_with("  ") {
            CONTINUED.len()
        } else {
            0
        };
        wrap(line, indent)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn words(path: &demo::PathSeen) -> String {
    match (path.kind.as_str(), path.detail.as_str()) {
        ("direct", "lan") => "direct (same network)".to_owned(),
        ("direct", "ipv6") => "direct (IPv6)".to_owned(),
        ("direct", "mapped") => "direct (mapped port)".to_owned(),
        ("direct", "punched") => "direct (hole punched)".to_owned(),
        ("direct", how) => format!("direct ({how})"),
        (kind, why) => format!("{kind}: {why}"),
    }
}

fn progress_json(progress: &Progress) -> serde_json::Value {
    match progress {
        Progress::Server { address } => json!({ "schema": 1, "event": "server", "address": address }),
        Progress::Machine { name, kind } => {
            json!({ "schema": 1, "event": "machine", "name": name, "nat": kind.name })
        }
        Progress::Paired { code, took } => {
            json!({ "schema": 1, "event": "paired", "code": code, "seconds": took.as_secs_f64() })
        }
        Progress::Pong { rtt_ms, path, at_ms } => {
            json!({ "schema": 1, "event": "pong", "rtt_ms": rtt_ms, "path": path, "at_ms": at_ms })
        }
        Progress::Sent(transfer) => json!({ "schema": 1, "event": "sent", "transfer": transfer }),
        Progress::Compared { equal, hash } => {
            json!({ "schema": 1, "event": "compared", "equal": equal, "hash": hash })
        }
    }
}

fn verdict(report: &Report) -> String {
    if report.is_direct_success() {
        let direct = report
            .to_direct_ms
            .map_or(String::new(), |ms| format!("; the path was direct after {ms} ms"));
        format!("The file went straight from desk to nas and arrived whole{direct}.")
    } else if report.equal && report.transfer.verified {
        // The ping waited for the reason; the transfer, which began anew, did not.
        let why = match report.ping.kind.as_str() {
            "direct" => "it was over before the direct path was proven; try a larger --size",
            _ => &report.ping.detail,
        };
        format!("The file arrived whole, but through the relay: {why}.")
    } else {
        "The file did not arrive whole.".to_owned()
    }
}

fn failed(json: bool, error: &DemoError) -> ExitCode {
    let code: u8 = match error {
        DemoError::Lab(_) => 3,
        DemoError::Role(RoleError::Timeout { .. }) => 8,
        DemoError::Role(RoleError::Stopped) => 130,
        _ => 1,
    };
    fail(json, code, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_steps_are_broken_under_their_text_and_short_ones_are_left() {
        assert_eq!(wrapped("  ping     short"), "  ping     short");
        let long = format!("\n  send     {}end", "word ".repeat(20));
        let lines: Vec<String> = wrapped(&long).split('\n').map(ToOwned::to_owned).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].starts_with(CONTINUED), "{lines:?}");
    }
}
