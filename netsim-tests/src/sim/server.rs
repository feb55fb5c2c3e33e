//! The server of the world: the project's own [`Registry`], relay and [`StunServer`], and around them what the
//! server's driver does.
//!
//! The driver of this world holds the control connections and a disk that takes a moment to write. It decides nothing
//! that the machines decide. What the disk holds survives [`Server::restart`]; everything else does not.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use knothole_proto::id::{PeerId, Token};
use knothole_proto::rendezvous::{
    ClaimId, Command, ConnId, Record, Registry, RegistryConfig, RelayConfig, RelayStats, StoreFailed,
};
use knothole_proto::seed::Seed;
use knothole_proto::stun::{ServerSocket, StunConfig, StunPolicy, StunServer};
use knothole_proto::wire::{self, ToServer, codec};

use super::build::{SERVER_ALTERNATE_IP, SERVER_ALTERNATE_IP6, SERVER_IP, SERVER_IP6};
use super::clock::HostClock;
use super::control::{Frame, Kind, Stream};
use super::relay::Relay;

/// After this long a connection that is to be closed is closed whether or not everything arrived.
const CLOSE_AFTER: Duration = Duration::from_secs(3);

/// Commands that the registry may have after one input; more means that it never ends.
const COMMANDS_MAX: usize = 65_536;

/// What varies from one world's server to the next.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Does it admit keys without a token?
    pub open: bool,
    /// Tokens that it admits.
    pub tokens: Vec<Token>,
    /// Does it grant relay channels?
    pub relay: bool,
    /// Bits per second that the relay forwards in all.
    pub relay_rate: u64,
    /// How long its disk takes to write a record.
    pub write: Duration,
    /// Has it a second address for STUN? With one alone a node cannot tell a mapping for all destinations from one for each
    /// address.
    pub two_addresses: bool,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            open: true,
            tokens: Vec::new(),
            relay: true,
            relay_rate: 1_000_000_000,
            write: Duration::from_millis(2),
            two_addresses: true,
        }
    }
}

/// A datagram to send.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    spec: ServerSpec,
    clock: HostClock,
    seed: Seed,
    /// Its first port, and the second for STUN.
    ports: [u16; 2],
    registry: Registry,
    relay: Relay,
    stun: [StunServer; 2],
    conns: BTreeMap<ConnId, Conn>,
    by_number: BTreeMap<u64, ConnId>,
    next_conn: u64,
    starts: u64,
    running: bool,
    disk: Vec<Record>,
    writes: VecDeque<(Duration, ClaimId, Record)>,
    disk_fails: bool,
    outgoing: Vec<Reply>,
    flooded: bool,
}

#[derive(Debug)]
struct Conn {
    number: u64,
    from: SocketAddr,
    stream: Stream,
    closing: Option<Duration>,
}

impl Server {
    /// A server with an empty disk, listening on the first of these ports and, for STUN, on both.
    pub(super) fn new(
        spec: ServerSpec,
        ports: [u16; 2],
        clock: HostClock,
        seed: Seed,
        now: Duration,
    ) -> Self {
        let (registry, relay, stun) = machines(&spec, ports, &[], &seed, clock.read(now));
        Self {
            spec,
            clock,
            seed,
            ports,
            registry,
            relay,
            stun,
            conns: BTreeMap::new(),
            by_number: BTreeMap::new(),
            next_conn: 0,
            starts: 1,
            running: true,
            disk: Vec::new(),
            writes: VecDeque::new(),
            disk_fails: false,
            outgoing: Vec::new(),
            flooded: false,
        }
    }

    /// A datagram arrived at `at`. `authentic` is what encryption would tell of QUIC's: did a node make it?
    pub(super) fn receive(
        &mut self,
        at: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
        authentic: bool,
        now: Duration,
    ) {
        if !self.running {
            return;
        }
        let main = at.port() == self.ports[0] && [SERVER_IP, SERVER_IP6].contains(&at.ip());
        match wire::Kind::of(bytes) {
            wire::Kind::Stun => self.answer_stun(at, from, bytes, now),
            wire::Kind::Relay if main => self.forward(from, bytes, now),
            wire::Kind::Quic if authentic && main => self.receive_control(from, bytes, now),
            _ => {}
        }
        self.settle(now);
    }

    /// The moment of [`Server::wake_at`] has come.
    pub(super) fn wake(&mut self, now: Duration) {
        if !self.running {
            return;
        }
        let reading = self.clock.read(now);
        if self.registry.poll_timeout().is_some_and(|(at, _)| at <= reading) {
            self.registry.handle_timeout(reading);
        }
        self.let_out(reading);
        while let Some((due, ..)) = self.writes.front()
            && *due <= now
            && let Some((_, claim, record)) = self.writes.pop_front()
        {
            let result = if self.disk_fails {
                Err(StoreFailed)
            } else {
                self.disk.push(record);
                Ok(())
            };
            self.registry.handle_stored(claim, result, reading);
        }
        let dead = |conn: &Conn| {
            conn.stream.is_dead(now)
                || conn
                    .closing
                    .is_some_and(|at| at <= now || conn.stream.is_flushed())
        };
        let gone: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| dead(conn))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.drop_conn(id, now);
        }
        self.settle(now);
    }

    /// When the server wants to be woken.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if !self.running {
            return None;
        }
        let registry = self.registry.poll_timeout().map(|(at, _)| self.clock.when(at));
        let relay = self.relay.poll_timeout().map(|at| self.clock.when(at));
        let write = self.writes.front().map(|(due, ..)| *due);
        let conns = self.conns.values().map(|conn| {
            let closing = conn.closing.map(|at| {
                if conn.stream.is_flushed() {
                    Duration::ZERO
                } else {
                    at
                }
            });
            closing
                .into_iter()
                .fold(conn.stream.poll_timeout(), Duration::min)
        });
        conns.chain(registry).chain(relay).chain(write).min()
    }

    /// The server dies: connections, sessions and channels are gone, unfinished writes too.
    pub(super) fn kill(&mut self) {
        self.running = false;
        self.conns.clear();
        self.by_number.clear();
        self.writes.clear();
        self.outgoing.clear();
    }

    /// The server comes up with what its disk holds.
    pub(super) fn restart(&mut self, now: Duration) {
        self.kill();
        self.starts += 1;
        let seed = self.seed.child("start", self.starts);
        let reading = self.clock.read(now);
        (self.registry, self.relay, self.stun) = machines(&self.spec, self.ports, &self.disk, &seed, reading);
        self.running = true;
    }

    /// The server says goodbye to everybody, and closes every connection.
    pub(super) fn shut_down(&mut self, now: Duration) {
        self.registry.handle_shutdown(self.clock.read(now));
        self.settle(now);
    }

    /// From now on the disk writes, or fails to.
    pub(super) fn set_disk_fails(&mut self, fails: bool) {
        self.disk_fails = fails;
    }

    /// What the server wants sent since this was asked before.
    pub(super) fn take_outgoing(&mut self) -> Vec<Reply> {
        std::mem::take(&mut self.outgoing)
    }

    /// The registry, for its counters.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The relay, for its counters.
    pub(super) fn relay(&self) -> RelayStats {
        self.relay.stats()
    }

    /// Did the registry never stop to want things?
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded
    }

    /// Entries in all tables and queues of the server's driver.
    pub(super) fn queued(&self) -> usize {
        self.conns
            .values()
            .map(|conn| conn.stream.queued() + 1)
            .sum::<usize>()
            + self.writes.len()
    }

    fn answer_stun(&mut self, at: SocketAddr, from: SocketAddr, bytes: &[u8], now: Duration) {
        let family = usize::from(at.is_ipv6());
        let sockets = stun_sockets(self.ports, self.spec.two_addresses, at.is_ipv6());
        let Some((on, _)) = sockets.iter().find(|(_, addr)| *addr == at) else {
            return;
        };
        let reply = self.stun[family].handle(*on, from, bytes, self.clock.read(now));
        let Some(reply) = reply else { return };
        if let Some((_, addr)) = sockets.iter().find(|(socket, _)| *socket == reply.via) {
            self.outgoing.push(Reply {
                from: *addr,
                to: reply.to,
                bytes: reply.bytes,
            });
        }
    }

    fn forward(&mut self, from: SocketAddr, frame: &[u8], now: Duration) {
        let reading = self.clock.read(now);
        let forwarded = self.relay.forward(from, frame, reading).or_else(|ends| {
            // QUIC may have noticed by now that an end moved.
            for conn in ends {
                if let Some(known) = self.conns.get(&conn) {
                    self.relay.table.move_end(conn, known.from);
                }
            }
            self.relay.forward(from, frame, reading)
        });
        if let Ok(Some((to, bytes))) = forwarded {
            self.outgoing.push(self.reply(to, bytes));
        }
        self.let_out(reading);
    }

    /// Send what has waited long enough for the relay's limit.
    fn let_out(&mut self, reading: Instant) {
        while let Some((to, bytes)) = self.relay.poll(reading) {
            self.outgoing.push(self.reply(to, bytes));
        }
    }

    fn receive_control(&mut self, from: SocketAddr, bytes: &[u8], now: Duration) {
        let Some(frame) = Frame::read(bytes) else {
            return;
        };
        let Some(id) = self.by_number.get(&frame.conn).copied() else {
            match frame.kind {
                Kind::Open => self.open(&frame, from, now),
                Kind::Reset | Kind::Close => {}
                _ => {
                    let reset = self.reply(from, Frame::bare(Kind::Reset, frame.conn));
                    self.outgoing.push(reset);
                }
            }
            return;
        };
        match frame.kind {
            Kind::Open => {
                let accept = self.reply(from, Frame::bare(Kind::Accept, frame.conn));
                self.outgoing.push(accept);
            }
            Kind::Reset | Kind::Close => self.drop_conn(id, now),
            _ => self.receive_messages(id, &frame, from, now),
        }
    }

    fn open(&mut self, frame: &Frame<'_>, from: SocketAddr, now: Duration) {
        let Ok(key) = <[u8; 32]>::try_from(frame.body) else {
            return;
        };
        let (id, peer) = (ConnId(self.next_conn), PeerId::from_bytes(key));
        self.next_conn += 1;
        let conn = Conn {
            number: frame.conn,
            from,
            stream: Stream::new(frame.conn, None, now),
            closing: None,
        };
        self.conns.insert(id, conn);
        self.by_number.insert(frame.conn, id);
        let accept = self.reply(from, Frame::bare(Kind::Accept, frame.conn));
        self.outgoing.push(accept);
        self.registry
            .handle_connected(id, peer, from, self.clock.read(now));
    }

    fn receive_messages(&mut self, id: ConnId, frame: &Frame<'_>, from: SocketAddr, now: Duration) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let mut messages = Vec::new();
        let newest = conn.stream.handle(frame, &mut messages, now);
        let reading = self.clock.read(now);
        if newest && conn.from != from {
            conn.from = from;
            self.relay.table.move_end(id, from);
            self.registry.handle_address(id, from, reading);
        }
        for bytes in messages {
            match codec::decode::<ToServer>(&bytes) {
                Ok(message) => self.registry.handle_message(id, message, reading),
                Err(_) => self.registry.handle_garbage(id, reading),
            }
            self.obey(now);
        }
    }

    /// Carries out what the registry wants, and sends what the connections want.
    fn settle(&mut self, now: Duration) {
        self.obey(now);
        let port = self.ports[0];
        for conn in self.conns.values_mut() {
            while let Some(bytes) = conn.stream.poll_transmit(now) {
                self.outgoing.push(reply_at(port, conn.from, bytes));
            }
        }
    }

    fn obey(&mut self, now: Duration) {
        for _ in 0..COMMANDS_MAX {
            let Some(command) = self.registry.poll_command() else {
                return;
            };
            self.carry_out(command, now);
        }
        self.flooded = true;
    }

    fn carry_out(&mut self, command: Command, now: Duration) {
        match command {
            Command::Send { conn, message } => {
                let Some(conn) = self.conns.get_mut(&conn) else {
                    return;
                };
                match codec::encode(&message) {
                    Ok(bytes) => conn.stream.send(bytes),
                    Err(_) => self.flooded = true,
                }
            }
            Command::Close { conn } => {
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.closing.get_or_insert(now + CLOSE_AFTER);
                }
            }
            Command::Store { claim, record } => self.writes.push_back((now + self.spec.write, claim, record)),
            Command::OpenChannel { channel, ends } => {
                let ends = ends.map(|id| self.conns.get(&id).map(|conn| (id, conn.from)));
                if let [Some(one), Some(two)] = ends {
                    self.relay.table.open(channel, [one, two]);
                }
            }
            Command::CloseChannel { channel } => self.relay.close(channel),
        }
    }

    fn drop_conn(&mut self, id: ConnId, now: Duration) {
        if let Some(conn) = self.conns.remove(&id) {
            self.by_number.remove(&conn.number);
            let close = self.reply(conn.from, Frame::bare(Kind::Close, conn.number));
            self.outgoing.push(close);
            self.registry.handle_disconnected(id, self.clock.read(now));
        }
    }

    fn reply(&self, to: SocketAddr, bytes: Vec<u8>) -> Reply {
        reply_at(self.ports[0], to, bytes)
    }
}

/// A datagram from the server's address of the receiver's family.
fn reply_at(port: u16, to: SocketAddr, bytes: Vec<u8>) -> Reply {
    let ip = if to.is_ipv4() { SERVER_IP } else { SERVER_IP6 };
    Reply {
        from: SocketAddr::new(ip, port),
        to,
        bytes,
    }
}

fn machines(
    spec: &ServerSpec,
    ports: [u16; 2],
    disk: &[Record],
    seed: &Seed,
    now: Instant,
) -> (Registry, Relay, [StunServer; 2]) {
    let config = RegistryConfig {
        open: spec.open,
        tokens: spec.tokens.clone(),
        relay: spec.relay,
        alternate_port: ports[1],
        alternate: spec
            .two_addresses
            .then(|| SocketAddr::new(SERVER_ALTERNATE_IP, ports[1])),
        ..RegistryConfig::default()
    };
    let registry = Registry::new(config, disk.to_vec(), &seed.child("registry", 0), now);
    let relay = Relay::new(RelayConfig::new(spec.relay_rate), now);
    let stun = [false, true].map(|v6| {
        let config = StunConfig {
            policy: StunPolicy::Nodes,
            sockets: stun_sockets(ports, spec.two_addresses, v6),
        };
        StunServer::new(config, &seed.child("stun", u64::from(v6)), now)
    });
    (registry, relay, stun)
}

/// Where STUN is answered in one family.
fn stun_sockets([main, other]: [u16; 2], two: bool, v6: bool) -> Vec<(ServerSocket, SocketAddr)> {
    let (ip, alternate) = if v6 {
        (SERVER_IP6, SERVER_ALTERNATE_IP6)
    } else {
        (SERVER_IP, SERVER_ALTERNATE_IP)
    };
    let first = [
        (ServerSocket::Main, SocketAddr::new(ip, main)),
        (ServerSocket::AlternatePort, SocketAddr::new(ip, other)),
    ];
    let second = [
        (ServerSocket::AlternateAddress, SocketAddr::new(alternate, main)),
        (ServerSocket::AlternateBoth, SocketAddr::new(alternate, other)),
    ];
    first
        .into_iter()
        .chain(second.into_iter().filter(|_| two))
        .collect()
}
