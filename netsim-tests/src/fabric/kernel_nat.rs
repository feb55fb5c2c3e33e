//! NATs played by the kernel, as the fabric sees them: black boxes with a device on either side. What they do is in
//! [`kernel`](crate::kernel).

use std::net::IpAddr;

use crate::kernel::{DeviceSpec, Devices, Place, Router};
use crate::nat::{NatBox, NatStats};
use crate::netns::{LabError, Tun};

use super::builder::DEVICE_QUEUE;
use super::network::{MTU, Network};
use super::stats::NatReport;

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

/// Starts a router for each NAT of the finished network that the kernel is to play and can, and gives it ports.
pub(super) fn start_routers(
    network: &mut Network,
    names: &[String],
    engines: &[NatEngine],
    seed: u64,
    offload: bool,
) -> Result<Routers, LabError> {
    let mut started = Routers::default();
    for (index, (name, engine)) in names.iter().zip(engines).enumerate() {
        if !is_kernels(network, index, name, *engine) {
            started.routers.push(None);
            continue;
        }
        let device = DeviceSpec {
            mtu: MTU.into(),
            queue: DEVICE_QUEUE,
            offload,
        };
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
        externals: nat.nat.externals().collect(),
        inside,
        seed,
    }
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
