//! The name under which nodes reach the server: given by the operator, or guessed without sending anything.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::str::FromStr;

use knothole_proto::server_url::HOST_LEN_MAX;

/// A host name or an address, and the port if it is not the one that the server listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicHost {
    host: String,
    port: Option<NonZeroU16>,
}

impl PublicHost {
    /// This address.
    pub fn from_ip(ip: IpAddr) -> Self {
        Self {
            host: ip.to_string(),
            port: None,
        }
    }

    /// The address, if it is one and not a name.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The host, and this port unless it names its own.
    pub(crate) fn with_port(&self, port: u16) -> (String, u16) {
        (self.host.clone(), self.port.map_or(port, NonZeroU16::get))
    }
}

impl fmt::Display for PublicHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

impl FromStr for PublicHost {
    type Err = PublicHostError;

    fn from_str(text: &str) -> Result<Self, PublicHostError> {
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bracketed.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::from_ip(ip));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Self {
                host: addr.ip().to_string(),
                port: Some(NonZeroU16::new(addr.port()).ok_or(PublicHostError)?),
            });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| PublicHostError)?)),
            None => (text, None),
        };
        let label = |label: &str| {
            let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(legal)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let labels = name.strip_suffix('.').unwrap_or(name);
        let legal = name.len() <= HOST_LEN_MAX && labels.split('.').all(label);
        if !legal {
            return Err(PublicHostError);
        }
        Ok(Self {
            host: name.to_ascii_lowercase(),
            port,
        })
    }
}

/// Not a host name or address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name or an IP address, with or without a port")]
pub struct PublicHostError;

/// The address by which others most likely reach a server that listens there: that address, or for "all addresses" the
/// one that this machine would use to reach the internet. Nothing is sent to find out.
pub(crate) fn guess(listen: &[SocketAddr]) -> IpAddr {
    let specific = listen.iter().map(SocketAddr::ip).find(|ip| !ip.is_unspecified());
    let outward = || {
        listen.iter().find_map(|addr| {
            if addr.is_ipv4() {
                outward(OUTWARD_V4)
            } else {
                outward(OUTWARD_V6)
            }
        })
    };
    let first = listen
        .first()
        .map_or(IpAddr::from([127, 0, 0, 1]), |addr| match addr {
            SocketAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
        });
    specific.or_else(outward).unwrap_or(first)
}

/// Any address in the internet does: connecting a UDP socket only looks up the route. These are for documentation
/// (RFC 5737, RFC 3849), so even a mistake would reach nobody.
const OUTWARD_V4: &str = "192.0.2.1:9";
/// As above.
const OUTWARD_V6: &str = "[2001:db8::1]:9";

fn outward(to: &str) -> Option<IpAddr> {
    let to: SocketAddr = to.parse().ok()?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use knothole_proto::id::PeerId;
    use knothole_proto::server_url::ServerUrl;

    use super::*;

    #[test]
    fn hosts_are_written_as_a_node_reads_them() {
        let key = PeerId::from_spki(b"server");
        for (text, written) in [
            ("knot.example.org", "knot.example.org:5668"),
            ("KNOT.example.org:99", "knot.example.org:99"),
            ("knot.example.org.", "knot.example.org.:5668"),
            ("203.0.113.7", "203.0.113.7:5668"),
            ("203.0.113.7:99", "203.0.113.7:99"),
            ("2001:db8::7", "[2001:db8::7]:5668"),
            ("[2001:db8::7]", "[2001:db8::7]:5668"),
            ("[2001:db8::7]:99", "[2001:db8::7]:99"),
        ] {
            let (host, port) = text.parse::<PublicHost>().unwrap().with_port(5668);
            let url = ServerUrl {
                host,
                port,
                key,
                token: None,
            };
            assert_eq!(url.to_string(), format!("knot://{written}/{key}"));
            assert_eq!(url.to_string().parse::<ServerUrl>(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_could_break_out_of_the_line_to_copy_is_refused() {
        for bad in [
            "",
            "a b",
            "a'b",
            "a/b",
            "-a",
            "a..b",
            "a..",
            ".",
            "[2001:db8::7",
            "2001:db8::7]",
            "a:b",
            "a:99999",
            "a:0",
            "192.0.2.1:0",
            "[2001:db8::7]:0",
            "user@host",
            "a\u{1b}",
        ] {
            assert_eq!(bad.parse::<PublicHost>(), Err(PublicHostError), "{bad:?}");
        }
    }

    #[test]
    fn a_server_on_one_address_is_reached_there() {
        let listen = ["127.0.0.1:5".parse().unwrap()];
        assert_eq!(guess(&listen), IpAddr::from([127, 0, 0, 1]));
        let listen = ["0.0.0.0:5".parse().unwrap()];
        assert!(!guess(&listen).is_unspecified());
    }
}
