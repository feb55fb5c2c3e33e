//! The program itself behind each kind, in namespaces: one internet, the real server with two addresses, a host for each
//! kind, and what `knothole netcheck --json` prints there.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::{NatKind, UdpPolicy, kind, kinds};
use knothole_netsim::netns;
use serde_json::Value;

use crate::expected::{Loss, complaints};

const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(5, 5, 5, 1), Ipv4Addr::new(5, 5, 5, 2)];
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2a05, 5, 0, 0, 0, 0, 0, 1);

/// Programs at a time. More would keep each other waiting on two processors, and a second without an answer is a verdict.
const AT_ONCE: usize = 4;

/// What takes longer is broken.
const SOON: Duration = Duration::from_secs(90);

/// How long a program of others may take; coturn's wait 3 s for each answer that is filtered.
const FOREIGN: Duration = Duration::from_secs(30);

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
    /// The line that a node needs.
    url: String,
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
        let (server, url) = start_server(&lab, dir.path(), server);
        Self {
            lab,
            dir,
            server,
            url,
        }
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

    /// A program of others on a host: what it prints until a line with `last`, or for so long as it may take. Then it is
    /// ended: some of them wait for ever for what a NAT has filtered.
    fn foreign(&self, host: &str, name: &str, arguments: &[&str], last: &str) -> String {
        let mut command = Command::new(name);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = self.lab.host(host).unwrap().spawn(command).unwrap();
        let (sender, lines) = std::sync::mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let (mut text, deadline) = (String::new(), Instant::now() + FOREIGN);
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            text.push_str(&line);
            text.push('\n');
            if line.contains(last) {
                break;
            }
        }
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().unwrap();
        text
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

fn start_server(lab: &Lab, dir: &Path, more: &[&str]) -> (Child, String) {
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
    let mut output = BufReader::new(server.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    (server, ready["server"].as_str().unwrap().to_owned())
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

#[test]
fn the_program_tells_every_kind_right_over_real_sockets() {
    if !possible() {
        return;
    }
    let kinds: Vec<&NatKind> = kinds().iter().collect();
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

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_carriers_router_behind_the_home_router_is_seen_by_its_own_word() {
    if !possible() {
        return;
    }
    let names = ["home-behind-cgn", "port-restricted"];
    let kinds: Vec<&NatKind> = names.iter().filter_map(|name| kind(name)).collect();
    let world = World::new(&kinds, &["--alt", "5.5.5.2:5669"]);
    let hops = |host: &str| {
        let found = event(
            &world.run(host, &["netcheck", "--server", &world.url, "--json"]),
            "netcheck",
        );
        let signs = found["signs"].as_array().unwrap().clone();
        signs
            .into_iter()
            .filter(|sign| ["shared-hop", "private-hop"].contains(&sign["kind"].as_str().unwrap()))
            .collect::<Vec<Value>>()
    };
    let seen = hops("home-behind-cgn");
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["kind"], "shared-hop", "{seen:?}");
    assert_eq!(
        seen[0]["hop"], 2,
        "the home router is the first, the carrier's the second"
    );
    assert_eq!(hops("port-restricted"), Vec::<Value>::new(), "one router only");
}

#[test]
fn people_read_a_verdict_first_in_eighty_columns_and_what_could_not_be_tested() {
    if !possible() {
        return;
    }
    let names = ["port-restricted", "udp-blocked", "open"];
    let kinds: Vec<&NatKind> = names.iter().filter_map(|name| kind(name)).collect();
    // One address and two ports, as most servers have.
    let world = World::new(&kinds, &[]);
    let output = world.run("port-restricted", &["netcheck", "--server", &world.url]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(text.starts_with("This machine has no public address"), "{text}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("not testable: the server has one address"),
        "{text}"
    );
    assert!(
        text.contains("IPv6         this machine has no way out by it"),
        "{text}"
    );
    assert!(
        words.contains("direct paths with a machine that anyone can reach: expected: direct")
            && words.contains("with a port-restricted router: expected: direct"),
        "{text}"
    );
    let long = text.lines().find(|line| line.chars().count() > 80);
    assert_eq!(long, None, "{text}");

    let output = world.run("open", &["netcheck", "--server", &world.url]);
    assert!(
        said(&output).contains("has a public address"),
        "{}",
        said(&output)
    );

    let output = world.run("udp-blocked", &["netcheck", "--server", &world.url]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(12), "{text}");
    assert!(
        text.starts_with("Nothing came back: this network blocks UDP"),
        "{text}"
    );
    assert!(
        text.contains("try: Allow UDP") && !text.contains("direct paths"),
        "{text}"
    );

    let output = world.run("open", &["netcheck", "--stun", "no-such-name.invalid:9"]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let output = world.run("open", &["netcheck"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("--stun HOST:PORT"), "{}", said(&output));
    let output = world.run("open", &["netcheck", "--stun", "host:port:x"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn a_network_that_is_known_is_asked_one_question_until_its_address_differs() {
    if !possible() {
        return;
    }
    let world = World::new(&[kind("port-restricted").unwrap()], &["--alt", "5.5.5.2:5669"]);
    let check = |more: &[&str]| {
        let arguments = [&["netcheck", "--server", &world.url, "--json"], more].concat();
        let before = world.lab.stats().hosts["port-restricted"].sent_packets;
        let found = event(&world.run("port-restricted", &arguments), "netcheck");
        (
            found,
            world.lab.stats().hosts["port-restricted"].sent_packets - before,
        )
    };
    let (first, packets) = check(&[]);
    assert!(
        first["cached_s"].is_null() && packets > 20,
        "{packets} packets, {first}"
    );
    let (second, packets) = check(&[]);
    assert!(
        second["cached_s"].is_u64() && packets < 10,
        "{packets} packets, {second}"
    );
    assert_eq!((&second["class"], &second["v4"]), (&first["class"], &first["v4"]));
    let (third, _) = check(&["--fresh"]);
    assert!(third["cached_s"].is_null());

    let file = world.dir.path().join("port-restricted/networks.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    let seen = first["addresses"][0].as_str().unwrap();
    // As if the provider had given another address since.
    std::fs::write(&file, kept.replace(seen, "5.5.99.9")).unwrap();
    let (fourth, packets) = check(&[]);
    assert!(
        fourth["cached_s"].is_null() && packets > 20,
        "{packets} packets, {fourth}"
    );
    assert_eq!(fourth["addresses"][0].as_str(), Some(seen));
}

/// What coturn's programs say of mapping and filtering, in the words of [`complaints`].
fn by_coturn(text: &str) -> (Option<&'static str>, Option<&'static str>) {
    let words = [
        ("Endpoint Independent", "endpoint-independent"),
        ("Address Dependent", "address-dependent"),
        ("Address and Port Dependent", "address-and-port-dependent"),
    ];
    let of = |what: &str| {
        words
            .into_iter()
            .find_map(|(theirs, ours)| text.contains(&format!("{theirs} {what}")).then_some(ours))
    };
    (of("Mapping"), of("Filtering"))
}

#[test]
fn coturns_programs_and_netcheck_agree_on_every_kind_when_the_server_is_public() {
    if !possible() || !installed("turnutils_natdiscovery") {
        return;
    }
    let translated = |kind: &&NatKind| {
        let nats = kind.chain(&[]);
        kind.families.v4
            && !nats.is_empty()
            && nats.iter().all(|nat| !matches!(nat.udp, UdpPolicy::Blocked(_)))
    };
    let kinds: Vec<&NatKind> = kinds().iter().filter(translated).collect();
    let world = World::new(&kinds, &["--alt", "5.5.5.2:5669", "--stun", "public"]);
    for batch in kinds.chunks(2 * AT_ONCE) {
        // Coturn's programs spend their time waiting for what is filtered.
        std::thread::scope(|scope| {
            let all: Vec<_> = batch
                .iter()
                .map(|kind| scope.spawn(|| agree(&world, kind)))
                .collect();
            for one in all {
                one.join().unwrap();
            }
        });
    }
}

fn agree(world: &World, kind: &NatKind) {
    let ask = ["netcheck", "--stun", "5.5.5.1:5668", "--json"];
    let found = event(&world.run(kind.name, &ask), "netcheck");
    let ask = ["-m", "-f", "-p", "5668", "5.5.5.1"];
    let text = world.foreign(kind.name, "turnutils_natdiscovery", &ask, "Filtering!");
    let (mapping, filtering) = by_coturn(&text);
    let ours = match found["v4"]["mapping"].as_str() {
        // Its third question goes to the OTHER-ADDRESS of the second answer, which is the first address with the second
        // port and not the second address (RFC 5780 section 4.3), so it does not know of this behaviour.
        Some("address-dependent") => Some("address-and-port-dependent"),
        ours => ours,
    };
    assert_eq!(mapping, ours, "{}: {text}", kind.name);
    assert_eq!(
        filtering,
        found["v4"]["filtering"].as_str(),
        "{}: {text}",
        kind.name
    );
    let text = world.foreign(
        kind.name,
        "turnutils_stunclient",
        &["-p", "5668", "5.5.5.1"],
        "reflexive",
    );
    let known = found["addresses"]
        .as_array()
        .unwrap()
        .iter()
        .any(|ip| text.contains(ip.as_str().unwrap()));
    assert!(known || kind.name == "pool-arbitrary", "{}: {text}", kind.name);
}
