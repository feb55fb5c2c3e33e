//! IPv4 addresses inside IPv6 ones, as NAT64 writes them. Pure functions; the translator is [`NatBox`](super::NatBox).
//!
//! The prefix is [`NAT64_PREFIX`], 96 bits: the IPv4 address stands in the last 32 bits (RFC 6052 section 2.2), and the
//! checksum of a translated packet's pseudo-header hardly changes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::spec::NAT64_PREFIX;

/// Bits of an IPv6 address that hold the IPv4 one.
const LOW_BITS: u128 = 0xffff_ffff;

/// Under which IPv6 address a host behind a translator finds `ip`.
#[must_use]
pub fn embed(ip: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(NAT64_PREFIX) | u128::from(u32::from(ip)))
}

/// The IPv4 address inside `ip`; `None` if `ip` is outside the prefix.
#[must_use]
pub fn extract(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = u128::from(ip);
    let low = u32::try_from(bits & LOW_BITS).ok()?;
    (bits & !LOW_BITS == u128::from(NAT64_PREFIX)).then(|| Ipv4Addr::from(low))
}

/// The same for an endpoint; IPv6 ones stay as they are.
pub(super) fn embed_endpoint(endpoint: SocketAddr) -> SocketAddr {
    match endpoint.ip() {
        IpAddr::V4(ip) => SocketAddr::new(embed(ip).into(), endpoint.port()),
        IpAddr::V6(_) => endpoint,
    }
}

/// The same for an endpoint; those outside the prefix stay as they are.
pub(super) fn extract_endpoint(endpoint: SocketAddr) -> SocketAddr {
    let ip = match endpoint.ip() {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => extract(ip),
    };
    ip.map_or(endpoint, |ip| SocketAddr::new(ip.into(), endpoint.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6052_comes_out() {
        // Section 2.4, table 3.
        let (v4, v6) = (
            "192.0.2.33".parse().unwrap(),
            "64:ff9b::192.0.2.33".parse().unwrap(),
        );
        assert_eq!(embed(v4), v6);
        assert_eq!(extract(v6), Some(v4));
    }

    #[test]
    fn addresses_outside_the_prefix_hold_none() {
        for outside in ["64:ff9b:1::1", "64:ff9b::1:0:0", "::ffff:1.2.3.4", "2001:db8::1"] {
            assert_eq!(extract(outside.parse().unwrap()), None, "{outside}");
        }
    }

    #[test]
    fn endpoints_keep_their_port() {
        let (plain, inside) = (
            "5.5.5.1:80".parse().unwrap(),
            "[64:ff9b::505:501]:80".parse().unwrap(),
        );
        assert_eq!(embed_endpoint(plain), inside);
        assert_eq!(extract_endpoint(inside), plain);
        let other = "[2001:db8::1]:80".parse().unwrap();
        assert_eq!((embed_endpoint(other), extract_endpoint(other)), (other, other));
    }
}
