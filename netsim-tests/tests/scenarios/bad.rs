//! Every class of mistake: the line, what stands there, what was expected, and nothing built.

use std::path::Path;
use std::process::Command;

use knothole_netsim::scenario::Scenario;

/// A server and a node, on which most mistakes can be made.
const GOOD: &str = r#"[node.server]
role = "server"
[node.a]
role = "node"
[node.b]
role = "node"
"#;

/// The complaint about a text.
#[track_caller]
fn complaint(text: &str) -> String {
    match Scenario::parse(Path::new("x.toml"), text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(error) => error.to_string(),
    }
}

/// A line is added to a good scenario, and the complaint names it and contains these words.
#[track_caller]
fn refuses(added: &str, line: usize, words: &[&str]) {
    let told = complaint(&format!("{GOOD}{added}"));
    let line = 6 + line;
    assert!(
        told.starts_with(&format!("x.toml:{line}: ")),
        "line {line} of: {told}"
    );
    for word in words.iter().chain(&["; expected "]) {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}

#[test]
fn the_scenario_that_mistakes_are_made_in_is_a_good_one() {
    let scenario = Scenario::parse(Path::new("x.toml"), GOOD).unwrap();
    assert_eq!(scenario.nodes.len(), 3);
}

#[test]
fn text_that_is_no_toml_is_refused_where_it_breaks() {
    refuses("[node.c\n", 1, &["TOML"]);
    refuses("title = \n", 1, &["TOML"]);
    refuses("[node.a]\n", 1, &["duplicate", "TOML"]);
}

#[test]
fn unknown_kinds_are_named_with_the_known_ones_and_the_nearest() {
    refuses(
        "[nat.home]\nkind = \"symetric\"\n",
        2,
        &[
            "no kind of NAT is called \"symetric\"",
            "\"symmetric\"?",
            "\"full-cone\"",
        ],
    );
    refuses("[node.c]\nkind = \"fullcone\"\n", 2, &["\"full-cone\"?"]);
    refuses("[nat.home]\nkind = 7\n", 2, &["`kind` is a whole number"]);
}

#[test]
fn unknown_names_are_refused_with_the_known_ones_and_the_nearest() {
    refuses(
        "[nat.home]\nkind = \"symmetric\"\n[node.c]\nbehind = \"hoem\"\n",
        4,
        &["no NAT is called \"hoem\"", "\"home\""],
    );
    refuses(
        "[[step]]\nconnect = { from = \"a\", to = \"bb\" }\n",
        2,
        &["no node is called \"bb\"", "\"b\"?"],
    );
    refuses(
        "[[step]]\nreboot = \"router\"\n",
        2,
        &["no NAT and no node is called \"router\""],
    );
    refuses(
        "[[expect]]\nregistered = [\"a\", \"z\"]\n",
        2,
        &["no node is called \"z\""],
    );
    let told = complaint(&format!("pairs = [[\"a\", \"server\"]]\n{GOOD}"));
    assert!(
        told.starts_with("x.toml:1: server does not run Knothole"),
        "{told}"
    );
}

#[test]
fn wrong_units_are_refused_with_an_example_of_a_right_one() {
    for (link, words) in [
        ("delay = \"20\"", ["`delay` is \"20\"", "us, ms, s, min, h"]),
        ("delay = 20", ["`delay` is a whole number", "such as \"20ms\""]),
        (
            "jitter = \"2 sec\"",
            ["`jitter` is \"2 sec\"", "us, ms, s, min, h"],
        ),
        ("loss = \"0.01\"", ["`loss` is \"0.01\"", "such as \"1.5%\""]),
        ("loss = \"101%\"", ["`loss` is \"101%\"", "from 0% to 100%"]),
        ("rate = \"50Mbps\"", ["`rate` is \"50Mbps\"", "Mbit/s"]),
        ("queue = \"256K\"", ["`queue` is \"256K\"", "KiB"]),
        ("mtu = 9000", ["`mtu` is 9000", "68 to 1500"]),
        ("burst = 3", ["`burst` without `loss`", "`loss`"]),
        ("up = { delay = \"1 ns\" }", ["`delay` is \"1 ns\"", "us, ms"]),
    ] {
        refuses(&format!("[node.c]\nlink = {{ {link} }}\n"), 2, &words);
    }
    refuses(
        "[[step]]\nat = \"soon\"\nreboot = \"a\"\n",
        2,
        &["`at` is \"soon\""],
    );
    refuses(
        "[nat.x]\ntimeouts = { unreplied = 30 }\n",
        2,
        &["`unreplied` is a whole number"],
    );
}

#[test]
fn unknown_keys_are_refused_with_the_known_ones() {
    refuses("[node.c]\nlnik = { }\n", 2, &["no key `lnik`", "\"link\"?"]);
    refuses(
        "[nat.home]\nkind = \"symmetric\"\nmaping = \"EIM\"\n",
        3,
        &["no key `maping`", "\"mapping\"?"],
    );
    refuses(
        "[[step]]\nconect = { from = \"a\", to = \"b\" }\n",
        1,
        &["`conect` means nothing", "connect"],
    );
    refuses(
        "[[step]]\nconnect = { from = \"a\", to = \"b\", via = \"x\" }\n",
        2,
        &["no key `via`"],
    );
    refuses("[[expect]]\nwithin = \"1s\"\n", 1, &["expects nothing", "path"]);
    refuses("[notes]\nx = 1\n", 1, &["no key `notes`"]);
}

#[test]
fn topologies_that_cannot_be_are_refused() {
    let told = complaint("[node.a]\nrole = \"node\"\n");
    assert!(
        told.starts_with("x.toml:1: ") && told.contains("no server"),
        "{told}"
    );
    refuses("[node.second]\nrole = \"server\"\n", 1, &["second server"]);
    let circle =
        "[nat.x]\nkind = \"symmetric\"\nbehind = \"y\"\n[nat.y]\nkind = \"symmetric\"\nbehind = \"x\"\n";
    refuses(circle, 1, &["x behind y behind x"]);
    refuses(
        "[nat.x]\nkind = \"symmetric\"\nbehind = \"z\"\n",
        3,
        &["no NAT is called \"z\""],
    );
    refuses("[nat.x]\nkind = \"open\"\n", 1, &["is none"]);
    let told = complaint(&format!("{GOOD}[nat.a]\nkind = \"symmetric\"\n"));
    assert!(told.contains(":3: \"a\" is a NAT and a node"), "{told}");
}

#[test]
fn addresses_that_clash_are_refused() {
    refuses(
        "[node.c]\naddress = \"7.7.7.7\"\n[node.d]\naddress = \"7.7.7.7\"\n",
        3,
        &["7.7.7.7", "\"c\" too, in public"],
    );
    refuses("[node.c]\naddress = \"5.5.16.2\"\n", 1, &["5.5.16.2", "NATs"]);
    refuses("[node.c]\naddress = \"5.5.5\"\n", 2, &["`address` is \"5.5.5\""]);
    refuses(
        "[node.c]\naddress = [\"7.7.7.7\", \"7.7.7.8\"]\n",
        2,
        &["same family"],
    );
    let lan = "[nat.x]\nkind = \"symmetric\"\n[node.c]\nbehind = \"x\"\naddress = \"192.168.9.9\"\n";
    let other = "[node.d]\nbehind = \"x\"\naddress = \"192.168.9.9\"\n";
    refuses(&format!("{lan}{other}"), 6, &["192.168.9.9", "behind x"]);
    let elsewhere = "[nat.y]\nkind = \"symmetric\"\n[node.d]\nbehind = \"y\"\naddress = \"192.168.9.9\"\n";
    Scenario::parse(Path::new("x.toml"), &format!("{GOOD}{lan}{elsewhere}"))
        .expect("one address in each of two homes");
}

#[test]
fn steps_that_make_no_sense_are_refused() {
    refuses(
        "[[step]]\nconnect = { from = \"a\", to = \"a\" }\n",
        2,
        &["one node"],
    );
    refuses("[[step]]\nconnect = { from = \"a\" }\n", 2, &["has no `to`"]);
    refuses(
        "[[step]]\nconnect = { from = \"a\", to = \"server\" }\n",
        2,
        &["server does not run Knothole"],
    );
    refuses(
        "[[step]]\nat = \"1s\"\nafter = \"1s\"\nreboot = \"a\"\n",
        3,
        &["both `at` and `after`"],
    );
    refuses("[[step]]\nreboot = \"a\"\n", 2, &["a is behind no NAT"]);
    refuses("[node.c]\n[[step]]\nkill = \"c\"\n", 3, &["plain host"]);
    refuses(
        "[[step]]\nrun = { node = \"a\", command = [] }\n",
        2,
        &["`command` is empty"],
    );
    refuses(
        "[[step]]\nrun = { node = \"a\", command = [\"true\"], listens = 80 }\n",
        2,
        &["`listens`", "`background`"],
    );
    refuses(
        "[[expect]]\npath = { from = \"a\", to = \"b\", kind = \"relay\", how = \"lan\" }\n",
        2,
        &["not direct"],
    );
    refuses(
        "[nat.x]\nkind = \"symmetric\"\n[[step]]\nswitch = { node = \"a\", to = \"x\" }\n",
        4,
        &["x is no uplink of a"],
    );
}

#[test]
fn the_command_says_it_with_exit_code_3_and_an_unknown_world_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(&file, format!("{GOOD}[nat.home]\nkind = \"symetric\"\n")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
        command.arg("run").arg(&file).args(arguments).output().unwrap()
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("bad.toml:8: no kind of NAT is called"), "{text}");
    let output = run(&["--json"]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (line["event"].as_str(), line["code"].as_u64()),
        (Some("error"), Some(3))
    );
    assert_eq!(run(&["--world", "moon"]).status.code(), Some(2));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&[]).status.code(), Some(3));
}
