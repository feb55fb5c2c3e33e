//! The program `knothole` as a person and a script meet it, as far as no server is needed.
#![allow(clippy::unwrap_used)] // also in the helpers, which clippy does not take for tests

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A machine of its own: a directory for its files, and nothing else of the environment.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knothole"));
        command
            .args(line.split_whitespace())
            .env_clear()
            .env("KNOTHOLE_HOME", self.home());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains("Error {"), "{text}");
}

fn a_server() -> String {
    // Nobody listens there; the discard port is not ours.
    format!("knot://127.0.0.1:9/{}", "a".repeat(52))
}

#[test]
fn alone_it_says_what_it_is_how_this_machine_stands_and_what_to_do_next() {
    let output = Machine::new().run("");
    let text = stdout(&output);
    assert_eq!(
        (output.status.code(), text.lines().count()),
        (Some(0), 3),
        "{text}"
    );
    assert!(
        text.contains("no server set") && text.contains("knothole up --server"),
        "{text}"
    );
}

#[test]
fn every_help_page_fits_eighty_columns_and_goes_to_stdout() {
    let machine = Machine::new();
    let pages = [
        "", "up", "pair", "peers", "forget", "id", "send", "recv", "ping", "netcheck", "status",
    ];
    for page in pages {
        let output = machine.run(&format!("{page} --help"));
        assert_eq!(output.status.code(), Some(0));
        let text = stdout(&output);
        assert!(text.contains("Usage:"), "{text}");
        let long = text.lines().find(|line| line.chars().count() > 80);
        assert_eq!(long, None, "{page}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let machine = Machine::new();
    for line in [
        "fly",
        "send",
        "send x --limit fast",
        "ping",
        "--relay maybe peers",
        "ping x --count 0",
        "ping x --timeout 0",
    ] {
        fails(&machine.run(line), 2, &["--help"]);
    }
    let output = machine.run("fly --json");
    let event: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (event["event"].as_str(), event["code"].as_u64()),
        (Some("error"), Some(2))
    );
}

#[test]
fn a_command_that_needs_a_server_says_how_to_set_one() {
    let machine = Machine::new();
    for line in [
        "up",
        "pair",
        "ping nas",
        "recv",
        "send x",
        "pair 7-copper-lantern",
    ] {
        fails(
            &machine.run(line),
            3,
            &["no server", "knothole up --server 'knot://"],
        );
    }
}

#[test]
fn a_server_line_that_is_none_is_exit_code_3_and_never_shows_the_token() {
    let machine = Machine::new();
    let key = "a".repeat(52);
    for url in [
        "http://x/",
        "knot://host",
        "knot://host:0/x",
        "knot://host/short?token=hush",
        "hush",
    ] {
        let output = machine.run(&format!("up --server {url}"));
        fails(&output, 3, &["knot://HOST:5668/KEY?token=TOKEN"]);
        assert!(!stderr(&output).contains("hush"));
    }
    let help = machine
        .command("up --help")
        .env("KNOTHOLE_SERVER", format!("knot://h/{key}?token=hush"))
        .output();
    assert!(
        !stdout(&help.unwrap()).contains("hush"),
        "help shows the values of variables"
    );
}

#[test]
fn text_that_cannot_be_a_code_is_exit_code_2() {
    let machine = Machine::new();
    for code in ["7", "copper-lantern", "7-Co\u{1b}[31mpper"] {
        fails(
            &machine.run(&format!("pair {code} --server {}", a_server())),
            2,
            &["7-copper-lantern"],
        );
    }
}

#[test]
fn a_code_and_a_server_can_come_from_stdin_or_a_file() {
    let machine = Machine::new();
    let empty = machine.run("pair -");
    fails(&empty, 2, &["the code", "stdin"]);
    let file = machine.0.path().join("server");
    fs::write(&file, "nonsense\n").unwrap();
    fails(
        &machine.run(&format!("up --server-file {}", file.display())),
        3,
        &["begins with knot://"],
    );
    fails(
        &machine.run("up --server-file /nonexistent/x"),
        3,
        &["/nonexistent/x"],
    );
}

#[test]
fn a_server_that_does_not_answer_is_exit_code_4_or_8_in_time() {
    let machine = Machine::new();
    let started = std::time::Instant::now();
    let output = machine.run(&format!("up --server {} --timeout 1s --name x", a_server()));
    let code = output.status.code();
    assert!(matches!(code, Some(4 | 8)), "{}", stderr(&output));
    assert!(started.elapsed().as_secs() < 10);
    let output =
        machine.run("up --server knot://host.invalid/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    fails(&output, 4, &["host.invalid"]);
}

#[test]
fn an_unknown_machine_is_exit_code_5() {
    let machine = Machine::new();
    fails(
        &machine.run("forget nas"),
        5,
        &["knothole peers", "knothole pair"],
    );
}

#[test]
fn the_id_is_made_once_and_only_its_owner_can_read_the_key() {
    let machine = Machine::new();
    let first = stdout(&machine.run("id"));
    assert_eq!(first.trim().len(), 52);
    assert_eq!(stdout(&machine.run("id")), first);
    let event: Value = serde_json::from_str(&stdout(&machine.run("id --json"))).unwrap();
    assert_eq!(
        (event["schema"].as_u64(), event["event"].as_str()),
        (Some(1), Some("id"))
    );
    assert_eq!(event["id"].as_str(), Some(first.trim()));
    assert!(event["at_ms"].is_u64());
    let key = machine.home().join("identity.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fails(&machine.run("id"), 3, &["chmod 600"]);
}

#[test]
fn a_damaged_address_book_is_exit_code_3_and_stays_as_it_is() {
    let machine = Machine::new();
    machine.run("id");
    let book = machine.home().join("book.json");
    fs::write(&book, "{").unwrap();
    fs::set_permissions(&book, fs::Permissions::from_mode(0o600)).unwrap();
    fails(&machine.run("peers"), 3, &["book.json", "damaged"]);
    assert_eq!(fs::read_to_string(&book).unwrap(), "{");
}

#[test]
fn an_empty_address_book_lists_nothing_on_stdout() {
    let output = Machine::new().run("peers");
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), ""));
    assert!(stderr(&output).contains("knothole pair"));
}

#[test]
fn status_without_up_says_so_and_what_to_do_next() {
    let output = Machine::new().run("status");
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("does not run") && stdout(&output).contains("next: knothole up"));
    let json: Value = serde_json::from_str(&stdout(&Machine::new().run("status --json"))).unwrap();
    assert_eq!(json["running"].as_bool(), Some(false));
}

#[test]
fn what_cannot_be_sent_is_said_before_any_server_is_asked() {
    let machine = Machine::new();
    fs::write(machine.0.path().join("x"), "x").unwrap();
    let server = a_server();
    fails(
        &machine.run(&format!("send /nonexistent/file --to nas --server {server}")),
        2,
        &["/nonexistent/file"],
    );
    std::os::unix::fs::symlink("x", machine.0.path().join("link")).unwrap();
    let link = machine.0.path().join("link");
    fails(
        &machine.run(&format!("send {} --to nas --server {server}", link.display())),
        2,
        &["nothing to send"],
    );
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let machine = Machine::new();
    let mut child = machine.command("--help").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code().is_some_and(|code| code != 101));
}

#[test]
fn quiet_commands_say_nothing_on_stderr() {
    let output = Machine::new().run("peers --quiet");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}
