//! Describing a lab: hosts, the NATs before them, their links. [`LabBuilder::build`] checks the description, plans the
//! addresses and makes the namespaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::kernel::DeviceSpec;
use crate::link::{Link, LinkSpec};
use crate::nat::{NatBox, NatSpec};
use crate::netns::{InterfaceSpec, LabError, Namespace, Reach, Tun, configure, open_tun};

use super::engine::Engine;
use super::kernel_nat::{NatEngine, Routers, start_routers};
use super::lab::{HostParts, Lab};
use super::network::{Access, CORE, Hop, Host, MTU, Nat, Network, Realm, Uplink};
use super::stats::HostStats;

/// The interface of every host.
pub(super) const INTERFACE: &str = "eth0";

/// Packets that a host's device queues for the wire. Linux's default for TUN is 500; a sender of small packets fills
/// that in 2 ms while the wire serves another host.
const DEVICE_QUEUE: u32 = 2000;

/// Prefix lengths of host addresses.
const V4_PREFIX: u8 = 24;
const V6_PREFIX: u8 = 64;

/// Addresses that the lab gives by itself: 5.5.16.2, 5.5.17.2, ... in the core, 100.64.0.2, 100.64.1.2, ... between
/// NATs. Globally scoped in the core, because real software refuses to use documentation ranges.
const FIRST_PUBLIC_BLOCK: u8 = 16;
const MOST_BLOCKS: u8 = 200;

/// The two directions of a host's access link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AccessLink {
    /// From the host to the core.
    pub up: LinkSpec,
    /// From the core to the host.
    pub down: LinkSpec,
}

impl From<LinkSpec> for AccessLink {
    /// The same both ways.
    fn from(spec: LinkSpec) -> Self {
        Self { up: spec, down: spec }
    }
}

/// Where a host is attached.
#[derive(Clone, Debug)]
enum Attachment {
    Public,
    Chain(Vec<NatSpec>),
    Lan(String),
}

/// A host: its addresses and what it is behind.
#[derive(Clone, Debug)]
pub struct HostSpec {
    addresses: Vec<IpAddr>,
    attachment: Attachment,
    more: Vec<(Attachment, Vec<IpAddr>)>,
}

impl HostSpec {
    /// A host with these public addresses; the first of a family is the source of what it sends.
    #[must_use]
    pub fn public<A: Into<IpAddr>>(addresses: impl IntoIterator<Item = A>) -> Self {
        let addresses = addresses.into_iter().map(Into::into).collect();
        Self {
            addresses,
            attachment: Attachment::Public,
            more: Vec::new(),
        }
    }

    /// A host with the address `lan` behind NATs of its own, innermost first. Without any NAT the host is public, at an
    /// address that the lab gives.
    #[must_use]
    pub fn behind(nats: Vec<NatSpec>, lan: impl Into<IpAddr>) -> Self {
        Self {
            addresses: vec![lan.into()],
            attachment: Attachment::Chain(nats),
            more: Vec::new(),
        }
    }

    /// A host with the address `lan` in the network behind the NAT called `nat`, together with others.
    #[must_use]
    pub fn lan(nat: &str, lan: impl Into<IpAddr>) -> Self {
        Self {
            addresses: vec![lan.into()],
            attachment: Attachment::Lan(nat.to_owned()),
            more: Vec::new(),
        }
    }

    /// Puts the host, with one more address, also into the network behind the NAT called `nat`, as a telephone is in a
    /// WLAN and in a mobile network.
    ///
    /// It has one device all the same: what it sends goes the way that the source address says, and the first address of
    /// a family is the source where a program chose none. Addresses in different networks must be of different /24 (or
    /// /64). [`HostHandle::remove_address`](super::HostHandle::remove_address) makes it leave a network.
    #[must_use]
    pub fn also_behind(mut self, nat: &str, address: impl Into<IpAddr>) -> Self {
        let attachment = Attachment::Lan(nat.to_owned());
        self.more.push((attachment, vec![address.into()]));
        self
    }

    /// As [`HostSpec::also_behind`], behind NATs of its own, innermost first. Without any NAT that address is public,
    /// and one that the lab gives.
    #[must_use]
    pub fn also_behind_own(mut self, nats: Vec<NatSpec>, address: impl Into<IpAddr>) -> Self {
        self.more.push((Attachment::Chain(nats), vec![address.into()]));
        self
    }

    /// Gives the host one more address in the network that was named last, for example a global IPv6 address behind the
    /// firewalls that its NATs are.
    #[must_use]
    pub fn and(mut self, address: impl Into<IpAddr>) -> Self {
        let last = self.more.last_mut().map(|(_, addresses)| addresses);
        last.unwrap_or(&mut self.addresses).push(address.into());
        self
    }
}

/// A lab to be.
#[derive(Clone, Debug, Default)]
pub struct LabBuilder {
    hosts: Vec<(String, HostSpec)>,
    nats: Vec<NatPlan>,
    links: BTreeMap<String, AccessLink>,
    uplinks: Vec<(String, IpAddr, AccessLink)>,
    seed: u64,
    no_offload: bool,
    mtu_reports: bool,
    engine: NatEngine,
}

/// A NAT with a name.
#[derive(Clone, Debug)]
struct NatPlan {
    name: String,
    spec: NatSpec,
    outer: Option<String>,
    /// Who plays it; `None`: whoever plays all others.
    engine: Option<NatEngine>,
}

impl LabBuilder {
    /// Adds a host.
    #[must_use]
    pub fn host(mut self, name: &str, spec: HostSpec) -> Self {
        self.hosts.push((name.to_owned(), spec));
        self
    }

    /// Adds a NAT with a public address, for hosts of [`HostSpec::lan`] or for other NATs.
    #[must_use]
    pub fn nat(self, name: &str, spec: NatSpec) -> Self {
        self.add_nat(name, spec, None, None)
    }

    /// Adds a NAT in the network behind another one, which must have been added before.
    #[must_use]
    pub fn nat_behind(self, name: &str, outer: &str, spec: NatSpec) -> Self {
        self.add_nat(name, spec, Some(outer), None)
    }

    /// Adds a NAT that is played by `engine` whatever plays the others: with a public address, or in the network behind
    /// `outer`.
    #[must_use]
    pub fn nat_by(self, name: &str, spec: NatSpec, outer: Option<&str>, engine: NatEngine) -> Self {
        self.add_nat(name, spec, outer, Some(engine))
    }

    /// Who plays the NATs; [`NatEngine::Model`] unless said.
    #[must_use]
    pub fn engine(mut self, engine: NatEngine) -> Self {
        self.engine = engine;
        self
    }

    fn add_nat(mut self, name: &str, spec: NatSpec, outer: Option<&str>, engine: Option<NatEngine>) -> Self {
        self.nats.push(NatPlan {
            name: name.to_owned(),
            spec,
            outer: outer.map(str::to_owned),
            engine,
        });
        self
    }

    /// Describes the access link of a host, its first one; the last description holds for all hosts behind one NAT.
    #[must_use]
    pub fn link(mut self, host: &str, link: impl Into<AccessLink>) -> Self {
        self.links.insert(host.to_owned(), link.into());
        self
    }

    /// Describes the access link by which a host reaches the core from its address `from`.
    #[must_use]
    pub fn uplink(mut self, host: &str, from: impl Into<IpAddr>, link: impl Into<AccessLink>) -> Self {
        self.uplinks.push((host.to_owned(), from.into(), link.into()));
        self
    }

    /// Where the randomness of NATs and links comes from; 0 unless said.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Behaves as on a kernel that cuts up super-packets before the lab sees them.
    #[must_use]
    pub fn without_offload(mut self) -> Self {
        self.no_offload = true;
        self
    }

    /// Lets links with a small MTU tell the sender of a larger packet their limit (RFC 1191, RFC 8201), where the packet
    /// must not be fragmented. Without, they swallow it: the black hole that many real paths are. Others are swallowed
    /// in any case, because the lab fragments nothing.
    #[must_use]
    pub fn with_mtu_reports(mut self) -> Self {
        self.mtu_reports = true;
        self
    }

    /// Makes the namespaces and starts the wire.
    ///
    /// # Errors
    ///
    /// A contradiction in the description, or whatever the machine does not allow.
    pub fn build(self) -> Result<Lab, LabError> {
        let mut plan = Plan {
            seed: self.seed,
            engine: self.engine,
            ..Plan::new()
        };
        plan.network.mtu_reports = self.mtu_reports;
        for nat in self.nats {
            let outside = match nat.outer {
                Some(outer) => plan.inside_of(&outer)?,
                None => CORE,
            };
            plan.add_nat(&nat.name, nat.spec, outside, nat.engine)?;
        }
        for (name, spec) in self.hosts {
            plan.add_host(&name, spec)?;
        }
        for (host, link) in self.links {
            plan.set_link(&host, None, link)?;
        }
        for (host, from, link) in self.uplinks {
            plan.set_link(&host, Some(from), link)?;
        }
        plan.build(!self.no_offload)
    }
}

/// The description worked out: the network, and what each host gets.
struct Plan {
    seed: u64,
    engine: NatEngine,
    /// Who is to play each NAT.
    engines: Vec<NatEngine>,
    network: Network,
    nat_names: Vec<String>,
    host_names: Vec<String>,
    addresses: Vec<Vec<IpAddr>>,
    blocks: u8,
}

impl Plan {
    fn new() -> Self {
        Self {
            seed: 0,
            engine: NatEngine::default(),
            engines: Vec::new(),
            network: Network::new(),
            nat_names: Vec::new(),
            host_names: Vec::new(),
            addresses: Vec::new(),
            blocks: 0,
        }
    }

    fn inside_of(&self, nat: &str) -> Result<usize, LabError> {
        let index = self.nat_names.iter().position(|name| name == nat);
        index
            .map(|index| self.network.nats[index].inside)
            .ok_or_else(|| LabError::UnknownNat(nat.to_owned()))
    }

    fn add_nat(
        &mut self,
        name: &str,
        spec: NatSpec,
        outside: usize,
        engine: Option<NatEngine>,
    ) -> Result<usize, LabError> {
        if self.nat_names.iter().any(|known| known == name) {
            return Err(LabError::DuplicateName(name.to_owned()));
        }
        let external = self.next_address(name, outside)?;
        let index = self.network.nats.len();
        let inside = self.network.realms.len();
        let nat = NatBox::new(spec, external, self.next_seed());
        let externals = nat.externals();
        self.engines.push(engine.unwrap_or(self.engine));
        self.network.nats.push(Nat {
            nat,
            kernel: None,
            outside,
            inside,
            access: None,
        });
        self.network.realms.push(Realm {
            gateway: Some(index),
            ..Realm::default()
        });
        for address in externals {
            self.route(outside, address.into(), Hop::Nat(index))?;
        }
        self.nat_names.push(name.to_owned());
        Ok(inside)
    }

    fn add_host(&mut self, name: &str, spec: HostSpec) -> Result<(), LabError> {
        if self.host_names.iter().any(|known| known == name) {
            return Err(LabError::DuplicateName(name.to_owned()));
        }
        let (realm, addresses) = self.attach(name, name, spec.attachment, spec.addresses)?;
        let index = self.network.hosts.len();
        let own = self.join(realm, &addresses, index)?;
        let (mut all, mut more) = (addresses, Vec::new());
        for (number, (attachment, addresses)) in (1..).zip(spec.more) {
            let prefix = format!("{name}.uplink{number}");
            let (realm, addresses) = self.attach(name, &prefix, attachment, addresses)?;
            distinct(&all, &addresses)?;
            let access = self.join(realm, &addresses, index)?;
            all.extend(&addresses);
            more.push(Uplink {
                realm,
                access,
                addresses,
            });
        }
        self.network.hosts.push(Host {
            realm,
            access: own,
            more,
            taps: Vec::new(),
            stats: HostStats::default(),
        });
        self.host_names.push(name.to_owned());
        self.addresses.push(all);
        Ok(())
    }

    /// The network that a host is attached to, made if it is the host's own, and its addresses there. Names of own NATs
    /// begin with `prefix`.
    fn attach(
        &mut self,
        name: &str,
        prefix: &str,
        attachment: Attachment,
        mut addresses: Vec<IpAddr>,
    ) -> Result<(usize, Vec<IpAddr>), LabError> {
        let realm = match attachment {
            Attachment::Public => CORE,
            Attachment::Lan(nat) => self.inside_of(&nat)?,
            Attachment::Chain(nats) => {
                if let (true, Some(first)) = (nats.is_empty(), addresses.first_mut()) {
                    *first = self.next_address(name, CORE)?.into();
                }
                let numbered = nats.into_iter().enumerate().rev();
                let outermost = Ok(CORE);
                numbered.fold(outermost, |outside, (level, spec)| {
                    self.add_nat(&format!("{prefix}.nat{level}"), spec, outside?, None)
                })?
            }
        };
        if addresses.is_empty() {
            return Err(LabError::NoAddress(name.to_owned()));
        }
        Ok((realm, addresses))
    }

    /// Makes a host known in a network; gives its own access link there, if that is the core.
    fn join(&mut self, realm: usize, addresses: &[IpAddr], host: usize) -> Result<Option<usize>, LabError> {
        for address in addresses {
            self.announce(realm, *address, host)?;
        }
        let access = self.access(realm, host);
        Ok((realm == CORE).then_some(access))
    }

    /// Makes a host's address known in its network, and an IPv6 one in all networks above.
    fn announce(&mut self, realm: usize, address: IpAddr, host: usize) -> Result<(), LabError> {
        self.route(realm, address, Hop::Host(host))?;
        let mut below = realm;
        while address.is_ipv6()
            && let Some(gateway) = self.network.realms[below].gateway
        {
            below = self.network.nats[gateway].outside;
            self.route(below, address, Hop::Nat(gateway))?;
        }
        Ok(())
    }

    fn route(&mut self, realm: usize, address: IpAddr, hop: Hop) -> Result<(), LabError> {
        match self.network.realms[realm].routes.insert(address, hop) {
            None => Ok(()),
            Some(_) => Err(LabError::DuplicateAddress(address)),
        }
    }

    /// The access link of a host in this network, made if it is not there.
    fn access(&mut self, realm: usize, host: usize) -> usize {
        let gateway = self.network.realms[realm].gateway;
        if let Some(access) = gateway.and_then(|nat| self.network.nats[nat].access) {
            return access;
        }
        let (up, down) = (self.next_seed(), self.next_seed());
        let index = self.network.accesses.len();
        let (owner, outside) = match gateway {
            Some(nat) => (Hop::Nat(nat), self.network.nats[nat].outside),
            None => (Hop::Host(host), CORE),
        };
        let perfect = LinkSpec::default();
        self.network.accesses.push(Access {
            up: Link::new(perfect, up),
            down: Link::new(perfect, down),
            outside,
            owner,
        });
        if let Some(nat) = gateway {
            self.network.nats[nat].access = Some(index);
        }
        index
    }

    fn set_link(&mut self, host: &str, from: Option<IpAddr>, link: AccessLink) -> Result<(), LabError> {
        let index = self.host_names.iter().position(|name| name == host);
        let index = index.ok_or_else(|| LabError::UnknownHost(host.to_owned()))?;
        if let Some(ip) = from
            && !self.addresses[index].contains(&ip)
        {
            return Err(LabError::NotItsAddress(host.to_owned(), ip));
        }
        self.network.set_link(index, from, link);
        Ok(())
    }

    fn next_address(&mut self, name: &str, realm: usize) -> Result<Ipv4Addr, LabError> {
        if self.blocks == MOST_BLOCKS {
            return Err(LabError::NoAddress(name.to_owned()));
        }
        let block = self.blocks;
        self.blocks += 1;
        Ok(match realm {
            CORE => Ipv4Addr::new(5, 5, FIRST_PUBLIC_BLOCK + block, 2),
            _ => Ipv4Addr::new(100, 64, block, 2),
        })
    }

    /// Seeds of the parts, each its own, from the seed of the lab (the multiplier is 2^64 over the golden ratio).
    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed
    }

    fn build(mut self, wanted: bool) -> Result<Lab, LabError> {
        let seed = self.next_seed();
        let mut hosts = Vec::new();
        let mut tuns = Vec::new();
        for (name, addresses) in self.host_names.iter().zip(self.addresses) {
            let namespace = Namespace::create(name)?;
            tuns.push(equip(&namespace, &addresses, wanted)?);
            hosts.push(HostParts {
                name: name.clone(),
                addresses,
                namespace,
            });
        }
        let device = DeviceSpec {
            mtu: MTU.into(),
            queue: DEVICE_QUEUE,
            offload: wanted,
        };
        let Routers { routers, devices } =
            start_routers(&mut self.network, &self.nat_names, &self.engines, seed, device)?;
        tuns.extend(devices);
        let offload = tuns.iter().all(|tun| tun.offload);
        if wanted && !offload {
            tracing::info!(
                "this kernel cuts up super-packets before the lab sees them; throughput is limited"
            );
        }
        let engine = Engine::start(self.network, tuns).map_err(LabError::Thread)?;
        Ok(Lab::new(engine, hosts, self.nat_names, routers, offload))
    }
}

/// Addresses in different networks must not look as if they were in one: the kernel could not tell the ways apart.
fn distinct(known: &[IpAddr], new: &[IpAddr]) -> Result<(), LabError> {
    let pairs = known.iter().flat_map(|a| new.iter().map(move |b| (*a, *b)));
    let mut same = pairs.filter(|(a, b)| is_same_network(*a, *b));
    same.next()
        .map_or(Ok(()), |(a, b)| Err(LabError::OneNetwork(a, b)))
}

fn is_same_network(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        _ => false,
    }
}

/// How long the network part of an address is.
pub(super) fn prefix_len(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { V4_PREFIX } else { V6_PREFIX }
}

/// Gives a namespace its device and its addresses.
fn equip(namespace: &Namespace, addresses: &[IpAddr], offload: bool) -> Result<Tun, LabError> {
    let prefixed: Vec<_> = addresses.iter().map(|ip| (*ip, prefix_len(*ip))).collect();
    namespace.run(|| {
        let tun = open_tun(INTERFACE, offload).map_err(LabError::Tun)?;
        let spec = InterfaceSpec {
            name: INTERFACE,
            addresses: &prefixed,
            reach: Reach::Everything,
            mtu: MTU.into(),
            queue: DEVICE_QUEUE,
        };
        configure(&spec)?;
        Ok(tun)
    })?
}
