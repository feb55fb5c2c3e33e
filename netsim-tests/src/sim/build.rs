//! Building a world: server, sites and nodes, and what people do with them.
//!
//! The loop of [`World`] is in `world.rs`, what goes wrong in `meddle.rs`, what can be seen in `look.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use knothole_proto::addr::{Candidate, CandidateKind};
use knothole_proto::connector::{Command, ConnectorConfig};
use knothole_proto::id::{Instance, Name, PairSecret, PeerId, RequestId, Token};
use knothole_proto::punch::PunchConfig;
use knothole_proto::wire::{PathPolicy, SERVER_PORT};

use super::check::Violation;
use super::clock::HostClock;
use super::node::Node;
use super::server::{Server, ServerSpec};
use super::sockets::Addresses;
use super::topology::{HostId, INTERNET, Links, NetId};
use super::world::{HostRole, World};
use crate::link::{Link, LinkSpec};
use crate::nat::{Families, NatBox, NatSpec};

/// Address of the server; the stranger and further servers are its neighbours.
pub const SERVER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// Its IPv6 address.
pub const SERVER_IP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));

/// Its second address, for STUN.
pub const SERVER_ALTERNATE_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));

/// Its second IPv6 address.
pub const SERVER_ALTERNATE_IP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2));

/// The server's second port for STUN.
const ALTERNATE_PORT: u16 = SERVER_PORT + 1;

/// Clocks of hosts started at most so long before the world did: two years of uptime.
const UPTIME_MAX_S: u64 = 63_072_000;

/// Sockets of a node beside its main ones: what a system with a limit of 1,024 open files leaves room for, and enough for
/// every plan.
const SOCKETS_MAX: u16 = 600;

/// Clocks of hosts are off by up to so many parts per million: what cheap quartz does.
const DRIFT_MAX: u64 = 100;

/// A place with an access to the internet: the NATs there, and a network behind the innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteId {
    pub(super) inner: NetId,
    pub(super) outer: NetId,
    number: u8,
}

/// What varies from node to node.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name it wants at the server.
    pub name: Option<Name>,
    /// Token it shows.
    pub token: Option<Token>,
    /// May others be introduced to it?
    pub accepting: bool,
    /// Which addresses it has.
    pub families: Families,
    /// Port of its sockets.
    pub port: u16,
    /// Time between two pings on each link that it called; `None`: it is silent.
    pub period: Option<Duration>,
    /// Does it find out what its network does?
    pub fingerprint: bool,
    /// Does it take part in plans that guess ports?
    pub guesses: bool,
    /// Sockets that it may open beside its main ones.
    pub sockets_max: u16,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            name: None,
            token: None,
            accepting: true,
            families: Families::V4,
            port: 40_000,
            period: Some(Duration::from_millis(100)),
            fingerprint: true,
            guesses: true,
            sockets_max: SOCKETS_MAX,
        }
    }
}

/// Where a node lives, and how often it was started anew.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) site: SiteId,
    pub(super) spec: NodeSpec,
    pub(super) runs: u64,
}

/// Building.
impl World {
    /// The server, on a link of its own. A world has one.
    pub fn add_server(&mut self, spec: ServerSpec, up: LinkSpec, down: LinkSpec) -> HostId {
        let links = self.links("server", up, down);
        let net = self.topology.add_network(INTERNET, None, Some(links));
        let clock = self.clock(HostId(self.hosts.len()));
        let seed = self.seed.child("server", 0);
        let two = spec.two_addresses;
        let server = Server::new(spec, [SERVER_PORT, ALTERNATE_PORT], clock, seed, self.now);
        let nobody = PeerId::from_bytes([0; 32]);
        let host = self.add_host(net, nobody, HostRole::Server(Box::new(server)));
        let alternate = [SERVER_ALTERNATE_IP, SERVER_ALTERNATE_IP6];
        let alternate = alternate.into_iter().filter(|_| two);
        for ip in [SERVER_IP, SERVER_IP6].into_iter().chain(alternate) {
            self.topology.add_address(net, ip, host);
            self.servers.push(SocketAddr::new(ip, SERVER_PORT));
            self.servers.push(SocketAddr::new(ip, ALTERNATE_PORT));
        }
        host
    }

    /// A site behind these NATs, innermost first; none: its hosts have public addresses.
    pub fn add_site(&mut self, nats: &[NatSpec], up: LinkSpec, down: LinkSpec) -> SiteId {
        self.add_site_in(INTERNET, nats, up, down)
    }

    /// A site whose outermost NAT stands in the network of another site: a home behind a carrier's NAT.
    pub fn add_site_behind(
        &mut self,
        site: SiteId,
        nats: &[NatSpec],
        up: LinkSpec,
        down: LinkSpec,
    ) -> SiteId {
        self.add_site_in(site.inner, nats, up, down)
    }

    fn add_site_in(&mut self, net: NetId, nats: &[NatSpec], up: LinkSpec, down: LinkSpec) -> SiteId {
        self.sites += 1;
        let number = self.sites;
        let mut links = Some(self.links("site", up, down));
        let (mut parent, mut outer) = (net, None);
        let layers = nats.len();
        for (layer, spec) in nats.iter().rev().enumerate() {
            let external = if parent == INTERNET {
                // A block of addresses for each, because some have several.
                Ipv4Addr::new(198, 51, number, 100)
            } else {
                // Between two NATs: carrier space (RFC 6598).
                Ipv4Addr::new(100, 64, number, u8::try_from(layer).unwrap_or(u8::MAX))
            };
            let seed = self
                .seed
                .child("nat", u64::from(number) * 16 + layer as u64)
                .rng()
                .u64();
            let nat = NatBox::new(spec.clone(), external, seed);
            parent = self.topology.add_network(parent, Some(nat), links.take());
            outer.get_or_insert(parent);
        }
        if layers == 0 {
            parent = self.topology.add_network(net, None, links.take());
        }
        SiteId {
            inner: parent,
            outer: outer.unwrap_or(parent),
            number,
        }
    }

    /// A node at a site. It starts to register at once.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn add_node(&mut self, site: SiteId, spec: NodeSpec) -> Result<HostId, Violation> {
        let host = HostId(self.hosts.len());
        let key = PeerId::from_bytes(self.seed.child("key", host.0 as u64).rng().bytes());
        let home = Home { site, spec, runs: 0 };
        let (node, addresses) = self.make_node(host, key, &home);
        self.add_host(site.inner, key, HostRole::Node(Box::new(node)));
        self.hosts[host.0].home = Some(home);
        self.settle(site, host, addresses)?;
        Ok(host)
    }

    /// A node starts anew, with its key and its address book: another run of the same node.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn restart_node(&mut self, host: HostId) -> Result<(), Violation> {
        let Some(mut home) = self.hosts[host.0].home.clone() else {
            return Ok(());
        };
        home.runs += 1;
        let (node, addresses) = self.make_node(host, self.peer_id(host), &home);
        let site = home.site;
        self.checks.restarted(host);
        self.hosts[host.0].role = HostRole::Node(Box::new(node));
        self.hosts[host.0].home = Some(home);
        let book = self.hosts[host.0].book.clone();
        self.feed(host, Command::SetPeers(book))?;
        self.settle(site, host, addresses)
    }

    /// A run of a node, which has just started.
    fn make_node(&self, host: HostId, key: PeerId, home: &Home) -> (Node, Addresses) {
        let seed = self.seed.child("node", (home.runs << 32) | host.0 as u64);
        let spec = &home.spec;
        let addresses = self.addresses(home.site, spec, host);
        let config = ConnectorConfig {
            own: key,
            instance: Instance(seed.child("instance", 0).rng().u64()),
            name: spec.name.clone(),
            token: spec.token.clone(),
            accepting: spec.accepting,
            agent: "knothole-netsim".to_owned(),
            punch: PunchConfig::default(),
            fingerprint: spec.fingerprint,
            guesses: spec.guesses,
            sockets_max: spec.sockets_max,
            allow_loopback: false,
        };
        let clock = self.clock(host);
        let node = Node::new(config, addresses, clock, spec.period, &seed, self.now);
        (node, addresses)
    }

    /// Lets two nodes know each other, as pairing does.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn pair(&mut self, one: HostId, two: HostId) -> Result<(), Violation> {
        let (low, high) = (one.0.min(two.0) as u64, one.0.max(two.0) as u64);
        let secret = PairSecret::from_bytes(self.seed.child("pair", low << 32 | high).rng().bytes());
        for (host, peer) in [(one, two), (two, one)] {
            let peer = self.peer_id(peer);
            self.introduce(host, peer, secret.clone())?;
        }
        Ok(())
    }

    /// Enters a machine in a node's address book.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn introduce(&mut self, host: HostId, peer: PeerId, secret: PairSecret) -> Result<(), Violation> {
        let book = &mut self.hosts[host.0].book;
        book.retain(|(known, _)| *known != peer);
        book.push((peer, secret));
        let book = book.clone();
        self.feed(host, Command::SetPeers(book))
    }

    /// Strikes a machine out of a node's address book.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn forget(&mut self, host: HostId, peer: HostId) -> Result<(), Violation> {
        let peer = self.peer_id(peer);
        let book = &mut self.hosts[host.0].book;
        book.retain(|(known, _)| *known != peer);
        let book = book.clone();
        self.feed(host, Command::SetPeers(book))
    }

    /// One node asks for a link to another.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn connect(&mut self, from: HostId, to: HostId, policy: PathPolicy) -> Result<RequestId, Violation> {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let peer = self.peer_id(to);
        self.feed(
            from,
            Command::Connect {
                request,
                peer,
                policy,
            },
        )?;
        Ok(request)
    }

    /// A node is told to do something.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn command(&mut self, host: HostId, command: Command) -> Result<(), Violation> {
        self.feed(host, command)
    }

    /// A node's sockets are here now.
    pub(super) fn settle(
        &mut self,
        site: SiteId,
        host: HostId,
        addresses: Addresses,
    ) -> Result<(), Violation> {
        let all = [addresses.v4, addresses.v6].into_iter().flatten();
        let local = all.map(|addr| {
            self.topology.add_address(site.inner, addr.ip(), host);
            Candidate {
                kind: CandidateKind::Host,
                addr,
            }
        });
        let local = local.collect();
        let now = self.now;
        if let Some(node) = self.node_mut(host) {
            node.move_to(addresses);
            node.set_local(local, now);
        }
        self.hosts[host.0].net = site.inner;
        self.touched(host)
    }

    /// The addresses that a node has at a site.
    pub(super) fn addresses(&self, site: SiteId, spec: &NodeSpec, host: HostId) -> Addresses {
        let low = u8::try_from(10 + host.0).unwrap_or(u8::MAX);
        let public = !self.topology.is_hidden(site.inner);
        let v4 = if public {
            Ipv4Addr::new(192, 0, 2, low)
        } else {
            Ipv4Addr::new(192, 168, site.number, low)
        };
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, u16::from(site.number), 0, 0, 0, 0, u16::from(low));
        Addresses {
            v4: spec
                .families
                .v4
                .then(|| SocketAddr::new(IpAddr::V4(v4), spec.port)),
            v6: spec
                .families
                .v6
                .then(|| SocketAddr::new(IpAddr::V6(v6), spec.port)),
            server: SocketAddr::new(SERVER_IP, SERVER_PORT),
            server_v6: SocketAddr::new(SERVER_IP6, SERVER_PORT),
        }
    }

    fn links(&mut self, label: &str, up: LinkSpec, down: LinkSpec) -> Links {
        let mut rng = self.seed.child(label, u64::from(self.sites)).rng();
        Links {
            up: Link::new(up, rng.u64()),
            down: Link::new(down, rng.u64()),
        }
    }

    /// The clock of a host: it started long ago, and is not quite right.
    fn clock(&self, host: HostId) -> HostClock {
        let mut rng = self.seed.child("clock", host.0 as u64).rng();
        let uptime =
            Duration::from_secs(rng.below(UPTIME_MAX_S)) + Duration::from_nanos(rng.below(1_000_000_000));
        let drift = i32::try_from(rng.below(2 * DRIFT_MAX + 1)).unwrap_or(0);
        HostClock::new(self.epoch + uptime, drift - 100)
    }
}
