//! Equal seeds give equal runs.

use std::ops::ControlFlow;
use std::process::Command;

use knothole_netsim::sim::{Choice, soak};

fn traces(seeds: std::ops::Range<u64>) -> Vec<[u8; 32]> {
    let mut traces = Vec::new();
    soak(seeds, &Choice::default(), |_, outcome| {
        traces.push(outcome.trace);
        ControlFlow::Continue(())
    })
    .unwrap_or_else(|failure| panic!("{failure}"));
    traces
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    let first = traces(0..40);
    assert_eq!(first, traces(0..40));
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), first.len(), "and another seed another");
}

#[test]
fn a_seed_gives_the_same_trace_in_another_process() {
    let output = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"))
        .args(["soak", "--seeds", "40", "--jobs", "3", "--json"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let theirs: Vec<&str> = lines.iter().filter_map(|line| line["trace"].as_str()).collect();
    let hex = |trace: &[u8; 32]| trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(theirs, traces(0..40).iter().map(hex).collect::<Vec<_>>());
}

#[test]
fn the_command_of_a_failure_repeats_its_attempt() {
    let attempt = Choice::default().attempt(11);
    let expected = attempt.run().unwrap();
    let command = attempt.command();
    let mut words = command.split(' ');
    assert_eq!(words.next(), Some("knothole-netsim"));
    let output = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"))
        .args(words)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let is_event = |line: &&str| {
        line.trim_start()
            .starts_with(|first: char| first.is_ascii_digit())
    };
    let printed = u64::try_from(text.lines().filter(is_event).count()).unwrap();
    assert_eq!(printed, expected.events, "one line for each event");
}
