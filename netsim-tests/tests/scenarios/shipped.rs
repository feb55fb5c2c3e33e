//! Every file of the folder: it can be read, and comes out as it says in the worlds that it names.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use knothole_netsim::netns;
use knothole_netsim::scenario::{Check, InSim, PathKind, Scenario, What, WorldKind, run};

/// Those that are run with real programs here: the fastest of each sort.
const IN_NAMESPACES: [&str; 3] = ["two-easy", "two-symmetric", "web-through-nats"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn all() -> Vec<(String, Scenario)> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |file: PathBuf| {
        let scenario = Scenario::read(&file).unwrap_or_else(|error| panic!("{error}"));
        (file.file_stem().unwrap().to_str().unwrap().to_owned(), scenario)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn the_folder_has_a_dozen_each_with_a_word_on_what_it_shows() {
    let all = all();
    assert!(all.len() >= 12, "{} scenarios", all.len());
    for (name, scenario) in &all {
        let text = std::fs::read_to_string(&scenario.file).unwrap();
        assert!(text.starts_with("# "), "{name} begins by saying what it shows");
        assert_ne!(scenario.title, "a scenario", "{name} has a title");
        let expects = scenario.timeline.iter().any(|item| match &item.what {
            What::Expect { .. } => true,
            What::Step { action, .. } => matches!(action, knothole_netsim::scenario::Action::Run(_)),
        });
        assert!(expects, "{name} expects nothing");
    }
}

#[test]
fn those_for_the_world_in_memory_come_out_there_and_repeat_to_the_bit() {
    for (name, scenario) in all() {
        if !scenario.worlds.contains(&WorldKind::Sim) {
            continue;
        }
        let mut traces = Vec::new();
        for _ in 0..2 {
            let mut stage = InSim::build(&scenario, scenario.seed, false).unwrap();
            let mut told = Vec::new();
            let report = run(&scenario, &mut stage, &mut |item| told.push(format!("{item:?}"))).unwrap();
            assert!(
                report.is_good(),
                "{name}: lines {:?}\n{}",
                report.failed,
                told.join("\n")
            );
            assert!(report.met > 0 && report.skipped.is_empty(), "{name}: {report:?}");
            traces.push(report.trace.unwrap());
        }
        assert_eq!(traces[0], traces[1], "{name}");
    }
}

#[test]
fn they_come_out_for_other_seeds_too() {
    for (name, mut scenario) in all() {
        if !scenario.worlds.contains(&WorldKind::Sim) {
            continue;
        }
        for seed in 100..110 {
            scenario.seed = seed;
            let mut stage = InSim::build(&scenario, seed, false).unwrap();
            let report = run(&scenario, &mut stage, &mut |_| {}).unwrap();
            assert!(report.is_good(), "{name}, seed {seed}: lines {:?}", report.failed);
        }
    }
}

#[test]
fn what_they_expect_of_a_pair_first_is_what_the_oracle_allows() {
    use knothole_netsim::oracle::Expect;
    use knothole_netsim::sim::{SERVER_IP, SERVER_IP6};
    for (name, scenario) in all() {
        let first = scenario.timeline.iter().find_map(|item| match &item.what {
            What::Expect {
                check: Check::Path { from, to, kind, .. },
                ..
            } => Some((*from, *to, *kind)),
            _ => None,
        });
        let Some((from, to, kind)) = first else { continue };
        let oracle = scenario.expect((from, 0), (to, 0), &[SERVER_IP, SERVER_IP6]);
        match kind {
            PathKind::Direct => assert_ne!(oracle, Expect::Cannot, "{name}"),
            PathKind::Relay | PathKind::None => assert_ne!(oracle, Expect::Must, "{name}"),
            PathKind::Oracle => {}
        }
    }
}

/// Runs one through the program, with real programs in it; `None` where this machine has no lab.
fn in_namespaces(arguments: &[&str]) -> Option<Output> {
    if let Err(error) = netns::probe() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "the lab must run here: {error}"
        );
        println!("skipped: {error}");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
    Some(
        command
            .arg("run")
            .args(arguments)
            .args(["--world", "netns"])
            .output()
            .unwrap(),
    )
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{program} must be installed here"
        );
        println!("skipped: {program} is not installed");
    }
    found
}

#[test]
fn three_of_them_come_out_with_real_programs_between_namespaces() {
    if !has("curl") || !has("python3") {
        return;
    }
    for name in IN_NAMESPACES {
        let file = folder().join(format!("{name}.toml"));
        let Some(output) = in_namespaces(&[file.to_str().unwrap()]) else {
            return;
        };
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(0), "{name}: {out}\n{err}");
        assert!(out.contains("repeat: knothole-netsim run"), "{out}");
    }
}

#[test]
fn an_expectation_that_is_not_met_is_exit_code_12_and_says_what_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hope.toml");
    let text = r#"[node.server]
role = "server"
[node.a]
role = "node"
kind = "symmetric"
[node.b]
role = "node"
kind = "symmetric"
[[step]]
connect = { from = "a", to = "b" }
[[expect]]
within = "5s"
path = { from = "a", to = "b", kind = "direct" }
[[step]]
run = { node = "a", command = ["false"] }
"#;
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
    let output = command
        .arg("run")
        .arg(&file)
        .args(["--world", "sim", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(12));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let verdict = lines.iter().find(|line| line["verdict"] == "failed").unwrap();
    assert_eq!(verdict["line"], 11);
    assert!(
        verdict["saw"].as_str().unwrap().starts_with("relay: "),
        "{verdict}"
    );
    let report = lines.last().unwrap();
    assert_eq!(
        (&report["failed_lines"], &report["skipped_lines"]),
        (&[11].into(), &[14].into())
    );
    assert!(
        report["command"]
            .as_str()
            .unwrap()
            .ends_with("--world sim --seed 0"),
        "{report}"
    );
}
