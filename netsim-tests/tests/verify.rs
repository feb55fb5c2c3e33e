//! `knothole-netsim verify` as a person or a script meets it. In memory only: what needs a lab is in `tests/lab`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

use std::process::{Command, Output};

use serde_json::Value;

fn verify(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knothole-netsim"))
        .arg("verify")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_table_has_a_line_for_each_way_to_the_internet_and_fits_a_terminal() {
    let output = verify(&["--world", "sim", "--kinds", "symmetric-preserve-first,dual-stack"]);
    assert_eq!(output.status.code(), Some(0));
    let table = text(&output.stdout);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{table}");
    let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(0), "kind path world map filt ports hairpin verdict");
    assert_eq!(
        words(1),
        "symmetric-preserve-first ipv4 sim APDM APDF kept, +1 - agrees"
    );
    assert_eq!(words(2), "dual-stack ipv4 sim EIM APDF preserved off agrees");
    assert_eq!(words(3), "dual-stack ipv6 sim EIM APDF preserved - agrees");
    assert!(table.contains("2 of 2 are what they say"));
}

#[test]
fn json_has_every_fact_in_words_and_a_summary() {
    let output = verify(&["--world", "sim", "--kinds", "address-dependent", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let lines = text(&output.stdout);
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [verified, done] = events.as_slice() else {
        panic!("two events: {lines}");
    };
    assert_eq!(verified["schema"], 1);
    assert_eq!(
        (&verified["event"], &verified["kind"]),
        (&"verified".into(), &"address-dependent".into())
    );
    assert_eq!(
        (&verified["world"], &verified["agrees"]),
        (&"sim".into(), &true.into())
    );
    let facts = &verified["facts"]["ipv4"];
    assert_eq!(
        (&facts["mapping"], &facts["filtering"]),
        (&"ADM".into(), &"APDF".into())
    );
    assert_eq!(done["event"], "done");
    assert_eq!((&done["measured"], &done["agree"]), (&1.into(), &1.into()));
}

#[test]
fn an_unknown_kind_is_a_mistake_in_usage_and_the_kinds_are_listed() {
    let output = verify(&["--kinds", "symetric"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("symetric") && said.contains("port-restricted"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn without_the_right_to_make_namespaces_a_lab_is_refused_with_the_reason_and_memory_still_serves() {
    let binary = env!("CARGO_BIN_EXE_knothole-netsim");
    // In a user namespace of its own, whose limit on network namespaces is then none.
    let script =
        "echo 0 > /proc/sys/user/max_net_namespaces || exit 99; exec \"$0\" verify --kinds symmetric \"$@\"";
    let run = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, binary]);
        command.args(args).output()
    };
    let refused = match run(&["--world", "netns"]) {
        Ok(output) if output.status.code() != Some(99) && !text(&output.stderr).contains("unshare") => output,
        other => {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{other:?}");
            println!("skipped: no user namespace in which namespaces could be forbidden");
            return;
        }
    };
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    assert!(
        said.contains("cannot make a network namespace") && said.contains("--world sim"),
        "{said}"
    );
    let both = run(&[]).unwrap();
    assert_eq!(both.status.code(), Some(0));
    assert!(
        text(&both.stderr).contains("left out"),
        "what is not done is said"
    );
}
