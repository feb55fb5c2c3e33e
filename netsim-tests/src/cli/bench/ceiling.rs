//! `knothole-netsim bench ceiling`: what the lab carries on this machine.

use std::io;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cli::{fail, say};
use knothole_netsim::ceiling::{Ceiling, CeilingError, Flow, Path, TIME, measure};
use knothole_netsim::netns::become_lab_root;

/// Measures what the lab itself carries on this machine, which is the ceiling of everything measured inside it.
#[derive(Args, Debug)]
pub(crate) struct CeilingArgs {
    /// One JSON object per path
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Measures and prints. Threads must not exist yet.
pub(crate) fn run(args: &CeilingArgs) -> ExitCode {
    if let Err(error) = become_lab_root() {
        return failed(args.json, &error.into());
    }
    if !args.json && head().is_err() {
        return ExitCode::SUCCESS;
    }
    for path in Path::ALL {
        let ceiling = match measure(path, TIME) {
            Ok(ceiling) => ceiling,
            // What the kernel alone cannot play is left out; the rest is worth knowing.
            Err(error) if path == Path::KernelNats => {
                eprintln!("{}: left out: {error}", path.label());
                continue;
            }
            Err(error) => return failed(args.json, &error),
        };
        let said = if args.json {
            say(object(path, &ceiling))
        } else {
            say(row(path, &ceiling))
        };
        // A reader that has seen enough is no failure.
        if said.is_err() {
            return ExitCode::SUCCESS;
        }
    }
    if !args.json {
        let _ = say("\nPayload received; UDP in packets of 1200 bytes. Lost: more was sent than arrived.");
    }
    ExitCode::SUCCESS
}

fn failed(json: bool, error: &CeilingError) -> ExitCode {
    let code: u8 = match error {
        CeilingError::Lab(_) => 3,
        CeilingError::Socket { .. } => 1,
    };
    fail(json, code, &error.to_string())
}

/// The head of the table.
fn head() -> io::Result<()> {
    say(format!(
        "{:<23} {:>17} {:>26} {:>11}",
        "", "UDP with offload", "UDP packet by packet", "TCP"
    ))?;
    say(format!(
        "{:<23} {:>10} {:>6} {:>10} {:>8} {:>6} {:>11}",
        "path", "Gbit/s", "lost", "Gbit/s", "1000/s", "lost", "Gbit/s"
    ))
}

fn row(path: Path, ceiling: &Ceiling) -> String {
    let lost = |flow: Flow| format!("{:.0} %", (1.0 - flow.arrived) * 100.0);
    format!(
        "{:<23} {:>10.2} {:>6} {:>10.2} {:>8.0} {:>6} {:>11.2}",
        path.label(),
        ceiling.udp_offload.gbit,
        lost(ceiling.udp_offload),
        ceiling.udp_single.gbit,
        ceiling.udp_single.packets / 1000.0,
        lost(ceiling.udp_single),
        ceiling.tcp_gbit,
    )
}

fn object(path: Path, ceiling: &Ceiling) -> serde_json::Value {
    let flow = |flow: Flow| json!({ "gbit": flow.gbit, "packets": flow.packets, "arrived": flow.arrived });
    json!({
        "schema": 1, "event": "ceiling", "path": path.name(), "offload": ceiling.offload,
        "udp_offload": flow(ceiling.udp_offload), "udp_single": flow(ceiling.udp_single),
        "tcp": { "gbit": ceiling.tcp_gbit },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::COLUMNS;

    #[test]
    fn a_row_has_the_width_of_a_terminal_even_on_the_fastest_machine() {
        let flow = Flow {
            gbit: 1234.567,
            packets: 12_345_678.9,
            arrived: 0.0,
        };
        let ceiling = Ceiling {
            udp_offload: flow,
            udp_single: flow,
            tcp_gbit: 1234.567,
            offload: true,
        };
        for path in Path::ALL {
            let row = row(path, &ceiling);
            assert_eq!(row.chars().count(), COLUMNS, "{row}");
            assert!(row.ends_with("1234.57") && row.contains("12346  100 %"), "{row}");
        }
    }
}
