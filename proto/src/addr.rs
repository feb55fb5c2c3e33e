//! Addresses at which a peer might be reached, in one canonical form.
//!
//! Every address that comes from a message is put through [`canonical`] and judged by [`Reach`] before anything is
//! sent to it: an IPv4 address has many spellings inside IPv6, and a remote must not choose one that slips past.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Most candidates one side may offer. RFC 8445 section 5.1.2.2 leaves the number open; a machine with four
/// interfaces in two families needs about ten. More would only widen what a hostile peer can make us probe.
pub const CANDIDATES_MAX: usize = 16;

/// How a node came to know an address of its own (RFC 8445 section 5.1.1; "mapped" is a port mapping made by
/// PCP, NAT-PMP or UPnP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CandidateKind {
    /// An address of one of its interfaces.
    Host,
    /// A port mapping that its router granted.
    Mapped,
    /// What a server saw as the source of its datagrams.
    Reflexive,
}

/// An address at which a node says it may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// How it was learnt.
    pub kind: CandidateKind,
    /// The address; in a datagram-bound form only after [`canonical`].
    pub addr: SocketAddr,
}

/// A candidate as the server passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfferedCandidate {
    /// The candidate.
    pub candidate: Candidate,
    /// The server itself saw authenticated traffic of this key from this IP address. Only such an address gets the
    /// full schedule of probes; any other gets a couple of them.
    pub attested: bool,
}

/// The one spelling of an address: IPv4 inside IPv6 (RFC 4291 section 2.5.5.2) becomes IPv4, scope and flow are dropped.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// How far an address reaches, which decides whether a peer may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Routable in the internet, or at least not excluded from it.
    Global,
    /// Private use (RFC 1918, RFC 4193) or carrier space (RFC 6598): meaningful on the same network only.
    Private,
    /// This machine.
    Loopback,
    /// Never a place to send a probe: unspecified, multicast, broadcast, link-local (which holds the metadata
    /// service of clouds), IPv4 hidden in NAT64, 6to4 or Teredo, port 0.
    Never,
}

impl Reach {
    /// Classify an address after [`canonical`].
    pub fn of(addr: SocketAddr) -> Self {
        if addr.port() == 0 {
            return Self::Never;
        }
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        let [a, b, ..] = ip.octets();
        if ip.is_loopback() {
            Self::Loopback
        } else if a == 0 || a >= 224 || ip.is_link_local() {
            // 0/8 "this network", 224/4 multicast, 240/4 reserved with broadcast at its end (RFC 6890).
            Self::Never
        } else if ip.is_private() || (a == 100 && (64..128).contains(&b)) {
            Self::Private
        } else {
            Self::Global
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let head = ip.segments();
        if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unspecified() || ip.is_multicast() || (head[0] & 0xffc0) == 0xfe80 || hides_ipv4(head)
        {
            Self::Never
        } else if (head[0] & 0xfe00) == 0xfc00 {
            Self::Private
        } else {
            Self::Global
        }
    }
}

/// Does this IPv6 address carry an IPv4 address that a router would unpack? IPv4-compatible (::/96), NAT64
/// (64:ff9b::/96 and 64:ff9b:1::/48, RFC 6052 and 8215), 6to4 (2002::/16), Teredo (2001::/32).
fn hides_ipv4(head: [u16; 8]) -> bool {
    let compatible = head[..6] == [0; 6];
    let nat64 = head[0] == 0x64 && head[1] == 0xff9b;
    let teredo = head[0] == 0x2001 && head[1] == 0;
    compatible || nat64 || head[0] == 0x2002 || teredo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(text: &str) -> Reach {
        Reach::of(canonical(text.parse().unwrap()))
    }

    #[test]
    fn every_spelling_of_an_address_is_judged_alike() {
        for text in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(reach(text), Reach::Loopback, "{text}");
        }
        for text in [
            "10.0.0.1:9",
            "172.16.0.1:9",
            "192.168.9.9:9",
            "100.64.0.1:9",
            "[::ffff:10.0.0.1]:9",
            "[fd00::1]:9",
        ] {
            assert_eq!(reach(text), Reach::Private, "{text}");
        }
        for text in ["5.5.5.5:9", "100.128.0.1:9", "172.32.0.1:9", "[2a00::1]:9"] {
            assert_eq!(reach(text), Reach::Global, "{text}");
        }
    }

    #[test]
    fn places_that_no_probe_may_go_are_refused_in_every_spelling() {
        for text in [
            "0.0.0.0:9",
            "0.1.2.3:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "169.254.169.254:9",
            "5.5.5.5:0",
            "[::]:9",
            "[ff02::1]:9",
            "[fe80::1]:9",
            "[::127.0.0.1]:9",
            "[::ffff:169.254.169.254]:9",
            "[64:ff9b::7f00:1]:9",
            "[64:ff9b:1::1]:9",
            "[2002:7f00:1::]:9",
            "[2001:0:1::]:9",
        ] {
            assert_eq!(reach(text), Reach::Never, "{text}");
        }
    }
}
