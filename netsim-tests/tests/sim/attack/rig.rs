//! One connector, driven by hand: its sockets, its clock, and an account of what it sends to whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use knothole_netsim::sim::epoch;
use knothole_proto::addr::OfferedCandidate;
use knothole_proto::connector::{Command, Connector, ConnectorConfig, Event, Input, Output, Transmit};
use knothole_proto::id::{Instance, PairSecret, PeerId, SessionId};
use knothole_proto::path::{Path, SocketId};
use knothole_proto::punch::PunchConfig;
use knothole_proto::seed::Seed;
use knothole_proto::stun::{ServerSocket, StunConfig, StunPolicy, StunServer};
use knothole_proto::wire::probe::{Flags, Probe, ProbeKeys};
use knothole_proto::wire::{
    FromServer, Introduction, Kind, Network, PathPolicy, Role, ServerTime, ToServer, Welcome,
};

use super::{MINUTE, MS, networks};

/// Outputs after one input, and moments in one run: more means that it never ends.
const ENDLESS: usize = 20_000;

/// How long an answer of the server or of the peer takes.
const ROUND_TRIP: Duration = Duration::from_millis(40);

pub(super) struct Rig {
    connector: Connector,
    pub(super) now: Duration,
    deadline: Option<Instant>,
    ports: BTreeMap<SocketId, u16>,
    next_port: u16,
    stun: StunServer,
    pub(super) sent: Vec<(Duration, Transmit)>,
    pub(super) said: Vec<ToServer>,
    pub(super) events: Vec<Event>,
    arriving: BTreeMap<(Duration, usize), (SocketId, SocketAddr, Vec<u8>)>,
    count: usize,
    /// Whoever answers probes as the peer does, at this address, for this session.
    pub(super) honest: Option<(SocketAddr, SessionId)>,
    /// Who answers questions to the server instead of it, and before it.
    pub(super) liar: Option<SocketAddr>,
}

pub(super) fn own() -> PeerId {
    PeerId::from_spki(b"own")
}

pub(super) fn peer(number: usize) -> PeerId {
    PeerId::from_spki(&number.to_be_bytes())
}

pub(super) fn secret(number: usize) -> PairSecret {
    PairSecret::from_bytes([u8::try_from(number).unwrap(); 32])
}

pub(super) fn session(number: u32) -> SessionId {
    let mut bytes = [9; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    SessionId::from_bytes(bytes)
}

fn server(port: u16) -> SocketAddr {
    SocketAddr::from(([9, 9, 9, 9], port))
}

/// Where the node is seen from outside; its router keeps ports.
fn public(port: u16) -> SocketAddr {
    SocketAddr::from(([5, 0, 0, 1], port))
}

impl Rig {
    /// A node that knows these many peers and is registered. With `survey` it finds out what its network does.
    pub(super) fn new(peers: usize, survey: bool) -> Self {
        let config = ConnectorConfig {
            own: own(),
            instance: Instance(1),
            name: None,
            token: None,
            accepting: true,
            agent: "test 1".to_owned(),
            punch: PunchConfig::default(),
            fingerprint: survey,
            guesses: true,
            sockets_max: 600,
            allow_loopback: false,
        };
        let seed = Seed::from_number(1);
        let sockets = vec![
            (ServerSocket::Main, server(5668)),
            (ServerSocket::AlternatePort, server(5669)),
        ];
        let policy = StunPolicy::Nodes;
        let mut rig = Self {
            connector: Connector::new(config, &seed, epoch()),
            now: Duration::ZERO,
            deadline: None,
            ports: BTreeMap::from([(SocketId::V4, 40_000)]),
            next_port: 10_000,
            stun: StunServer::new(StunConfig { policy, sockets }, &seed, epoch()),
            sent: Vec::new(),
            said: Vec::new(),
            events: Vec::new(),
            arriving: BTreeMap::new(),
            count: 0,
            honest: None,
            liar: None,
        };
        let known = (0..peers).map(|number| (peer(number), secret(number)));
        rig.feed(Input::Command(Command::SetPeers(known.collect())));
        rig.feed(Input::ControlUp {
            stun: vec![(SocketId::V4, server(5668))],
        });
        rig.told(FromServer::Welcome(Welcome {
            name: None,
            reflexive: public(40_000),
            server: ServerTime(0),
            refresh_ms: 10_000,
            alternate_port: 5669,
            alternate: None,
            relay: true,
        }));
        rig
    }

    /// The server says something.
    pub(super) fn told(&mut self, message: FromServer) {
        self.feed(Input::Control(message));
    }

    /// The server introduces a peer who is said to be at these addresses.
    pub(super) fn introduce(&mut self, introduction: Introduction) {
        self.told(FromServer::Introduction(introduction));
    }

    /// An introduction to peer `number`, to begin in a tenth of a second, in which everything is allowed.
    pub(super) fn introduction(
        &self,
        number: usize,
        candidates: Vec<OfferedCandidate>,
        networks: [Network; 2],
    ) -> Introduction {
        let at = |after: Duration| ServerTime(u64::try_from((self.now + after).as_micros()).unwrap());
        Introduction {
            session: session(u32::try_from(number).unwrap()),
            round: 0,
            role: Role::Callee,
            request: None,
            peer: peer(number),
            peer_name: None,
            peer_instance: Instance(7),
            tag: secret(number).tag(),
            candidates,
            channel: None,
            policy: PathPolicy::Auto,
            start: at(100 * MS),
            now: at(Duration::ZERO),
            second: at(160 * MS),
            networks,
            guess: true,
            again: false,
        }
    }

    /// An introduction to the first peer at this address, attested, both keeping their ports.
    pub(super) fn meet(&mut self, at: SocketAddr) {
        let easy = networks()[1];
        let introduction = self.introduction(0, vec![super::offered(at, true)], [easy, easy]);
        self.introduce(Introduction {
            role: Role::Caller,
            ..introduction
        });
    }

    /// A datagram arrives at a socket.
    pub(super) fn arrives(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8]) {
        self.feed(Input::Datagram { socket, from, bytes });
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, until: Duration) {
        for _ in 0..ENDLESS * 100 {
            let timer = self.deadline.map(|at| at.saturating_duration_since(epoch()));
            let arrival = self.arriving.keys().next().map(|(at, _)| *at);
            let next = timer.into_iter().chain(arrival).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            let due = self.arriving.first_entry();
            if let Some(due) = due.filter(|entry| entry.key().0 <= self.now) {
                let (socket, from, bytes) = due.remove();
                self.arrives(socket, from, &bytes);
            } else {
                self.feed(Input::Timeout);
            }
        }
        panic!("it never comes to rest");
    }

    /// Keys with which peer `number` seals probes of a session of the same number.
    pub(super) fn keys_of(number: usize) -> ProbeKeys {
        let session = session(u32::try_from(number).unwrap());
        ProbeKeys::new(&secret(number), session, peer(number), own())
    }

    /// Datagrams that went to this IP address, with their moments.
    pub(super) fn sent_to(&self, ip: IpAddr) -> Vec<Duration> {
        let there = self.sent.iter().filter(|(_, sent)| sent.to.ip() == ip);
        there.map(|(at, _)| *at).collect()
    }

    /// The most that went to this IP address in any minute.
    pub(super) fn most_in_a_minute(&self, ip: IpAddr) -> usize {
        let times = self.sent_to(ip);
        let mut first = 0;
        let mut most = 0;
        for (last, at) in times.iter().enumerate() {
            while times[first] + MINUTE <= *at {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }

    /// Minutes that do not overlap in each of which more than `limit` went there.
    pub(super) fn minutes_above(&self, ip: IpAddr, limit: usize) -> usize {
        let times = self.sent_to(ip);
        let (mut minutes, mut begun, mut count) = (0, None, 0);
        for at in times {
            match begun {
                Some(begun) if at < begun + MINUTE => count += 1,
                _ => (begun, count) = (Some(at), 1),
            }
            minutes += usize::from(count == limit + 1);
        }
        minutes
    }

    /// The direct paths that it has said it uses, one after the other.
    pub(super) fn paths(&self) -> Vec<SocketAddr> {
        let path = |event: &Event| match event {
            Event::Path {
                path: Path::Direct { remote, .. },
                ..
            } => Some(*remote),
            _ => None,
        };
        self.events.iter().filter_map(path).collect()
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = epoch() + self.now;
        self.connector.handle_input(input, now);
        let mut opened = Vec::new();
        for _ in 0..ENDLESS {
            match self.connector.poll_output(now) {
                Output::Wait(next) => {
                    self.deadline = next.map(|(at, _)| at);
                    let Some((socket, port)) = opened.pop() else {
                        return;
                    };
                    let local = SocketAddr::from(([192, 168, 1, 2], port));
                    self.connector.handle_input(Input::Opened { socket, local }, now);
                }
                Output::Open { socket, .. } => {
                    self.next_port = self.next_port.checked_add(1).unwrap_or(10_000);
                    self.ports.insert(socket, self.next_port);
                    opened.push((socket, self.next_port));
                }
                Output::Close { socket } => {
                    self.ports.remove(&socket);
                }
                Output::Transmit(transmit) => self.carry(transmit),
                Output::Control(message) => self.said.push(message),
                Output::Event(event) => self.events.push(event),
            }
        }
        panic!("outputs never end");
    }

    /// A datagram leaves; whoever answers does so.
    fn carry(&mut self, transmit: Transmit) {
        let from = public(self.ports[&transmit.socket]);
        match Kind::of(&transmit.bytes) {
            Kind::Stun if transmit.to.ip() == server(0).ip() => {
                if let Some(lie) = self.liar {
                    self.answer_question(&transmit, lie, ROUND_TRIP / 4);
                }
                self.answer_question(&transmit, from, ROUND_TRIP);
            }
            Kind::Probe => self.answer_probe(&transmit),
            _ => {}
        }
        self.sent.push((self.now, transmit));
    }

    /// The server, or somebody in its place, says that the question came from `seen`.
    fn answer_question(&mut self, question: &Transmit, seen: SocketAddr, after: Duration) {
        let on = if question.to.port() == 5668 {
            ServerSocket::Main
        } else {
            ServerSocket::AlternatePort
        };
        let now = epoch() + self.now;
        if let Some(reply) = self.stun.handle(on, seen, &question.bytes, now) {
            let via = if reply.via == ServerSocket::Main {
                5668
            } else {
                5669
            };
            self.arrive(after, question.socket, server(via), reply.bytes);
        }
    }

    /// The peer, if it is honest, proves itself and believes what is proven to it.
    fn answer_probe(&mut self, question: &Transmit) {
        let Some((at, id)) = self.honest.filter(|(at, _)| *at == question.to) else {
            return;
        };
        let keys = ProbeKeys::new(&secret(0), id, peer(0), own());
        let Some(probe) = keys.open(&question.bytes) else {
            return;
        };
        if !probe.flags.has(Flags::ANSWER_ME) {
            return;
        }
        self.count += 1;
        let flags = if probe.echo == 0 {
            Flags::ANSWER_ME
        } else {
            Flags::PROVEN
        };
        let answer = keys.seal(&Probe {
            flags,
            round: probe.round,
            nonce: self.count as u64 + 1_000_000,
            echo: probe.nonce,
            observed: None,
        });
        self.arrive(ROUND_TRIP, question.socket, at, answer.to_vec());
    }

    fn arrive(&mut self, after: Duration, socket: SocketId, from: SocketAddr, bytes: Vec<u8>) {
        self.count += 1;
        self.arriving
            .insert((self.now + after, self.count), (socket, from, bytes));
    }
}
