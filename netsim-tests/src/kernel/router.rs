//! [`Router`]: a namespace that is a NAT. Its two devices are served by whoever started it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::nat::{NatSpec, PortAllocation, UdpPolicy};
use crate::netns::{
    InterfaceSpec, LabError, Namespace, Reach, Tun, configure, full_len, load_rules, open_tun, sysctl,
};

use super::conntrack::{Count, forget, set_timeouts};
use super::foreign::Foreign;
use super::form::Place;

/// The interface towards the hosts, and the one towards the internet.
const INSIDE: &str = "lan0";
const OUTSIDE: &str = "wan0";

/// What a router has besides its defaults: it forwards, asks no questions about sources, and answers every packet
/// that it must refuse (`reference/netsim.md` section 2). Those that this kernel does not have are passed over.
const SETTINGS: [(&str, &str); 12] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv4/icmp_msgs_per_sec", "1000000"),
    ("net/ipv4/icmp_msgs_burst", "1000000"),
    ("net/ipv6/icmp/ratelimit", "0"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];

/// How the devices are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceSpec {
    /// Bytes of IP packet.
    pub(crate) mtu: u32,
    /// Packets queued for the reader.
    pub(crate) queue: u32,
    /// Super-packets pass whole.
    pub(crate) offload: bool,
}

/// The devices of a router.
#[derive(Debug)]
pub(crate) struct Devices {
    /// Takes what hosts send, gives what is for them.
    pub(crate) inside: Tun,
    /// Takes what the internet sends, gives what is for it.
    pub(crate) outside: Tun,
}

/// A running kernel NAT. It ends when this value is dropped and its devices are closed.
#[derive(Debug)]
pub(crate) struct Router {
    // Dropped first: it has a socket in the namespace.
    _foreign: Option<Foreign>,
    state: Mutex<State>,
    count: Count,
    peak: AtomicUsize,
    namespace: Namespace,
}

#[derive(Debug)]
struct State {
    spec: NatSpec,
    place: Place,
}

impl Router {
    /// Makes the namespace with its devices, addresses, routes and rules. `spec` must have a
    /// [kernel form](NatSpec::kernel_form).
    ///
    /// # Errors
    ///
    /// Whatever the machine does not allow, [`LabError::NoNft`] among them.
    pub(crate) fn start(
        name: &str,
        spec: NatSpec,
        place: Place,
        device: DeviceSpec,
    ) -> Result<(Self, Devices), LabError> {
        let namespace = Namespace::create(name)?;
        let devices = namespace.run(|| connect(&place, device))??;
        load_rules(&namespace, &ruleset(name, &spec, &place)?)?;
        // These settings appear with the first rule that needs connection tracking.
        let count = namespace.run(|| {
            set_timeouts(spec.unreplied_timeout, spec.stream_timeout)?;
            Count::open().map_err(|source| LabError::Configure {
                what: "connection tracking".to_owned(),
                source,
            })
        })??;
        let foreign = match spec.ports {
            PortAllocation::Counter { foreign: 0, .. } => None,
            PortAllocation::Counter { foreign, .. } => Some(Foreign::start(&namespace, foreign, place.seed)?),
            _ => None,
        };
        let router = Self {
            _foreign: foreign,
            state: Mutex::new(State { spec, place }),
            count,
            peak: AtomicUsize::new(0),
            namespace,
        };
        Ok((router, devices))
    }

    /// Changes what is said of UDP; every mapping stays.
    pub(crate) fn set_udp(&self, udp: &UdpPolicy) -> Result<(), LabError> {
        let mut state = self.state();
        let script = form(self.namespace.name(), &state.spec)?.udp_policy(udp);
        load_rules(&self.namespace, &script)?;
        state.spec.udp = udp.clone();
        Ok(())
    }

    /// Forgets every mapping and flow. No packets may pass meanwhile, or they may leave their mapping behind.
    pub(crate) fn reboot(&self) -> Result<(), LabError> {
        let mut state = self.state();
        state.place.seed = state
            .place
            .seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(1);
        load_rules(
            &self.namespace,
            &ruleset(self.namespace.name(), &state.spec, &state.place)?,
        )?;
        self.namespace.run(forget)?
    }

    /// Flows that it remembers, and the most that any call of this has seen.
    pub(crate) fn flows(&self) -> (usize, usize) {
        let now = self.count.read().unwrap_or(0);
        let before = self.peak.fetch_max(now, Ordering::Relaxed);
        (now, before.max(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn form<'a>(name: &str, spec: &'a NatSpec) -> Result<super::KernelForm<'a>, LabError> {
    spec.kernel_form().map_err(|error| LabError::Rules {
        at: name.to_owned(),
        said: error.to_string(),
    })
}

fn ruleset(name: &str, spec: &NatSpec, place: &Place) -> Result<String, LabError> {
    Ok(form(name, spec)?.ruleset(place))
}

/// Makes both devices in the namespace of the calling thread and routes between them.
fn connect(place: &Place, device: DeviceSpec) -> Result<Devices, LabError> {
    for (name, value) in SETTINGS {
        let _absent = sysctl(name, value);
    }
    sysctl("net/ipv4/ip_forward", "1")?;
    let inside = open_tun(INSIDE, device.offload).map_err(LabError::Tun)?;
    let outside = open_tun(OUTSIDE, device.offload).map_err(LabError::Tun)?;
    let has_v6 = place.inside.iter().any(IpAddr::is_ipv6);
    let own: Vec<(IpAddr, u8)> = gateways(&place.inside)
        .into_iter()
        .map(|ip| (ip, full_len(ip)))
        .collect();
    let externals: Vec<(IpAddr, u8)> = place
        .externals
        .iter()
        .map(|ip| (IpAddr::V4(*ip), full_len(IpAddr::V4(*ip))))
        .collect();
    configure(&InterfaceSpec {
        name: INSIDE,
        addresses: &own,
        reach: Reach::Only(&place.inside),
        mtu: device.mtu,
        queue: device.queue,
    })?;
    configure(&InterfaceSpec {
        name: OUTSIDE,
        addresses: &externals,
        reach: if has_v6 { Reach::Both } else { Reach::Everything },
        mtu: device.mtu,
        queue: device.queue,
    })?;
    Ok(Devices { inside, outside })
}

/// Addresses of the router inside, from which it sends its ICMP: the first free one in the network of the first host,
/// of each family.
fn gateways(inside: &[IpAddr]) -> Vec<IpAddr> {
    let mut sorted = inside.to_vec();
    sorted.sort_unstable();
    let first = |is: fn(&IpAddr) -> bool| sorted.iter().copied().find(is);
    let firsts = [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)];
    let free = |host: &IpAddr| {
        let mut candidates = (1..=254u8).map(|last| numbered(*host, last));
        candidates.find(|candidate| !inside.contains(candidate))
    };
    firsts.iter().flatten().filter_map(free).collect()
}

/// The address with this last number in the /24 or /64 of another.
fn numbered(ip: IpAddr, last: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            Ipv4Addr::new(a, b, c, last).into()
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, u16::from(last)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_takes_an_address_that_no_host_has() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(gateways(&[ip("192.168.1.10")]), [ip("192.168.1.1")]);
        assert_eq!(
            gateways(&[ip("192.168.1.1"), ip("192.168.1.2"), ip("2a01:1::1")]),
            [ip("192.168.1.3"), ip("2a01:1::2")]
        );
        assert!(gateways(&[]).is_empty());
    }
}
