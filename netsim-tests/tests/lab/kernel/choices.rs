//! Which port and which address a kernel NAT chooses, and whom a filter with a wider scope lets in; IPv6.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use knothole_netsim::nat::{FilterScope, Filtering, Ipv6, Mapping, Pooling, PortAllocation};

use super::*;

/// The external ports of four flows of one socket to different places.
fn four_ports(lab: &Lab) -> Vec<u16> {
    let client = any(lab, "a");
    let places = [(0, 3478), (0, 3479), (1, 3478), (1, 3479)];
    let port = |(number, port)| {
        let (socket, at) = observer(lab, number, port);
        seen(&client, &socket, at).unwrap().port()
    };
    places.map(port).to_vec()
}

/// Ports that a counter goes through.
const COUNTED: i32 = 64_512;

fn symmetric(ports: PortAllocation) -> NatSpec {
    NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports,
        ..NatSpec::default()
    }
}

#[test]
fn counted_ports_are_a_step_apart() {
    if !kernel_possible() {
        return;
    }
    for step in [1, 2, 7] {
        let lab = lab_of(vec![symmetric(PortAllocation::Counter { step, foreign: 0 })]);
        let ports = four_ports(&lab);
        for pair in ports.windows(2) {
            let distance = (i32::from(pair[1]) - i32::from(pair[0])).rem_euclid(COUNTED);
            assert_eq!(distance, i32::from(step), "{ports:?}");
        }
    }
}

#[test]
fn flows_of_other_people_move_the_counter_and_leave_nothing() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_of(vec![symmetric(PortAllocation::Counter {
        step: 1,
        foreign: 500,
    })]);
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let first = seen(&client, &server, at).unwrap().port();
    pause(4 * PATIENCE);
    let (other, other_at) = observer(&lab, 1, PORTS[0]);
    let later = seen(&client, &other, other_at).unwrap().port();
    let moved = (i32::from(later) - i32::from(first)).rem_euclid(COUNTED);
    // About 200 in that time: far from none at any load.
    assert!(moved > 60, "{moved}");
    let stats = lab.stats();
    assert_eq!(stats.nats["a.nat0"].stats.sessions, 2);
    assert!(stats.drops.is_empty(), "{:?}", stats.drops);
}

#[test]
fn blocks_belong_to_one_subscriber_each() {
    if !kernel_possible() {
        return;
    }
    let lab = two_inside(symmetric(PortAllocation::Block { size: 128 }));
    let blocks = ["a", "b"].map(|host| {
        let (server, at) = server(&lab);
        let ports = (0..6).map(|_| seen(&any(&lab, host), &server, at).unwrap().port());
        ports.map(|port| port / 128).collect::<BTreeSet<_>>()
    });
    assert!(blocks.iter().all(|ports| ports.len() == 1), "{blocks:?}");
    assert_ne!(blocks[0], blocks[1]);
}

#[test]
fn a_port_of_a_block_belongs_to_one_flow_as_long_as_there_is_another() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_of(vec![symmetric(PortAllocation::Block { size: 64 })]);
    let (sockets, mut ports) = (
        [0, 1].map(|number| observer(&lab, number, PORTS[0])),
        BTreeSet::new(),
    );
    for _ in 0..8 {
        let client = any(&lab, "a");
        for (server, at) in &sockets {
            // Sixteen at most of 64: nine draws that all hit one in use are one in 200,000.
            assert!(
                ports.insert(seen(&client, server, *at).unwrap().port()),
                "{ports:?}"
            );
        }
    }
    assert_eq!(
        ports.iter().map(|port| port / 64).collect::<BTreeSet<_>>().len(),
        1
    );
}

#[test]
fn a_pool_is_shared_by_subscriber_or_by_socket() {
    if !kernel_possible() {
        return;
    }
    for pooling in [Pooling::Paired, Pooling::Arbitrary] {
        let lab = two_inside(NatSpec {
            addresses: 4,
            pooling,
            ..NatSpec::default()
        });
        let (server, at) = server(&lab);
        let used = |host| {
            let addresses = (0..16).map(|_| seen(&any(&lab, host), &server, at).unwrap().ip());
            addresses.collect::<BTreeSet<_>>()
        };
        let (a, b) = (used("a"), used("b"));
        if pooling == Pooling::Paired {
            assert_eq!((a.len(), b.len()), (1, 1));
            assert_ne!(a, b, "subscribers take turns");
        } else {
            // 16 sockets all on one of four addresses: by chance once in a thousand million.
            assert!(a.len() > 1 && b.len() > 1);
        }
        let client = any(&lab, "a");
        let external = seen(&client, &server, at).unwrap();
        let (other, other_at) = observer(&lab, 1, PORTS[1]);
        assert_eq!(seen(&client, &other, other_at), Some(external));
        assert!(reaches(&server, &client, external));
    }
}

#[test]
fn a_filter_by_endpoint_lets_in_at_any_mapping_whom_the_socket_has_sent_to() {
    if !kernel_possible() {
        return;
    }
    let filterings = [Filtering::AddressDependent, Filtering::AddressAndPortDependent];
    for (filtering, scope) in filterings
        .iter()
        .flat_map(|f| [FilterScope::Mapping, FilterScope::Endpoint].map(|s| (*f, s)))
    {
        let lab = lab_of(vec![NatSpec {
            filtering,
            filter_scope: scope,
            ..symmetric(PortAllocation::Random)
        }]);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let (stranger, stranger_at) = stranger(&lab);
        let external = seen(&client, &server, at).unwrap();
        assert!(!reaches(&stranger, &client, external));
        assert_ne!(seen(&client, &stranger, stranger_at).unwrap(), external);
        let lets_in = reaches(&stranger, &client, external);
        assert_eq!(lets_in, scope == FilterScope::Endpoint, "{scope:?} {filtering}");
    }
}

#[test]
fn ipv6_keeps_its_addresses_and_meets_the_same_filter() {
    if !kernel_possible() {
        return;
    }
    let spec = |filtering, ipv6| NatSpec {
        filtering,
        ipv6,
        ..NatSpec::default()
    };
    // Who else passes once the host has sent to a server: (its other port, another address).
    for (spec, passes) in [
        (spec(Filtering::EndpointIndependent, Ipv6::Firewall), (true, true)),
        (spec(Filtering::AddressDependent, Ipv6::Firewall), (true, false)),
        (
            spec(Filtering::AddressAndPortDependent, Ipv6::Firewall),
            (false, false),
        ),
        (spec(Filtering::AddressAndPortDependent, Ipv6::Open), (true, true)),
    ] {
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let (inside, servers) = (ip("2a01:1::10"), [ip("2a01:5::1"), ip("2a01:5::2")]);
        let hosts = Lab::builder()
            .engine(NatEngine::Kernel)
            .host("a", HostSpec::behind(vec![spec.clone()], inside));
        let lab = built(hosts.host("srv", HostSpec::public(servers)));
        let see = |number: usize, port| socket(&lab, "srv", servers[number], port);
        let (one, other_port, other) = (see(0, 3478), see(0, 3479), see(1, 3478));
        let client = socket(&lab, "a", inside, 5000);
        let own = client.local_addr().unwrap();
        assert_eq!(reaches(&one, &client, own), spec.ipv6 == Ipv6::Open);
        assert_eq!(seen(&client, &one, one.local_addr().unwrap()), Some(own));
        assert!(reaches(&one, &client, own));
        let measured = (reaches(&other_port, &client, own), reaches(&other, &client, own));
        assert_eq!(measured, passes, "{spec}");
    }
}
