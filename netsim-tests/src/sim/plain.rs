//! [`Plain`]: networks in virtual time whose hosts have bare UDP sockets and nothing that uses them.
//!
//! For whoever wants to send and look, as a program on a host does: the measuring of NATs ([`crate::verify`]). Hosts that
//! run the project's machines are in [`World`](super::World). Time moves only inside [`Plain::next`]; equal seeds and
//! equal calls give equal packets.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use knothole_proto::seed::Seed;

use super::clock::epoch;
use super::queue::Queue;
use super::topology::{Hop, HostId, INTERNET, Links, Loss, NetId, Origin, Packet, Step, Topology};
use crate::link::{Link, LinkSpec};
use crate::nat::{NatBox, NatSpec, Refusal};

/// First of the ports that a socket gets which asked for none: Linux's `ip_local_port_range` begins here.
const FIRST_EPHEMERAL: u16 = 32_768;

/// First block of external addresses in the internet: 5.5.16.0/24, as in the namespaces.
const FIRST_PUBLIC_BLOCK: u8 = 16;

/// Networks, hosts and sockets, and the packets between them.
#[derive(Debug)]
pub struct Plain {
    seed: Seed,
    now: Duration,
    queue: Queue<(Hop, Box<Flight>)>,
    topology: Topology,
    nats: Vec<NetId>,
    hosts: Vec<NetId>,
    /// By host and local endpoint.
    bound: BTreeMap<(HostId, SocketAddr), PlainSocket>,
    sockets: Vec<(HostId, SocketAddr)>,
    next_port: u16,
    news: VecDeque<PlainNews>,
}

/// A network in which hosts can be: the internet, or the inside of a chain of NATs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainNet(NetId);

/// An open socket, or one that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainSocket(usize);

/// What a program on a host notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlainNews {
    /// A datagram came.
    Arrived {
        /// Where.
        socket: PlainSocket,
        /// From whom.
        from: SocketAddr,
        /// What it carries.
        bytes: Vec<u8>,
    },
    /// A box on the way says that it did not let a datagram of this socket pass.
    Refused {
        /// Whose datagram.
        socket: PlainSocket,
        /// What the box says.
        refusal: Refusal,
    },
}

/// A packet under way and who sent it.
#[derive(Clone, Debug)]
struct Flight {
    packet: Packet,
    sender: PlainSocket,
}

impl Plain {
    /// An empty internet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed: Seed::from_number(seed),
            now: Duration::ZERO,
            queue: Queue::new(),
            topology: Topology::new(),
            nats: Vec::new(),
            hosts: Vec::new(),
            bound: BTreeMap::new(),
            sockets: Vec::new(),
            next_port: FIRST_EPHEMERAL,
            news: VecDeque::new(),
        }
    }

    /// The network of hosts with public addresses.
    #[must_use]
    pub fn internet(&self) -> PlainNet {
        PlainNet(INTERNET)
    }

    /// A network behind these NATs, innermost first, on a link that behaves as `link` both ways. At most 200 of them.
    pub fn add_site(&mut self, nats: &[NatSpec], link: LinkSpec) -> PlainNet {
        let mut links = Some(self.links(link));
        let mut net = INTERNET;
        for spec in nats.iter().rev() {
            let number = u8::try_from(self.nats.len()).unwrap_or(u8::MAX);
            let external = if net == INTERNET {
                Ipv4Addr::new(5, 5, FIRST_PUBLIC_BLOCK.saturating_add(number), 2)
            } else {
                // Between two NATs: carrier space (RFC 6598).
                Ipv4Addr::new(100, 64, number, 2)
            };
            let seed = self.seed.child("nat", u64::from(number)).rng().u64();
            let nat = NatBox::new(spec.clone(), external, seed);
            net = self.topology.add_network(net, Some(nat), links.take());
            self.nats.push(net);
        }
        if nats.is_empty() {
            net = self.topology.add_network(INTERNET, None, links.take());
        }
        PlainNet(net)
    }

    /// A host with these addresses.
    pub fn add_host(&mut self, net: PlainNet, addresses: &[IpAddr]) -> HostId {
        let host = HostId(self.hosts.len());
        self.hosts.push(net.0);
        for ip in addresses {
            self.topology.add_address(net.0, *ip, host);
        }
        host
    }

    /// A socket of a host at this endpoint; port 0: one that is free. `None` if the endpoint is in use.
    pub fn open(&mut self, host: HostId, local: SocketAddr) -> Option<PlainSocket> {
        let port = match local.port() {
            0 => self.free_port(host, local.ip())?,
            port => port,
        };
        let local = SocketAddr::new(local.ip(), port);
        let socket = PlainSocket(self.sockets.len());
        if self.bound.contains_key(&(host, local)) {
            return None;
        }
        self.bound.insert((host, local), socket);
        self.sockets.push((host, local));
        Some(socket)
    }

    /// Closes a socket; what still comes for it vanishes.
    pub fn close(&mut self, socket: PlainSocket) {
        let place = self.sockets[socket.0];
        if self.bound.get(&place) == Some(&socket) {
            self.bound.remove(&place);
        }
    }

    /// The endpoint that a socket has.
    #[must_use]
    pub fn local(&self, socket: PlainSocket) -> SocketAddr {
        self.sockets[socket.0].1
    }

    /// Sends a datagram now. `ttl` is for those that are to end on the way.
    pub fn send(&mut self, sender: PlainSocket, to: SocketAddr, ttl: Option<u8>, bytes: Vec<u8>) {
        let (host, local) = self.sockets[sender.0];
        let packet = Packet::new(Origin::Host(host), local, to, ttl, bytes);
        let mut flight = Box::new(Flight { packet, sender });
        let now = self.instant();
        let step = self.topology.route(self.hosts[host.0], &mut flight.packet, now);
        self.follow(step, flight);
    }

    /// What a program notices next, at the moment at which it happens; `None` when nothing does until `until`.
    pub fn next(&mut self, until: Instant) -> Option<PlainNews> {
        let until = until.saturating_duration_since(epoch());
        loop {
            if let Some(news) = self.news.pop_front() {
                return Some(news);
            }
            match self.queue.next_at() {
                Some(at) if at <= until => self.step(),
                _ => {
                    self.now = self.now.max(until);
                    return None;
                }
            }
        }
    }

    /// Now.
    #[must_use]
    pub fn instant(&self) -> Instant {
        epoch() + self.now
    }

    /// All NATs lose their tables, as in a power cut.
    pub fn reboot_nats(&mut self) {
        for net in &self.nats {
            if let Some(nat) = self.topology.nat_mut(*net) {
                nat.reboot();
            }
        }
    }

    fn step(&mut self) {
        let Some((at, (hop, mut flight))) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(at);
        let now = self.instant();
        let step = self.topology.resume(hop, &mut flight.packet, now);
        self.follow(step, flight);
    }

    fn follow(&mut self, step: Step, flight: Box<Flight>) {
        match step {
            Step::Deliver(host) => {
                let Flight { packet, .. } = *flight;
                if let Some(socket) = self.bound.get(&(host, packet.flow.dst)) {
                    self.news.push_back(PlainNews::Arrived {
                        socket: *socket,
                        from: packet.flow.src,
                        bytes: packet.bytes,
                    });
                }
            }
            Step::Transit(hop, due) => {
                for arrival in due {
                    let mut copy = flight.clone();
                    if let Some(flip) = arrival.flip {
                        copy.packet.bend(flip);
                    }
                    let at = arrival.at.saturating_duration_since(epoch());
                    self.queue.push(at, (hop, copy));
                }
            }
            Step::Lost(Loss::Refused(_, refusal)) => self.news.push_back(PlainNews::Refused {
                socket: flight.sender,
                refusal,
            }),
            Step::Lost(Loss::Nat(_) | Loss::Unroutable | Loss::TtlExceeded) => {}
        }
    }

    fn free_port(&mut self, host: HostId, ip: IpAddr) -> Option<u16> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            if !self.bound.contains_key(&(host, SocketAddr::new(ip, port))) {
                return Some(port);
            }
        }
        None
    }

    fn links(&self, spec: LinkSpec) -> Links {
        let seed = self.seed.child("link", self.nats.len() as u64);
        let [up, down] = [0, 1].map(|way| seed.child("way", way).rng().u64());
        Links {
            up: Link::new(spec, up),
            down: Link::new(spec, down),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(5, 5, 5, 1)), 3478);

    #[test]
    fn a_datagram_crosses_the_nats_and_the_link_in_virtual_time_and_the_answer_comes_back() {
        let mut plain = Plain::new(7);
        let net = plain.internet();
        let server = plain.add_host(net, &[SERVER.ip()]);
        let delay = Duration::from_millis(30);
        let site = plain.add_site(&[NatSpec::default()], LinkSpec::delay(delay));
        let inside = IpAddr::from([192, 168, 1, 10]);
        let host = plain.add_host(site, &[inside]);
        let (at, client) = (
            plain.open(server, SERVER).unwrap(),
            plain.open(host, SocketAddr::new(inside, 0)).unwrap(),
        );
        assert_eq!(plain.open(server, SERVER), None, "it is in use");
        let begun = plain.instant();
        plain.send(client, SERVER, None, b"ask".to_vec());
        assert_eq!(plain.next(begun + delay / 2), None);
        let Some(PlainNews::Arrived { socket, from, .. }) = plain.next(begun + 2 * delay) else {
            panic!("nothing came");
        };
        assert_eq!((socket, plain.instant()), (at, begun + delay));
        assert_eq!(
            from,
            SocketAddr::from(([5, 5, 16, 2], plain.local(client).port()))
        );
        plain.send(at, from, None, b"answer".to_vec());
        let answer = plain.next(begun + 3 * delay);
        assert!(matches!(answer, Some(PlainNews::Arrived { socket, from: SERVER, .. }) if socket == client));
        plain.reboot_nats();
        plain.send(at, from, None, b"late".to_vec());
        assert_eq!(plain.next(begun + 9 * delay), None, "the mapping is gone");
    }
}
