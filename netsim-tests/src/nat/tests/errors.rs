//! ICMP errors about packets that passed.

use super::*;

fn spec() -> NatSpec {
    NatSpec {
        ports: PortAllocation::Random,
        ..NatSpec::default()
    }
}

#[test]
fn an_error_from_outside_goes_to_the_host_whose_packet_it_quotes() {
    for proto in [Proto::Udp, Proto::Tcp, Proto::Icmp] {
        let (mut nat, now) = (boxed(spec()), Instant::now());
        let flow = Flow {
            proto,
            src: inside(),
            dst: server(),
        };
        let Verdict::Forward(sent) = nat.outbound(flow, now) else {
            panic!("everything passes")
        };
        assert_eq!(nat.inbound_error(sent, now), Some(flow));
    }
}

#[test]
fn an_error_from_outside_about_a_packet_that_nobody_sent_goes_nowhere() {
    let (mut nat, now) = (boxed(spec()), Instant::now());
    let external = send(&mut nat, inside(), server(), now);
    for quoted in [
        Flow::udp(external, at("5.5.5.2:1")),
        Flow::udp(at("5.5.16.2:1"), server()),
        Flow {
            proto: Proto::Tcp,
            ..Flow::udp(external, server())
        },
    ] {
        assert_eq!(nat.inbound_error(quoted, now), None, "{quoted:?}");
    }
}

#[test]
fn an_error_from_inside_is_about_the_external_endpoint_that_the_sender_knows() {
    let (mut nat, now) = (boxed(spec()), Instant::now());
    let external = send(&mut nat, inside(), server(), now);
    let quoted = Flow::udp(server(), inside());
    assert_eq!(
        nat.outbound_error(quoted, now),
        Some(Flow::udp(server(), external))
    );
    assert_eq!(
        nat.outbound_error(Flow::udp(at("7.7.7.7:7"), at("192.168.1.10:1")), now),
        None
    );
}

#[test]
fn an_error_about_a_strangers_packet_that_made_no_session_finds_its_mapping() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        inbound_refresh: false,
        ..spec()
    });
    let (now, stranger) = (Instant::now(), at("7.7.7.7:7"));
    let external = send(&mut nat, inside(), server(), now);
    arrives(&mut nat, stranger, external, now).unwrap();
    assert_eq!(nat.stats().sessions, 1);
    let quoted = Flow::udp(stranger, inside());
    assert_eq!(
        nat.outbound_error(quoted, now),
        Some(Flow::udp(stranger, external))
    );
}

#[test]
fn errors_neither_make_lengthen_nor_end_a_session() {
    let (mut nat, start) = (boxed(spec()), Instant::now());
    let external = send(&mut nat, inside(), server(), start);
    let (out, back) = (Flow::udp(external, server()), Flow::udp(server(), inside()));
    for second in 0..30 {
        let now = start + second * SECOND;
        assert!(nat.inbound_error(out, now).is_some() && nat.outbound_error(back, now).is_some());
        nat.inbound_error(Flow::udp(external, at("7.7.7.7:7")), now);
        nat.outbound_error(Flow::udp(at("7.7.7.7:7"), inside()), now);
        assert_eq!(nat.stats().sessions, 1);
    }
    let almost = start + SHORT - Duration::from_millis(1);
    assert_eq!(
        arrives(&mut nat, server(), external, almost),
        Ok(inside()),
        "not ended"
    );
    let mut nat = boxed(spec());
    let external = send(&mut nat, inside(), server(), start);
    nat.inbound_error(Flow::udp(external, server()), start + 29 * SECOND)
        .unwrap();
    assert_eq!(
        nat.inbound_error(Flow::udp(external, server()), start + SHORT),
        None,
        "nor lengthened"
    );
}

#[test]
fn an_error_about_a_hairpinned_packet_finds_its_way_back() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..spec()
    });
    let (now, neighbour) = (Instant::now(), at("192.168.1.11:6000"));
    let theirs = send(&mut nat, neighbour, server(), now);
    let Verdict::Hairpin(seen) = nat.outbound(Flow::udp(inside(), theirs), now) else {
        panic!("hairpins")
    };
    let outside = nat.outbound_error(seen, now).unwrap();
    assert_eq!(outside.dst, theirs);
    assert!(nat.externals().any(|external| external == outside.src.ip()));
    assert_eq!(nat.inbound_error(outside, now), Some(Flow::udp(inside(), theirs)));
}

#[test]
fn errors_cross_a_nat64_in_both_directions() {
    let mut nat = boxed(NatSpec {
        ipv6: Ipv6::Nat64,
        ..spec()
    });
    let (now, host, seen) = (
        Instant::now(),
        at("[2a01::10]:5000"),
        at("[64:ff9b::505:501]:3478"),
    );
    let Verdict::Forward(sent) = nat.outbound(Flow::udp(host, seen), now) else {
        panic!("passes")
    };
    assert_eq!(nat.inbound_error(sent, now), Some(Flow::udp(host, seen)));
    assert_eq!(
        nat.outbound_error(Flow::udp(seen, host), now),
        Some(Flow::udp(server(), sent.src))
    );
}

#[test]
fn errors_about_ipv6_keep_its_addresses_and_meet_the_firewall() {
    let (host, peer) = (at("[2a01::10]:5000"), at("[2a02::20]:700"));
    let now = Instant::now();
    let quoted = Flow::udp(host, peer);
    let mut firewall = boxed(spec());
    assert_eq!(firewall.inbound_error(quoted, now), None);
    send(&mut firewall, host, peer, now);
    assert_eq!(firewall.inbound_error(quoted, now), Some(quoted));
    let back = Flow::udp(peer, host);
    assert_eq!(firewall.outbound_error(back, now), Some(back));
    let mut open = boxed(NatSpec {
        ipv6: Ipv6::Open,
        ..spec()
    });
    assert_eq!(open.inbound_error(quoted, now), Some(quoted));
}
