//! The measurement from outside: a tiny one in namespaces, whose JSON must make sense.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)] // a test that panics has failed, and says so

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Bytes of the file: some chunks and a rest, over in a moment.
const SIZE: u64 = 5_000_001;

fn bench(scratch: &Path, arguments: &[&str], path: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
    command.arg("bench").args(arguments).arg("--json");
    command.env("TMPDIR", scratch).stdin(Stdio::null());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    command.output().expect("it runs")
}

/// Its events, or `None` where this machine has no lab (which is a failure in CI). Nothing may be left behind.
fn events(arguments: &[&str]) -> Option<Vec<Value>> {
    events_with(arguments, None)
}

/// The same with another `PATH`.
fn events_with(arguments: &[&str], path: Option<&Path>) -> Option<Vec<Value>> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let dir = scratch.path().to_string_lossy().into_owned();
    let is_comparison = !arguments.contains(&"congestion");
    let mut all = arguments.to_vec();
    if is_comparison {
        all.extend(["--dir", &dir]);
    }
    let output = bench(scratch.path(), &all, path);
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
fn whatever_else_is_installed_delivers_everything() {
    let mut who = vec![
        "iperf3",
        "sendme",
        "sendme-folder",
        "wormhole",
        "wormhole-folder",
        "croc",
        "croc-folder",
    ];
    // A user namespace does not let sshd change the user.
    if rustix::process::geteuid().is_root() {
        who.extend(["scp", "scp-folder", "rsync", "rsync-folder"]);
    }
    let (only, size) = (who.join(","), SIZE.to_string());
    let arguments = ["--runs", "1", "--seconds", "1", "--files", "30", "--size", &size];
    let Some(events) = events(&[&arguments[..], &["--only", &only]].concat()) else {
        return;
    };
    let report = events.last().expect("a report");
    for who in who {
        let line = line(report, who);
        if line["missing"] == true {
            eprintln!("skipped: {who} lacks {}", line["lacks"]);
            continue;
        }
        assert_eq!(line["error"], Value::Null, "{line}");
        let bytes = &line["samples"][0]["bytes"];
        match who {
            "iperf3" => assert!(number(bytes) > 0.0, "{line}"),
            _ if who.ends_with("-folder") => assert_eq!(*bytes, 30 * 4096),
            _ => assert_eq!(*bytes, SIZE),
        }
        for end in ["sender", "receiver"] {
            assert!(number(&line[end]["peak_kib"]) > 500.0, "{who} {end}: {line}");
        }
    }
}

/// A program of the test's own.
fn script(folder: &Path, name: &str, lines: &str) {
    let file = folder.join(name);
    fs::write(&file, format!("#!/bin/sh\n{lines}\n")).expect("a script");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// Are servers kept where everything else is? Then no `PATH` hides anything from the measurement.
fn has_one_folder_for_all() -> bool {
    let real = |folder: &str| fs::canonicalize(folder).ok();
    real("/usr/sbin") == real("/usr/bin")
}

#[test]
fn who_lacks_a_program_says_which_and_is_not_asked_again() {
    if has_one_folder_for_all() {
        eprintln!("skipped: /usr/sbin is /usr/bin");
        return;
    }
    let bin = tempfile::tempdir().expect("a temporary folder");
    script(bin.path(), "scp", "exit 0");
    script(bin.path(), "wormhole", "exit 0");
    script(bin.path(), "twist", "echo 'Error: Unknown command' >&2; exit 64");
    let arguments = ["--only", "iperf3,scp,wormhole", "--runs", "2", "--size", "1000"];
    let Some(events) = events_with(&arguments, Some(bin.path())) else {
        return;
    };
    let report = events.last().expect("a report");
    for (who, lacks) in [
        ("iperf3", "iperf3"),
        ("scp", "ssh"),
        ("wormhole", "twist with magic-wormhole-mailbox-server"),
    ] {
        let line = line(report, who);
        assert_eq!(
            (&line["missing"], &line["lacks"]),
            (&true.into(), &lacks.into()),
            "{line}"
        );
    }
    assert_eq!(events.len(), 4, "three turns and the report: {events:?}");
}

/// A `croc` of Perl, strict about how it is started: the relay only listens, the file goes by a note that the sender leaves.
const CROC: &str = r#"
case "$1 $2" in "relay --host") exec "$PERL" -MIO::Socket::INET -e '
    my $s = IO::Socket::INET->new(LocalAddr => "$ARGV[0]:9009", Listen => 5, ReuseAddr => 1) or die "no relay: $!";
    my @all; while (my $one = $s->accept) { push @all, $one }' "$3"
esac
[ "$CROC_SECRET" ] || { echo "no code" >&2; exit 1; }
[ "$1 $2" = "--ignore-stdin --relay" ] || { echo "unknown option" >&2; exit 2; }
case "$4" in
send)
    echo "$5" > "$HOME/offer"
    exec "$PERL" -MIO::Socket::INET -e '
        my $s = IO::Socket::INET->new($ARGV[0]) or die "no relay: $!";
        until (-e $ARGV[1]) { select(undef, undef, undef, 0.01) } unlink $ARGV[1]' "$3" "$HOME/taken" ;;
--yes)
    [ "$5" = --overwrite ] || { echo "it would ask" >&2; exit 3; }
    /bin/cp -r "$(/bin/cat "$HOME/offer")" . && echo > "$HOME/taken" ;;
*) exit 4 ;;
esac
"#;

#[test]
fn croc_is_started_as_its_version_10_wants_it_with_a_relay_and_everything_arrives() {
    let perl = Path::new("/usr/bin/perl");
    if !perl.exists() {
        eprintln!("skipped: no perl to stand in for croc");
        return;
    }
    let bin = tempfile::tempdir().expect("a temporary folder");
    script(bin.path(), "croc", &CROC.replace("$PERL", "/usr/bin/perl"));
    let size = SIZE.to_string();
    let arguments = [
        "--only",
        "croc,croc-folder",
        "--runs",
        "1",
        "--files",
        "30",
        "--size",
        &size,
    ];
    let Some(events) = events_with(&arguments, Some(bin.path())) else {
        return;
    };
    let report = events.last().expect("a report");
    for (who, bytes) in [("croc", SIZE), ("croc-folder", 30 * 4096)] {
        let line = line(report, who);
        assert_eq!(line["error"], Value::Null, "{line}");
        let sample = &line["samples"][0];
        assert_eq!(sample["bytes"], bytes, "{line}");
        assert!(number(&sample["server"]["peak_kib"]) > 500.0, "{line}");
    }
}

#[test]
fn who_fails_says_why_and_who_delivers_nothing_fails_and_nothing_of_them_goes_on_running() {
    let bin = tempfile::tempdir().expect("a temporary folder");
    let note = bin.path().join("pid");
    let offer = format!(
        "[ $1 = receive ] && exit 0\necho $$ > {}\necho sendme receive {}\nexec /bin/sleep 100",
        note.display(),
        "blob".repeat(20)
    );
    script(bin.path(), "sendme", &offer);
    script(bin.path(), "iperf3", "echo 'no such luck' >&2; exit 1");
    let arguments = ["--only", "iperf3,sendme", "--runs", "1", "--size", "1000"];
    let Some(events) = events_with(&arguments, Some(bin.path())) else {
        return;
    };
    let report = events.last().expect("a report");
    assert_eq!(line(report, "iperf3")["error"], "iperf3-server: no such luck");
    let error = &line(report, "sendme")["error"];
    assert_eq!(*error, "sendme: 0 of 1 files and 0 of 1000 bytes arrived");
    let offering = fs::read_to_string(note).expect("it was started");
    let command = fs::read(format!("/proc/{}/cmdline", offering.trim())).unwrap_or_default();
    assert!(!command.starts_with(b"/bin/sleep"), "it still runs");
}

#[test]
fn three_through_a_relay_that_is_the_narrowest_place_get_equal_shares_from_its_queue() {
    let Some(events) = events(&["--shares", "--relay-mbit", "20"]) else {
        return;
    };
    let [shares] = &events[..] else {
        panic!("one event: {events:?}");
    };
    assert_eq!(
        (&shares["event"], &shares["way"]),
        (&"shares".into(), &"limited-relay".into())
    );
    // Headers and acknowledgements are part of the limit; a reader late by a moment may see a little more than it.
    let total = number(&shares["total_gbit"]);
    assert!(total > 0.01 && total < 0.022, "{shares}");
    assert!(number(&shares["queued"]) > 0.3, "{shares}");
    // In turns of a few packets they are 0.03 apart; whom a busy machine does not let send has nothing in the queue.
    assert!(number(&shares["apart"]) < 0.3, "{shares}");
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
    let output = bench(scratch.path(), &["--only", "fastest"], None);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("send-relay"));
}
