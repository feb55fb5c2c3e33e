//! Networks in a tree: the internet at the root, behind each gateway a network with hosts and further gateways.
//!
//! A gateway is a [`NatBox`] or a plain router, with a [`Link`] in each direction or none. [`Topology::route`] carries
//! a packet as far as it gets without taking time; where it enters a link it answers when the packet comes out, and
//! the caller goes on with [`Topology::resume`] at that moment. Nothing is queued here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use knothole_proto::path::SocketId;

use crate::link::{DueTimes, Flip, Link, LinkStats};
use crate::nat::{DropReason, Flow, NatBox, Refusal, Verdict};

/// Bytes of IPv4 and UDP headers, which links count and datagrams do not.
const HEADERS: usize = 28;

/// Routers between any two gateways in the internet; a packet's time to live sinks by so much on the way. Real routes
/// have 8 to 20; a probe that is to die inside must start with less.
const INTERNET_HOPS: u8 = 8;

/// Time to live of a packet whose sender asked for none: what Linux sets.
pub(super) const DEFAULT_TTL: u8 = 64;

/// A host, numbered in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(super) usize);

/// A network; 0 is the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NetId(pub(super) usize);

/// The network that every gateway leads to at last.
pub(super) const INTERNET: NetId = NetId(0);

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Source and destination as of here.
    pub(super) flow: Flow,
    /// Who made it.
    pub(super) origin: Origin,
    /// The socket of its maker that it left from, where makers have several.
    pub(super) socket: SocketId,
    /// Where its maker addressed it to.
    pub(super) addressed: SocketAddr,
    /// Routers that it may still pass.
    pub(super) ttl: u8,
    /// What it carries.
    pub(super) bytes: Vec<u8>,
}

/// Who made a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This host itself.
    Host(HostId),
    /// The stranger on the wire, but it is to the bit, source included, what this host sent.
    Copied(HostId),
    /// The stranger on the wire, whatever its source says; or a link that bent what a host sent.
    Stranger,
}

impl Packet {
    pub(super) fn new(
        origin: Origin,
        src: SocketAddr,
        dst: SocketAddr,
        ttl: Option<u8>,
        bytes: Vec<u8>,
    ) -> Self {
        Self {
            flow: Flow::udp(src, dst),
            origin,
            socket: SocketId::V4,
            addressed: dst,
            ttl: ttl.unwrap_or(DEFAULT_TTL),
            bytes,
        }
    }

    /// A link flips a bit: this is no longer what its maker sent.
    pub(super) fn bend(&mut self, flip: Flip) {
        flip.apply(&mut self.bytes);
        self.origin = Origin::Stranger;
    }
}

/// Where a packet goes on after a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// Out of the far end of this network's uplink, into its parent.
    Out(NetId),
    /// Out of the near end of this network's downlink, at its gateway.
    In(NetId),
}

/// What became of a packet in one step of its way.
#[derive(Debug)]
pub(super) enum Step {
    /// It is at this host.
    Deliver(HostId),
    /// It is on a link, and goes on at these moments (none: lost, two: duplicated), perhaps bent.
    Transit(Hop, DueTimes),
    /// It ended.
    Lost(Loss),
}

/// Why a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// A NAT dropped it.
    Nat(DropReason),
    /// A NAT dropped it and says so to its sender.
    Refused(DropReason, Refusal),
    /// Nobody has its destination address.
    Unroutable,
    /// It passed as many routers as it might.
    TtlExceeded,
}

impl Loss {
    /// For the journal.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Nat(reason) | Self::Refused(reason, _) => reason.name(),
            Self::Unroutable => "unroutable",
            Self::TtlExceeded => "ttl-exceeded",
        }
    }
}

/// All networks.
#[derive(Debug)]
pub(super) struct Topology {
    networks: Vec<Network>,
}

#[derive(Debug)]
struct Network {
    gateway: Option<Gateway>,
    members: BTreeMap<IpAddr, Member>,
}

#[derive(Debug)]
struct Gateway {
    parent: NetId,
    nat: Option<NatBox>,
    links: Option<Links>,
}

/// The two directions of a gateway's link to its parent.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) up: Link,
    pub(super) down: Link,
}

#[derive(Clone, Copy, Debug)]
enum Member {
    Host(HostId),
    Behind(NetId),
}

impl Topology {
    /// The internet alone.
    pub(super) fn new() -> Self {
        Self {
            networks: vec![Network {
                gateway: None,
                members: BTreeMap::new(),
            }],
        }
    }

    /// A network behind a gateway in `parent`. A NAT's external addresses become members of the parent.
    pub(super) fn add_network(&mut self, parent: NetId, nat: Option<NatBox>, links: Option<Links>) -> NetId {
        let id = NetId(self.networks.len());
        let externals = nat.iter().flat_map(NatBox::externals).map(IpAddr::V4);
        let members = externals.map(|external| (external, Member::Behind(id)));
        self.networks[parent.0].members.extend(members);
        self.networks.push(Network {
            gateway: Some(Gateway { parent, nat, links }),
            members: BTreeMap::new(),
        });
        id
    }

    /// Gives a host an address. Networks above learn the way to it as far as no NAT hides it; IPv6 is never hidden.
    pub(super) fn add_address(&mut self, net: NetId, ip: IpAddr, host: HostId) {
        self.networks[net.0].members.insert(ip, Member::Host(host));
        let mut below = net;
        while let Some(gateway) = &self.networks[below.0].gateway
            && (gateway.nat.is_none() || ip.is_ipv6())
        {
            let parent = gateway.parent;
            self.networks[parent.0].members.insert(ip, Member::Behind(below));
            below = parent;
        }
    }

    /// Takes an address away again.
    pub(super) fn remove_address(&mut self, ip: IpAddr, host: HostId) {
        let mut below = None;
        for (index, network) in self.networks.iter_mut().enumerate() {
            if matches!(network.members.get(&ip), Some(Member::Host(known)) if *known == host) {
                network.members.remove(&ip);
                below = Some(NetId(index));
            }
        }
        while let Some(net) = below
            && let Some(gateway) = &self.networks[net.0].gateway
        {
            let parent = gateway.parent;
            if let Some(Member::Behind(known)) = self.networks[parent.0].members.get(&ip)
                && *known == net
            {
                self.networks[parent.0].members.remove(&ip);
            }
            below = Some(parent);
        }
    }

    /// A packet from a host in `net` sets out.
    pub(super) fn route(&mut self, net: NetId, packet: &mut Packet, now: Instant) -> Step {
        let mut net = net;
        loop {
            match self.networks[net.0].members.get(&packet.flow.dst.ip()) {
                Some(Member::Host(host)) => return Step::Deliver(*host),
                Some(Member::Behind(child)) => {
                    let child = *child;
                    if let Some(links) = self.links_mut(child) {
                        let due = links.down.admit(packet.bytes.len() + HEADERS, now);
                        return Step::Transit(Hop::In(child), due);
                    }
                    match self.enter(child, packet, now) {
                        Ok(()) => net = child,
                        Err(loss) => return Step::Lost(loss),
                    }
                }
                None => match self.leave(net, packet, now) {
                    Ok(Leaving::At(parent)) => net = parent,
                    Ok(Leaving::OnLink(due)) => return Step::Transit(Hop::Out(net), due),
                    Err(loss) => return Step::Lost(loss),
                },
            }
        }
    }

    /// A packet comes out of a link and goes on.
    pub(super) fn resume(&mut self, hop: Hop, packet: &mut Packet, now: Instant) -> Step {
        match hop {
            Hop::Out(net) => match &self.networks[net.0].gateway {
                Some(gateway) => self.route(gateway.parent, packet, now),
                None => Step::Lost(Loss::Unroutable),
            },
            Hop::In(net) => match self.enter(net, packet, now) {
                Ok(()) => self.route(net, packet, now),
                Err(loss) => Step::Lost(loss),
            },
        }
    }

    /// Is there a NAT between this network and the internet?
    pub(super) fn is_hidden(&self, net: NetId) -> bool {
        let way = std::iter::successors(Some(net), |net| self.parent(*net));
        way.into_iter().any(|net| self.nat(net).is_some())
    }

    /// The NAT at the gateway of a network.
    pub(super) fn nat(&self, net: NetId) -> Option<&NatBox> {
        self.networks[net.0].gateway.as_ref()?.nat.as_ref()
    }

    /// The NAT at the gateway of a network.
    pub(super) fn nat_mut(&mut self, net: NetId) -> Option<&mut NatBox> {
        self.networks[net.0].gateway.as_mut()?.nat.as_mut()
    }

    /// The links of the gateway of a network.
    pub(super) fn links_mut(&mut self, net: NetId) -> Option<&mut Links> {
        self.networks[net.0].gateway.as_mut()?.links.as_mut()
    }

    /// The network that the gateway of this one leads to.
    pub(super) fn parent(&self, net: NetId) -> Option<NetId> {
        Some(self.networks[net.0].gateway.as_ref()?.parent)
    }

    /// The networks of a site, from the innermost to the outermost.
    pub(super) fn nets_of(&self, inner: NetId, outer: NetId) -> Vec<NetId> {
        let out = |net: &NetId| (*net != outer).then(|| self.parent(*net)).flatten();
        std::iter::successors(Some(inner), out).collect()
    }

    /// Most entries that any NAT held at one time.
    pub(super) fn nat_entries_max(&self) -> usize {
        let nats = self
            .networks
            .iter()
            .filter_map(|net| net.gateway.as_ref()?.nat.as_ref());
        nats.map(|nat| nat.stats().peak_entries).max().unwrap_or(0)
    }

    /// Counters of all links together: (offered, lost by chance).
    pub(super) fn packets(&self) -> (u64, u64) {
        let links = self
            .networks
            .iter()
            .filter_map(|net| net.gateway.as_ref()?.links.as_ref());
        links
            .flat_map(|links| [links.up.stats(), links.down.stats()])
            .fold((0, 0), |sum, stats: LinkStats| {
                (sum.0 + stats.offered, sum.1 + stats.lost)
            })
    }

    /// Through the gateway of `net` inwards.
    fn enter(&mut self, net: NetId, packet: &mut Packet, now: Instant) -> Result<(), Loss> {
        spend(packet, 1)?;
        let Some(nat) = self.nat_mut(net) else {
            return Ok(());
        };
        match nat.inbound(packet.flow, now) {
            Verdict::Forward(flow) | Verdict::Hairpin(flow) => packet.flow = flow,
            Verdict::Drop(reason) => return Err(Loss::Nat(reason)),
            Verdict::Reject(reason, refusal) => return Err(Loss::Refused(reason, refusal)),
        }
        Ok(())
    }

    /// Through the gateway of `net` outwards.
    fn leave(&mut self, net: NetId, packet: &mut Packet, now: Instant) -> Result<Leaving, Loss> {
        let Some(gateway) = &mut self.networks[net.0].gateway else {
            return Err(Loss::Unroutable);
        };
        let hops = if gateway.parent == INTERNET {
            INTERNET_HOPS
        } else {
            0
        };
        spend(packet, 1)?;
        if let Some(nat) = &mut gateway.nat {
            match nat.outbound(packet.flow, now) {
                Verdict::Forward(flow) => packet.flow = flow,
                Verdict::Hairpin(flow) => {
                    packet.flow = flow;
                    return Ok(Leaving::At(net));
                }
                Verdict::Drop(reason) => return Err(Loss::Nat(reason)),
                Verdict::Reject(reason, refusal) => return Err(Loss::Refused(reason, refusal)),
            }
        }
        spend(packet, hops)?;
        Ok(match &mut gateway.links {
            Some(links) => Leaving::OnLink(links.up.admit(packet.bytes.len() + HEADERS, now)),
            None => Leaving::At(gateway.parent),
        })
    }
}

enum Leaving {
    At(NetId),
    OnLink(DueTimes),
}

fn spend(packet: &mut Packet, hops: u8) -> Result<(), Loss> {
    packet.ttl = packet.ttl.checked_sub(hops).ok_or(Loss::TtlExceeded)?;
    if packet.ttl == 0 && hops > 0 {
        return Err(Loss::TtlExceeded);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
