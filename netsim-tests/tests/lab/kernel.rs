//! NATs that the kernel plays, over real sockets: do the rules do what the description says?

use std::net::{IpAddr, SocketAddr, UdpSocket};

use knothole_netsim::fabric::{HostSpec, Lab, NatEngine};
use knothole_netsim::nat::{
    FilterScope, Filtering, Hairpin, InputPolicy, Mapping, NatSpec, PortAllocation, UdpPolicy, kinds,
};

use crate::support::*;

const PORTS: [u16; 2] = [3478, 3479];

/// An observer with two addresses and two ports, and a stranger.
struct Observer {
    sockets: Vec<(SocketAddr, UdpSocket)>,
    stranger: UdpSocket,
}

/// What an observer tells of a NAT.
#[derive(Debug, PartialEq, Eq)]
struct Measured {
    mapping: Mapping,
    filtering: Filtering,
    /// Of four flows of one socket, those that left from its own port.
    kept: usize,
}

impl Observer {
    fn new(lab: &Lab) -> Self {
        let places = SERVERS.iter().flat_map(|ip| PORTS.map(|port| (*ip, port)));
        let sockets = places
            .map(|(ip, port)| (SocketAddr::from((ip, port)), socket(lab, "srv", ip, port)))
            .collect();
        Self {
            sockets,
            stranger: socket(lab, "str", STRANGER, PORTS[0]),
        }
    }

    /// What is seen of one socket at both ports of both addresses.
    fn endpoints(&self, client: &UdpSocket) -> Vec<SocketAddr> {
        let see = |(at, socket): &(SocketAddr, UdpSocket)| seen(client, socket, *at).expect("reaches the server");
        self.sockets.iter().map(see).collect()
    }

    fn measure(&self, lab: &Lab) -> Measured {
        let client = any(lab, "a");
        let ends = self.endpoints(&client);
        let own = client.local_addr().unwrap().port();
        let mapping = match (ends[0] == ends[1], ends[0] == ends[2]) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, _) => Mapping::AddressAndPortDependent,
        };
        let kept = ends.iter().filter(|end| end.port() == own).count();
        Measured {
            mapping,
            filtering: self.filtering(&any(lab, "a")),
            kept,
        }
    }

    /// Who reaches a socket that has sent to the first address and port only.
    fn filtering(&self, client: &UdpSocket) -> Filtering {
        let (first, observer) = &self.sockets[0];
        let external = seen(client, observer, *first).expect("reaches the server");
        assert!(reaches(observer, client, external), "the one that was sent to answers");
        let other_port = reaches(&self.sockets[1].1, client, external);
        let other_address = reaches(&self.sockets[2].1, client, external);
        assert_eq!(reaches(&self.stranger, client, external), other_address);
        match (other_port, other_address) {
            (true, true) => Filtering::EndpointIndependent,
            (true, false) => Filtering::AddressDependent,
            (false, false) => Filtering::AddressAndPortDependent,
            (false, true) => panic!("another address passes and another port does not"),
        }
    }
}

fn reaches(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> bool {
    seen(from, to, address).is_some()
}

/// Host a behind these NATs of the kernel, the observer, a stranger.
fn lab_of(chain: Vec<NatSpec>) -> Lab {
    let lab = with_server()
        .engine(NatEngine::Kernel)
        .host("str", HostSpec::public([STRANGER]))
        .host("a", HostSpec::behind(chain, LAN_A))
        .build()
        .unwrap();
    assert!(lab.nats().all(|(_, engine)| engine == NatEngine::Kernel));
    lab
}

/// Flows of four that leave from the own port of their socket: (least, most).
fn kept(spec: &NatSpec) -> (usize, usize) {
    match (spec.ports, spec.mapping) {
        (PortAllocation::Preserving, Mapping::EndpointIndependent) => (4, 4),
        (PortAllocation::Preserving, Mapping::AddressDependent) => (2, 2),
        (PortAllocation::Preserving, Mapping::AddressAndPortDependent) => (1, 1),
        (PortAllocation::PreserveThenCounter { .. }, Mapping::EndpointIndependent) => (4, 4),
        (PortAllocation::PreserveThenCounter { .. }, Mapping::AddressDependent) => (2, 2),
        (PortAllocation::PreserveThenCounter { .. }, _) => (1, 1),
        // By chance all of the flows of one mapping.
        _ => (0, 1),
    }
}

#[test]
fn the_whole_grid_of_mapping_filtering_and_ports_measures_as_described() {
    if !kernel_possible() {
        return;
    }
    let mappings = [
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ];
    let filterings = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    let allocations = [
        PortAllocation::Preserving,
        PortAllocation::Random,
        PortAllocation::Counter { step: 2, foreign: 0 },
        PortAllocation::Block { size: 512 },
        PortAllocation::PreserveThenCounter { step: 1 },
    ];
    let mut wrong = Vec::new();
    for mapping in mappings {
        for filtering in filterings {
            for ports in allocations {
                let spec = NatSpec {
                    mapping,
                    filtering,
                    ports,
                    ..NatSpec::default()
                };
                let lab = lab_of(vec![spec.clone()]);
                let measured = Observer::new(&lab).measure(&lab);
                let (least, most) = kept(&spec);
                if measured.mapping != mapping
                    || measured.filtering != filtering
                    || !(least..=most).contains(&measured.kept)
                {
                    wrong.push(format!("{spec}: {measured:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
