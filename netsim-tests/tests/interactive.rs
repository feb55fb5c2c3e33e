//! The interactive lab from outside: up, exec, ls, down, and what is left when they have passed.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, unreachable_pub)] // a test that panics has failed, and says so

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use knothole_netsim::netns;
use rustix::process::{Pid, Signal, kill_process};

/// What takes longer is broken. Generous, because tests share two cores.
const SOON: Duration = Duration::from_secs(60);

const FILE: &str = r#"title = "for the test"
[node.web]
address = "5.5.5.1"
[node.a]
kind = "symmetric"
[node.b]
kind = "port-restricted"
"#;

/// A user with a folder for state of their own.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    /// `None` where this machine has no lab.
    fn new() -> Option<Self> {
        if let Err(error) = netns::probe() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "the lab must run here: {error}"
            );
            println!("skipped: {error}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("trial.toml"), FILE).unwrap();
        Some(Self { dir })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env_remove("KNOTHOLE_LAB")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it, and it must succeed; its standard output.
    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it, and it must fail with this code and these words.
    #[track_caller]
    fn bad(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.run(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }

    fn up(&self, arguments: &[&str]) -> String {
        let file = self.dir.path().join("trial.toml");
        self.good(&[&["up", file.to_str().unwrap()], arguments].concat())
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("knothole-netsim")
    }

    /// The process that keeps a lab.
    fn keeper(&self, name: &str) -> u32 {
        let text = fs::read(self.state().join(name).join("state.json")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        u32::try_from(value["pid"].as_u64().unwrap()).unwrap()
    }

    /// No file of a lab and no process that knows this folder.
    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.state()).unwrap().collect();
        assert!(left.is_empty(), "left: {left:?}");
        let needle = self.dir.path().to_str().unwrap();
        wait_until("processes are gone", || processes_of(needle).is_empty());
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Also after a failed assertion nothing of this test goes on running.
        let _ = self.run(&["down", "--all"]);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Has a process ended, whether or not somebody has taken notice?
fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Processes that have this text in their arguments or environment, dead ones left out.
fn processes_of(needle: &str) -> Vec<String> {
    let has = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(needle);
    let own = std::process::id();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let dir = Path::new("/proc").join(pid.to_string());
            let line = fs::read(dir.join("cmdline")).ok()?;
            let environment = fs::read(dir.join("environ")).unwrap_or_default();
            (has(&line) || has(&environment)).then(|| format!("{pid} {}", String::from_utf8_lossy(&line)))
        })
        .collect()
}

/// A program on a node that answers one connection, and its output.
fn listener(user: &User, node: &str) -> Child {
    let script = "import socket\ns = socket.create_server(('', 8000))\nprint('ready', flush=True)\n\
                  while True:\n c, a = s.accept()\n c.sendall(a[0].encode())\n c.close()";
    let mut child = user
        .command(&["exec", node, "--", "python3", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "python3 must be installed here"
        );
        println!("skipped: python3 is not installed");
    }
    found
}

#[test]
fn a_lab_comes_up_is_listed_and_goes_down_without_a_trace() {
    let Some(user) = User::new() else { return };
    let told = user.up(&[]);
    for word in [
        "trial  for the test",
        "5.5.5.1",
        "behind symmetric, public 5.5.16.2",
        "exec a",
        "down trial",
    ] {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
    let listed = user.good(&["ls", "--json"]);
    let line: serde_json::Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(
        (line["name"].as_str(), line["ready"].as_bool()),
        (Some("trial"), Some(true))
    );
    assert_eq!(line["nodes"].as_array().unwrap().len(), 3);
    let keeper = user.keeper("trial");
    user.good(&["down"]);
    assert!(is_gone(keeper), "the keeper is gone when down returns");
    assert_eq!(user.good(&["ls", "--json"]), "");
    user.assert_nothing_left();
}

#[test]
fn a_program_on_a_node_sees_its_network_and_its_exit_code_is_passed_on() {
    let Some(user) = User::new() else { return };
    user.up(&[]);
    for code in [0, 1, 7, 42] {
        let output = user.run(&["exec", "a", "--", "sh", "-c", &format!("exit {code}")]);
        assert_eq!(output.status.code(), Some(code));
    }
    let hosts = user.good(&["exec", "a", "--", "cat", "/etc/hosts"]);
    assert!(
        hosts.contains("5.5.5.1 web") && hosts.contains("5.5.17.2 b"),
        "{hosts}"
    );
    let devices = user.good(&["exec", "a", "--", "cat", "/proc/net/dev"]);
    let names: Vec<&str> = devices
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .map(str::trim)
        .collect();
    assert_eq!(names, ["lo", "eth0"], "nothing of the machine's own network");
    let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert!(!own.contains("5.5.17.2"), "the machine's own file is as it was");
    user.bad(&["exec", "a", "--", "no-such-program"], 127, &["no-such-program"]);
    user.bad(&["exec", "a", "--", "/etc/hosts"], 126, &["/etc/hosts"]);
    let mut shell = user.command(&["exec", "b"]);
    let output = shell.env("SHELL", "/bin/true").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "without a program it is the shell");
    user.good(&["down"]);
    user.assert_nothing_left();
}

#[test]
fn names_resolve_and_lead_through_the_nats_with_any_program() {
    if !has_python() {
        return;
    }
    let Some(user) = User::new() else { return };
    user.up(&[]);
    let mut server = listener(&user, "web");
    let ask = "import socket\nc = socket.create_connection(('web', 8000), 20)\nprint(c.recv(99).decode())";
    for (node, seen) in [("a", "5.5.16.2"), ("b", "5.5.17.2"), ("web", "5.5.5.1")] {
        assert_eq!(
            user.good(&["exec", node, "--", "python3", "-c", ask]).trim(),
            seen
        );
    }
    // The server was started from outside; going down ends it all the same.
    user.good(&["down"]);
    wait_until("the listener is gone", || server.try_wait().unwrap().is_some());
    user.assert_nothing_left();
}

#[test]
fn two_labs_live_side_by_side_and_must_then_be_named() {
    let Some(user) = User::new() else { return };
    user.up(&["--name", "one"]);
    user.good(&["up", "--a", "symmetric", "--b", "full-cone", "--name", "two"]);
    user.bad(
        &["exec", "a", "--", "true"],
        3,
        &["several labs are up", "one, two"],
    );
    user.good(&["exec", "a", "--lab", "two", "--", "true"]);
    let one = user.good(&["exec", "a", "--lab", "one", "--", "readlink", "/proc/self/ns/net"]);
    let two = user.good(&["exec", "a", "--lab", "two", "--", "readlink", "/proc/self/ns/net"]);
    assert_ne!(one, two);
    let file = user.dir.path().join("trial.toml");
    user.bad(
        &["up", file.to_str().unwrap(), "--name", "one"],
        3,
        &["one is up already", "down one"],
    );
    user.good(&["exec", "a", "--lab", "one", "--", "true"]);
    user.good(&["down", "one"]);
    user.good(&["exec", "a", "--", "true"]);
    user.good(&["down"]);
    user.assert_nothing_left();
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let Some(user) = User::new() else { return };
    user.bad(
        &["exec", "a", "--", "true"],
        3,
        &["no lab is up", "knothole-netsim up"],
    );
    user.bad(&["down"], 3, &["no lab is up"]);
    user.bad(&["up"], 2, &[]);
    user.bad(&["up", "/nowhere.toml"], 3, &["/nowhere.toml", "cannot be read"]);
    user.bad(&["up", "--a", "nonsense"], 2, &["port-restricted"]);
    let wrong = user.dir.path().join("wrong.toml");
    fs::write(&wrong, FILE.replace("symmetric", "symetric")).unwrap();
    user.bad(
        &["up", wrong.to_str().unwrap()],
        3,
        &["wrong.toml:5: ", "\"symmetric\"?"],
    );
    user.up(&[]);
    user.bad(&["exec", "c", "--", "true"], 3, &["no node c", "web, a, b"]);
    user.bad(
        &["exec", "a", "--lab", "other", "--", "true"],
        3,
        &["no lab is called other", "trial"],
    );
    user.bad(&["down", "other"], 3, &["no lab is called other"]);
    user.good(&["down"]);
    user.assert_nothing_left();
}

#[test]
fn a_killed_keeper_leaves_nothing_and_is_noticed() {
    let Some(user) = User::new() else { return };
    let kill = || {
        let keeper = user.keeper("trial");
        let pid = Pid::from_raw(i32::try_from(keeper).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        wait_until("the keeper is gone", || is_gone(keeper));
    };
    user.up(&[]);
    kill();
    user.bad(
        &["exec", "a", "--", "true"],
        3,
        &["keeper of lab trial has ended"],
    );
    let output = user.run(&["ls"]);
    assert!(
        stderr(&output).contains("its keeper has ended"),
        "{}",
        stderr(&output)
    );
    user.assert_nothing_left();
    user.up(&[]);
    kill();
    user.up(&[]);
    user.good(&["exec", "a", "--", "true"]);
    kill();
    user.good(&["down", "trial"]);
    user.assert_nothing_left();
}

#[test]
fn the_projects_own_programs_run_in_a_lab_that_says_so() {
    let Some(user) = User::new() else { return };
    let file = user.dir.path().join("nodes.toml");
    let text = "[node.server]\nrole = \"server\"\n[node.a]\nrole = \"node\"\nkind = \"port-restricted\"\n\
                [node.b]\nrole = \"node\"\nkind = \"full-cone\"\n";
    fs::write(&file, text).unwrap();
    let told = user.good(&["up", file.to_str().unwrap()]);
    assert!(told.contains("exec a -- knothole ping b"), "{told}");
    let answers = user.good(&[
        "exec",
        "a",
        "--",
        "knothole",
        "ping",
        "b",
        "--until-direct",
        "--timeout",
        "60s",
        "--json",
    ]);
    assert!(answers.contains("\"kind\":\"direct\""), "{answers}");
    let status = user.good(&["exec", "b", "--", "knothole", "status"]);
    assert!(!status.is_empty());
    user.good(&["down"]);
    user.assert_nothing_left();
}

#[test]
fn a_folder_that_others_can_write_to_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let Some(user) = User::new() else { return };
    fs::create_dir(user.state()).unwrap();
    fs::set_permissions(user.state(), fs::Permissions::from_mode(0o777)).unwrap();
    user.bad(&["ls"], 3, &["not a folder of this user alone"]);
    fs::set_permissions(user.state(), fs::Permissions::from_mode(0o700)).unwrap();
    user.good(&["ls"]);
}
