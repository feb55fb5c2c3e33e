//! Who gets in.

use super::*;

/// Whether these get in after one packet to the server: the server, its other port, another address.
fn filter_row(mapping: Mapping, filtering: Filtering) -> [bool; 3] {
    let mut nat = boxed(NatSpec {
        mapping,
        filtering,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    [server(), at("5.5.5.1:9"), at("7.7.7.7:3478")].map(|from| {
        let result = arrives(&mut nat, from, external, now);
        assert!(result == Ok(inside()) || result == Err(DropReason::Filtered));
        result.is_ok()
    })
}

#[test]
fn filtering_is_as_described_under_every_mapping() {
    use {Filtering as F, Mapping as M};
    for mapping in [
        M::EndpointIndependent,
        M::AddressDependent,
        M::AddressAndPortDependent,
    ] {
        assert_eq!(filter_row(mapping, F::EndpointIndependent), [true, true, true]);
        assert_eq!(filter_row(mapping, F::AddressDependent), [true, true, false]);
        assert_eq!(
            filter_row(mapping, F::AddressAndPortDependent),
            [true, false, false]
        );
    }
}

#[test]
fn a_port_that_nothing_is_mapped_to_lets_nobody_in() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    });
    assert_eq!(
        arrives(&mut nat, server(), at("5.5.16.2:5000"), Instant::now()),
        Err(DropReason::NoMapping)
    );
}

/// A symmetric box that has sent to the server from one mapping and to a peer from another: does a packet of the peer, and
/// one of another port of it, pass at the mapping that the server saw?
fn at_the_other_mapping(filtering: Filtering, filter_scope: FilterScope) -> [bool; 2] {
    let mut nat = boxed(NatSpec {
        filtering,
        filter_scope,
        ..symmetric(PortAllocation::Random)
    });
    let now = Instant::now();
    let announced = send(&mut nat, inside(), server(), now);
    let used = send(&mut nat, inside(), at("7.7.7.7:700"), now);
    assert_ne!(announced, used);
    ["7.7.7.7:700", "7.7.7.7:701"].map(|from| arrives(&mut nat, at(from), announced, now).is_ok())
}

#[test]
fn a_filter_remembers_for_its_mapping_or_for_the_whole_inside_endpoint() {
    use {FilterScope as S, Filtering as F};
    assert_eq!(
        at_the_other_mapping(F::AddressDependent, S::Mapping),
        [false, false]
    );
    assert_eq!(
        at_the_other_mapping(F::AddressDependent, S::Endpoint),
        [true, true]
    );
    assert_eq!(
        at_the_other_mapping(F::AddressAndPortDependent, S::Mapping),
        [false, false]
    );
    assert_eq!(
        at_the_other_mapping(F::AddressAndPortDependent, S::Endpoint),
        [true, false]
    );
}

#[test]
fn a_filter_of_an_endpoint_knows_nothing_of_other_endpoints_or_protocols() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::AddressDependent,
        filter_scope: FilterScope::Endpoint,
        ..symmetric(PortAllocation::Random)
    });
    let now = Instant::now();
    let announced = send(&mut nat, inside(), server(), now);
    send(&mut nat, at("192.168.1.10:5001"), at("7.7.7.7:700"), now);
    let tcp = Flow {
        proto: Proto::Tcp,
        ..Flow::udp(inside(), at("7.7.7.8:700"))
    };
    assert!(matches!(nat.outbound(tcp, now), Verdict::Forward(_)));
    for stranger in ["7.7.7.7:700", "7.7.7.8:700"] {
        assert_eq!(
            arrives(&mut nat, at(stranger), announced, now),
            Err(DropReason::Filtered)
        );
    }
}

#[test]
fn two_symmetric_nats_whose_filters_remember_for_the_endpoint_meet() {
    let spec = kind("symmetric-address").unwrap().chain(&[]).remove(0);
    let mut a = NatBox::new(spec.clone(), W, 1);
    let mut b = NatBox::new(spec, Ipv4Addr::new(5, 5, 17, 2), 2);
    let (now, host_a, host_b) = (Instant::now(), inside(), at("192.168.2.20:5000"));
    let (announced_a, announced_b) = (
        send(&mut a, host_a, server(), now),
        send(&mut b, host_b, server(), now),
    );
    let from_a = send(&mut a, host_a, announced_b, now);
    assert_eq!(
        arrives(&mut b, from_a, announced_b, now),
        Err(DropReason::Filtered),
        "too early"
    );
    let from_b = send(&mut b, host_b, announced_a, now);
    assert_eq!(arrives(&mut a, from_b, announced_a, now), Ok(host_a));
    // The answer leaves where the packet came in, and is one that B has sent to.
    assert_eq!(send(&mut a, host_a, from_b, now), announced_a);
    assert_eq!(arrives(&mut b, announced_a, from_b, now), Ok(host_b));
}
