//! The named NATs: what a command line calls `port-restricted`, as a description. A registry, no behaviour.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::spec::{
    FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Mapping, NatSpec, Pooling, PortAllocation, Refusal,
    TcpPolicy, UdpPolicy,
};
use super::variants::variants;

/// One named NAT.
#[derive(Clone, Copy, Debug)]
pub struct NatKind {
    /// Name on command lines and in reports.
    pub name: &'static str,
    /// One sentence: which boxes behave so.
    pub doc: &'static str,
    /// Which addresses a host behind it has.
    pub families: Families,
    /// What becomes of it when the rules of a Linux kernel play it.
    pub kernel: Kernel,
    build: fn(&[IpAddr]) -> Vec<NatSpec>,
}

/// Which addresses a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Families {
    /// An IPv4 address.
    pub v4: bool,
    /// An IPv6 address, global and its own.
    pub v6: bool,
}

impl Families {
    /// IPv4 only.
    pub const V4: Self = Self { v4: true, v6: false };
    /// IPv6 only.
    pub const V6: Self = Self { v4: false, v6: true };
    /// Both.
    pub const BOTH: Self = Self { v4: true, v6: true };
}

/// How the nftables form of a kind relates to its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// It measures the same.
    Alike,
    /// It measures otherwise; the sentence says in what and why.
    Differs(&'static str),
    /// There is none; the sentence says why.
    Absent(&'static str),
}

/// What is between a host and the internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The NATs, innermost first; empty for a host with a public address.
    pub nats: Vec<NatSpec>,
    /// Which addresses the host has.
    pub families: Families,
}

impl NatKind {
    /// The NATs between such a host and the internet, innermost first; empty for a host with a public address.
    ///
    /// `servers` are the addresses of the rendezvous server: what a firewall that knows only its own services lets
    /// UDP go to. Kinds that block nothing ignore them.
    #[must_use]
    pub fn chain(&self, servers: &[IpAddr]) -> Vec<NatSpec> {
        (self.build)(servers)
    }

    /// The same together with the addresses of the host.
    #[must_use]
    pub fn side(&self, servers: &[IpAddr]) -> Side {
        Side {
            nats: self.chain(servers),
            families: self.families,
        }
    }
}

/// Every named kind, from the most open to the most closed.
#[must_use]
pub fn kinds() -> &'static [NatKind] {
    &KINDS
}

/// The kind or the variant called `name`.
#[must_use]
pub fn kind(name: &str) -> Option<&'static NatKind> {
    KINDS.iter().chain(variants()).find(|kind| kind.name == name)
}

/// Where networks that let nothing else out have their HTTP proxy; the port is that of squid.
pub const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(5, 5, 7, 1)), 3128);

/// Ports of a block: what the few published figures of carriers lie around (RFC 7422 section 4.1 uses 1,008 in its example).
const BLOCK: u16 = 512;

/// Most UDP sessions of the busy carrier's subscriber.
const SMALL_TABLE: usize = 256;

/// What a kind is unless it says otherwise: IPv4 only, the same in a kernel.
pub(super) const fn named(
    name: &'static str,
    doc: &'static str,
    build: fn(&[IpAddr]) -> Vec<NatSpec>,
) -> NatKind {
    NatKind {
        name,
        doc,
        families: Families::V4,
        kernel: Kernel::Alike,
        build,
    }
}

static KINDS: [NatKind; 31] = [
    named(
        "open",
        "No NAT: a server, or a host that holds the public address itself.",
        |_| Vec::new(),
    ),
    named(
        "full-cone",
        "Anyone may send to a mapped port: carrier-grade NATs after RFC 6888, routers in a \"gaming\" mode.",
        |_| one(full_cone()),
    ),
    named(
        "full-cone-random",
        "The same with external ports that have nothing to do with the inside ones.",
        |_| {
            one(NatSpec {
                ports: PortAllocation::Random,
                ..full_cone()
            })
        },
    ),
    named(
        "address-restricted",
        "Any port of an address that was sent to may answer: some consumer routers.",
        |_| {
            one(NatSpec {
                filtering: Filtering::AddressDependent,
                hairpin: Hairpin::External,
                ..NatSpec::default()
            })
        },
    ),
    named(
        "port-restricted",
        "Only the very endpoint that was sent to may answer: most home routers, Linux masquerade with INPUT drop.",
        |_| one(NatSpec::default()),
    ),
    named(
        "port-restricted-random",
        "The same with random external ports: some firewalls and cloud gateways in their endpoint-independent mode.",
        |_| {
            one(NatSpec {
                ports: PortAllocation::Random,
                ..NatSpec::default()
            })
        },
    ),
    named(
        "port-restricted-hairpin",
        "The same with hairpinning by the inside source address: routers that translate the destination only.",
        |_| {
            one(NatSpec {
                hairpin: Hairpin::Internal,
                ..NatSpec::default()
            })
        },
    ),
    NatKind {
        kernel: Kernel::Absent("Linux refreshes a flow by packets of either direction"),
        ..named(
            "short-lived",
            "Forgets an idle UDP flow after 20 s, and inbound packets do not count: carriers that save on table space.",
            |_| {
                one(NatSpec {
                    unreplied_timeout: Duration::from_secs(20),
                    stream_timeout: Duration::from_secs(20),
                    inbound_refresh: false,
                    ..NatSpec::default()
                })
            },
        )
    },
    named(
        "small-table",
        "256 UDP sessions for each subscriber and not one more: carriers with session quotas.",
        |_| {
            one(NatSpec {
                table_size: SMALL_TABLE,
                ..NatSpec::default()
            })
        },
    ),
    named(
        "linux-input-reject",
        "Linux masquerade whose INPUT chain rejects: an unsolicited packet is answered by ICMP (OpenWrt's default).",
        |_| {
            one(NatSpec {
                input: InputPolicy::Reject(Refusal::PortUnreachable),
                ..NatSpec::default()
            })
        },
    ),
    named(
        "home-behind-cgn",
        "A home router behind a carrier-grade NAT after RFC 6888: most mobile and much new fixed access.",
        |_| vec![NatSpec::default(), full_cone()],
    ),
    named(
        "pool-paired",
        "A carrier-grade NAT with four addresses, one for each subscriber (RFC 6888 REQ-2).",
        |_| {
            one(NatSpec {
                addresses: 4,
                ..full_cone()
            })
        },
    ),
    named(
        "pool-arbitrary",
        "A carrier-grade NAT with four addresses, any of them for each socket: against RFC 4787 REQ-2, and met.",
        |_| {
            one(NatSpec {
                addresses: 4,
                pooling: Pooling::Arbitrary,
                ..full_cone()
            })
        },
    ),
    NatKind {
        families: Families::V6,
        ..named(
            "ipv6-firewall",
            "IPv6 only, untranslated, behind a stateful firewall (RFC 6092): home routers of IPv6 providers.",
            |_| one(NatSpec::default()),
        )
    },
    NatKind {
        families: Families::BOTH,
        ..named(
            "dual-stack",
            "IPv4 behind a port-restricted NAT and IPv6 behind a firewall: what providers with both give.",
            |_| one(NatSpec::default()),
        )
    },
    NatKind {
        kernel: Kernel::Differs(
            "two hosts inside with the same port share it outside, as long as they talk to different endpoints",
        ),
        ..named(
            "linux-input-accept",
            "Linux masquerade without an INPUT filter: a peer's packet that comes too early costs us the port.",
            |_| {
                one(NatSpec {
                    input: InputPolicy::AcceptConntrackClash,
                    ..NatSpec::default()
                })
            },
        )
    },
    named(
        "blacklisting",
        "Bars for 2 s whoever sent something unsolicited, anew with every packet: routers with flood protection.",
        |_| {
            one(NatSpec {
                input: InputPolicy::Blacklist {
                    life: Duration::from_secs(2),
                    refreshed: true,
                },
                ..NatSpec::default()
            })
        },
    ),
    named(
        "symmetric-open",
        "A new random port for each destination, open to anyone: some carriers' NATs.",
        |_| {
            one(NatSpec {
                filtering: Filtering::EndpointIndependent,
                ..symmetric()
            })
        },
    ),
    named(
        "symmetric-address",
        "A new random port for each destination; any mapping lets in whom the socket has sent to (RFC 4787 section 5).",
        |_| {
            one(NatSpec {
                filtering: Filtering::AddressDependent,
                filter_scope: FilterScope::Endpoint,
                ..symmetric()
            })
        },
    ),
    named(
        "address-dependent",
        "A port of its own for each remote address, whatever the remote port: few boxes, some firewalls.",
        |_| {
            one(NatSpec {
                mapping: Mapping::AddressDependent,
                ..symmetric()
            })
        },
    ),
    named(
        "symmetric-counter",
        "A new port for each destination, the next one in a row: some consumer routers, some mobile carriers.",
        |_| {
            one(NatSpec {
                ports: PortAllocation::Counter { step: 1, foreign: 0 },
                ..symmetric()
            })
        },
    ),
    named(
        "symmetric-counter-busy",
        "The same, two apart, with thirty new flows a second of other people in between.",
        |_| {
            one(NatSpec {
                ports: PortAllocation::Counter { step: 2, foreign: 30 },
                ..symmetric()
            })
        },
    ),
    named(
        "symmetric-preserve-first",
        "The inside port for the first destination, counted ports for all others: some consumer routers.",
        |_| {
            one(NatSpec {
                ports: PortAllocation::PreserveThenCounter { step: 1 },
                ..symmetric()
            })
        },
    ),
    named(
        "port-block",
        "A new random port for each destination inside the subscriber's block of 512: carrier-grade NATs (RFC 7422).",
        |_| {
            one(NatSpec {
                ports: PortAllocation::Block { size: BLOCK },
                ..symmetric()
            })
        },
    ),
    named(
        "symmetric",
        "A new random port for each destination: pf and FreeBSD, enterprise firewalls, cloud NAT gateways.",
        |_| one(symmetric()),
    ),
    NatKind {
        families: Families::V6,
        kernel: Kernel::Absent("Linux has no stateful NAT64 of its own"),
        ..named(
            "nat64",
            "IPv6 only, IPv4 through a translator (RFC 6146): mobile carriers and conference networks.",
            |_| {
                one(NatSpec {
                    ipv6: Ipv6::Nat64,
                    ..NatSpec::default()
                })
            },
        )
    },
    named(
        "udp-server-only",
        "UDP passes only to and from the server: corporate firewalls with a list of approved services.",
        |servers| {
            one(NatSpec {
                udp: UdpPolicy::OnlyTo(servers.iter().copied().collect()),
                ..NatSpec::default()
            })
        },
    ),
    named(
        "udp-blocked",
        "No UDP, and no word about it: guest and corporate networks.",
        |_| one(no_udp(None, TcpPolicy::Open)),
    ),
    named(
        "udp-prohibited",
        "No UDP; ICMP says that an administrator wants it so.",
        |_| one(no_udp(Some(Refusal::AdminProhibited), TcpPolicy::Open)),
    ),
    named(
        "tcp-443-only",
        "No UDP (ICMP: port unreachable), and TCP to port 443 only: hotels, trains, hospitals.",
        |_| one(no_udp(Some(Refusal::PortUnreachable), TcpPolicy::OnlyPort(443))),
    ),
    named(
        "http-proxy-only",
        "Nothing leaves but TCP to an HTTP proxy: banks and ministries.",
        |_| one(no_udp(None, TcpPolicy::OnlyTo(PROXY))),
    ),
];

pub(super) fn one(spec: NatSpec) -> Vec<NatSpec> {
    vec![spec]
}

fn full_cone() -> NatSpec {
    NatSpec {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..NatSpec::default()
    }
}

pub(super) fn symmetric() -> NatSpec {
    NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    }
}

fn no_udp(refusal: Option<Refusal>, tcp: TcpPolicy) -> NatSpec {
    NatSpec {
        udp: UdpPolicy::Blocked(refusal),
        tcp,
        ..NatSpec::default()
    }
}
