//! ICMP errors at a [`NatBox`]: whom they are about on the other side (RFC 5508 section 4). They make no session, and
//! neither lengthen nor end one (RFC 4787 REQ-12); an error about a packet of no session goes nowhere.

use std::net::SocketAddr;
use std::time::Instant;

use super::flow::Flow;
use super::nat_box::{NatBox, shown};
use super::nat64::extract_endpoint;
use super::spec::Ipv6;
use super::state::{MappingKey, SessionKey};

impl NatBox {
    /// An ICMP error from outside quotes a packet with these addresses, one that this box has sent: `src` is an external
    /// endpoint. Which packet of a host inside was that? The error goes to its source.
    ///
    /// For a host behind a NAT64 the answer names IPv6 addresses, and the error must be ICMPv6.
    pub fn inbound_error(&mut self, quoted: Flow, now: Instant) -> Option<Flow> {
        self.tables.expire(now);
        if self.is_untouched(quoted) {
            return Some(quoted);
        }
        let inside = self.tables.mapping(quoted.proto, quoted.src)?.inside;
        let key = SessionKey {
            proto: quoted.proto,
            inside,
            remote: quoted.dst,
        };
        let session = self.tables.session(&key)?;
        (session.external == quoted.src).then(|| Flow {
            src: inside,
            dst: shown(quoted.dst, inside),
            ..quoted
        })
    }

    /// An ICMP error from inside quotes a packet with these addresses, one that this box has let in: `dst` is an inside
    /// endpoint. Which packet was that outside? The error goes to its source, and comes from its destination.
    ///
    /// A source that is one of [`NatBox::externals`] is that of a neighbour's hairpinned packet: the error turns round here,
    /// and [`NatBox::inbound_error`] says to whom.
    pub fn outbound_error(&mut self, quoted: Flow, now: Instant) -> Option<Flow> {
        self.tables.expire(now);
        if self.is_untouched(quoted) {
            return Some(quoted);
        }
        let remote = match self.spec.ipv6 {
            Ipv6::Nat64 => extract_endpoint(quoted.src),
            Ipv6::Firewall | Ipv6::Open => quoted.src,
        };
        let key = SessionKey {
            proto: quoted.proto,
            inside: quoted.dst,
            remote,
        };
        let dst = self.external_of(&key)?;
        Some(Flow {
            src: remote,
            dst,
            ..quoted
        })
    }

    fn is_untouched(&self, quoted: Flow) -> bool {
        quoted.src.is_ipv6() && quoted.dst.is_ipv6() && self.spec.ipv6 == Ipv6::Open
    }

    /// Where packets of this session arrive: at its own external endpoint, or at that of the mapping that let them in
    /// without making one.
    fn external_of(&self, key: &SessionKey) -> Option<SocketAddr> {
        let own = self.tables.session(key).map(|session| session.external);
        own.or_else(|| self.tables.external_for(&MappingKey::new(self.mapping(key), key)))
    }
}
