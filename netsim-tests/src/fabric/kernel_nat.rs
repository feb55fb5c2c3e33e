//! NATs played by the kernel, as the fabric sees them: black boxes with a device on either side. What they do is in
//! [`kernel`](crate::kernel).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use crate::kernel::{DeviceSpec, Devices, Place, Router};
use crate::nat::{NatBox, NatStats};
use crate::netns::{LabError, Tun};

use super::network::{At, Delivery, Network};
use super::packet::Packet;
use super::stats::{FabricDrop, NatReport};

/// Who plays a NAT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NatEngine {
    /// The lab itself, by the [model](NatBox).
    #[default]
    Model,
    /// The kernel, by rules of nftables in a router namespace; needs the program `nft`. A NAT of which the kernel has
    /// [no form](crate::nat::NatSpec::kernel_form) is played by the model all the same.
    Kernel,
}

impl NatEngine {
    pub(super) fn of(router: &Option<Router>) -> Self {
        match router {
            Some(_) => Self::Kernel,
            None => Self::Model,
        }
    }
}

/// What is behind a device that the engine serves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Port {
    Host(usize),
    /// The side of a kernel NAT where the hosts are.
    Inside(usize),
    /// Its other side.
    Outside(usize),
}

/// The devices of a kernel NAT, as indices of ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) inside: usize,
    pub(super) outside: usize,
}

/// The NATs that the kernel plays.
#[derive(Debug, Default)]
pub(super) struct Routers {
    /// In the order of the network's NATs; `None` where the model plays.
    pub(super) routers: Vec<Option<Router>>,
    /// Their devices, in the order of the ports that they have been given.
    pub(super) devices: Vec<Tun>,
}

/// Starts a router for each NAT of the finished network that the kernel is to play and can, and gives ports to all devices.
pub(super) fn start_routers(
    network: &mut Network,
    names: &[String],
    engines: &[NatEngine],
    seed: u64,
    device: DeviceSpec,
) -> Result<Routers, LabError> {
    let mut started = Routers::default();
    network.ports = (0..network.hosts.len()).map(Port::Host).collect();
    for (index, (name, engine)) in names.iter().zip(engines).enumerate() {
        if !is_kernels(network, index, name, *engine) {
            started.routers.push(None);
            continue;
        }
        let seed = seed.wrapping_add(index as u64);
        let spec = network.nats[index].nat.spec().clone();
        let (router, devices) = Router::start(name, spec, place(network, index, seed), device)?;
        let Devices { inside, outside } = devices;
        let ports = Ports {
            inside: network.ports.len(),
            outside: network.ports.len() + 1,
        };
        network.ports.extend([Port::Inside(index), Port::Outside(index)]);
        network.nats[index].kernel = Some(ports);
        started.devices.extend([inside, outside]);
        started.routers.push(Some(router));
    }
    Ok(started)
}

/// Does the kernel play this NAT?
fn is_kernels(network: &Network, nat: usize, name: &str, engine: NatEngine) -> bool {
    match (engine, network.nats[nat].nat.spec().kernel_form()) {
        (NatEngine::Model, _) => false,
        (NatEngine::Kernel, Ok(_)) => true,
        (NatEngine::Kernel, Err(reason)) => {
            tracing::info!(nat = name, %reason, "the model plays this nat, the kernel cannot");
            false
        }
    }
}

/// Its addresses, and those that it leads to.
fn place(network: &Network, index: usize, seed: u64) -> Place {
    let nat = &network.nats[index];
    let mut inside: Vec<IpAddr> = network.realms[nat.inside].routes.keys().copied().collect();
    inside.sort_unstable();
    Place {
        externals: in_a_row(nat.nat.external(), nat.nat.spec().addresses),
        inside,
        seed,
    }
}

impl Network {
    /// A packet from a device. What arrives at once is appended to `out`.
    pub(super) fn receive(&mut self, port: usize, packet: Packet, now: Instant, out: &mut Vec<Delivery>) {
        let at = match self.ports[port] {
            Port::Host(host) => return self.inject(host, packet, now, out),
            Port::Outside(nat) => {
                let gateway = &self.nats[nat];
                gateway.access.map_or(At::Realm(gateway.outside), At::Up)
            }
            Port::Inside(nat) => {
                let inside = self.nats[nat].inside;
                // What is for nobody there must not go round and round through the router.
                if !self.realms[inside].routes.contains_key(&packet.destination()) {
                    return self.end(packet, FabricDrop::NoRoute);
                }
                At::Realm(inside)
            }
        };
        self.work.push_back((at, packet));
        self.advance(now, out);
    }

    /// A packet from inside comes to a NAT, whoever plays it.
    pub(super) fn depart(&mut self, nat: usize, packet: Packet, now: Instant) {
        match self.nats[nat].kernel {
            Some(ports) => self.work.push_back((At::Port(ports.inside), packet)),
            None => self.leave(nat, packet, now),
        }
    }

    /// A packet from outside comes to a NAT, whoever plays it.
    pub(super) fn arrive(&mut self, nat: usize, packet: Packet, now: Instant) {
        match self.nats[nat].kernel {
            Some(ports) => self.work.push_back((At::Port(ports.outside), packet)),
            None => self.enter(nat, packet, now),
        }
    }
}

/// All external addresses of a NAT with so many of them.
pub(super) fn in_a_row(first: Ipv4Addr, count: u8) -> Vec<Ipv4Addr> {
    let first = u32::from(first);
    (0..u32::from(count.max(1)))
        .map(|i| Ipv4Addr::from(first.wrapping_add(i)))
        .collect()
}

/// What is counted of a NAT.
pub(super) fn report(nat: &NatBox, router: Option<&Router>) -> NatReport {
    let (engine, stats) = match router {
        None => (NatEngine::Model, nat.stats()),
        Some(router) => {
            let (sessions, peak_entries) = router.flows();
            let stats = NatStats {
                sessions,
                peak_entries,
                ..NatStats::default()
            };
            (NatEngine::Kernel, stats)
        }
    };
    NatReport {
        external: nat.external(),
        engine,
        stats,
    }
}
