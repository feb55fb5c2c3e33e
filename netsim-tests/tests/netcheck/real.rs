//! The program itself behind each kind, in namespaces: one internet, the real server with two addresses, a host for each
//! kind, and what `knothole netcheck --json` prints there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::{Ipv6, NatKind, NatSpec, UdpPolicy, kind, kinds};
use knothole_netsim::netns;
use serde_json::Value;

use crate::expected::{Loss, complaints};

const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(5, 5, 5, 1), Ipv4Addr::new(5, 5, 5, 2)];
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2a05, 5, 0, 0, 0, 0, 0, 1);

/// Programs at a time. More would keep each other waiting on two processors, and a second without an answer is a verdict.
const AT_ONCE: usize = 4;

/// What takes longer is broken.
const SOON: Duration = Duration::from_secs(90);

/// Can this machine run a lab? Says why if not, and fails where it must.
fn possible() -> bool {
    match netns::probe() {
        Ok(_) => true,
        Err(error) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "the lab must run here: {error}"
            );
            println!("skipped: {error}");
            false
        }
    }
}

/// Is a program of others installed? Says so if not, and fails where it must.
fn installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    assert!(
        found || std::env::var("CI").as_deref() != Ok("true"),
        "{program} must be installed here"
    );
    if !found {
        println!("skipped: {program} is not installed (package coturn)");
    }
    found
}

/// A lab with the server and one host for each of these kinds, named after it.
struct World {
    lab: Lab,
    dir: tempfile::TempDir,
    server: Child,
}

impl World {
    fn new(kinds: &[&NatKind], server: &[&str]) -> Self {
        let mut builder = Lab::builder()
            .host("srv", HostSpec::public(SERVER).and(SERVER_V6))
            .seed(7);
        let link = LinkSpec {
            delay: Duration::from_millis(5),
            ..LinkSpec::default()
        };
        for (kind, number) in kinds.iter().zip(1_u8..) {
            builder = builder.host(kind.name, host(kind, number)).link(kind.name, link);
        }
        let (lab, dir) = (builder.build().unwrap(), tempfile::tempdir().unwrap());
        let server = start_server(&lab, dir.path(), server);
        Self { lab, dir, server }
    }

    /// `knothole` on a host, from files of its own.
    fn knothole(&self, host: &str, arguments: &[&str]) -> Child {
        let mut command = program("knothole");
        command
            .args(arguments)
            .env("KNOTHOLE_HOME", self.dir.path().join(host));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.lab.host(host).unwrap().spawn(command).unwrap()
    }

    fn run(&self, host: &str, arguments: &[&str]) -> Output {
        finish(self.knothole(host, arguments))
    }

    /// Any program on a host; what it prints.
    fn foreign(&self, host: &str, name: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(name);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = finish(self.lab.host(host).unwrap().spawn(command).unwrap());
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It may have ended by itself, which a test would have noticed.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn host(kind: &NatKind, number: u8) -> HostSpec {
    let side = kind.side(&SERVER.map(IpAddr::from));
    let v4 = Ipv4Addr::new(192, 168, number, 10);
    let v6 = Ipv6Addr::new(0x2a05, 1, u16::from(number), 0, 0, 0, 0, 0x10);
    match (side.families.v4, side.families.v6) {
        (true, true) => HostSpec::behind(side.nats, v4).and(v6),
        (true, false) => HostSpec::behind(side.nats, v4),
        _ => HostSpec::behind(side.nats, v6),
    }
}

fn program(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knothole-netsim"));
    command.args(["role", name]).stdin(Stdio::null());
    command
}

fn start_server(lab: &Lab, dir: &Path, more: &[&str]) -> Child {
    let data = dir.join("server");
    let mut command = program("knothole-rendezvous");
    command.args([
        "run",
        "--listen",
        "5.5.5.1:5668",
        "--listen",
        "[2a05:5::1]:5668",
        "--public",
        "5.5.5.1",
    ]);
    command
        .args(["--open", "--json", "--data"])
        .arg(data)
        .args(more)
        .stdout(Stdio::piped());
    let mut server = lab.host("srv").unwrap().spawn(command).unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(server.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert!(line.contains("\"ready\""), "{line}");
    server
}

fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + SOON;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "a program does not end");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// The one event of this kind in what a program printed.
fn event(output: &Output, name: &str) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["event"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Is it in the model of this world? The wire between namespaces does not translate between families yet.
fn has_wire(kind: &NatKind) -> bool {
    kind.chain(&[])
        .iter()
        .all(|nat: &NatSpec| nat.ipv6 != Ipv6::Nat64)
}

#[test]
fn the_program_tells_every_kind_right_over_real_sockets() {
    if !possible() {
        return;
    }
    let kinds: Vec<&NatKind> = kinds().iter().filter(|kind| has_wire(kind)).collect();
    let world = World::new(&kinds, &["--alt", "5.5.5.2:5669"]);
    let mut wrong = Vec::new();
    for batch in kinds.chunks(AT_ONCE) {
        let arguments = [
            "netcheck",
            "--stun",
            "5.5.5.1:5668",
            "--stun",
            "[2a05:5::1]:5668",
            "--json",
        ];
        let running: Vec<Child> = batch
            .iter()
            .map(|kind| world.knothole(kind.name, &arguments))
            .collect();
        for (kind, child) in batch.iter().zip(running) {
            let output = finish(child);
            let found = event(&output, "netcheck");
            let blocked = kind
                .chain(&[])
                .iter()
                .any(|nat| matches!(nat.udp, UdpPolicy::Blocked(_)));
            assert_eq!(
                output.status.code(),
                Some(if blocked { 12 } else { 0 }),
                "{}",
                kind.name
            );
            wrong.extend(complaints(kind, &found, Loss::None));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
