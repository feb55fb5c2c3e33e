//! Which own address would a datagram to the server leave from? A change of the answer is a change of network.
//!
//! Connecting a UDP socket sends nothing; the kernel looks up the route and fills in the source address. That is a few
//! microseconds, on every system, so it can be asked often, where reading all interfaces cannot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The answer of the last time.
#[derive(Debug, Default)]
pub(crate) struct OutboundWatch {
    seen: Option<(SocketAddr, Option<IpAddr>)>,
}

impl OutboundWatch {
    /// Ask again; true if the way to the same address changed. A first or other address is no change.
    pub(crate) fn changed(&mut self, towards: SocketAddr) -> bool {
        self.note(towards, source(towards))
    }

    fn note(&mut self, towards: SocketAddr, source: Option<IpAddr>) -> bool {
        let before = self.seen.replace((towards, source));
        before.is_some_and(|(to, old)| to == towards && old != source)
    }
}

/// The source address on the way there; `None` if there is no way.
pub(crate) fn source(towards: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match towards {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(towards).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_this_machine_is_from_this_machine() {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        assert_eq!(source(here), Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_change_is_another_source_for_the_same_destination() {
        let mut watch = OutboundWatch::default();
        let (one, other) = (SocketAddr::from(([5; 4], 1)), SocketAddr::from(([6; 4], 1)));
        let (wifi, mobile) = (
            Some(IpAddr::from([10, 0, 0, 1])),
            Some(IpAddr::from([10, 9, 0, 1])),
        );
        assert!(!watch.note(one, wifi), "the first look");
        assert!(!watch.note(one, wifi));
        assert!(watch.note(one, None), "unplugged");
        assert!(watch.note(one, mobile));
        assert!(!watch.note(other, wifi), "another server is no change");
    }
}
