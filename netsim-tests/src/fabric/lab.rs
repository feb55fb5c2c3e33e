//! [`Lab`]: a running lab, and [`HostHandle`]: one host of it.

use std::net::IpAddr;
use std::process::{Child, Command};

use crate::kernel::Router;
use crate::nat::UdpPolicy;
use crate::netns::{LabError, Namespace, remove_address};

use super::builder::{AccessLink, INTERFACE, LabBuilder, prefix_len};
use super::engine::Engine;
use super::kernel_nat::{NatEngine, report};
use super::network::{Hop, Network};
use super::stats::{LabStats, LinkPairStats};

/// A running lab. Dropping it stops the wire, kills the programs that it started and lets the namespaces go.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: the wire before the namespaces that its devices live in.
    engine: Engine,
    hosts: Vec<HostParts>,
    nat_names: Vec<String>,
    /// Those of the NATs that the kernel plays, in the order of the names.
    routers: Vec<Option<Router>>,
    offload: bool,
}

#[derive(Debug)]
pub(super) struct HostParts {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) namespace: Namespace,
}

/// One host of a running lab.
#[derive(Clone, Copy, Debug)]
pub struct HostHandle<'a> {
    lab: &'a Lab,
    index: usize,
}

impl Lab {
    /// Begins a description.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    pub(super) fn new(
        engine: Engine,
        hosts: Vec<HostParts>,
        nat_names: Vec<String>,
        routers: Vec<Option<Router>>,
        offload: bool,
    ) -> Self {
        Self {
            engine,
            hosts,
            nat_names,
            routers,
            offload,
        }
    }

    /// The host of this name.
    ///
    /// # Errors
    ///
    /// [`LabError::UnknownHost`].
    pub fn host(&self, name: &str) -> Result<HostHandle<'_>, LabError> {
        let index = self.hosts.iter().position(|host| host.name == name);
        index
            .map(|index| HostHandle { lab: self, index })
            .ok_or_else(|| LabError::UnknownHost(name.to_owned()))
    }

    /// Names of the hosts, in the order in which they were added.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.name.as_str())
    }

    /// Names of the NATs, and who plays each: the model also where the kernel was asked but has no form of it.
    pub fn nats(&self) -> impl Iterator<Item = (&str, NatEngine)> {
        let engines = self.routers.iter().map(NatEngine::of);
        self.nat_names.iter().map(String::as_str).zip(engines)
    }

    /// Do super-packets of up to 64 KiB pass whole?
    #[must_use]
    pub fn offload(&self) -> bool {
        self.offload
    }

    /// Changes the access link of a host, and thereby of all hosts behind the same NAT, from the next packet on.
    ///
    /// # Errors
    ///
    /// [`LabError::UnknownHost`].
    pub fn set_link(&self, host: &str, link: impl Into<AccessLink>) -> Result<(), LabError> {
        let index = self.host(host)?.index;
        self.engine.network().set_link(index, link.into());
        Ok(())
    }

    /// Changes what a host's innermost NAT does with UDP, from the next packet on.
    ///
    /// # Errors
    ///
    /// [`LabError::UnknownHost`], [`LabError::NoNat`] for a public host; [`LabError::Rules`].
    pub fn set_udp_policy(&self, host: &str, policy: UdpPolicy) -> Result<(), LabError> {
        self.set_udp(self.gateway(host)?, policy)
    }

    /// Lets a host's innermost NAT forget all mappings, as a power cycle does.
    ///
    /// # Errors
    ///
    /// [`LabError::UnknownHost`], [`LabError::NoNat`] for a public host; [`LabError::Rules`].
    pub fn reboot_nat(&self, host: &str) -> Result<(), LabError> {
        self.reboot(self.gateway(host)?)
    }

    /// Everything counted so far.
    #[must_use]
    pub fn stats(&self) -> LabStats {
        let network = self.engine.network();
        let played = network.nats.iter().zip(&self.routers);
        let nats = self.nat_names.iter().zip(played);
        let nats = nats.map(|(name, (nat, router))| (name.clone(), report(&nat.nat, router.as_ref())));
        let hosts = self
            .hosts
            .iter()
            .zip(&network.hosts)
            .map(|(parts, host)| (parts.name.clone(), host.stats));
        let links = network.accesses.iter().map(|access| {
            let name = match access.owner {
                Hop::Nat(nat) => self.nat_names[nat].clone(),
                Hop::Host(host) => self.hosts[host].name.clone(),
            };
            (
                name,
                LinkPairStats {
                    up: access.up.stats(),
                    down: access.down.stats(),
                },
            )
        });
        LabStats {
            nats: nats.collect(),
            hosts: hosts.collect(),
            links: links.collect(),
            drops: network.drops().filter(|(_, count)| *count > 0).collect(),
        }
    }

    fn set_udp(&self, nat: usize, policy: UdpPolicy) -> Result<(), LabError> {
        let mut network = self.engine.network();
        if let Some(router) = &self.routers[nat] {
            router.set_udp(&policy)?;
        }
        network.nats[nat].nat.set_udp(policy);
        Ok(())
    }

    fn reboot(&self, nat: usize) -> Result<(), LabError> {
        // No packet moves while this is held, so none leaves its mapping behind.
        let mut network = self.engine.network();
        network.nats[nat].nat.reboot();
        self.routers[nat].as_ref().map_or(Ok(()), Router::reboot)
    }

    /// A host's innermost NAT.
    fn gateway(&self, host: &str) -> Result<usize, LabError> {
        let index = self.host(host)?.index;
        let gateway = self.engine.network().gateway_of(index);
        gateway.ok_or_else(|| LabError::NoNat(host.to_owned()))
    }
}

impl HostHandle<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts().name
    }

    /// Its own addresses, at least one.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.parts().addresses
    }

    /// Its first address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.parts().addresses[0]
    }

    /// The IPv4 address by which the core knows it: that of its outermost NAT, or its own.
    #[must_use]
    pub fn public_ip(&self) -> IpAddr {
        let network = self.lab.engine.network();
        network
            .outermost_nat(self.index)
            .map_or(self.ip(), |nat| network.nats[nat].nat.external().into())
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.parts().namespace
    }

    /// Starts a program on the host: [`Namespace::spawn`].
    ///
    /// # Errors
    ///
    /// [`LabError::Spawn`].
    pub fn spawn(&self, command: Command) -> Result<Child, LabError> {
        self.namespace().spawn(command)
    }

    /// Runs a closure on the host, in a thread of its own: [`Namespace::run`].
    ///
    /// # Errors
    ///
    /// [`LabError::Enter`].
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        self.namespace().run(work)
    }

    /// Takes one of its addresses away, as when a machine leaves a network. What it sends from then on has the next
    /// address of the family as its source; the two should be of different /24 or /64 networks, because the kernel takes
    /// away a network as a whole.
    ///
    /// # Errors
    ///
    /// [`LabError::Configure`] if it has no such address, [`LabError::Enter`].
    pub fn remove_address(&self, ip: IpAddr) -> Result<(), LabError> {
        self.run(|| remove_address(INTERFACE, ip, prefix_len(ip)))?
    }

    fn parts(&self) -> &HostParts {
        &self.lab.hosts[self.index]
    }
}

impl Network {
    /// The innermost NAT of a host.
    fn gateway_of(&self, host: usize) -> Option<usize> {
        self.realms[self.hosts[host].realm].gateway
    }

    fn outermost_nat(&self, host: usize) -> Option<usize> {
        let mut found = None;
        let mut realm = self.hosts[host].realm;
        while let Some(nat) = self.realms[realm].gateway {
            found = Some(nat);
            realm = self.nats[nat].outside;
        }
        found
    }

    /// Changes the access link of a host.
    pub(super) fn set_link(&mut self, host: usize, link: AccessLink) {
        let own = self.hosts[host].access;
        let shared = self.gateway_of(host).and_then(|nat| self.nats[nat].access);
        if let Some(index) = own.or(shared) {
            self.accesses[index].up.set_spec(link.up);
            self.accesses[index].down.set_spec(link.down);
        }
    }
}
