//! How the rules name the ends of a flow, and what a filter remembers of them.
//!
//! Of a flow that connection tracking follows, the side that opened it is `original` and the other `reply`. What came
//! from inside first has its inside endpoint as the original source and its external one as the reply's destination; what
//! came from outside first the other way round. [`Side`] names the two.

use crate::nat::{FilterScope, Filtering, Hairpin, Mapping, NatSpec};

/// Which end of a flow is the inside one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Original,
    Reply,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Original, Self::Reply];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Reply => "reply",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    /// The inside endpoint.
    pub(super) fn inside(self) -> String {
        format!("ct {0} ip saddr . ct {0} proto-src", self.word())
    }

    pub(super) fn inside_address(self) -> String {
        format!("ct {} ip saddr", self.word())
    }

    /// The external endpoint that stands for it.
    pub(super) fn external(self) -> String {
        format!("ct {0} ip daddr . ct {0} proto-dst", self.other().word())
    }

    pub(super) fn external_port(self) -> String {
        format!("ct {} proto-dst", self.other().word())
    }

    pub(super) fn external_address(self) -> String {
        format!("ct {} ip daddr", self.other().word())
    }

    /// Whom it talks to.
    pub(super) fn remote_address(self) -> String {
        format!("ct {} ip daddr", self.word())
    }

    pub(super) fn remote_port(self) -> String {
        format!("ct {} proto-dst", self.word())
    }
}

/// What the filter has to know of those whom an inside endpoint has sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peers {
    /// All mappings of an inside endpoint together; otherwise each external endpoint by itself.
    pub(super) by_inside: bool,
    /// Address and port, not the address alone.
    pub(super) with_port: bool,
}

impl Peers {
    /// `None`: anyone may send, or connection tracking knows by itself.
    pub(super) fn of(spec: &NatSpec) -> Option<Self> {
        let by_inside =
            spec.filter_scope == FilterScope::Endpoint && spec.mapping != Mapping::EndpointIndependent;
        let turns = spec.hairpin != Hairpin::Off;
        match spec.filtering {
            Filtering::EndpointIndependent => None,
            Filtering::AddressDependent => Some(Self {
                by_inside,
                with_port: false,
            }),
            Filtering::AddressAndPortDependent => (by_inside || turns).then_some(Self {
                by_inside,
                with_port: true,
            }),
        }
    }

    /// The type of their set.
    pub(super) fn key_type(self) -> &'static str {
        if self.with_port {
            "ipv4_addr . inet_service . ipv4_addr . inet_service"
        } else {
            "ipv4_addr . inet_service . ipv4_addr"
        }
    }

    /// The element for the inside end of a flow and its remote one.
    pub(super) fn key(self, side: Side) -> String {
        let own = if self.by_inside {
            side.inside()
        } else {
            side.external()
        };
        let port = if self.with_port {
            format!(" . {}", side.remote_port())
        } else {
            String::new()
        };
        format!("{own} . {}{port}", side.remote_address())
    }

    /// The element that an inbound packet asks for, by its present addresses.
    pub(super) fn inbound(self) -> &'static str {
        if self.with_port {
            "ip daddr . udp dport . ip saddr . udp sport"
        } else {
            "ip daddr . udp dport . ip saddr"
        }
    }
}
