//! Each kind of NAT, measured over real sockets by an observer with two addresses and two ports and by a stranger, as
//! RFC 5780 does it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::nat::{Filtering, Mapping, PortAllocation, UdpPolicy, kinds};

use crate::support::*;

const PORTS: [u16; 2] = [3478, 3479];

struct Observer {
    sockets: Vec<(SocketAddr, UdpSocket)>,
    stranger: UdpSocket,
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

    /// What the observer sees of one socket: at both ports of both addresses.
    fn endpoints(&self, client: &UdpSocket) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .map(|(at, socket)| seen(client, socket, *at).expect("reaches the server"))
            .collect()
    }

    fn mapping(&self, client: &UdpSocket) -> Mapping {
        let ports: Vec<SocketAddr> = self.endpoints(client);
        match (ports[0] == ports[1], ports[0] == ports[2]) {
            (true, true) => Mapping::EndpointIndependent,
            (true, false) => Mapping::AddressDependent,
            (false, _) => Mapping::AddressAndPortDependent,
        }
    }

    /// Who can reach a socket that has sent to the first address and port only.
    fn filtering(&self, client: &UdpSocket) -> Filtering {
        let (first, observer) = &self.sockets[0];
        let external = seen(client, observer, *first).expect("reaches the server");
        assert!(
            reaches(observer, client, external),
            "the one that was sent to can always answer"
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

fn reaches(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> bool {
    seen(from, to, address).is_some()
}

#[test]
fn every_kind_of_nat_measures_as_what_it_is_described() {
    if !possible() {
        return;
    }
    for kind in kinds() {
        let chain = chain(kind.name);
        let lab = with_server()
            .host("str", HostSpec::public([STRANGER]))
            .host("a", HostSpec::behind(chain.clone(), LAN_A))
            .build()
            .unwrap();
        let observer = Observer::new(&lab);
        let Some(spec) = chain.first() else {
            let client = any(&lab, "a");
            let own = SocketAddr::new(lab.host("a").unwrap().ip(), client.local_addr().unwrap().port());
            assert!(observer.endpoints(&client).iter().all(|seen| *seen == own));
            assert_eq!(
                observer.filtering(&any(&lab, "a")),
                Filtering::EndpointIndependent
            );
            continue;
        };
        assert_eq!(observer.mapping(&any(&lab, "a")), spec.mapping, "{}", kind.name);
        if let UdpPolicy::OnlyTo(_) = spec.udp {
            assert_eq!(
                seen(&any(&lab, "a"), &observer.stranger, (STRANGER, PORTS[0]).into()),
                None
            );
        }
        assert_eq!(
            observer.filtering(&any(&lab, "a")),
            spec.filtering,
            "{}",
            kind.name
        );
        check_ports(&lab, &observer, spec.ports);
        let public = lab.host("a").unwrap().public_ip();
        assert!(
            observer
                .endpoints(&any(&lab, "a"))
                .iter()
                .all(|seen| seen.ip() == public)
        );
    }
}

fn check_ports(lab: &Lab, observer: &Observer, allocation: PortAllocation) {
    let client = any(lab, "a");
    let own = client.local_addr().unwrap().port();
    let ports: Vec<u16> = observer.endpoints(&client).iter().map(SocketAddr::port).collect();
    match allocation {
        PortAllocation::Preserving => assert!(ports.iter().all(|port| *port == own)),
        PortAllocation::Random => assert!(ports.iter().any(|port| *port != own)),
        PortAllocation::Counter { step, .. } => {
            assert!(
                ports.windows(2).all(|pair| pair[1] == pair[0] + step),
                "{ports:?}"
            );
        }
        PortAllocation::Block { .. } | PortAllocation::PreserveThenCounter { .. } => {}
    }
}

#[test]
fn a_policy_changed_at_run_time_cuts_udp_off_and_lets_it_on_again() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("full-cone"), LAN_A))
        .build()
        .unwrap();
    let observer = socket(&lab, "srv", SERVERS[0], PORTS[0]);
    let client = any(&lab, "a");
    let at = SocketAddr::from((SERVERS[0], PORTS[0]));
    assert!(seen(&client, &observer, at).is_some());
    lab.set_udp_policy("a", UdpPolicy::Blocked(None)).unwrap();
    assert_eq!(seen(&client, &observer, at), None);
    lab.set_udp_policy("a", UdpPolicy::OnlyTo([IpAddr::from(SERVERS[0])].into()))
        .unwrap();
    assert!(seen(&client, &observer, at).is_some());
    assert!(lab.set_udp_policy("srv", UdpPolicy::Blocked(None)).is_err());
}
