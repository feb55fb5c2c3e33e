//! Which addresses may be probed, what kind of path a pair is, and which of two paths is better. Functions without state.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::config::{SWITCH_MS, SWITCH_PERCENT};
use crate::addr::{Candidate, CandidateKind, Reach};
use crate::path::How;

/// May a probe go to this address at all? Judge the [canonical](crate::addr::canonical) form.
pub(crate) fn usable(addr: SocketAddr, allow_loopback: bool) -> bool {
    match Reach::of(addr) {
        Reach::Global | Reach::Private => true,
        Reach::Loopback => allow_loopback,
        Reach::Never => false,
    }
}

/// What kind of path leads to this remote address. `kind` is `None` for an address that was learnt from a probe.
pub(super) fn how(remote: SocketAddr, kind: Option<CandidateKind>, local: &[Candidate]) -> How {
    let neighbour = is_neighbour(remote, local);
    let inside = kind == Some(CandidateKind::Host) && is_site_local(remote);
    if neighbour || inside {
        How::Lan
    } else if remote.is_ipv6() {
        How::Ipv6
    } else if kind == Some(CandidateKind::Mapped) {
        How::Mapped
    } else {
        How::Punched
    }
}

/// Is it in the subnet of an interface of this machine?
pub(super) fn is_neighbour(remote: SocketAddr, local: &[Candidate]) -> bool {
    let mut hosts = local.iter().filter(|own| own.kind == CandidateKind::Host);
    hosts.any(|own| same_subnet(own.addr.ip(), remote.ip()))
}

/// Smaller is better: no router in between, then no translation, then the rest.
pub(super) const fn rank(how: How) -> u8 {
    match how {
        How::Lan => 0,
        How::Ipv6 => 1,
        How::Mapped | How::Punched => 2,
        How::Tcp => 3,
    }
}

/// Is the other path so much better that traffic should move to it?
pub(super) fn is_better(other: (How, Duration), used: (How, Duration)) -> bool {
    let (other_rank, used_rank) = (rank(other.0), rank(used.0));
    if other_rank != used_rank {
        return other_rank < used_rank;
    }
    let gain = Duration::from_millis(SWITCH_MS).max(used.1 * SWITCH_PERCENT / 100);
    other.1 + gain <= used.1
}

/// Without a netmask at hand: the sizes that nearly every network of homes and offices has.
fn same_subnet(own: IpAddr, remote: IpAddr) -> bool {
    match (own, remote) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        _ => false,
    }
}

/// RFC 1918, RFC 4193 or this machine. Carrier space (RFC 6598) is left out: two homes meet there, not one.
fn is_site_local(addr: SocketAddr) -> bool {
    let carrier = match addr.ip() {
        IpAddr::V4(ip) => ip.octets()[0] == 100,
        IpAddr::V6(_) => false,
    };
    matches!(Reach::of(addr), Reach::Private | Reach::Loopback) && !carrier
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Candidate {
        Candidate {
            kind: CandidateKind::Host,
            addr: text.parse().unwrap(),
        }
    }

    #[test]
    fn a_path_is_named_by_what_lies_in_between() {
        let local = [host("192.168.1.5:7"), host("[2a00:1:2:3::5]:7")];
        let how = |text: &str, kind| how(text.parse().unwrap(), kind, &local);
        assert_eq!(how("192.168.1.9:7", None), How::Lan);
        assert_eq!(how("10.9.9.9:7", Some(CandidateKind::Host)), How::Lan);
        assert_eq!(how("10.9.9.9:7", None), How::Punched);
        assert_eq!(how("100.64.0.1:7", Some(CandidateKind::Host)), How::Punched);
        assert_eq!(how("[2a00:1:2:3::6]:7", None), How::Lan);
        assert_eq!(how("[2a00:9::6]:7", Some(CandidateKind::Host)), How::Ipv6);
        assert_eq!(how("5.5.5.5:7", Some(CandidateKind::Mapped)), How::Mapped);
        assert_eq!(how("5.5.5.5:7", Some(CandidateKind::Reflexive)), How::Punched);
    }

    #[test]
    fn a_switch_takes_a_better_class_or_a_clear_gain() {
        let ms = Duration::from_millis;
        assert!(is_better((How::Lan, ms(9)), (How::Ipv6, ms(1))));
        assert!(is_better((How::Ipv6, ms(90)), (How::Punched, ms(50))));
        assert!(!is_better((How::Punched, ms(1)), (How::Ipv6, ms(50))));
        assert!(!is_better((How::Punched, ms(46)), (How::Mapped, ms(50))));
        assert!(!is_better((How::Punched, ms(6)), (How::Mapped, ms(10))));
        assert!(is_better((How::Punched, ms(5)), (How::Mapped, ms(10))));
        assert!(is_better((How::Punched, ms(85)), (How::Mapped, ms(100))));
        assert!(!is_better((How::Punched, ms(86)), (How::Mapped, ms(100))));
    }
}
