//! Connectors around the project's own registry, on a network where everything arrives after a fixed time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use knothole_proto::addr::{Candidate, CandidateKind};
use knothole_proto::connector::{
    Command, Connector, ConnectorConfig, Event, Input, LinkId, Output, Transmit,
};
use knothole_proto::id::{Instance, PairSecret, PeerId, RequestId};
use knothole_proto::path::{Path, SocketId};
use knothole_proto::punch::PunchConfig;
use knothole_proto::rendezvous::{self, ConnId, Registry, RegistryConfig};
use knothole_proto::seed::Seed;
use knothole_proto::wire::{FromServer, PathPolicy, ToServer};

use crate::support::{addr, epoch, ms};

/// One way between any two places.
pub(crate) const WAY: Duration = Duration::from_millis(20);

pub(crate) const SERVER: &str = "9.9.9.9:5668";

pub(crate) struct Citizen {
    pub(crate) connector: Connector,
    pub(crate) public: SocketAddr,
    pub(crate) conn: Option<ConnId>,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) said: Vec<ToServer>,
    pub(crate) sent: Vec<Transmit>,
    deadline: Option<Instant>,
}

enum Flight {
    ToServer(ConnId, ToServer),
    FromServer(ConnId, FromServer),
    Datagram {
        to: SocketAddr,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
}

pub(crate) struct Town {
    pub(crate) citizens: Vec<Citizen>,
    pub(crate) registry: Registry,
    pub(crate) now: Duration,
    /// May a datagram pass from this citizen to that one?
    pub(crate) passes: Box<dyn Fn(usize, usize) -> bool>,
    flying: BTreeMap<(Duration, u64), Flight>,
    count: u64,
    conns: u64,
}

pub(crate) fn id(index: usize) -> PeerId {
    PeerId::from_spki(&[u8::try_from(index).unwrap()])
}

/// What any two citizens share.
pub(crate) fn secret(a: usize, b: usize) -> PairSecret {
    PairSecret::from_bytes([u8::try_from(a.min(b) * 16 + a.max(b)).unwrap(); 32])
}

pub(crate) fn config(index: usize, instance: u64) -> ConnectorConfig {
    ConnectorConfig {
        own: id(index),
        instance: Instance(instance),
        name: Some(format!("node-{index}").parse().unwrap()),
        token: None,
        accepting: true,
        agent: "test 1".to_owned(),
        punch: PunchConfig::default(),
        fingerprint: false,
        guesses: true,
        sockets_max: 1024,
        allow_loopback: false,
    }
}

impl Town {
    /// That many nodes, all paired with each other, registered with a server that grants relay channels.
    pub(crate) fn new(size: usize) -> Self {
        let mut town = Self {
            citizens: (0..size)
                .map(|index| Citizen::new(index, size, config(index, 1)))
                .collect(),
            registry: registry(true),
            now: Duration::ZERO,
            passes: Box::new(|_, _| true),
            flying: BTreeMap::new(),
            count: 0,
            conns: 0,
        };
        for index in 0..size {
            town.control_up(index);
        }
        town.run(ms(1000));
        town
    }

    pub(crate) fn at(&self) -> Instant {
        epoch() + self.now
    }

    pub(crate) fn control_up(&mut self, index: usize) {
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.citizens[index].conn = Some(conn);
        self.registry
            .handle_connected(conn, id(index), self.citizens[index].public, epoch() + self.now);
        let stun = vec![(SocketId::V4, addr(SERVER))];
        self.feed(index, Input::ControlUp { stun });
    }

    /// The control connection of a citizen breaks; both ends notice.
    pub(crate) fn control_down(&mut self, index: usize) {
        if let Some(conn) = self.citizens[index].conn.take() {
            self.registry.handle_disconnected(conn, epoch() + self.now);
            self.drain_registry();
        }
        self.feed(index, Input::ControlDown);
    }

    /// The datagrams of a citizen come from elsewhere from now on.
    pub(crate) fn moves(&mut self, index: usize, public: &str) {
        let now = self.at();
        self.citizens[index].public = addr(public);
        if let Some(conn) = self.citizens[index].conn {
            self.registry.handle_address(conn, addr(public), now);
            self.drain_registry();
        }
    }

    /// The server dies, and another one without any memory takes its place.
    pub(crate) fn replace_server(&mut self) {
        self.registry = registry(true);
        for index in 0..self.citizens.len() {
            self.citizens[index].conn = None;
            self.feed(index, Input::ControlDown);
        }
    }

    pub(crate) fn command(&mut self, index: usize, command: Command) {
        self.feed(index, Input::Command(command));
    }

    pub(crate) fn connect(&mut self, from: usize, to: usize, policy: PathPolicy) {
        let request = RequestId(77);
        let peer = id(to);
        self.command(
            from,
            Command::Connect {
                request,
                peer,
                policy,
            },
        );
    }

    pub(crate) fn feed(&mut self, index: usize, input: Input<'_>) {
        let now = self.at();
        self.citizens[index].connector.handle_input(input, now);
        self.drain(index);
    }

    pub(crate) fn run(&mut self, until: Duration) {
        for _ in 0..2_000_000 {
            let since = |at: Instant| at.saturating_duration_since(epoch());
            let timers = self
                .citizens
                .iter()
                .filter_map(|citizen| citizen.deadline.map(since))
                .min();
            let server = self.registry.poll_timeout().map(|(at, _)| since(at));
            let flight = self.flying.keys().next().map(|(at, _)| *at);
            let next = timers.into_iter().chain(server).chain(flight).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self
                .flying
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let flight = entry.remove();
                self.land(flight);
            }
            self.registry.handle_timeout(epoch() + self.now);
            self.drain_registry();
            for index in 0..self.citizens.len() {
                if self.citizens[index]
                    .deadline
                    .is_some_and(|at| at <= epoch() + self.now)
                {
                    self.feed(index, Input::Timeout);
                }
            }
        }
        panic!("the town never came to rest");
    }

    /// The last path that a citizen was told of.
    pub(crate) fn path(&self, index: usize) -> Option<Path> {
        self.paths(index).last().copied()
    }

    pub(crate) fn paths(&self, index: usize) -> Vec<Path> {
        let path = |(_, event): &(Duration, Event)| match event {
            Event::Path { path, .. } => Some(*path),
            _ => None,
        };
        self.citizens[index].events.iter().filter_map(path).collect()
    }

    pub(crate) fn links(&self, index: usize) -> Vec<LinkId> {
        let link = |(_, event): &(Duration, Event)| match event {
            Event::LinkUp(link) => Some(link.link),
            _ => None,
        };
        self.citizens[index].events.iter().filter_map(link).collect()
    }

    pub(crate) fn has(&self, index: usize, event: &Event) -> bool {
        self.citizens[index].events.iter().any(|(_, told)| told == event)
    }

    pub(crate) fn clear(&mut self) {
        for citizen in &mut self.citizens {
            citizen.events.clear();
            citizen.said.clear();
            citizen.sent.clear();
        }
    }

    fn land(&mut self, flight: Flight) {
        let now = self.at();
        match flight {
            Flight::ToServer(conn, message) => {
                self.registry.handle_message(conn, message, now);
                self.drain_registry();
            }
            Flight::FromServer(conn, message) => {
                if let Some(index) = self
                    .citizens
                    .iter()
                    .position(|citizen| citizen.conn == Some(conn))
                {
                    self.feed(index, Input::Control(message));
                }
            }
            Flight::Datagram { to, from, bytes } => {
                if let Some(index) = self.citizens.iter().position(|citizen| citizen.public == to) {
                    let input = Input::Datagram {
                        socket: SocketId::V4,
                        from,
                        bytes: &bytes,
                    };
                    self.feed(index, input);
                }
            }
        }
    }

    fn drain(&mut self, index: usize) {
        let now = self.at();
        loop {
            match self.citizens[index].connector.poll_output(now) {
                Output::Control(message) => {
                    self.citizens[index].said.push(message.clone());
                    if let Some(conn) = self.citizens[index].conn {
                        self.launch(WAY, Flight::ToServer(conn, message));
                    }
                }
                Output::Transmit(transmit) => {
                    let from = self.citizens[index].public;
                    let to = transmit.to;
                    self.citizens[index].sent.push(transmit.clone());
                    let receiver = self.citizens.iter().position(|citizen| citizen.public == to);
                    if receiver.is_some_and(|receiver| (self.passes)(index, receiver)) {
                        let bytes = transmit.bytes;
                        self.launch(WAY, Flight::Datagram { to, from, bytes });
                    }
                }
                Output::Open { socket, .. } => self.feed(index, Input::NotOpened { socket }),
                Output::Close { .. } => {}
                Output::Event(event) => self.citizens[index].events.push((self.now, event)),
                Output::Wait(deadline) => {
                    self.citizens[index].deadline = deadline.map(|(at, _)| at);
                    return;
                }
            }
        }
    }

    fn drain_registry(&mut self) {
        while let Some(command) = self.registry.poll_command() {
            match command {
                rendezvous::Command::Send { conn, message } => {
                    self.launch(WAY, Flight::FromServer(conn, message))
                }
                rendezvous::Command::Store { claim, .. } => {
                    let now = self.at();
                    self.registry.handle_stored(claim, Ok(()), now);
                }
                rendezvous::Command::Close { .. }
                | rendezvous::Command::OpenChannel { .. }
                | rendezvous::Command::CloseChannel { .. } => {}
            }
        }
    }

    fn launch(&mut self, delay: Duration, flight: Flight) {
        self.count += 1;
        self.flying.insert((self.now + delay, self.count), flight);
    }
}

impl Citizen {
    pub(crate) fn new(index: usize, size: usize, config: ConnectorConfig) -> Self {
        let public = addr(&format!("5.0.0.{}:1000", index + 1));
        let seed = Seed::from_number(u64::try_from(index).unwrap() + 1000 * config.instance.0);
        let mut connector = Connector::new(config, &seed, epoch());
        let peers = (0..size)
            .filter(|other| *other != index)
            .map(|other| (id(other), secret(index, other)));
        connector.handle_input(Input::Command(Command::SetPeers(peers.collect())), epoch());
        let inside = Candidate {
            kind: CandidateKind::Host,
            addr: addr(&format!("10.0.{index}.2:1000")),
        };
        connector.handle_input(Input::LocalCandidates(vec![inside]), epoch());
        Self {
            connector,
            public,
            conn: None,
            events: Vec::new(),
            said: Vec::new(),
            sent: Vec::new(),
            deadline: None,
        }
    }
}

fn registry(relay: bool) -> Registry {
    let config = RegistryConfig {
        open: true,
        relay,
        ..RegistryConfig::default()
    };
    Registry::new(config, Vec::new(), &Seed::from_number(5), epoch())
}
