//! Everything that is printed: facts on stdout, talk on stderr, lines that show progress if somebody looks at them.
//!
//! Facts are lines for people, or JSON Lines with `"schema":1`, `"event"` and `"at_ms"`. A closed pipe is no failure:
//! whoever closed it has read enough. Remote text must be escaped before it comes here.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar};
use knothole_proto::connector::{Effort, Nat};
use knothole_proto::path::{Path, Why};
use knothole_proto::punch::Plan;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::terminal;
use crate::node::Registered;

/// Version of the layout of events.
const SCHEMA: u32 = 1;

/// Where a command's words go.
pub(super) struct Output {
    json: bool,
    quiet: bool,
    started: Instant,
    /// Below everything else, if somebody looks.
    lines: Option<MultiProgress>,
}

impl Output {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let looks = !json && !quiet && std::io::stderr().is_terminal();
        Self {
            json,
            quiet,
            started: Instant::now(),
            lines: looks.then(|| MultiProgress::with_draw_target(terminal::target())),
        }
    }

    /// For somebody who looks at these lines.
    #[cfg(test)]
    pub(super) fn on(lines: MultiProgress) -> Self {
        Self {
            lines: Some(lines),
            ..Self::new(false, false)
        }
    }

    /// Time since the command began.
    pub(super) fn at_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A line about what is going on, for people.
    pub(super) fn talk(&self, line: impl Display) {
        if !self.quiet {
            self.beside_the_lines(|| {
                let _ = writeln!(std::io::stderr(), "{line}");
            });
        }
    }

    /// A line that answers what was asked, for people; programs get [`Output::event`].
    pub(super) fn fact(&self, line: impl Display) {
        if !self.json {
            self.beside_the_lines(|| {
                let _ = writeln!(std::io::stdout(), "{line}");
            });
        }
    }

    /// The same for programs; `fields` is a JSON object.
    pub(super) fn event(&self, event: &str, fields: Value) {
        if !self.json {
            return;
        }
        let mut line = Map::new();
        line.insert("schema".to_owned(), json!(SCHEMA));
        line.insert("event".to_owned(), json!(event));
        line.insert("at_ms".to_owned(), json!(self.at_ms()));
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{}", Value::Object(line));
        let _ = stdout.flush();
    }

    /// Say why the command failed, and the exit code for it.
    pub(super) fn failure(&self, failure: &Failure) -> ExitCode {
        let Failure { code, message, hint } = failure;
        self.event("error", json!({ "code": code, "message": message, "hint": hint }));
        self.beside_the_lines(|| {
            let _ = writeln!(std::io::stderr(), "knothole: {message}");
            if !hint.is_empty() {
                let _ = writeln!(std::io::stderr(), "  try: {hint}");
            }
        });
        ExitCode::from(*code)
    }

    /// A question to whoever sits at the terminal. It has a line of its own: the lines below are drawn again and again.
    pub(super) fn ask(&self, question: impl Display) {
        self.beside_the_lines(|| {
            let _ = writeln!(std::io::stderr(), "{question} [y/n]");
        });
    }

    /// A line below all others, if somebody looks.
    pub(super) fn add_line(&self, line: impl FnOnce() -> ProgressBar) -> Option<ProgressBar> {
        self.lines.as_ref().map(|lines| lines.add(line()))
    }

    /// That one is over.
    pub(super) fn remove_line(&self, line: &ProgressBar) {
        line.finish_and_clear();
        if let Some(lines) = &self.lines {
            lines.remove(line);
        }
    }

    /// Print something above the lines that show progress.
    pub(super) fn beside_the_lines(&self, print: impl FnOnce()) {
        match &self.lines {
            Some(lines) => lines.suspend(print),
            None => print(),
        }
    }
}

/// Bytes in a second, whole ones.
pub(super) fn rate(bytes: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// A path in words: `direct (hole punched)`, `relay: still punching`.
pub(super) fn path_words(path: &Path) -> String {
    match path {
        Path::Direct { how, .. } => format!("direct ({})", how.phrase()),
        Path::Relay(why) => format!("relay: {}", why.sentence()),
        Path::None(why) => format!("no path: {}", why.sentence()),
    }
}

/// A path for programs: `kind`, `how` or `why`, `remote`, and the round trip of the probes.
pub(super) fn path_fields(path: &Path) -> Map<String, Value> {
    let value = match path {
        Path::Direct { how, remote, rtt, .. } => {
            json!({ "kind": "direct", "how": how.word(), "remote": remote.to_string(), "rtt_ms": ms(*rtt) })
        }
        Path::Relay(why) => json!({ "kind": "relay", "why": why.sentence(), "remote": null }),
        Path::None(why) => json!({ "kind": "none", "why": why.sentence(), "remote": null }),
    };
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// What it took, for programs.
pub(super) fn effort_fields(effort: Effort) -> Map<String, Value> {
    let mut fields = Map::new();
    for (name, count) in [
        ("probes", effort.probes),
        ("sockets", effort.sockets),
        ("nat_entries", effort.nat_entries),
    ] {
        fields.insert(name.to_owned(), json!(count));
    }
    fields
}

/// How a round goes about it, for programs.
pub(super) fn plan_fields(peer: &str, round: u8, plan: Plan) -> Value {
    json!({ "peer": peer, "round": round, "plan": plan.word(), "reason": plan.reason() })
}

/// Will this path stay what it is, because somebody wants it so?
pub(super) fn is_final(path: &Path) -> bool {
    matches!(path, Path::Relay(Why::Policy) | Path::None(Why::Policy))
}

/// A NAT in words that say what to expect of it.
pub(super) fn nat_words(nat: Nat) -> &'static str {
    match nat {
        Nat::Unknown => "not known: the server answers on one port only",
        Nat::None => "none: this machine has a public address itself",
        Nat::EndpointIndependent => "easy: direct connections will work with almost everyone",
        Nat::EndpointDependent => {
            "hard: the router picks a new port per destination; direct with easy peers, else relay"
        }
    }
}

/// A registration for programs.
pub(super) fn registered_fields(registered: &Registered) -> Value {
    json!({
        "name": registered.name.as_ref().map(|name| name.as_str()),
        "id": registered.id.to_string(),
        "reflexive": registered.reflexive.to_string(),
        "nat": nat_word(registered.nat),
        "relay": registered.relay,
    })
}

/// A NAT for programs.
pub(super) fn nat_word(nat: Nat) -> &'static str {
    match nat {
        Nat::Unknown => "unknown",
        Nat::None => "none",
        Nat::EndpointIndependent => "endpoint-independent",
        Nat::EndpointDependent => "endpoint-dependent",
    }
}

/// Milliseconds with three digits behind the point.
#[allow(clippy::cast_precision_loss)] // exact up to 2^53 microseconds, 285 years
pub(super) fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// A size as people read it, in powers of 1024.
#[allow(clippy::cast_precision_loss)] // one digit behind the point is shown
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// A rate as people compare it, in bits a second.
#[allow(clippy::cast_precision_loss)] // at most four digits are shown
pub(super) fn bit_rate(bytes_per_second: u64) -> String {
    let bits = bytes_per_second as f64 * 8.0;
    match bits {
        b if b >= 1e9 => format!("{:.2} Gbit/s", b / 1e9),
        b if b >= 1e6 => format!("{:.0} Mbit/s", b / 1e6),
        b => format!("{:.0} kbit/s", b / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use knothole_proto::path::{How, SocketId};

    use super::*;

    #[test]
    fn a_path_has_the_same_words_everywhere() {
        let direct = Path::Direct {
            how: How::Punched,
            socket: SocketId::V4,
            remote: "203.0.113.7:41641".parse().unwrap(),
            rtt: Duration::from_micros(9_200),
        };
        assert_eq!(path_words(&direct), "direct (hole punched)");
        let fields = Value::Object(path_fields(&direct));
        let expected =
            json!({ "kind": "direct", "how": "punched", "remote": "203.0.113.7:41641", "rtt_ms": 9.2 });
        assert_eq!(fields, expected);
        let effort = Effort {
            probes: 12,
            sockets: 2,
            nat_entries: 7,
        };
        let expected = json!({ "probes": 12, "sockets": 2, "nat_entries": 7 });
        assert_eq!(Value::Object(effort_fields(effort)), expected);
        let relay = Path::Relay(Why::Punching);
        assert_eq!(path_words(&relay), "relay: still punching");
        assert_eq!(path_fields(&relay)["why"], "still punching");
    }

    #[test]
    fn sizes_and_rates_are_read_at_a_glance() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(bit_rate(125_000_000), "1.00 Gbit/s");
        assert_eq!(bit_rate(12_500_000), "100 Mbit/s");
        assert_eq!(bit_rate(0), "0 kbit/s");
        assert_eq!(rate(1000, Duration::ZERO), 1_000_000_000);
    }
}
