//! What the words of a timeline mean, in the world in memory.

use std::path::Path;
use std::time::Duration;

use knothole_netsim::scenario::{InSim, Report, Scenario, Verdict, run};

const TOPOLOGY: &str = r#"[node.server]
role = "server"
[node.a]
role = "node"
kind = "port-restricted"
link = { delay = "10ms" }
[node.b]
role = "node"
kind = "port-restricted"
link = { delay = "10ms" }
[[step]]
connect = { from = "a", to = "b" }
[[expect]]
within = "10s"
path = { from = "a", to = "b", kind = "direct" }
"#;

/// What happened: when, which line, what came of it, how late.
type Happened = (Duration, usize, Verdict, Option<Duration>);

/// Goes on from a direct pair.
fn goes_on(timeline: &str) -> (Report, Vec<Happened>) {
    let scenario = Scenario::parse(Path::new("x.toml"), &format!("{TOPOLOGY}{timeline}")).unwrap();
    let mut stage = InSim::build(&scenario, 1, false).unwrap();
    let mut happened = Vec::new();
    let report = run(&scenario, &mut stage, &mut |told| {
        happened.push((told.at, told.line, told.verdict, told.late));
    });
    (report.unwrap(), happened)
}

#[test]
fn steps_and_expectations_happen_in_the_order_of_the_file() {
    let (report, happened) = goes_on(
        "[[step]]\nafter = \"2s\"\nreboot = \"a\"\n[[expect]]\nregistered = \"a\"\n[[step]]\nafter = \"1s\"\nreboot = \"b\"\n",
    );
    assert!(report.is_good());
    let lines: Vec<usize> = happened.iter().map(|(_, line, ..)| *line).collect();
    assert_eq!(lines, [11, 13, 16, 19, 21]);
    let direct = happened[1].0;
    assert_eq!(happened[2].0, direct + Duration::from_secs(2));
    assert_eq!(happened[4].0, direct + Duration::from_secs(3));
}

#[test]
fn an_absolute_time_that_is_over_is_late_and_says_so() {
    let (_, happened) =
        goes_on("[[step]]\nat = \"5s\"\nreboot = \"a\"\n[[step]]\nat = \"4s\"\nreboot = \"b\"\n");
    assert_eq!((happened[2].0, happened[2].3), (Duration::from_secs(5), None));
    let late = Some(Duration::from_secs(1));
    assert_eq!((happened[3].0, happened[3].3), (Duration::from_secs(5), late));
}

#[test]
fn a_blackout_is_seen_in_the_traffic_and_ends_by_itself() {
    let expect = |gap: &str| {
        format!("[[expect]]\nfor = \"10s\"\ntraffic = {{ from = \"a\", to = \"b\", gap = \"{gap}\" }}\n")
    };
    for direction in ["up", "down", "both"] {
        let step = format!(
            "[[step]]\nafter = \"1s\"\nblackout = {{ of = \"a\", direction = \"{direction}\", for = \"3s\" }}\n"
        );
        let (report, _) = goes_on(&format!("{step}{}", expect("2s")));
        assert_eq!(report.failed, [19], "{direction}");
        let (report, _) = goes_on(&format!("{step}{}", expect("9s")));
        assert!(report.is_good(), "{direction}");
    }
    let (report, _) = goes_on(&expect("1s"));
    assert!(report.is_good(), "without a blackout nothing is silent");
}

#[test]
fn a_link_without_an_end_to_its_blackout_is_dead_until_it_is_described_anew() {
    let dead = "[[step]]\nblackout = { of = \"a\" }\n[[expect]]\nwithin = \"120s\"\nunregistered = \"a\"\n";
    let back = "[[step]]\nlink = { of = \"a\", delay = \"10ms\" }\n[[expect]]\nwithin = \"120s\"\nregistered = \"a\"\n";
    let (report, _) = goes_on(&format!("{dead}{back}"));
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn udp_that_is_blocked_ends_the_path_and_opened_again_brings_it_back() {
    let (report, _) = goes_on(concat!(
        "[[step]]\nudp = { nat = \"a\", policy = \"server-only\" }\n",
        "[[expect]]\nwithin = \"30s\"\npath = { from = \"a\", to = \"b\", kind = \"relay\" }\n",
        "[[step]]\nudp = { nat = \"a\", policy = \"open\" }\n",
        "[[expect]]\nwithin = \"90s\"\npath = { from = \"a\", to = \"b\", kind = \"direct\" }\n",
    ));
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn a_link_that_is_no_longer_wanted_is_gone() {
    let (report, _) = goes_on(concat!(
        "[[step]]\ndisconnect = { from = \"a\", to = \"b\" }\n",
        "[[expect]]\nwithin = \"5s\"\npath = { from = \"a\", to = \"b\", kind = \"none\" }\n",
        "[[expect]]\nfor = \"20s\"\npath = { from = \"a\", to = \"b\", kind = \"none\" }\n",
    ));
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn limits_that_are_too_low_are_not_met() {
    let (report, _) = goes_on(
        "[[expect]]\nprobes = { node = \"a\", max = 1 }\n[[expect]]\nnat-entries = { nat = \"a\", max = 1 }\n",
    );
    assert_eq!(report.failed, [16, 18]);
}
