//! The rows for a terminal: one line each, and below it what they are held against.

use std::fmt::Write;

use super::{Kept, Report};
use crate::matrix::Cell;

/// What the columns are.
const HEADER: &str = "row                 pairs  runs   direct    ms p50   p95   max  probes p50 max  packets p99  sockets entries  held  met
";

/// The report as text: equal reports, equal text.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = HEADER.to_owned();
    for row in &report.rows {
        line(&mut out, row);
    }
    out
}

fn line(out: &mut String, row: &Kept) {
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    let time = |share| number(Cell::quantile(&row.times, share));
    let plans: Vec<String> = row
        .plans
        .iter()
        .map(|(plan, count)| format!("{plan} {count}"))
        .collect();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{:<19} {:>5} {:>5} {:>7.2} % {:>9} {:>5} {:>5} {:>11} {:>3} {:>12} {:>8} {:>7} {:>5}  {}",
        row.name,
        row.setups,
        row.runs,
        row.share(),
        time(0.5),
        time(0.95),
        number(row.times.last().copied()),
        number(Cell::quantile(&row.probes, 0.5).map(u64::from)),
        number(row.probes.last().copied().map(u64::from)),
        number(Cell::quantile(&row.packets, 0.99).map(u64::from)),
        number(row.sockets.map(u64::from)),
        number(row.entries.last().copied()),
        number(row.held),
        if row.is_kept() { "yes" } else { "NO" },
    );
    let _ = writeln!(out, "    {}", row.pairs);
    let _ = writeln!(
        out,
        "    promised: {}; plans: {}",
        row.bar.words(),
        plans.join(", ")
    );
    if let Some(rival) = row.rival {
        let _ = writeln!(out, "    {rival}");
    }
    if !row.is_kept() {
        let _ = writeln!(out, "    missed: {}", row.missed.join("; "));
    }
    if let Some((reason, command)) = &row.example {
        let _ = writeln!(out, "    {reason}\n    {command}");
    }
}
