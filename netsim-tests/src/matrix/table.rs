//! The matrix for a terminal: at most 80 columns, one row for each kind of the caller.

use std::fmt::Write;

use super::{Cell, Report};
use crate::nat::{NatKind, kinds};

/// Width of the narrowest terminal that is thought of.
const COLUMNS: usize = 80;

/// Widest column of a cell: a share in percent and two spaces.
const WIDEST: usize = 4;

/// Narrowest column that holds a share in percent; below it a share is told in tens.
const PERCENT: usize = 3;

/// Columns of one character stand in groups of so many, so that the eye can count them.
const GROUP: usize = 5;

/// What the symbols mean.
const LEGEND: &str = "\
rows: the caller's NAT; columns: the callee's, by number
D all direct   r all relayed   - no way to the server   ! not as the oracle says
";

/// How symbols look on a terminal, as parameters of ECMA-48's SGR.
mod paint {
    pub(super) const DIRECT: &str = "32";
    pub(super) const SHARE: &str = "33";
    pub(super) const RELAY: &str = "36";
    pub(super) const NONE: &str = "2";
    pub(super) const WRONG: &str = "1;31";
}

/// The table, with the cells of the report that are finished. With `paint`, symbols are coloured.
#[must_use]
pub fn table(report: &Report, paint: bool) -> String {
    let (callers, callees) = (&report.plan.callers, &report.plan.callees);
    let name = callers.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    // "31 symmetric-preserve-first "
    let label = name + 4;
    let room = COLUMNS.saturating_sub(label).max(1);
    let width = (room / callees.len().max(1)).clamp(1, WIDEST);
    let gap = if width == 1 { GROUP } else { usize::MAX };
    let fitting = if width == 1 {
        (room + 1) / (GROUP + 1) * GROUP
    } else {
        room / width
    };
    let mut out = String::new();
    for block in callees.chunks(fitting.max(1)) {
        header(&mut out, block, label, (width, gap));
        for caller in callers {
            // Writing to a string cannot fail.
            let _ = write!(out, "{:>2} {:<name$} ", number(caller), caller.name);
            for (column, callee) in block.iter().enumerate() {
                out.push_str(between(column, gap));
                let found = |cell: &&Cell| cell.a == caller.name && cell.b == callee.name;
                out.push_str(&entry(report.cells.iter().find(found), width, paint));
            }
            end_line(&mut out);
        }
        out.push('\n');
    }
    for kind in callees
        .iter()
        .filter(|kind| !callers.iter().any(|row| row.name == kind.name))
    {
        let _ = writeln!(out, "{:>2} {}", number(kind), kind.name);
    }
    out.push_str(LEGEND);
    out.push_str(if width >= PERCENT {
        "1 to 99: percent that became direct, the others relayed\n"
    } else {
        "0 to 9: tens of percent that became direct, the others relayed\n"
    });
    out
}

/// Two lines of digits, a number above each column.
fn header(out: &mut String, callees: &[&NatKind], label: usize, (width, gap): (usize, usize)) {
    for tens in [true, false] {
        out.push_str(&" ".repeat(label));
        for (column, kind) in callees.iter().enumerate() {
            out.push_str(between(column, gap));
            let number = number(kind);
            let digit = match (tens, number / 10) {
                (true, 0) => " ".to_owned(),
                (true, tens) => tens.to_string(),
                (false, _) => (number % 10).to_string(),
            };
            let _ = write!(out, "{digit:>width$}");
        }
        end_line(out);
    }
}

/// What stands before this column: a blank where a group of narrow columns begins.
fn between(column: usize, gap: usize) -> &'static str {
    if column > 0 && column.is_multiple_of(gap) {
        " "
    } else {
        ""
    }
}

fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// The number of a kind: its place among all of them, the same in every matrix.
fn number(kind: &NatKind) -> usize {
    let place = kinds().iter().position(|known| known.name == kind.name);
    place.map_or(0, |place| place + 1)
}

fn entry(cell: Option<&Cell>, width: usize, paint: bool) -> String {
    let (symbol, colour) = symbol(cell, width);
    let text = format!("{symbol:>width$}");
    if paint && !colour.is_empty() {
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    } else {
        text
    }
}

fn symbol(cell: Option<&Cell>, width: usize) -> (String, &'static str) {
    let Some(cell) = cell else {
        return (".".to_owned(), "");
    };
    let plain = |symbol: &str, colour| (symbol.to_owned(), colour);
    match cell {
        Cell { agrees: false, .. } => plain("!", paint::WRONG),
        Cell { runs, failed, .. } if failed == runs => plain("-", paint::NONE),
        Cell { runs, direct, .. } if direct == runs => plain("D", paint::DIRECT),
        Cell { direct: 0, .. } => plain("r", paint::RELAY),
        Cell { runs, direct, .. } => {
            // Between the two, however near to one of them.
            let percent = (direct * 100 / (*runs).max(1)).clamp(1, 99);
            let share = if width >= PERCENT { percent } else { percent / 10 };
            (share.to_string(), paint::SHARE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use super::super::cell::tests::cell;
    use super::super::{End, Plan, World};
    use super::*;
    use crate::nat::kind;
    use crate::oracle::Expect;
    use crate::sim::Weather;

    fn report(callers: &[&'static NatKind], callees: &[&'static NatKind], cells: Vec<Cell>) -> Report {
        Report {
            plan: Plan {
                callers: callers.to_vec(),
                callees: callees.to_vec(),
                runs: 2,
                seed: 0,
                jobs: NonZeroUsize::MIN,
                world: World::Memory {
                    weather: Weather::STEADY,
                },
                traces: false,
            },
            cells,
            took: Duration::ZERO,
        }
    }

    fn all() -> Vec<&'static NatKind> {
        kinds().iter().collect()
    }

    #[test]
    fn whatever_the_number_of_kinds_no_line_is_wider_than_a_terminal() {
        for count in 1..=kinds().len() {
            let some = &all()[kinds().len() - count..];
            let text = table(&report(some, some, Vec::new()), false);
            assert!(text.lines().all(|line| line.len() <= COLUMNS), "{count}: {text}");
            assert!(text.lines().all(|line| !line.ends_with(' ')), "{count}: {text}");
        }
        let many: Vec<&NatKind> = all().into_iter().chain(all()).collect();
        let text = table(&report(&all(), &many, Vec::new()), false);
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
        assert_eq!(
            text.lines().filter(|line| line.contains("1 open")).count(),
            2,
            "two blocks"
        );
    }

    #[test]
    fn each_end_has_its_symbol() {
        use End::{Direct, Failed, Relay};
        let symbol_of = |expect, reaches, ends: &[End]| symbol(Some(&cell(expect, reaches, ends)), PERCENT).0;
        let both = [true, true];
        assert_eq!(symbol_of(Expect::Must, both, &[Direct, Direct]), "D");
        assert_eq!(symbol_of(Expect::May, both, &[Relay, Relay]), "r");
        assert_eq!(symbol_of(Expect::May, both, &[Direct, Relay]), "50");
        assert_eq!(symbol_of(Expect::Cannot, [false, true], &[Failed]), "-");
        assert_eq!(symbol_of(Expect::Must, both, &[Direct, Relay]), "!");
        let mut nearly = vec![Direct; 999];
        nearly.push(Relay);
        assert_eq!(
            symbol_of(Expect::May, both, &nearly),
            "99",
            "almost is not always"
        );
        assert_eq!(symbol(Some(&cell(Expect::May, both, &nearly)), 1).0, "9");
        assert_eq!(symbol(None, 1).0, ".");
    }

    #[test]
    fn colours_are_there_only_if_wanted_and_a_column_without_a_row_is_named() {
        let (open, symmetric) = (kind("open").unwrap(), kind("symmetric").unwrap());
        let cells = vec![cell(Expect::Must, [true, true], &[End::Direct])];
        let report = report(&[open], &[symmetric], cells);
        let (plain, painted) = (table(&report, false), table(&report, true));
        assert!(
            !plain.contains('\u{1b}') && painted.contains("\u{1b}[32m"),
            "{painted}"
        );
        assert!(plain.contains("25 symmetric\n"), "{plain}");
    }
}
