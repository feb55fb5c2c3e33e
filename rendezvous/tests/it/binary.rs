//! The built executable: what it prints, when it refuses, how it ends.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use knothole_proto::wire::{FromServer, Refusal, ToServer};
use serde_json::Value;

use super::node::{Node, Target};

fn command(args: &[&str], data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-rendezvous"));
    command.args(args).arg("--data").arg(data);
    command
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output(args: &[&str], data: &Path) -> Output {
    command(args, data).output().unwrap()
}

/// A running server and the first line that it printed. Killed when dropped.
struct Running {
    child: Child,
    line: String,
}

impl Running {
    fn start(args: &[&str], data: &Path) -> Self {
        let mut child = command(args, data).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            line: line.trim_end().to_owned(),
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    async fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the server does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn run_prints_the_line_that_a_node_needs_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Running::start(&["run", "--listen", "127.0.0.1:0"], &data);
    let url = server
        .line
        .strip_prefix("knothole up --server '")
        .and_then(|rest| rest.strip_suffix('\''))
        .unwrap_or_else(|| panic!("{:?}", server.line))
        .to_owned();
    assert!(url.contains("?token="), "{url}");
    let mut node = Node::connect(&url).await;
    assert!(matches!(node.hello(Some("nas")).await, FromServer::Welcome(_)));
    server.signal("TERM");
    assert!(matches!(node.hear().await, FromServer::Draining { .. }));
    assert_eq!(server.wait().await, Some(0));
    for file in ["server.key", "token", "names.redb"] {
        let mode = std::fs::metadata(data.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let again = Running::start(
        &["run", "--listen", "127.0.0.1:0", "--public", "knot.example.org"],
        &data,
    );
    let key = url.rsplit('/').next().unwrap();
    assert!(again.line.contains("knot://knot.example.org:"), "{}", again.line);
    assert!(again.line.ends_with(&format!("/{key}'")), "{}", again.line);
}

#[tokio::test]
async fn a_server_that_stops_tells_programs_how_things_stood() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Running::start(&["run", "--listen", "127.0.0.1:0", "--json", "--open"], &data);
    let ready: Value = serde_json::from_str(&server.line).unwrap();
    let mut node = Node::connect(ready["server"].as_str().unwrap()).await;
    assert!(matches!(node.hello(Some("nas")).await, FromServer::Welcome(_)));
    server.signal("TERM");
    assert_eq!(server.wait().await, Some(0));
    let mut text = String::new();
    let mut stdout = server.child.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    let stats: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(stats["event"], "stats", "{text}");
    assert_eq!(
        (&stats["nodes"], &stats["names"]),
        (&1.into(), &1.into()),
        "{text}"
    );
    assert_eq!(stats["outcomes"], Value::Array(Vec::new()), "{text}");
}

#[tokio::test]
async fn a_server_that_was_killed_keeps_its_names_and_tells_nodes_at_their_next_packet() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Running::start(&["run", "--listen", "127.0.0.1:0"], dir.path());
    let url = server.line.replace("knothole up --server ", "").replace('\'', "");
    let mut node = Node::connect(&url).await;
    assert!(matches!(node.hello(Some("nas")).await, FromServer::Welcome(_)));
    let listen = node.target.addr.to_string();
    server.signal("KILL");
    server.wait().await;

    let again = Running::start(&["run", "--listen", &listen], dir.path());
    let url = again.line.replace("knothole up --server ", "").replace('\'', "");
    assert_eq!(Target::of(&url).key, node.target.key);
    node.say(&ToServer::Time {
        sent_us: 1,
        rtt_us: 0,
    })
    .await;
    let why = tokio::time::timeout(Duration::from_secs(3), node.connection.closed()).await;
    assert!(matches!(why, Ok(quinn::ConnectionError::Reset)), "{why:?}");
    let mut thief = Node::connect(&url).await;
    let hello = thief.hello_message(Some("nas"));
    thief.say(&ToServer::Hello(hello)).await;
    assert_eq!(thief.refused().await, Refusal::NameTaken);
}

#[tokio::test]
async fn run_with_json_prints_one_event() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Running::start(
        &["run", "--listen", "127.0.0.1:0", "--open", "--json"],
        dir.path(),
    );
    let event: Value = serde_json::from_str(&server.line).unwrap();
    assert_eq!((&event["schema"], &event["event"]), (&1.into(), &"ready".into()));
    assert!(event["server"].as_str().unwrap().starts_with("knot://127.0.0.1:"));
    assert!(event["listen"][0].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(event["alt"][0].as_str().unwrap().starts_with("127.0.0.1:"));
    server.signal("INT");
    assert_eq!(server.wait().await, Some(0));
    let mut rest = String::new();
    server
        .child
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert_eq!(rest, "");
}

#[test]
fn what_cannot_work_is_a_configuration_error_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let bystander = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = bystander.local_addr().unwrap().to_string();
    let refused = output(&["run", "--listen", &taken], dir.path());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("in use") && said.contains("try: "), "{said}");
    assert_eq!(refused.stdout, b"");

    let refused = output(&["run", "--listen", &taken, "--json"], dir.path());
    let event: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&event["event"], &event["code"]), (&"error".into(), &3.into()));
    assert!(event["hint"].is_string());

    for wrong in [
        &["run", "--public", "a b"][..],
        &["run", "--listen", "x"],
        &["run", "--no-such"],
        &["fly"],
    ] {
        assert_eq!(output(wrong, dir.path()).status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_corrupt_database_is_refused_by_the_executable() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Running::start(&["run", "--listen", "127.0.0.1:0"], dir.path());
    server.signal("TERM");
    assert_eq!(server.wait().await, Some(0));
    std::fs::write(dir.path().join("names.redb"), b"garbage").unwrap();
    let refused = output(&["run", "--listen", "127.0.0.1:0"], dir.path());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("damaged") && said.contains("backup"), "{said}");
}

#[test]
fn check_says_what_is_wrong_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let fine = output(&["check", "--listen", "127.0.0.1:0"], &data);
    assert_eq!(fine.status.code(), Some(0), "{fine:?}");
    assert!(!data.exists());

    let server = Running::start(&["run", "--listen", "127.0.0.1:0"], &data);
    let fine = output(&["check", "--listen", "127.0.0.1:0", "--json"], &data);
    assert_eq!(fine.status.code(), Some(0), "{fine:?}");
    assert!(
        String::from_utf8(fine.stdout)
            .unwrap()
            .contains("in use by a running server")
    );
    drop(server);

    std::fs::write(data.join("token"), "two words").unwrap();
    let bad = output(&["check", "--listen", "127.0.0.1:0"], &data);
    assert_eq!(bad.status.code(), Some(3));
    assert!(String::from_utf8(bad.stdout).unwrap().contains("FAIL  data"));
}

#[test]
fn options_can_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let bystander = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = bystander.local_addr().unwrap().to_string();
    let refused = command(&["run"], dir.path())
        .env("KNOTHOLE_LISTEN", format!("127.0.0.1:0,{taken}"))
        .env("KNOTHOLE_JSON", "1")
        .output()
        .unwrap();
    let event: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert!(event["message"].as_str().unwrap().contains(&taken), "{event}");
}
