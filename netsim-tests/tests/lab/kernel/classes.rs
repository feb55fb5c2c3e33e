//! Mapping, filtering and ports of kernel NATs: the whole grid, and every named kind.

use std::net::{SocketAddr, UdpSocket};

use knothole_netsim::fabric::{HostSpec, Lab, NatEngine};
use knothole_netsim::nat::{Filtering, Kernel, Mapping, NatSpec, PortAllocation, UdpPolicy, kinds};

use super::*;

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
        let see =
            |(at, socket): &(SocketAddr, UdpSocket)| seen(client, socket, *at).expect("reaches the server");
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
        assert!(
            reaches(observer, client, external),
            "the one that was sent to answers"
        );
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

/// Flows of four that leave from the own port of their socket: (least, most).
fn kept(spec: &NatSpec) -> (usize, usize) {
    match (spec.ports, spec.mapping) {
        (PortAllocation::Preserving, Mapping::EndpointIndependent) => (4, 4),
        (PortAllocation::Preserving, Mapping::AddressDependent) => (2, 2),
        (PortAllocation::Preserving, Mapping::AddressAndPortDependent) => (1, 1),
        (PortAllocation::PreserveThenCounter { .. }, Mapping::EndpointIndependent) => (4, 4),
        (PortAllocation::PreserveThenCounter { .. }, Mapping::AddressDependent) => (2, 2),
        (PortAllocation::PreserveThenCounter { .. }, Mapping::AddressAndPortDependent) => (1, 1),
        // One by chance, now and then.
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

#[test]
fn every_kind_that_the_kernel_can_play_measures_as_described() {
    if !kernel_possible() {
        return;
    }
    for kind in kinds() {
        let chain = chain(kind.name);
        let played = chain.iter().all(|spec| spec.kernel_form().is_ok());
        assert_eq!(played, !matches!(kind.kernel, Kernel::Absent(_)), "{}", kind.name);
        let Some(spec) = chain.first().filter(|_| played && kind.families.v4) else {
            continue;
        };
        if let UdpPolicy::Blocked(_) = spec.udp {
            continue;
        }
        let lab = lab_of(chain.clone());
        let observer = Observer::new(&lab);
        let measured = observer.measure(&lab);
        println!(
            "{:26} {}, {}, {} of 4 ports kept",
            kind.name, measured.mapping, measured.filtering, measured.kept
        );
        let (least, most) = kept(spec);
        assert_eq!(measured.mapping, spec.mapping, "{}", kind.name);
        assert_eq!(measured.filtering, spec.filtering, "{}", kind.name);
        assert!(
            (least..=most).contains(&measured.kept),
            "{}: {measured:?}",
            kind.name
        );
        if let UdpPolicy::OnlyTo(_) = spec.udp {
            let (client, at) = (any(&lab, "a"), (STRANGER, PORTS[0]).into());
            assert_eq!(seen(&client, &observer.stranger, at), None);
        }
    }
}

#[test]
fn a_kind_without_a_kernel_form_is_played_by_the_model_and_the_lab_says_so() {
    if !kernel_possible() {
        return;
    }
    let lab = by_kernel()
        .host("a", HostSpec::behind(chain("short-lived"), LAN_A))
        .host("b", HostSpec::behind(chain("port-restricted"), LAN_B))
        .build()
        .unwrap();
    let nats: Vec<_> = lab.nats().collect();
    assert_eq!(
        nats,
        [("a.nat0", NatEngine::Model), ("b.nat0", NatEngine::Kernel)]
    );
    assert_eq!(lab.stats().nats["b.nat0"].engine, NatEngine::Kernel);
    let (server, at) = server(&lab);
    for host in ["a", "b"] {
        assert!(seen(&any(&lab, host), &server, at).is_some());
    }
}
