//! The main job from outside: the lab's executable runs the demonstration, these tests read what it prints.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)] // a test that panics has failed, and says so

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The relayed receiver of a large file must stay below this, and so must the direct one.
const RECEIVER_MEMORY_MAX_KIB: u64 = 100 * 1024;

/// Large enough that the transfer, which begins over the relay, is still running when the direct path is proven about
/// 0.2 s later.
const MOVING: &str = "48MiB";

fn demo(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
    command
        .arg("demo")
        .arg("--json")
        .args(arguments)
        .env("TMPDIR", scratch)
        .stdin(Stdio::null());
    command
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn events(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).expect("every line is JSON"))
        .collect()
}

/// The report of a run, or `None` where this machine has no lab (which is a failure in CI).
fn report(arguments: &[&str]) -> Option<Value> {
    let scratch = scratch();
    let output = demo(scratch.path(), arguments)
        .output()
        .expect("the demonstration runs");
    if output.status.code() == Some(3) {
        let why = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must be able to build the lab: {why}"
        );
        eprintln!("skipped: {why}");
        return None;
    }
    assert_clean(scratch.path());
    let events = events(&output);
    let report = events.iter().find(|e| e["event"] == "report").cloned();
    Some(report.unwrap_or_else(|| {
        panic!(
            "no report in {events:?}\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
    }))
}

/// No file in the scratch folder, and no process that works in it.
fn assert_clean(scratch: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes_of(scratch);
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still running: {left:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let files: Vec<_> = std::fs::read_dir(scratch).expect("the folder").collect();
    assert!(files.is_empty(), "left behind: {files:?}");
}

/// Command lines of the processes that name this folder in their arguments or environment.
fn processes_of(scratch: &Path) -> Vec<String> {
    let needle = scratch.as_os_str().as_bytes();
    let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = entries
        .map(|e| e.file_name())
        .filter(|n| n.as_bytes().iter().all(u8::is_ascii_digit));
    numbers
        .filter(|pid| pid != OsStr::new(&own))
        .filter_map(|pid| {
            let dir = Path::new("/proc").join(pid);
            let line = std::fs::read(dir.join("cmdline")).ok()?;
            let environment = std::fs::read(dir.join("environ")).unwrap_or_default();
            (has(&line) || has(&environment)).then(|| String::from_utf8_lossy(&line).replace('\0', " "))
        })
        .collect()
}

#[test]
fn two_port_restricted_nats_end_direct_in_every_one_of_twenty_runs() {
    for run in 0..20 {
        let Some(report) = report(&["--size", MOVING]) else {
            return;
        };
        assert_eq!(report["success"], true, "run {run}: {report}");
        assert_eq!(report["transfer"]["path"]["kind"], "direct", "run {run}");
        assert_eq!(report["transfer"]["path"]["detail"], "punched", "run {run}");
    }
}

#[test]
fn with_udp_blocked_between_the_nodes_the_file_arrives_over_the_relay_and_ping_says_why() {
    let Some(report) = report(&["--a", "udp-server-only", "--size", "16MiB"]) else {
        return;
    };
    assert_eq!(report["success"], false);
    assert_eq!(report["equal"], true);
    assert_eq!(report["transfer"]["verified"], true);
    assert_eq!(report["transfer"]["path"]["kind"], "relay");
    let why = report["ping"]["detail"].as_str().expect("a reason");
    assert!(why.contains("UDP"), "{why}");
    assert_eq!(report["to_direct_ms"], Value::Null);
}

#[test]
fn a_gibibyte_arrives_whole_and_the_receiver_stays_small() {
    let Some(report) = report(&["--size", "1GiB"]) else {
        return;
    };
    assert_eq!(report["success"], true, "{report}");
    assert_eq!(report["transfer"]["bytes"], 1_u64 << 30);
    let peak = report["receiver_peak_kib"].as_u64().expect("measured");
    assert!(peak > 0 && peak < RECEIVER_MEMORY_MAX_KIB, "{peak} KiB");
    println!(
        "1 GiB: {} s, receiver's peak memory {peak} KiB",
        report["transfer"]["seconds"]
    );
}

#[test]
fn open_machines_and_a_full_cone_end_direct_too() {
    for (a, b) in [("open", "port-restricted"), ("full-cone", "address-restricted")] {
        let Some(report) = report(&["--a", a, "--b", b, "--size", MOVING]) else {
            return;
        };
        assert_eq!(report["success"], true, "{a} x {b}: {report}");
    }
}

/// Start a run and wait until it has come as far as this event.
#[allow(clippy::zombie_processes)] // the caller waits, or a failed assertion ends the whole process
fn started(scratch: &Path, until: &str) -> Option<Child> {
    use std::io::{BufRead, BufReader};
    let mut child = demo(scratch, &["--size", "1GiB"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    loop {
        let line = lines.next().expect("more events").expect("readable");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        if event["event"] == until {
            // The rest of what it prints is read so that it never waits for a reader.
            std::thread::spawn(move || lines.for_each(drop));
            return Some(child);
        }
        if event["event"] == "error" && event["code"] == 3 {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI must be able to build the lab: {event}"
            );
            eprintln!("skipped: {event}");
            child.wait().expect("ends");
            return None;
        }
    }
}

#[test]
fn ctrl_c_ends_it_cleanly_and_leaves_nothing() {
    let scratch = scratch();
    let Some(mut child) = started(scratch.path(), "paired") else {
        return;
    };
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("still there");
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(130));
    assert_clean(scratch.path());
}

#[test]
fn kill_9_leaves_no_process() {
    let scratch = scratch();
    let Some(mut child) = started(scratch.path(), "paired") else {
        return;
    };
    child.kill().expect("still there");
    child.wait().expect("ends");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes_of(scratch.path()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_of(scratch.path()));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn an_unknown_kind_is_a_usage_error_that_names_the_known_ones() {
    let scratch = scratch();
    let output = demo(scratch.path(), &["--a", "nonsense"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("port-restricted"));
}
