//! The named NATs: what a command line calls `port-restricted`, as a description. A registry, no behaviour.

use std::net::IpAddr;

use super::spec::{Filtering, Hairpin, InputPolicy, Mapping, NatSpec, PortAllocation, UdpPolicy};

/// One named NAT.
#[derive(Clone, Copy, Debug)]
pub struct NatKind {
    /// Name on command lines and in reports.
    pub name: &'static str,
    /// One sentence: which boxes behave so.
    pub doc: &'static str,
    build: fn(&[IpAddr]) -> Vec<NatSpec>,
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
}

/// Every named kind, from the most open to the most closed.
#[must_use]
pub fn kinds() -> &'static [NatKind] {
    &KINDS
}

/// The kind called `name`.
#[must_use]
pub fn kind(name: &str) -> Option<&'static NatKind> {
    KINDS.iter().find(|kind| kind.name == name)
}

static KINDS: [NatKind; 9] = [
    NatKind {
        name: "open",
        doc: "No NAT: a server, or a host that holds the public address itself.",
        build: |_| Vec::new(),
    },
    NatKind {
        name: "full-cone",
        doc: "Anyone may send to a mapped port: carrier-grade NATs after RFC 6888, routers in a \"gaming\" mode.",
        build: |_| {
            one(NatSpec {
                filtering: Filtering::EndpointIndependent,
                hairpin: Hairpin::External,
                ..NatSpec::default()
            })
        },
    },
    NatKind {
        name: "address-restricted",
        doc: "Any port of an address that was sent to may answer: some consumer routers.",
        build: |_| {
            one(NatSpec {
                filtering: Filtering::AddressDependent,
                hairpin: Hairpin::External,
                ..NatSpec::default()
            })
        },
    },
    NatKind {
        name: "port-restricted",
        doc: "Only the very endpoint that was sent to may answer: most home routers, Linux masquerade with INPUT drop.",
        build: |_| one(NatSpec::default()),
    },
    NatKind {
        name: "linux-input-accept",
        doc: "Linux masquerade without an INPUT filter: a peer's packet that comes too early costs us the port.",
        build: |_| {
            one(NatSpec {
                input: InputPolicy::AcceptConntrackClash,
                ..NatSpec::default()
            })
        },
    },
    NatKind {
        name: "address-dependent",
        doc: "A port of its own for each remote address, whatever the remote port: few boxes, some firewalls.",
        build: |_| {
            one(NatSpec {
                mapping: Mapping::AddressDependent,
                ports: PortAllocation::Random,
                ..NatSpec::default()
            })
        },
    },
    NatKind {
        name: "symmetric-counter",
        doc: "A new port for each destination, the next one in a row: some consumer routers, some mobile carriers.",
        build: |_| {
            one(NatSpec {
                mapping: Mapping::AddressAndPortDependent,
                ports: PortAllocation::Counter { step: 1 },
                ..NatSpec::default()
            })
        },
    },
    NatKind {
        name: "symmetric",
        doc: "A new random port for each destination: pf and FreeBSD, enterprise firewalls, cloud NAT gateways.",
        build: |_| {
            one(NatSpec {
                mapping: Mapping::AddressAndPortDependent,
                ports: PortAllocation::Random,
                ..NatSpec::default()
            })
        },
    },
    NatKind {
        name: "udp-server-only",
        doc: "UDP passes only to and from the server: corporate firewalls with a list of approved services.",
        build: |servers| {
            one(NatSpec {
                udp: UdpPolicy::OnlyTo(servers.iter().copied().collect()),
                ..NatSpec::default()
            })
        },
    },
];

fn one(spec: NatSpec) -> Vec<NatSpec> {
    vec![spec]
}
