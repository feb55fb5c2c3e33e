//! Where packets go: networks, the NATs between them, access links, and the packets under way. No I/O and no clock;
//! the [engine](super::engine) brings packets from devices and carries the deliveries to them.
//!
//! The internet is a tree of networks: the core at the root, one more inside each NAT.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::link::{Arrival, Link};
use crate::nat::{NatBox, Verdict};

use super::kernel_nat::{Port, Ports};
use super::packet::{BUFFER_LEN, Packet};
use super::pool::Pool;
use super::segment::segments;
use super::stats::{FabricDrop, HostStats};

/// Index of the core among the networks.
pub(super) const CORE: usize = 0;

/// Routers that a packet passes in the core. Two, so that a packet that got out of its own NAT can end before it reaches
/// anyone else (`reference/netsim.md` section 2).
const CORE_HOPS: usize = 2;

/// Bytes of buffers that may be under way. Enough for 10 Gbit/s over 100 ms; beyond it packets are dropped, so that a
/// sender without congestion control cannot take the machine's memory.
const MAX_IN_FLIGHT: usize = 256 << 20;

/// Who is reached by an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hop {
    Host(usize),
    Nat(usize),
}

/// One network: the core, or the inside of a NAT.
#[derive(Debug, Default)]
pub(super) struct Realm {
    pub(super) routes: HashMap<IpAddr, Hop>,
    /// The NAT that leads out; none in the core.
    pub(super) gateway: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Nat {
    /// The model; where the kernel plays the NAT, only its description and addresses are used.
    pub(super) nat: NatBox,
    /// The devices of the router that plays it, if the kernel does.
    pub(super) kernel: Option<Ports>,
    pub(super) outside: usize,
    pub(super) inside: usize,
    pub(super) access: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) realm: usize,
    /// Its own access link, if it is public.
    pub(super) access: Option<usize>,
    pub(super) stats: HostStats,
}

/// An access link.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) up: Link,
    pub(super) down: Link,
    /// The network at its upper end.
    pub(super) outside: usize,
    /// Who is at its lower end.
    pub(super) owner: Hop,
}

/// Where a packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    Realm(usize),
    Up(usize),
    Down(usize),
    Inbound(usize),
    Host(usize),
    /// At the device of a NAT that the kernel plays.
    Port(usize),
}

/// A packet that is to be written to a device: it has reached its host, or a NAT that the kernel plays.
#[derive(Debug)]
pub(super) struct Delivery {
    /// Index among the [ports](Network::ports).
    pub(super) port: usize,
    pub(super) packet: Packet,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) realms: Vec<Realm>,
    pub(super) nats: Vec<Nat>,
    pub(super) hosts: Vec<Host>,
    pub(super) accesses: Vec<Access>,
    /// What is behind each device: the hosts in their order, then the NATs that the kernel plays.
    pub(super) ports: Vec<Port>,
    pub(super) pool: Pool,
    drops: [u64; FabricDrop::ALL.len()],
    waiting: BinaryHeap<Waiting>,
    in_flight: usize,
    sequence: u64,
    pub(super) work: VecDeque<(At, Packet)>,
}

impl Network {
    /// A core without anyone.
    pub(super) fn new() -> Self {
        Self {
            realms: vec![Realm::default()],
            ..Self::default()
        }
    }

    /// A packet from a host. What arrives at once is appended to `out`.
    pub(super) fn inject(&mut self, host: usize, packet: Packet, now: Instant, out: &mut Vec<Delivery>) {
        let sender = &mut self.hosts[host];
        sender.stats.sent_packets += packet.wire_count();
        sender.stats.sent_bytes += packet.ip().len() as u64;
        let at = sender.access.map_or(At::Realm(sender.realm), At::Up);
        self.work.push_back((at, packet));
        self.advance(now, out);
    }

    /// Moves on whatever comes out of a link by `now`, each packet at its own moment.
    pub(super) fn run_until(&mut self, now: Instant, out: &mut Vec<Delivery>) {
        while self.waiting.peek().is_some_and(|first| first.due <= now) {
            if let Some(first) = self.waiting.pop() {
                self.in_flight -= first.packet.footprint();
                self.work.push_back((first.at, first.packet));
                self.advance(first.due, out);
            }
        }
    }

    /// When [`Network::run_until`] has something to do next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|first| first.due)
    }

    /// A packet ended.
    pub(super) fn count_drop(&mut self, reason: FabricDrop) {
        self.drops[reason.index()] += 1;
    }

    pub(super) fn drops(&self) -> impl Iterator<Item = (FabricDrop, u64)> {
        FabricDrop::ALL
            .into_iter()
            .map(|reason| (reason, self.drops[reason.index()]))
    }

    pub(super) fn advance(&mut self, now: Instant, out: &mut Vec<Delivery>) {
        while let Some((at, packet)) = self.work.pop_front() {
            match at {
                At::Realm(realm) => self.route(realm, packet, now),
                At::Up(_) | At::Down(_) => self.cross(at, packet, now),
                At::Inbound(nat) => self.arrive(nat, packet, now),
                At::Host(host) => {
                    let receiver = &mut self.hosts[host].stats;
                    receiver.received_packets += packet.wire_count();
                    receiver.received_bytes += packet.ip().len() as u64;
                    out.push(Delivery { port: host, packet });
                }
                At::Port(port) => out.push(Delivery { port, packet }),
            }
        }
    }

    fn route(&mut self, realm: usize, mut packet: Packet, now: Instant) {
        if realm == CORE && !(0..CORE_HOPS).all(|_| packet.hop()) {
            return self.end(packet, FabricDrop::TtlExpired);
        }
        let network = &self.realms[realm];
        match (network.routes.get(&packet.destination()), network.gateway) {
            (Some(&Hop::Host(host)), _) => {
                let at = self.hosts[host].access.map_or(At::Host(host), At::Down);
                self.work.push_back((at, packet));
            }
            (Some(&Hop::Nat(nat)), _) => {
                let at = self.nats[nat].access.map_or(At::Inbound(nat), At::Down);
                self.work.push_back((at, packet));
            }
            (None, Some(nat)) => self.depart(nat, packet, now),
            (None, None) => self.end(packet, FabricDrop::NoRoute),
        }
    }

    /// From inside a NAT to its outside. Its life is checked first: what ends here makes no mapping.
    pub(super) fn leave(&mut self, nat: usize, mut packet: Packet, now: Instant) {
        if !packet.hop() {
            return self.end(packet, FabricDrop::TtlExpired);
        }
        let Some(flow) = packet.flow() else {
            return self.end(packet, FabricDrop::Untranslatable);
        };
        let gateway = &mut self.nats[nat];
        let (at, flow) = match gateway.nat.outbound(flow, now) {
            Verdict::Forward(flow) => (gateway.access.map_or(At::Realm(gateway.outside), At::Up), flow),
            Verdict::Hairpin(flow) => (At::Realm(gateway.inside), flow),
            Verdict::Drop(_) | Verdict::Reject(..) => return self.pool.give(packet.into_buffer()),
        };
        packet.rewrite(&flow);
        self.work.push_back((at, packet));
    }

    /// From outside a NAT to its inside. Its tables see the packet before its life is checked.
    pub(super) fn enter(&mut self, nat: usize, mut packet: Packet, now: Instant) {
        let Some(flow) = packet.flow() else {
            return self.end(packet, FabricDrop::Untranslatable);
        };
        let gateway = &mut self.nats[nat];
        let Verdict::Forward(flow) = gateway.nat.inbound(flow, now) else {
            return self.pool.give(packet.into_buffer());
        };
        if !packet.hop() {
            return self.end(packet, FabricDrop::TtlExpired);
        }
        packet.rewrite(&flow);
        self.work.push_back((At::Realm(gateway.inside), packet));
    }

    /// Over an access link.
    fn cross(&mut self, at: At, packet: Packet, now: Instant) {
        let (index, up) = match at {
            At::Up(index) => (index, true),
            At::Down(index) => (index, false),
            At::Realm(_) | At::Inbound(_) | At::Host(_) | At::Port(_) => return,
        };
        let access = &mut self.accesses[index];
        let link = if up { &mut access.up } else { &mut access.down };
        let next = match (up, access.owner) {
            (true, _) => At::Realm(access.outside),
            (false, Hop::Nat(nat)) => At::Inbound(nat),
            (false, Hop::Host(host)) => At::Host(host),
        };
        if link.spec().counts_packets() && packet.segmentation().is_some() {
            let pool = &mut self.pool;
            let pieces = segments(&packet, |length| pool.take(length));
            self.pool.give(packet.into_buffer());
            self.work.extend(pieces.into_iter().map(|piece| (at, piece)));
            return;
        }
        let mut due = link.admit(packet.wire_len(), now).into_iter();
        match (due.next(), due.next()) {
            (None, _) => self.pool.give(packet.into_buffer()),
            (Some(first), None) => self.later(first, next, packet, now),
            (Some(first), Some(second)) => {
                let copy = packet.copy_into(self.pool.take(packet.bytes().len()));
                self.later(first, next, packet, now);
                self.later(second, next, copy, now);
            }
        }
    }

    fn later(&mut self, arrival: Arrival, at: At, mut packet: Packet, now: Instant) {
        let due = arrival.at;
        if let Some(flip) = arrival.flip {
            packet.corrupt(flip);
        }
        if due <= now {
            self.work.push_back((at, packet));
            return;
        }
        let length = packet.bytes().len();
        if Pool::wastes(length, packet.footprint()) {
            let copy = packet.copy_into(self.pool.take(length));
            self.pool.give(packet.into_buffer());
            packet = copy;
        }
        if self.in_flight + BUFFER_LEN > MAX_IN_FLIGHT {
            return self.end(packet, FabricDrop::Overflow);
        }
        self.in_flight += packet.footprint();
        self.sequence += 1;
        self.waiting.push(Waiting {
            due,
            sequence: self.sequence,
            at,
            packet,
        });
    }

    pub(super) fn end(&mut self, packet: Packet, reason: FabricDrop) {
        self.count_drop(reason);
        self.pool.give(packet.into_buffer());
    }
}

/// A packet on a link, ordered so that the earliest is the greatest; among equals the one that came first.
#[derive(Debug)]
struct Waiting {
    due: Instant,
    sequence: u64,
    at: At,
    packet: Packet,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}
