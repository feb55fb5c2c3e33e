//! IPv6, translated and not.

use super::*;

#[test]
fn ipv6_keeps_its_addresses_and_meets_the_filter() {
    let mut nat = boxed(NatSpec::default());
    let (now, host, peer) = (Instant::now(), at("[2a01::10]:5000"), at("[2a02::20]:700"));
    assert_eq!(arrives(&mut nat, peer, host, now), Err(DropReason::NoMapping));
    assert_eq!(send(&mut nat, host, peer, now), host);
    assert_eq!(arrives(&mut nat, peer, host, now), Ok(host));
    assert_eq!(
        arrives(&mut nat, at("[2a02::20]:701"), host, now),
        Err(DropReason::Filtered)
    );
}

/// A mapping for each destination put its sessions under one address, and the end of one took the others along.
#[test]
fn an_ipv6_session_outlives_another_one_of_the_same_host_whatever_the_mapping() {
    let mut nat = boxed(NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ..NatSpec::default()
    });
    let start = Instant::now();
    let (host, peer, other) = (at("[2a01::10]:5000"), at("[2a02::20]:700"), at("[2a03::30]:700"));
    send(&mut nat, host, peer, start);
    send(&mut nat, host, other, start);
    for second in 1..=60 {
        send(&mut nat, host, peer, start + second * SECOND);
    }
    assert_eq!(arrives(&mut nat, peer, host, start + 60 * SECOND), Ok(host));
}

fn host() -> SocketAddr {
    at("[2a01::10]:5000")
}

/// The server as a host behind a NAT64 finds it.
fn server6() -> SocketAddr {
    at("[64:ff9b::505:501]:3478")
}

fn nat64(spec: NatSpec) -> NatBox {
    boxed(NatSpec {
        ipv6: Ipv6::Nat64,
        ..spec
    })
}

fn forward(nat: &mut NatBox, src: SocketAddr, dst: SocketAddr, now: Instant) -> Flow {
    match nat.outbound(Flow::udp(src, dst), now) {
        Verdict::Forward(flow) => flow,
        other => panic!("expected to leave, was {other:?}"),
    }
}

#[test]
fn an_open_box_lets_ipv6_pass_and_remembers_nothing() {
    let mut nat = boxed(NatSpec {
        ipv6: Ipv6::Open,
        ..NatSpec::default()
    });
    let (now, peer) = (Instant::now(), at("[2a02::20]:700"));
    assert_eq!(arrives(&mut nat, peer, host(), now), Ok(host()));
    assert_eq!(send(&mut nat, host(), peer, now), host());
    assert_eq!(nat.stats().sessions, 0);
    assert_eq!(
        arrives(&mut nat, server(), at("5.5.16.2:1"), now),
        Err(DropReason::NoMapping)
    );
}

#[test]
fn a_firewall_filters_ipv6_as_its_description_says() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::AddressDependent,
        ..NatSpec::default()
    });
    let (now, peer) = (Instant::now(), at("[2a02::20]:700"));
    send(&mut nat, host(), peer, now);
    assert_eq!(arrives(&mut nat, at("[2a02::20]:701"), host(), now), Ok(host()));
    assert_eq!(
        arrives(&mut nat, at("[2a02::21]:700"), host(), now),
        Err(DropReason::Filtered)
    );
}

#[test]
fn unsolicited_ipv6_packets_are_not_for_the_box_and_leave_no_trace() {
    let mut nat = clashing_firewall();
    let (now, peer) = (Instant::now(), at("[2a02::20]:700"));
    let verdict = nat.inbound(Flow::udp(peer, host()), now);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoMapping));
    assert_eq!(nat.stats().unsolicited, 0);
    assert_eq!(send(&mut nat, host(), peer, now), host());
}

fn clashing_firewall() -> NatBox {
    super::unsolicited::clashing()
}

#[test]
fn a_nat64_turns_packets_to_its_prefix_into_ipv4_and_answers_back() {
    let (mut nat, now) = (nat64(NatSpec::default()), Instant::now());
    let out = forward(&mut nat, host(), server6(), now);
    assert_eq!(out, Flow::udp(at("5.5.16.2:5000"), server()));
    assert_eq!(
        nat.inbound(Flow::udp(server(), out.src), now),
        Verdict::Forward(Flow::udp(server6(), host()))
    );
    let stranger = nat.inbound(Flow::udp(at("7.7.7.7:7"), out.src), now);
    assert_eq!(stranger, Verdict::Drop(DropReason::Filtered));
}

#[test]
fn a_nat64_leaves_other_ipv6_to_the_firewall_and_translates_ipv4_as_ever() {
    let (mut nat, now, peer) = (nat64(NatSpec::default()), Instant::now(), at("[2a02::20]:700"));
    forward(&mut nat, host(), server6(), now);
    assert_eq!(arrives(&mut nat, peer, host(), now), Err(DropReason::NoMapping));
    assert_eq!(send(&mut nat, host(), peer, now), host());
    assert_eq!(arrives(&mut nat, peer, host(), now), Ok(host()));
    assert_ne!(
        send(&mut nat, inside(), server(), now).port(),
        5000,
        "the port is the IPv6 host's"
    );
}

#[test]
fn a_nat64_maps_and_filters_as_its_ipv4_description_says() {
    let now = Instant::now();
    let towards = |nat: &mut NatBox| {
        ["[64:ff9b::505:501]:3478", "[64:ff9b::505:502]:3478"].map(|to| forward(nat, host(), at(to), now).src)
    };
    let mut nat = nat64(symmetric(PortAllocation::Counter { step: 1, foreign: 0 }));
    let [one, two] = towards(&mut nat);
    assert_eq!(two.port(), one.port() + 1);
    let mut nat = nat64(NatSpec {
        filtering: Filtering::EndpointIndependent,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let [one, two] = towards(&mut nat);
    assert_eq!(one, two);
    assert_eq!(
        nat.inbound(Flow::udp(at("7.7.7.7:7"), one), now),
        Verdict::Forward(Flow::udp(at("[64:ff9b::707:707]:7"), host())),
        "a stranger has an address in the prefix too"
    );
}

#[test]
fn the_first_ipv4_mapping_behind_a_nat64_is_the_first_whatever_ipv6_did_before() {
    let mut nat = nat64(symmetric(PortAllocation::PreserveThenCounter { step: 1 }));
    let now = Instant::now();
    send(&mut nat, host(), at("[2a02::20]:700"), now);
    assert_eq!(forward(&mut nat, host(), server6(), now).src.port(), 5000);
    assert_ne!(
        forward(&mut nat, host(), at("[64:ff9b::505:502]:1"), now)
            .src
            .port(),
        5000
    );
}

#[test]
fn a_nat64_asks_its_firewall_about_the_ipv4_address() {
    let mut nat = nat64(NatSpec {
        udp: UdpPolicy::OnlyTo([server().ip()].into()),
        ..NatSpec::default()
    });
    let now = Instant::now();
    forward(&mut nat, host(), server6(), now);
    let elsewhere = nat.outbound(Flow::udp(host(), at("[64:ff9b::505:502]:1")), now);
    assert_eq!(elsewhere, Verdict::Drop(DropReason::UdpBlocked));
}

#[test]
fn two_hosts_behind_one_nat64_meet_through_its_hairpin_in_ipv6() {
    let mut nat = nat64(NatSpec {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..NatSpec::default()
    });
    let (now, neighbour) = (Instant::now(), at("[2a01::11]:6000"));
    let theirs = forward(&mut nat, neighbour, server6(), now).src;
    assert_eq!(theirs, at("5.5.16.2:6000"));
    let through = nat.outbound(Flow::udp(host(), at("[64:ff9b::505:1002]:6000")), now);
    assert_eq!(
        through,
        Verdict::Hairpin(Flow::udp(at("[64:ff9b::505:1002]:5000"), neighbour))
    );
    let from_v4 = nat.outbound(Flow::udp(inside(), theirs), now);
    let Verdict::Hairpin(flow) = from_v4 else {
        panic!("{from_v4:?}")
    };
    assert!(flow.src.is_ipv6() && flow.dst == neighbour);
}

#[test]
fn without_a_nat64_the_prefix_is_an_ipv6_network_like_any_other() {
    let (mut nat, now) = (boxed(NatSpec::default()), Instant::now());
    assert_eq!(send(&mut nat, host(), server6(), now), host());
}
