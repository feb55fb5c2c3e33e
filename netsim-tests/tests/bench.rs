//! The measurement from outside: a tiny one in namespaces, whose JSON must make sense.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)] // a test that panics has failed, and says so

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Bytes of the file: some chunks and a rest, over in a moment.
const SIZE: u64 = 5_000_001;

fn bench(scratch: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knothole-netsim"))
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

/// Its events, or `None` where this machine has no lab (which is a failure in CI). Nothing may be left behind.
fn events(arguments: &[&str]) -> Option<Vec<Value>> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let dir = scratch.path().to_string_lossy().into_owned();
    let is_comparison = !arguments.contains(&"congestion");
    let mut all = arguments.to_vec();
    if is_comparison {
        all.extend(["--dir", &dir]);
    }
    let output = bench(scratch.path(), &all);
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(3) {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must be able to build the lab: {text}"
        );
        eprintln!("skipped: {text}");
        return None;
    }
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let left: Vec<_> = std::fs::read_dir(scratch.path()).expect("the folder").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let event = |line: &str| serde_json::from_str(line).expect("every line is JSON");
    Some(text.lines().map(event).collect())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn line<'a>(report: &'a Value, who: &str) -> &'a Value {
    let lines = report["lines"].as_array().expect("lines");
    lines
        .iter()
        .find(|line| line["contestant"] == who)
        .unwrap_or_else(|| panic!("no line for {who} in {report}"))
}

#[test]
fn a_tiny_measurement_says_what_arrived_how_fast_and_at_what_price() {
    let size = SIZE.to_string();
    let arguments = [
        "--only",
        "tcp,quic,send,send-relay,folder",
        "--runs",
        "1",
        "--seconds",
        "1",
    ];
    let arguments = [&arguments[..], &["--size", &size, "--files", "30"]].concat();
    let Some(events) = events(&arguments) else {
        return;
    };
    let report = events.last().expect("a report");
    assert_eq!((&report["event"], &report["runs"]), (&"report".into(), &1.into()));
    for who in ["tcp", "quic", "send", "send-relay", "folder"] {
        let line = line(report, who);
        let sample = &line["samples"][0];
        let gbit = number(&line["gbit"]["median"]);
        let expected = number(&sample["bytes"]) * 8e-9 / number(&sample["seconds"]);
        assert!(gbit > 0.0 && (gbit / expected - 1.0).abs() < 1e-6, "{line}");
        let ratio = number(&line["to_quic"]);
        let quic = number(&self::line(report, "quic")["gbit"]["median"]);
        assert!((ratio - gbit / quic).abs() < 1e-6 * ratio, "{line}");
        for end in ["sender", "receiver"] {
            assert!(number(&line[end]["peak_kib"]) > 500.0, "{who} {end}: {line}");
        }
        assert_eq!(line["error"], Value::Null);
    }
    // Of a whole second of sending some processor time must show; a tick of the kernel's clock is 10 ms.
    for who in ["tcp", "quic"] {
        let sample = &line(report, who)["samples"][0];
        assert!(number(&sample["sender"]["cpu_seconds"]) > 0.0, "{sample}");
        assert!(number(&sample["receiver"]["cpu_seconds"]) > 0.0, "{sample}");
        assert_eq!(sample["server"], Value::Null);
    }
    let sample = |who| &line(report, who)["samples"][0];
    assert_eq!(sample("send")["bytes"], SIZE);
    assert_eq!(sample("send")["path"]["kind"], "direct");
    assert_eq!(sample("send-relay")["path"]["kind"], "relay");
    assert!(number(&sample("send-relay")["server"]["peak_kib"]) > 500.0);
    assert_eq!(sample("folder")["bytes"], 30 * 4096);
    let turns = events.iter().filter(|event| event["event"] == "turn").count();
    assert_eq!(
        (turns, events.len()),
        (5, 6),
        "one event for each turn, and the report"
    );
}

#[test]
fn controllers_are_measured_in_their_steady_state_and_never_above_the_link() {
    let link = [
        "congestion",
        "--rate",
        "20",
        "--rtt",
        "20",
        "--loss",
        "0",
        "--queue",
        "deep",
    ];
    let arguments = [
        &link[..],
        &["--seconds", "2", "--start", "1", "--controller", "cubic,own"],
    ]
    .concat();
    let Some(rows) = events(&arguments) else {
        return;
    };
    let who: Vec<&Value> = rows.iter().map(|row| &row["controller"]).collect();
    assert_eq!(who, ["tcp", "cubic", "own"], "{rows:?}");
    for row in &rows {
        let gbit = number(&row["gbit"]["median"]);
        // What was out of order before the span may be delivered in it; a window of that is small beside a second.
        assert!(gbit > 0.004 && gbit < 0.024, "{row}");
        assert_eq!(row["runs"][0]["error"], Value::Null);
    }
}

#[test]
fn a_name_that_nobody_has_is_a_usage_error_that_names_the_known_ones() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let output = bench(scratch.path(), &["--only", "fastest"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("send-relay"));
}
