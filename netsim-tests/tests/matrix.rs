//! `knothole-netsim matrix` as a person calls it: real programs in namespaces, the page, JSON and exit codes.

#![allow(clippy::expect_used, clippy::print_stdout, missing_docs)] // a test that panics has failed, and says so

use std::process::{Command, Output};

use serde_json::Value;

fn matrix(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knothole-netsim"))
        .arg("matrix")
        .args(arguments)
        .output()
        .expect("runs")
}

/// The lines of standard output, each an object of JSON.
fn events(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("UTF-8");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

/// Does this event say that no namespaces can be had? Then there is nothing to test, but in CI.
fn is_skipped(event: &Value) -> bool {
    let skipped = event["event"] == "error" && event["code"] == 3;
    if skipped {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "the lab must run here: {event}"
        );
        println!("skipped: {}", event["message"]);
    }
    skipped
}

#[test]
fn in_namespaces_every_pair_of_four_easy_kinds_becomes_direct() {
    // IPv4 and IPv6, one layer and two.
    let kinds = "open,port-restricted,home-behind-cgn,dual-stack";
    let output = matrix(&["--world", "netns", "--kinds", kinds, "--jobs", "4", "--json"]);
    let events = events(&output);
    let last = events.last().expect("at least one event");
    if is_skipped(last) {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{events:#?}");
    assert_eq!((&last["event"], &last["cells"]), (&"done".into(), &16.into()));
    for cell in &events[..16] {
        assert_eq!(
            (&cell["direct"], &cell["oracle"]),
            (&1.into(), &"must".into()),
            "{cell}"
        );
        assert!(
            cell["to_direct_ms"]["p50"].as_u64().is_some_and(|ms| ms > 0),
            "{cell}"
        );
        let probes = cell["probes"]["max"].as_u64();
        assert!(probes.is_some_and(|most| (1..=30).contains(&most)), "{cell}");
    }
    let of = |a: &str, b: &str| events.iter().find(|cell| cell["a"] == a && cell["b"] == b);
    let homes = of("home-behind-cgn", "port-restricted").expect("a cell");
    assert!(
        homes["nat_entries"]["max"].as_u64().is_some_and(|most| most > 0),
        "{homes}"
    );
    assert_eq!(
        of("dual-stack", "dual-stack").expect("a cell")["paths"][0]["how"],
        "ipv6"
    );
}

#[test]
fn in_namespaces_homes_meet_at_their_carrier_and_a_side_that_starts_late_is_met_in_the_second_round() {
    let rows = ["--row", "one-carrier,skew", "--runs", "5", "--jobs", "4"];
    let output = matrix(&[&["--promises", "--world", "netns", "--json"][..], &rows].concat());
    let events = events(&output);
    if is_skipped(&events[0]) {
        return;
    }
    assert_eq!(events[2]["event"], "done", "{events:#?}");
    let [carrier, skew] = [&events[0], &events[1]];
    for row in [carrier, skew] {
        assert_eq!(row["direct"], 5, "{row}");
    }
    // A second round begins two seconds after the first: nobody is late enough for that but by the first one's failure.
    let slowest = |row: &Value| row["to_direct_ms"]["max"].as_u64();
    assert!(slowest(skew) > Some(2_000), "nobody was late enough: {skew}");
}

#[test]
fn in_namespaces_who_cannot_reach_the_server_says_so_and_agrees_with_the_oracle() {
    let output = matrix(&[
        "--world",
        "netns",
        "--a",
        "open",
        "--b",
        "udp-prohibited",
        "--json",
    ]);
    let events = events(&output);
    if is_skipped(&events[0]) {
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{events:#?}");
    assert_eq!(
        (&events[0]["failed"], &events[0]["agrees"]),
        (&1.into(), &true.into()),
        "{}",
        events[0]
    );
    assert!(
        events[0]["reason"]
            .as_str()
            .is_some_and(|why| why.contains("server")),
        "{}",
        events[0]
    );
}

#[test]
fn the_same_seed_gives_the_same_cells_in_another_process() {
    let run = |jobs| {
        matrix(&[
            "--kinds",
            "port-restricted,symmetric",
            "--runs",
            "4",
            "--seed",
            "7",
            "--jobs",
            jobs,
            "--json",
        ])
    };
    let (one, two) = (run("1"), run("3"));
    let cells = |output: &Output| {
        events(output)
            .into_iter()
            .filter(|event| event["event"] == "cell")
            .collect::<Vec<_>>()
    };
    assert_eq!(cells(&one).len(), 4);
    assert_eq!(cells(&one), cells(&two));
    let other = matrix(&[
        "--kinds",
        "port-restricted",
        "--runs",
        "4",
        "--seed",
        "8",
        "--json",
    ]);
    let command = events(&other)[0]["command"]
        .as_str()
        .expect("a command")
        .to_owned();
    assert!(command.ends_with("--seed 8 --weather steady"), "{command}");
}

#[test]
fn a_page_holds_every_cell_and_a_trace_and_fetches_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("matrix.html");
    let output = matrix(&[
        "--kinds",
        "open,port-restricted",
        "--runs",
        "2",
        "--html",
        file.to_str().expect("UTF-8"),
    ]);
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        table.contains("5 port-restricted") && !table.contains('\u{1b}'),
        "{table}"
    );
    let page = std::fs::read_to_string(file).expect("a page");
    let begin = page.find("id=\"data\">").expect("data") + "id=\"data\">".len();
    let end = begin + page[begin..].find("</script>").expect("an end");
    let data: Value = serde_json::from_str(&page[begin..end]).expect("JSON");
    let cells = data["cells"].as_array().expect("cells");
    assert_eq!(cells.len(), 4);
    for cell in cells {
        let lines = cell["trace"].as_array().expect("a trace");
        assert!(
            lines
                .iter()
                .any(|line| line.as_str().is_some_and(|text| text.contains("Direct"))),
            "{cell}"
        );
        assert_eq!(cell["times"].as_array().map(Vec::len), Some(2));
    }
    assert!(
        !page[..begin].contains("://") && !page[end..].contains("://"),
        "nothing is fetched"
    );
}

#[test]
fn promises_are_a_row_each_and_a_last_word_that_counts_them() {
    let output = matrix(&[
        "--promises",
        "--row",
        "steps,ipv6",
        "--runs",
        "5",
        "--seed",
        "3",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0));
    let events = events(&output);
    let [ipv6, steps, done] = &events[..] else {
        panic!("{events:#?}")
    };
    for (row, name) in [(ipv6, "ipv6"), (steps, "steps")] {
        assert_eq!(
            (
                &row["event"],
                &row["row"],
                &row["runs"],
                &row["direct"],
                &row["met"]
            ),
            (
                &"promise".into(),
                &name.into(),
                &5.into(),
                &5.into(),
                &true.into()
            ),
            "in the order of the table, whatever was asked for first: {row}"
        );
        assert!(
            row["to_direct_ms"]["p95"].as_u64().is_some_and(|ms| ms > 100),
            "{row}"
        );
        let again = row["command"].as_str().expect("a command");
        assert!(
            again.ends_with(&format!("--row {name} --runs 5 --seed 3")),
            "{again}"
        );
    }
    assert_eq!(steps["plans"]["steps"], 5, "{steps}");
    assert_eq!(
        (&done["event"], &done["world"], &done["complete"], &done["rows"]),
        (&"done".into(), &"sim".into(), &true.into(), &2.into())
    );
    assert_eq!((&done["missed"], &done["attempts"]), (&0.into(), &10.into()));
}

#[test]
fn promises_as_a_table_say_what_was_promised_and_whether_it_was_kept() {
    let output = matrix(&["--promises", "--row", "counter", "--runs", "4"]);
    assert_eq!(output.status.code(), Some(0));
    let (table, progress) = (
        String::from_utf8(output.stdout).expect("UTF-8"),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    let line = table
        .lines()
        .find(|line| line.starts_with("counter "))
        .expect("the row");
    assert!(line.contains("100.00 %") && line.ends_with("yes"), "{line}");
    assert!(
        table.contains("promised: 99 % p95 1500 packets 60 entries 12"),
        "{table}"
    );
    assert!(table.contains("\n1 promises, 1 kept; 4 attempts in "), "{table}");
    assert!(progress.contains("counter: kept"), "{progress}");
}

#[test]
fn a_promise_that_nobody_gave_is_a_usage_error_that_names_those_there_are() {
    let output = matrix(&["--promises", "--row", "easy,rubbish", "--runs", "1", "--json"]);
    let events = events(&output);
    assert_eq!((output.status.code(), events.len()), (Some(2), 1), "{events:#?}");
    assert_eq!(
        (&events[0]["event"], &events[0]["code"]),
        (&"error".into(), &2.into())
    );
    let words = events[0]["message"].as_str().expect("words");
    assert!(
        words.starts_with("no promise is called rubbish; there are easy, one-nat,"),
        "{words}"
    );
    for (arguments, named) in [
        (
            &["--promises", "--row", "rubbish"][..],
            "no promise is called rubbish",
        ),
        (&["--row", "easy"], "--promises"),
        (&["--promises", "--kinds", "easy"], "--kinds"),
    ] {
        let output = matrix(arguments);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(2), 0),
            "{arguments:?}"
        );
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains(named), "{arguments:?}: {words}");
    }
}

#[test]
fn what_cannot_be_is_a_usage_error_that_names_what_can() {
    for (arguments, named) in [
        (&["--kinds", "nonsense"][..], "port-restricted"),
        (&["--runs", "0"], "1..=100000"),
        (&["--world", "mars"], "netns"),
        (&["--weather", "fog"], "steady"),
        (
            &["--runs", "1", "--html", "/nowhere/at/all.html"],
            "/nowhere/at/all.html",
        ),
    ] {
        let output = matrix(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains(named), "{arguments:?}: {words}");
    }
}
