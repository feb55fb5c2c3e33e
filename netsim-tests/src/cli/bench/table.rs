//! The tables of `knothole-netsim bench`, as wide as the narrowest terminal.

use std::fmt::Write;

use knothole_netsim::bench::{Contestant, Cost, Line, Load, Outcome, Report, Shares, Way};

use crate::cli::text::wrap;

/// Columns of the names, and a space behind the longest. Each more is one less for what was measured.
const NAME: usize = 16;

/// What stands above the tables.
pub(super) fn head(conditions: &str) -> String {
    wrap(conditions, 0)
}

/// What came of one turn, as it happens.
pub(super) fn turn(contestant: Contestant, round: u32, rounds: u32, outcome: &Outcome) -> String {
    let name = contestant.name();
    match outcome {
        Outcome::Ran(sample) => {
            let path = sample
                .path
                .as_ref()
                .map(|path| format!(", {}", path.kind))
                .unwrap_or_default();
            format!(
                "{round}/{rounds} {name}: {:.3} Gbit/s in {:.1} s{path}",
                sample.gbit, sample.seconds
            )
        }
        Outcome::Missing(program) => format!("{round}/{rounds} {name}: {}", lacks(contestant, program)),
        Outcome::Failed(why) => format!("{round}/{rounds} {name}: {why}"),
    }
}

/// Everything.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!(
        "{:<NAME$}{:>19}{:>7}  {:>17}  {:>17}\n{:<NAME$}{:>7}{:>12}{:>7}  {:>5}{:>6}{:>6}  {:>5}{:>6}{:>6}\n",
        "",
        "Gbit/s",
        "x quic",
        "cpu s/GiB",
        "peak MiB",
        "",
        "median",
        "min-max",
        "",
        "send",
        "recv",
        "serv",
        "send",
        "recv",
        "serv"
    );
    for line in &report.lines {
        out.push_str(&row(line));
        out.push('\n');
    }
    let files: Vec<&Line> = report.lines.iter().filter(|line| is_of_files(line)).collect();
    if !files.is_empty() {
        let _ = write!(
            out,
            "\n{:<NAME$}{:>10}{:>14}{:>12}{:>10}\n",
            "files", "seconds", "said Gbit/s", "files/s", "x scp"
        );
        for line in files {
            out.push_str(&row_of_files(line));
            out.push('\n');
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn is_of_files(line: &Line) -> bool {
    line.contestant.load() != Load::Stream && line.gbit.is_some()
}

fn row(line: &Line) -> String {
    let name = line.contestant.name();
    let Some(gbit) = line.gbit else {
        let why = match (line.lacks, &line.error) {
            (Some(program), _) => lacks(line.contestant, program),
            (None, Some(error)) => error.clone(),
            (None, None) => "did not run".to_owned(),
        };
        return wrap(&format!("{name:<NAME$}{why}"), NAME);
    };
    let costs = [line.sender, line.receiver, line.server];
    let [s, r, v] = costs.map(|cost| shown(cost, |cost| short(cost.cpu_seconds_per_gib)));
    let [ms, mr, mv] = costs.map(|cost| shown(cost, |cost| (cost.peak_kib / 1024).to_string()));
    let mut row = format!(
        "{name:<NAME$}{:>7}{:>12}{:>7}  {s:>5}{r:>6}{v:>6}  {ms:>5}{mr:>6}{mv:>6}",
        short(gbit.median),
        format!("{}-{}", short(gbit.min), short(gbit.max)),
        line.to_quic.map_or("-".to_owned(), short),
    );
    if let Some(error) = &line.error {
        row.push('\n');
        row.push_str(&wrap(&format!("{:<NAME$}once: {error}", ""), NAME));
    }
    row
}

fn row_of_files(line: &Line) -> String {
    let files = match (line.contestant.load(), line.seconds) {
        (Load::Folder, Some(seconds)) if seconds > 0.0 => {
            let bytes = line.samples.first().map_or(0, |sample| sample.bytes);
            format!(
                "{:.0}",
                bytes as f64 / knothole_netsim::bench::SMALL as f64 / seconds
            )
        }
        _ => "-".to_owned(),
    };
    format!(
        "{:<NAME$}{:>10}{:>14}{files:>12}{:>10}",
        line.contestant.name(),
        line.seconds
            .map_or("-".to_owned(), |seconds| format!("{seconds:.2}")),
        line.said_gbit.map_or("-".to_owned(), short),
        line.to_scp.map_or("-".to_owned(), short),
    )
}

/// Three transfers at once.
pub(super) fn shares(way: Way, shares: &Shares) -> String {
    let through = match way {
        Way::LimitedRelay(mbit) => format!("a relay of {mbit} Mbit/s"),
        Way::Relay => "a relay without a limit".to_owned(),
        Way::Direct => "direct paths".to_owned(),
    };
    let queued = match way {
        Way::Direct => String::new(),
        _ => format!("; {:.0} % waited in its fair queue", shares.queued * 100.0),
    };
    let each: Vec<String> = shares.gbit.iter().map(|gbit| short(*gbit)).collect();
    let line = format!(
        "three at once through {through}: {} Gbit/s, together {}; up to {:.0} % from the mean{queued}",
        each.join(", "),
        short(shares.total_gbit),
        shares.apart * 100.0
    );
    wrap(&line, 2)
}

/// What is not installed: a program of the line's own name needs no other word.
fn lacks(contestant: Contestant, program: &str) -> String {
    if contestant.name().starts_with(program) {
        "not installed".to_owned()
    } else {
        format!("not installed: {program}")
    }
}

fn shown(cost: Option<Cost>, of: impl Fn(Cost) -> String) -> String {
    cost.map_or("-".to_owned(), of)
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n if n >= 1.0 => format!("{n:.2}"),
        n => format!("{n:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use knothole_netsim::bench::{Sample, Used, sum_up};

    use super::*;
    use crate::cli::text::COLUMNS;

    fn sample(gbit: f64) -> Outcome {
        let used = Used {
            cpu_seconds: 123.4,
            peak_kib: 99_999 * 1024,
        };
        Outcome::Ran(Sample {
            bytes: 80 << 20,
            seconds: 0.5,
            gbit,
            said_gbit: Some(gbit),
            path: None,
            sender: used,
            receiver: used,
            server: Some(used),
        })
    }

    #[test]
    fn no_line_is_wider_than_a_terminal_whatever_was_measured() {
        let long = "a reason that goes on and on, ".repeat(6);
        let mut turns = Vec::new();
        for one in Contestant::ALL {
            turns.push((one, sample(1234.5)));
            turns.push((one, sample(0.001)));
        }
        turns.push((Contestant::Scp, Outcome::Failed(long.clone())));
        let text = text(&sum_up(&turns));
        for line in text.lines().chain(head(&long).lines()) {
            assert!(line.trim_end().chars().count() <= COLUMNS, "{line}");
        }
        let quic = text.lines().find(|line| line.starts_with("quic ")).unwrap();
        assert!(quic.contains("0.001-1234") && quic.contains("99999"), "{quic}");
        // 20,480 files in half a second.
        let folder = text.lines().rfind(|line| line.starts_with("folder")).unwrap();
        assert!(folder.contains("40960"), "{folder}");
    }

    #[test]
    fn who_did_not_run_says_why() {
        let turns = [
            (Contestant::WormholeFolder, Outcome::Missing("wormhole")),
            (Contestant::Rsync, Outcome::Missing("sshd")),
            (Contestant::Scp, Outcome::Failed("scp: no route".to_owned())),
        ];
        let text = text(&sum_up(&turns));
        assert!(text.contains("wormhole-folder not installed\n"), "{text}");
        assert!(text.contains("rsync           not installed: sshd\n"), "{text}");
        assert!(text.contains("scp             scp: no route"), "{text}");
        assert!(!text.contains("files/s"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (number, text) in [
            (0.0, "0.000"),
            (0.1234, "0.123"),
            (3.456, "3.46"),
            (34.56, "34.6"),
            (3456.7, "3457"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
