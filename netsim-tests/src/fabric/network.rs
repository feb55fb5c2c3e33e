//! Where packets go: networks, the NATs between them, access links, and the packets under way. No I/O and no clock;
//! the [engine](super::engine) brings packets from devices and carries the deliveries to them.
//!
//! The internet is a tree of networks: the core at the root, one more inside each NAT.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::link::{Arrival, Link};
use crate::nat::{Flow, NatBox, Verdict};

use super::capture::Tap;
use super::icmp::{Complaint, is_broadcast_of, is_one_host};
use super::kernel_nat::{Port, Ports};
use super::packet::{BUFFER_LEN, Packet};
use super::pool::Pool;
use super::quote::{carried, embedded};
use super::refusal::{Budget, Speaker};
use super::segment::segments;
use super::stats::{FabricDrop, HostStats, RefusalStats};
use super::translate::{growth, translated};

/// Index of the core among the networks.
pub(super) const CORE: usize = 0;

/// Routers that a packet passes in the core. Two, so that a packet that got out of its own NAT can end before it reaches
/// anyone else (`reference/netsim.md` section 2).
const CORE_HOPS: u8 = 2;

/// Bytes of the largest packet that a host's network takes: Ethernet's.
pub(super) const MTU: u16 = 1500;

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

impl Nat {
    /// Where a packet goes on that leaves it.
    pub(super) fn way_out(&self) -> At {
        self.access.map_or(At::Realm(self.outside), At::Up)
    }
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) realm: usize,
    /// Its own access link, if it is public.
    pub(super) access: Option<usize>,
    /// Further networks that it is in.
    pub(super) more: Vec<Uplink>,
    /// Captures by number.
    pub(super) taps: Vec<(u64, Tap)>,
    pub(super) stats: HostStats,
}

/// One more network that a host is in.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) realm: usize,
    /// The host's own access link there, if that is the core.
    pub(super) access: Option<usize>,
    /// What the host sends from these addresses goes this way.
    pub(super) addresses: Vec<IpAddr>,
}

impl Host {
    /// Network and own access link for what it sends from this address. What is none of its addresses goes the first way.
    pub(super) fn uplink(&self, source: IpAddr) -> (usize, Option<usize>) {
        let more = self.more.iter();
        more.filter(|uplink| uplink.addresses.contains(&source))
            .map(|uplink| (uplink.realm, uplink.access))
            .next()
            .unwrap_or((self.realm, self.access))
    }

    /// Its own access link in this network, if it has one there.
    fn access_in(&self, realm: usize) -> Option<usize> {
        let own = (self.realm == realm).then_some(self.access).flatten();
        let more = self.more.iter().filter(|uplink| uplink.realm == realm);
        own.or_else(|| more.filter_map(|uplink| uplink.access).next())
    }
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
    pub(super) budget: Budget,
    pub(super) refusals: RefusalStats,
    /// Do links say which packets are too big for them?
    pub(super) mtu_reports: bool,
    /// Captures begun so far.
    pub(super) captures: u64,
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
        sender.taps.iter().for_each(|(_, tap)| tap.see(&packet, now));
        let (realm, access) = sender.uplink(packet.source());
        let at = access.map_or(At::Realm(realm), At::Up);
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
                    let receiver = &mut self.hosts[host];
                    receiver.stats.received_packets += packet.wire_count();
                    receiver.stats.received_bytes += packet.ip().len() as u64;
                    receiver.taps.iter().for_each(|(_, tap)| tap.see(&packet, now));
                    out.push(Delivery { port: host, packet });
                }
                At::Port(port) => out.push(Delivery { port, packet }),
            }
        }
    }

    fn route(&mut self, realm: usize, mut packet: Packet, now: Instant) {
        let (src, dst) = (packet.source(), packet.destination());
        if !is_one_host(dst) || is_broadcast_of(src, dst) {
            // Multicasts and broadcasts end in the network that they begin in.
            return self.end(packet, FabricDrop::NoRoute);
        }
        if realm == CORE
            && let Some(hop) = (0..CORE_HOPS).find(|_| !packet.hop())
        {
            self.count_drop(FabricDrop::TtlExpired);
            return self.complain(packet, Speaker::Core(hop), Complaint::TimeExceeded, now);
        }
        let network = &self.realms[realm];
        match (network.routes.get(&dst), network.gateway) {
            (Some(&Hop::Host(host)), _) => {
                let at = self.hosts[host].access_in(realm).map_or(At::Host(host), At::Down);
                self.work.push_back((at, packet));
            }
            (Some(&Hop::Nat(nat)), _) => {
                let at = self.nats[nat].access.map_or(At::Inbound(nat), At::Down);
                self.work.push_back((at, packet));
            }
            (None, Some(nat)) => self.depart(nat, packet, now),
            (None, None) => {
                self.count_drop(FabricDrop::NoRoute);
                self.complain(packet, Speaker::Core(CORE_HOPS - 1), Complaint::NoRoute, now);
            }
        }
    }

    /// From inside a NAT to its outside. Its life is checked first: what ends here makes no mapping.
    pub(super) fn leave(&mut self, nat: usize, mut packet: Packet, now: Instant) {
        let speaker = Speaker::Inside(nat);
        if !packet.hop() {
            self.count_drop(FabricDrop::TtlExpired);
            return self.complain(packet, speaker, Complaint::TimeExceeded, now);
        }
        if packet.quote().is_some() {
            return self.leave_error(nat, packet, now);
        }
        let Some(flow) = packet.flow() else {
            return self.end(packet, FabricDrop::Untranslatable);
        };
        let gateway = &mut self.nats[nat];
        let (at, flow) = match gateway.nat.outbound(flow, now) {
            Verdict::Forward(flow) => (gateway.way_out(), flow),
            Verdict::Hairpin(flow) => (At::Realm(gateway.inside), flow),
            Verdict::Drop(_) => return self.pool.give(packet.into_buffer()),
            Verdict::Reject(_, refusal) => return self.refuse(packet, speaker, refusal, now),
        };
        self.forward(at, packet, &flow, speaker, now);
    }

    /// From outside a NAT to its inside. Its tables see the packet before its life is checked.
    pub(super) fn enter(&mut self, nat: usize, mut packet: Packet, now: Instant) {
        let speaker = Speaker::Outside(nat);
        if packet.quote().is_some() {
            return self.enter_error(nat, packet, now);
        }
        let Some(flow) = packet.flow() else {
            return self.end(packet, FabricDrop::Untranslatable);
        };
        let gateway = &mut self.nats[nat];
        let (at, flow) = match gateway.nat.inbound(flow, now) {
            Verdict::Forward(flow) | Verdict::Hairpin(flow) => (At::Realm(gateway.inside), flow),
            Verdict::Drop(_) => return self.pool.give(packet.into_buffer()),
            Verdict::Reject(_, refusal) => return self.refuse(packet, speaker, refusal, now),
        };
        if !packet.hop() {
            self.count_drop(FabricDrop::TtlExpired);
            return self.complain(packet, speaker, Complaint::TimeExceeded, now);
        }
        self.forward(at, packet, &flow, speaker, now);
    }

    /// Gives a packet the addresses that a NAT chose, also those of the other family, and moves it on.
    pub(super) fn forward(
        &mut self,
        at: At,
        mut packet: Packet,
        flow: &Flow,
        speaker: Speaker,
        now: Instant,
    ) {
        if flow.src.is_ipv4() == packet.is_v4() {
            packet.rewrite(flow);
            return self.work.push_back((at, packet));
        }
        let limit = isize::try_from(MTU).unwrap_or(isize::MAX) - growth(packet.is_v4());
        if packet.is_v4() && packet.wire_len().cast_signed() > limit {
            self.count_drop(FabricDrop::TooBig);
            let limit = u16::try_from(limit).unwrap_or(MTU);
            return self.complain(packet, speaker, Complaint::TooBig(limit), now);
        }
        let pool = &mut self.pool;
        match translated(&packet, flow, |length| pool.take(length)) {
            Some(other) => {
                self.pool.give(packet.into_buffer());
                self.work.push_back((at, other));
            }
            None => self.end(packet, FabricDrop::Untranslatable),
        }
    }

    /// An ICMP error from inside about a packet that came in. It is the host that speaks, or a router further in, and
    /// in any case the external address from which it is heard.
    fn leave_error(&mut self, nat: usize, packet: Packet, now: Instant) {
        let gateway = &mut self.nats[nat];
        let seen = packet.quote().map(|quote| quote.flow);
        let Some(quoted) = seen.and_then(|flow| gateway.nat.outbound_error(flow, now)) else {
            return self.end(packet, FabricDrop::Untranslatable);
        };
        let (src, dst) = (quoted.dst.ip(), quoted.src.ip());
        let is_own = gateway.nat.externals().any(|own| dst == own);
        let at = if is_own {
            At::Inbound(nat)
        } else {
            gateway.way_out()
        };
        // Under IPv6 everybody speaks for himself.
        let src = if packet.is_v4() || src.is_ipv4() {
            src
        } else {
            packet.source()
        };
        self.carry(at, packet, (src, dst), &quoted);
    }

    /// An ICMP error from outside about a packet that left.
    fn enter_error(&mut self, nat: usize, mut packet: Packet, now: Instant) {
        let gateway = &mut self.nats[nat];
        let seen = packet.quote().map(|quote| quote.flow);
        let Some(quoted) = seen.and_then(|flow| gateway.nat.inbound_error(flow, now)) else {
            return self.end(packet, FabricDrop::Untranslatable);
        };
        if !packet.hop() {
            return self.end(packet, FabricDrop::TtlExpired);
        }
        let src = match packet.source() {
            IpAddr::V4(ip) if quoted.src.is_ipv6() => embedded(ip),
            same => same,
        };
        let at = At::Realm(gateway.inside);
        self.carry(at, packet, (src, quoted.src.ip()), &quoted);
    }

    fn carry(&mut self, at: At, packet: Packet, (src, dst): (IpAddr, IpAddr), quoted: &Flow) {
        let pool = &mut self.pool;
        match carried(&packet, src, dst, quoted, |length| pool.take(length)) {
            Some(other) => {
                self.refusals.carried += 1;
                self.pool.give(packet.into_buffer());
                self.work.push_back((at, other));
            }
            None => self.end(packet, FabricDrop::Untranslatable),
        }
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
        let (length, limit) = (packet.wire_len(), link.spec().mtu);
        let mut due = link.admit(length, now).into_iter();
        match (due.next(), due.next()) {
            (None, _) if length > limit && self.mtu_reports && packet.must_not_be_fragmented() => {
                let limit = u16::try_from(limit).unwrap_or(u16::MAX);
                self.complain(packet, Speaker::Provider(index), Complaint::TooBig(limit), now);
            }
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
