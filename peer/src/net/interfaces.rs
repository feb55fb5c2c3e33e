//! Addresses of this machine that a peer might reach: what its interfaces have, without those of virtual networks.
//!
//! Interfaces are judged by name, not by type: in a container or a lab the only way out may be a TUN device that is
//! called eth0. Virtual ones count only if nothing else is there.

use std::net::{IpAddr, SocketAddr};

use knothole_proto::addr::{Candidate, CandidateKind, Reach, canonical};

use super::sockets::Sockets;

/// Most host candidates; the other places of [`knothole_proto::addr::CANDIDATES_MAX`] are for mapped and reflexive ones.
const HOST_CANDIDATES_MAX: usize = 12;

/// Beginnings of the names of bridges to containers and virtual machines, of tunnels and of VPNs. An address there
/// reaches nobody who is not in that network too, and costs probes.
const VIRTUAL_PREFIXES: &[&str] = &[
    "docker",
    "veth",
    "br-",
    "virbr",
    "vmnet",
    "vboxnet",
    "cni",
    "flannel",
    "cali",
    "podman",
    "lxc",
    "lxd",
    "kube",
    "tun",
    "tap",
    "utun",
    "wg",
    "ppp",
    "ipsec",
    "tailscale",
    "zt",
    "nordlynx",
    "proton",
    "gpd",
];

/// An address of an interface, with what matters for judging it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Local {
    interface: String,
    ip: IpAddr,
}

/// Host candidates for these sockets, in a stable order. Asks the operating system, which may take milliseconds.
pub(crate) fn host_candidates(sockets: &Sockets, allow_loopback: bool) -> Vec<Candidate> {
    choose(read_interfaces(), sockets, allow_loopback)
}

/// All addresses of this machine that others could see, without loopback. Asks the operating system.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let reaches = |ip: &IpAddr| matches!(Reach::of(SocketAddr::new(*ip, 1)), Reach::Global | Reach::Private);
    let mut addresses: Vec<IpAddr> = read_interfaces()
        .into_iter()
        .map(|local| local.ip)
        .filter(reaches)
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The router that leads out of this network, by its addresses and, where it is known, its hardware address: many homes
/// have the same 192.168.1.1. `None` if there is none. Asks the operating system.
pub(crate) fn default_gateway() -> Option<String> {
    let gateway = netdev::get_default_gateway().ok()?;
    let v4 = gateway.ipv4.iter().map(ToString::to_string);
    let v6 = gateway.ipv6.iter().map(ToString::to_string);
    let known = v4.chain(v6).chain([gateway.mac_addr.to_string()]);
    Some(known.collect::<Vec<_>>().join(" "))
}

fn read_interfaces() -> Vec<Local> {
    let mut locals = Vec::new();
    for interface in netdev::get_interfaces() {
        if !interface.is_up() {
            continue;
        }
        let local = |ip| Local {
            interface: interface.name.clone(),
            ip,
        };
        locals.extend(interface.ipv4_addrs().into_iter().map(|ip| local(ip.into())));
        for (at, ip) in interface.ipv6_addrs().into_iter().enumerate() {
            let flags = interface.ipv6_addr_flags.get(at).copied().unwrap_or_default();
            if !(flags.deprecated || flags.tentative || flags.duplicated) {
                locals.push(local(ip.into()));
            }
        }
    }
    locals
}

fn choose(locals: Vec<Local>, sockets: &Sockets, allow_loopback: bool) -> Vec<Candidate> {
    let (virtual_ones, real): (Vec<_>, Vec<_>) =
        locals.into_iter().partition(|local| is_virtual(&local.interface));
    let mut candidates = candidates_of(&real, sockets, allow_loopback);
    if candidates.is_empty() {
        candidates = candidates_of(&virtual_ones, sockets, allow_loopback);
    }
    candidates
}

fn candidates_of(locals: &[Local], sockets: &Sockets, allow_loopback: bool) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for local in locals {
        let Some(bound) = sockets.for_family(local.ip) else {
            continue;
        };
        let bound = bound.local();
        if !bound.ip().is_unspecified() && bound.ip() != local.ip {
            continue;
        }
        let addr = canonical(SocketAddr::new(local.ip, bound.port()));
        let fit = match Reach::of(addr) {
            Reach::Global | Reach::Private => true,
            Reach::Loopback => allow_loopback,
            Reach::Never => false,
        };
        let candidate = Candidate {
            kind: CandidateKind::Host,
            addr,
        };
        if fit && !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    candidates.sort();
    candidates.truncate(HOST_CANDIDATES_MAX);
    candidates
}

fn is_virtual(interface: &str) -> bool {
    VIRTUAL_PREFIXES
        .iter()
        .any(|prefix| interface.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::net::Bind;

    fn local(interface: &str, ip: &str) -> Local {
        Local {
            interface: interface.to_owned(),
            ip: ip.parse().unwrap(),
        }
    }

    async fn v4_only(ip: Ipv4Addr) -> Sockets {
        Sockets::bind(Bind {
            v4: Some(SocketAddrV4::new(ip, 0)),
            v6: None,
        })
        .unwrap()
    }

    fn ips(candidates: &[Candidate]) -> Vec<String> {
        candidates
            .iter()
            .map(|candidate| candidate.addr.ip().to_string())
            .collect()
    }

    #[tokio::test]
    async fn virtual_interfaces_count_only_if_nothing_else_is_there() {
        let sockets = v4_only(Ipv4Addr::UNSPECIFIED).await;
        let docker = local("docker0", "172.17.0.1");
        let both = vec![local("eth0", "192.168.1.7"), docker.clone()];
        assert_eq!(ips(&choose(both, &sockets, false)), ["192.168.1.7"]);
        assert_eq!(ips(&choose(vec![docker], &sockets, false)), ["172.17.0.1"]);
    }

    #[tokio::test]
    async fn unusable_addresses_and_families_without_socket_are_left_out() {
        let sockets = v4_only(Ipv4Addr::UNSPECIFIED).await;
        let all = vec![
            local("lo", "127.0.0.1"),
            local("eth0", "169.254.3.3"),
            local("eth0", "fe80::1"),
            local("eth0", "2a00::1"),
            local("eth0", "5.5.5.5"),
            local("eth1", "5.5.5.5"),
        ];
        assert_eq!(ips(&choose(all.clone(), &sockets, false)), ["5.5.5.5"]);
        assert_eq!(ips(&choose(all, &sockets, true)), ["5.5.5.5", "127.0.0.1"]);
    }

    #[tokio::test]
    async fn a_socket_bound_to_one_address_offers_that_one_only() {
        let sockets = v4_only(Ipv4Addr::LOCALHOST).await;
        let all = vec![local("lo", "127.0.0.1"), local("eth0", "192.168.1.7")];
        let candidates = choose(all, &sockets, true);
        assert_eq!(ips(&candidates), ["127.0.0.1"]);
        let port = sockets
            .for_family(Ipv4Addr::LOCALHOST.into())
            .unwrap()
            .local()
            .port();
        assert_eq!(candidates[0].addr.port(), port);
    }
}
