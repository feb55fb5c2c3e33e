//! Where the STUN server is, in each family, and through which translator of the network if there is one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use knothole_proto::addr::canonical;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::NetcheckError;
use super::sockets::source_towards;

/// How long a name may take; what a person takes for broken. Resolvers ask again after 5 s.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(6);

/// How long the search for a translator's prefix may take; without an answer the well-known one is tried.
const PREFIX_TIMEOUT: Duration = Duration::from_secs(1);

/// A name that has IPv4 addresses only, so that an IPv6 one shows the prefix of the network's translator (RFC 7050).
const IPV4_ONLY: &str = "ipv4only.arpa";

/// Its addresses (RFC 7050 section 2.2).
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// The prefix that translators have unless told otherwise, of 96 bits (RFC 6052 section 2.1).
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// Any port does to ask the system for a route.
const IPV6_PROBE_PORT: u16 = 9;

/// A server's addresses.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    /// `host:port`, as it was asked for.
    pub(super) name: String,
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
    /// The IPv4 address inside the prefix of a translator, where this machine has no IPv4 address.
    pub(super) nat64: Option<SocketAddr>,
}

impl Servers {
    /// Look the names up.
    pub(super) async fn resolve(named: &[(String, u16)]) -> Result<Self, NetcheckError> {
        let mut found: Vec<SocketAddr> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for (host, port) in named {
            let failed = |source| NetcheckError::Resolve {
                host: host.clone(),
                source,
            };
            let addrs = match timeout(RESOLVE_TIMEOUT, lookup_host((host.as_str(), *port))).await {
                Ok(addrs) => addrs.map_err(failed)?,
                Err(late) => return Err(failed(io::Error::from(late))),
            };
            let before = found.len();
            found.extend(addrs.map(canonical));
            if found.len() == before {
                return Err(failed(io::Error::new(
                    io::ErrorKind::NotFound,
                    "it has no address",
                )));
            }
            names.push(server_name(host, *port));
        }
        Ok(Self::choose(&found, names.join(" and ")).await)
    }

    /// Of these addresses, those to ask.
    async fn choose(found: &[SocketAddr], name: String) -> Self {
        let first = |v4: bool| found.iter().copied().find(|addr| addr.is_ipv4() == v4);
        let (mut v4, mut v6) = (first(true), first(false));
        let has_v4 = v4.is_some_and(|addr| source_towards(addr).is_ok());
        // A translator's prefix is as good as any address where the server has none.
        let beyond = v6.unwrap_or(SocketAddr::new(PREFIX.into(), IPV6_PROBE_PORT));
        let has_v6 = source_towards(beyond).is_ok();
        let mut nat64 = None;
        if !has_v4 && has_v6 {
            let prefix = prefix().await;
            // A resolver that knows the translator gives addresses inside its prefix (RFC 6147).
            if let Some(inside) = v6.and_then(|addr| extract(prefix, addr.ip())) {
                (v4, v6) = (v6.map(|addr| SocketAddr::new(inside.into(), addr.port())), None);
            }
            nat64 = v4.map(|addr| embed(prefix, addr));
        }
        Self { name, v4, v6, nat64 }
    }
}

/// What one server is called, for people and as a key of what was learnt with it.
pub(super) fn server_name(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The prefix of the network's translator.
async fn prefix() -> Ipv6Addr {
    let found = timeout(PREFIX_TIMEOUT, lookup_host((IPV4_ONLY, 0))).await;
    let addresses = found.ok().and_then(Result::ok).into_iter().flatten();
    let mut prefixes = addresses.filter_map(|addr| match addr.ip() {
        IpAddr::V6(ip) if WELL_KNOWN.iter().any(|known| tail(ip) == *known) => Some(head(ip)),
        _ => None,
    });
    prefixes.next().unwrap_or(PREFIX)
}

fn head(ip: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(ip) & !u128::from(u32::MAX))
}

fn tail(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = ip.octets();
    Ipv4Addr::new(a, b, c, d)
}

fn extract(prefix: Ipv6Addr, ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V6(ip) if head(ip) == prefix => Some(tail(ip)),
        _ => None,
    }
}

fn embed(prefix: Ipv6Addr, addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => {
            let inside = u128::from(prefix) | u128::from(u32::from(ip));
            SocketAddr::new(Ipv6Addr::from(inside).into(), addr.port())
        }
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_way_into_a_prefix_and_out() {
        let prefix: Ipv6Addr = "2001:db8:64::".parse().unwrap();
        let inside = embed(prefix, "5.6.7.8:9".parse().unwrap());
        assert_eq!(inside.to_string(), "[2001:db8:64::506:708]:9");
        assert_eq!(extract(prefix, inside.ip()), Some(Ipv4Addr::new(5, 6, 7, 8)));
        assert_eq!(extract(PREFIX, inside.ip()), None);
        assert_eq!(extract(prefix, "5.6.7.8".parse().unwrap()), None);
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_an_error_and_an_address_needs_no_lookup() {
        let resolve = async |host: &str| Servers::resolve(&[(host.to_owned(), 9)]).await;
        let servers = resolve("127.0.0.1").await.unwrap();
        assert_eq!(
            (servers.v4, servers.v6),
            (Some("127.0.0.1:9".parse().unwrap()), None)
        );
        assert_eq!(resolve("::1").await.unwrap().name, "[::1]:9");
        let failed = resolve("no such name").await;
        assert!(matches!(failed, Err(NetcheckError::Resolve { .. })));
    }
}
