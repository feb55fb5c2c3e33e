//! The machine in virtual time: one host, the boxes of a kind, and the real STUN server with two addresses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use knothole::netcheck::to_json;
use knothole_netsim::nat::nat64::embed;
use knothole_netsim::nat::{Flow, Ipv6, NatBox, NatKind, Verdict, kinds};
use knothole_proto::fingerprint::{
    Fingerprint, FingerprintConfig, Fingerprinter, Input, Output, PACKETS_MAX,
};
use knothole_proto::path::SocketId;
use knothole_proto::seed::{Rng, Seed};
use knothole_proto::stun::{ServerSocket, StunConfig, StunPolicy, StunServer};
use knothole_proto::transmit::Transmit;
use serde_json::Value;

use crate::expected::{Loss, complaints};

const SERVER_V4: [&str; 2] = ["5.5.5.1", "5.5.5.2"];
const SERVER_V6: [&str; 2] = ["2a05:5::1", "2a05:5::2"];
const PORTS: [u16; 2] = [5668, 5669];

/// One way between host and server; the round trip of the acceptance table is 100 ms.
const ONE_WAY: Duration = Duration::from_millis(50);

/// Routers between the outermost NAT and the server, as in the namespaces.
const CORE_HOPS: u8 = 2;

/// What a packet is worth on the way: who it is for.
enum Arrival {
    Server(Flow, Vec<u8>),
    Client(Flow, Vec<u8>),
}

struct Network {
    boxes: Vec<NatBox>,
    servers: [StunServer; 2],
    host: Vec<IpAddr>,
    sockets: BTreeMap<SocketId, SocketAddr>,
    waiting: BinaryHeap<Reverse<(Instant, u64)>>,
    arrivals: BTreeMap<u64, Arrival>,
    number: u64,
    rng: Rng,
    loss_percent: u64,
    spread: Duration,
}

impl Network {
    fn new(
        kind: &NatKind,
        seed: u64,
        loss_percent: u64,
        spread: Duration,
        two_addresses: bool,
        now: Instant,
    ) -> Self {
        let side = kind.side(&SERVER_V4.map(|ip| ip.parse().unwrap()));
        let boxes = side.nats.iter().zip(0_u8..).map(|(spec, number)| {
            let external = if usize::from(number) + 1 == side.nats.len() {
                [5, 5, 16, 2]
            } else {
                [100, 64, number, 2]
            };
            NatBox::new(spec.clone(), external.into(), seed * 31 + u64::from(number))
        });
        let mut host: Vec<IpAddr> = Vec::new();
        if side.families.v4 {
            let lan = if side.nats.is_empty() {
                "5.5.7.1"
            } else {
                "192.168.1.10"
            };
            host.push(lan.parse().unwrap());
        }
        if side.families.v6 {
            host.push("2a05:1::10".parse().unwrap());
        }
        let server =
            |ips: [&str; 2]| StunServer::new(stun_config(ips, two_addresses), &Seed::from_number(seed), now);
        Self {
            boxes: boxes.collect(),
            servers: [server(SERVER_V4), server(SERVER_V6)],
            host,
            sockets: BTreeMap::new(),
            waiting: BinaryHeap::new(),
            arrivals: BTreeMap::new(),
            number: 0,
            rng: Seed::from_number(seed).child("network", 0).rng(),
            loss_percent,
            spread,
        }
    }

    fn config(&self) -> FingerprintConfig {
        let endpoint = |ip: &str| Some(SocketAddr::new(ip.parse().unwrap(), PORTS[0]));
        let v4 = self.host.iter().any(IpAddr::is_ipv4);
        let nat64 = self.boxes.iter().any(|nat| nat.spec().ipv6 == Ipv6::Nat64);
        let IpAddr::V4(first) = SERVER_V4[0].parse().unwrap() else {
            unreachable!()
        };
        FingerprintConfig {
            others: None,
            server_v4: endpoint(SERVER_V4[0]).filter(|_| v4 || nat64),
            server_v6: endpoint(SERVER_V6[0]).filter(|_| self.host.iter().any(IpAddr::is_ipv6)),
            nat64: nat64.then(|| SocketAddr::new(embed(first).into(), PORTS[0])),
            local: self.host.clone(),
        }
    }

    fn open(&mut self, socket: SocketId, towards: SocketAddr) -> SocketAddr {
        let ip = self
            .host
            .iter()
            .find(|ip| ip.is_ipv4() == towards.is_ipv4())
            .copied();
        // Ports as a system gives them: anywhere in its range, none twice.
        let port = loop {
            let port = 32_768 + u16::try_from(self.rng.below(28_000)).unwrap();
            if self.sockets.values().all(|local| local.port() != port) {
                break port;
            }
        };
        let local = SocketAddr::new(ip.unwrap(), port);
        self.sockets.insert(socket, local);
        local
    }

    fn lost(&mut self) -> bool {
        self.rng.below(100) < self.loss_percent
    }

    fn later(&mut self, arrival: Arrival, now: Instant) {
        let spread = u64::try_from(self.spread.as_micros()).unwrap();
        let due = now + ONE_WAY + Duration::from_micros(self.rng.below(spread + 1));
        self.number += 1;
        self.arrivals.insert(self.number, arrival);
        self.waiting.push(Reverse((due, self.number)));
    }

    /// A packet leaves the host.
    fn send(&mut self, transmit: Transmit, now: Instant) {
        let mut flow = Flow::udp(self.sockets[&transmit.socket], transmit.to);
        let mut life = transmit.ttl.unwrap_or(64);
        for number in 0..self.boxes.len() {
            life -= 1;
            if life == 0 {
                return;
            }
            match self.boxes[number].outbound(flow, now) {
                Verdict::Forward(out) => flow = out,
                Verdict::Hairpin(back) => return self.inwards(back, number, transmit.bytes, now),
                Verdict::Drop(_) | Verdict::Reject(..) => return,
            }
        }
        if life > CORE_HOPS && !self.lost() {
            self.later(Arrival::Server(flow, transmit.bytes), now);
        }
    }

    /// A packet comes in through the boxes below this number, and is at the host.
    fn inwards(&mut self, mut flow: Flow, below: usize, bytes: Vec<u8>, now: Instant) {
        for nat in self.boxes[..below].iter_mut().rev() {
            match nat.inbound(flow, now) {
                Verdict::Forward(inside) => flow = inside,
                _ => return,
            }
        }
        self.later(Arrival::Client(flow, bytes), now);
    }

    /// The server takes a packet, and its answer begins its way.
    fn serve(&mut self, flow: Flow, bytes: &[u8], now: Instant) {
        let (ips, server) = if flow.dst.is_ipv4() {
            (SERVER_V4, &mut self.servers[0])
        } else {
            (SERVER_V6, &mut self.servers[1])
        };
        let places = places(ips);
        let Some((on, _)) = places.iter().find(|(_, at)| *at == flow.dst) else {
            return;
        };
        let Some(reply) = server.handle(*on, flow.src, bytes, now) else {
            return;
        };
        let (_, from) = places.iter().find(|(place, _)| *place == reply.via).unwrap();
        let back = Flow::udp(*from, reply.to);
        if !self.lost() {
            self.inwards(back, self.boxes.len(), reply.bytes, now);
        }
    }

    fn deliver(&mut self, run: &mut Fingerprinter, now: Instant) {
        while self.waiting.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Reverse((_, number)) = self.waiting.pop().unwrap();
            match self.arrivals.remove(&number).unwrap() {
                Arrival::Server(flow, bytes) => self.serve(flow, &bytes, now),
                Arrival::Client(flow, bytes) => {
                    let at = self.sockets.iter().find(|(_, local)| **local == flow.dst);
                    if let Some((socket, _)) = at {
                        run.handle_input(
                            Input::Datagram {
                                socket: *socket,
                                from: flow.src,
                                bytes: &bytes,
                            },
                            now,
                        );
                        return;
                    }
                }
            }
        }
    }
}

fn places(ips: [&str; 2]) -> [(ServerSocket, SocketAddr); 4] {
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    [
        (ServerSocket::Main, at(ips[0], PORTS[0])),
        (ServerSocket::AlternatePort, at(ips[0], PORTS[1])),
        (ServerSocket::AlternateAddress, at(ips[1], PORTS[0])),
        (ServerSocket::AlternateBoth, at(ips[1], PORTS[1])),
    ]
}

fn stun_config(ips: [&str; 2], two_addresses: bool) -> StunConfig {
    StunConfig {
        policy: StunPolicy::Nodes,
        sockets: places(ips)[..if two_addresses { 4 } else { 2 }].to_vec(),
    }
}

/// A whole run in virtual time.
fn fingerprint(mut network: Network, seed: u64, begun: Instant) -> Fingerprint {
    let mut now = begun;
    let mut run = Fingerprinter::new(network.config(), &Seed::from_number(seed), now);
    for _ in 0..100_000 {
        match run.poll_output(now) {
            Output::Open { socket, towards } => {
                let local = network.open(socket, towards);
                run.handle_input(Input::Opened { socket, local }, now);
            }
            Output::Transmit(transmit) => network.send(transmit, now),
            Output::Learnt(_) => {}
            Output::Done(fingerprint) => return *fingerprint,
            Output::Wait(until) => {
                let arrival = network.waiting.peek().map(|Reverse((due, _))| *due);
                now = arrival
                    .into_iter()
                    .chain(until)
                    .min()
                    .expect("something is to come")
                    .max(now);
                network.deliver(&mut run, now);
                run.handle_input(Input::Timeout, now);
            }
        }
    }
    panic!("the run does not end");
}

fn found(kind: &NatKind, seed: u64, loss_percent: u64) -> (Value, Fingerprint) {
    found_by(true, kind, seed, loss_percent)
}

fn found_by(two_addresses: bool, kind: &NatKind, seed: u64, loss_percent: u64) -> (Value, Fingerprint) {
    let begun = Instant::now();
    let network = Network::new(
        kind,
        seed,
        loss_percent,
        Duration::from_millis(5),
        two_addresses,
        begun,
    );
    let fingerprint = fingerprint(network, seed, begun);
    assert!(fingerprint.packets <= PACKETS_MAX);
    (Value::Object(to_json(&fingerprint)), fingerprint)
}

#[test]
fn every_kind_is_told_right_with_fifty_seeds() {
    let mut wrong = Vec::new();
    for kind in kinds() {
        let mut most = (0, Duration::ZERO);
        for seed in 0..50 {
            let (found, fingerprint) = found(kind, seed, 0);
            wrong.extend(
                complaints(kind, &found, Loss::None)
                    .into_iter()
                    .map(|line| format!("seed {seed}: {line}")),
            );
            most = (most.0.max(fingerprint.packets), most.1.max(fingerprint.took));
        }
        println!("{:26} at most {:3} packets, {:?}", kind.name, most.0, most.1);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_twentieth_of_the_packets_lost_makes_nothing_wrong() {
    let mut wrong = Vec::new();
    let mut untold = 0;
    for kind in kinds() {
        let mut most = (0, Duration::ZERO);
        for seed in 0..50 {
            let (found, fingerprint) = found(kind, seed, 5);
            wrong.extend(
                complaints(kind, &found, Loss::Some)
                    .into_iter()
                    .map(|line| format!("seed {seed}: {line}")),
            );
            untold += usize::from(found["ports"].is_null() && !found["v4"]["mapping"].is_null());
            most = (most.0.max(fingerprint.packets), most.1.max(fingerprint.took));
        }
        println!("{:26} at most {:3} packets, {:?}", kind.name, most.0, most.1);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    println!("ports not told: {untold}");
}

/// With one address and two ports, as most servers have: what needs two addresses is left open, and nothing else.
#[test]
fn a_server_of_one_address_leaves_open_what_needs_two_and_is_never_wrong() {
    for kind in kinds() {
        for seed in 0..10 {
            let (found, _) = found_by(false, kind, seed, 0);
            // The depth is measured at the one address there is, where an address-dependent mapping is stable too.
            let depth = found["v4"]["opener_ttl"] == 2;
            let open = |line: &String| {
                let deeper = depth && line.contains("v4.opener_ttl is null, found 2");
                line.contains("found null") || line.contains(": class is ") || deeper
            };
            let wrong: Vec<String> = complaints(kind, &found, Loss::None)
                .into_iter()
                .filter(|line| !open(line))
                .collect();
            assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
            for family in ["v4", "v6"] {
                let facts = &found[family];
                if facts["reach"] != "works" {
                    continue;
                }
                assert_eq!(
                    facts["mapping"].is_null(),
                    facts["port_dependent"] == false,
                    "{}",
                    kind.name
                );
                assert_eq!(
                    facts["filtering"].is_null(),
                    facts["other_port_passes"] == true,
                    "{}",
                    kind.name
                );
                let told = facts["port_dependent"].is_boolean() && facts["other_port_passes"].is_boolean();
                assert!(told, "{}: {facts}", kind.name);
            }
        }
    }
}
