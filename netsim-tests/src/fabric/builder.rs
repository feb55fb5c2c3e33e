//! Describing a lab: hosts, the NATs before them, their links. [`LabBuilder::build`] checks the description, plans the
//! addresses and makes the namespaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::kernel::DeviceSpec;
use crate::link::{Link, LinkSpec};
use crate::nat::{NatBox, NatSpec};
use crate::netns::{InterfaceSpec, LabError, Namespace, Reach, Tun, configure, open_tun};

use super::engine::Engine;
use super::kernel_nat::{NatEngine, Routers, in_a_row, start_routers};
use super::lab::{HostParts, Lab};
use super::network::{Access, CORE, Hop, Host, Nat, Network, Realm};
use super::stats::HostStats;

/// The interface of every host.
pub(super) const INTERFACE: &str = "eth0";

/// Its MTU in bytes: Ethernet's.
const MTU: u32 = 1500;

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
}

impl HostSpec {
    /// A host with these public addresses; the first of a family is the source of what it sends.
    #[must_use]
    pub fn public<A: Into<IpAddr>>(addresses: impl IntoIterator<Item = A>) -> Self {
        let addresses = addresses.into_iter().map(Into::into).collect();
        Self {
            addresses,
            attachment: Attachment::Public,
        }
    }

    /// A host with the address `lan` behind NATs of its own, innermost first. Without any NAT the host is public, at an
    /// address that the lab gives.
    #[must_use]
    pub fn behind(nats: Vec<NatSpec>, lan: impl Into<IpAddr>) -> Self {
        Self {
            addresses: vec![lan.into()],
            attachment: Attachment::Chain(nats),
        }
    }

    /// A host with the address `lan` in the network behind the NAT called `nat`, together with others.
    #[must_use]
    pub fn lan(nat: &str, lan: impl Into<IpAddr>) -> Self {
        Self {
            addresses: vec![lan.into()],
            attachment: Attachment::Lan(nat.to_owned()),
        }
    }

    /// Gives the host one more address, for example a global IPv6 address behind the firewalls that its NATs are.
    #[must_use]
    pub fn and(mut self, address: impl Into<IpAddr>) -> Self {
        self.addresses.push(address.into());
        self
    }
}

/// A lab to be.
#[derive(Clone, Debug, Default)]
pub struct LabBuilder {
    hosts: Vec<(String, HostSpec)>,
    nats: Vec<NatPlan>,
    links: BTreeMap<String, AccessLink>,
    seed: u64,
    no_offload: bool,
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

    /// Describes the access link of a host; the last description holds for all hosts behind one NAT.
    #[must_use]
    pub fn link(mut self, host: &str, link: impl Into<AccessLink>) -> Self {
        self.links.insert(host.to_owned(), link.into());
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
            plan.set_link(&host, link)?;
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
        let externals = in_a_row(external, spec.addresses);
        let nat = NatBox::new(spec, external, self.next_seed());
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
        let mut addresses = spec.addresses;
        let realm = match spec.attachment {
            Attachment::Public => CORE,
            Attachment::Lan(nat) => self.inside_of(&nat)?,
            Attachment::Chain(nats) => {
                if let (true, Some(first)) = (nats.is_empty(), addresses.first_mut()) {
                    *first = self.next_address(name, CORE)?.into();
                }
                let numbered = nats.into_iter().enumerate().rev();
                let outermost = Ok(CORE);
                numbered.fold(outermost, |outside, (level, spec)| {
                    self.add_nat(&format!("{name}.nat{level}"), spec, outside?, None)
                })?
            }
        };
        if addresses.is_empty() {
            return Err(LabError::NoAddress(name.to_owned()));
        }
        let index = self.network.hosts.len();
        for address in &addresses {
            self.announce(realm, *address, index)?;
        }
        let access = self.access(realm, index);
        let own = (realm == CORE).then_some(access);
        self.network.hosts.push(Host {
            realm,
            access: own,
            stats: HostStats::default(),
        });
        self.host_names.push(name.to_owned());
        self.addresses.push(addresses);
        Ok(())
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

    fn set_link(&mut self, host: &str, link: AccessLink) -> Result<(), LabError> {
        let index = self.host_names.iter().position(|name| name == host);
        let index = index.ok_or_else(|| LabError::UnknownHost(host.to_owned()))?;
        self.network.set_link(index, link);
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
            tuns.push(attach(&namespace, &addresses, wanted)?);
            hosts.push(HostParts {
                name: name.clone(),
                addresses,
                namespace,
            });
        }
        let device = DeviceSpec {
            mtu: MTU,
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

/// How long the network part of an address is.
pub(super) fn prefix_len(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { V4_PREFIX } else { V6_PREFIX }
}

/// Gives a namespace its device and its addresses.
fn attach(namespace: &Namespace, addresses: &[IpAddr], offload: bool) -> Result<Tun, LabError> {
    let prefixed: Vec<_> = addresses.iter().map(|ip| (*ip, prefix_len(*ip))).collect();
    namespace.run(|| {
        let tun = open_tun(INTERFACE, offload).map_err(LabError::Tun)?;
        let spec = InterfaceSpec {
            name: INTERFACE,
            addresses: &prefixed,
            reach: Reach::Everything,
            mtu: MTU,
            queue: DEVICE_QUEUE,
        };
        configure(&spec)?;
        Ok(tun)
    })?
}
