//! What a NAT must do, sentence by sentence.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;

const W: Ipv4Addr = Ipv4Addr::new(5, 5, 16, 2);
const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn inside() -> SocketAddr {
    at("192.168.1.10:5000")
}

fn server() -> SocketAddr {
    at("5.5.5.1:3478")
}

fn boxed(spec: NatSpec) -> NatBox {
    NatBox::new(spec, W, 7)
}

fn send(nat: &mut NatBox, src: SocketAddr, dst: SocketAddr, now: Instant) -> SocketAddr {
    match nat.outbound(Flow::udp(src, dst), now) {
        Verdict::Forward(flow) => {
            assert_eq!(flow.dst, dst, "a NAT keeps the destination of an outbound packet");
            flow.src
        }
        other => panic!("expected to leave, was {other:?}"),
    }
}

fn arrives(
    nat: &mut NatBox,
    src: SocketAddr,
    dst: SocketAddr,
    now: Instant,
) -> Result<SocketAddr, DropReason> {
    match nat.inbound(Flow::udp(src, dst), now) {
        Verdict::Forward(flow) => {
            assert_eq!(flow.src, src, "a NAT keeps the source of an inbound packet");
            Ok(flow.dst)
        }
        Verdict::Drop(reason) | Verdict::Reject(reason, _) => Err(reason),
        Verdict::Hairpin(flow) => panic!("inbound packets never hairpin: {flow:?}"),
    }
}

/// External ports towards: a server, another port of it, another server.
fn three_ports(mapping: Mapping) -> [u16; 3] {
    let mut nat = boxed(NatSpec {
        mapping,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let now = Instant::now();
    [server(), at("5.5.5.1:3479"), at("5.5.5.2:3478")].map(|to| send(&mut nat, inside(), to, now).port())
}

#[test]
fn endpoint_independent_mapping_uses_one_port_for_all() {
    let [a, b, c] = three_ports(Mapping::EndpointIndependent);
    assert!(a == b && b == c);
}

#[test]
fn address_dependent_mapping_uses_one_port_for_each_address() {
    let [a, b, c] = three_ports(Mapping::AddressDependent);
    assert!(a == b && b != c);
}

#[test]
fn address_and_port_dependent_mapping_uses_one_port_for_each_endpoint() {
    let [a, b, c] = three_ports(Mapping::AddressAndPortDependent);
    assert!(a != b && b != c && a != c);
}

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

#[test]
fn an_answer_to_a_stranger_leaves_where_the_stranger_came_in() {
    let mut nat = boxed(NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::EndpointIndependent,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    let stranger = at("7.7.7.7:7");
    assert_eq!(arrives(&mut nat, stranger, external, now), Ok(inside()));
    assert_eq!(send(&mut nat, inside(), stranger, now), external);
}

#[test]
fn a_one_way_session_ends_after_the_short_timeout_and_not_before() {
    let mut nat = boxed(NatSpec::default());
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    assert_eq!(
        arrives(&mut nat, server(), external, start + SHORT),
        Err(DropReason::NoMapping)
    );
    let mut nat = boxed(NatSpec::default());
    let external = send(&mut nat, inside(), server(), start);
    let before = start + SHORT - Duration::from_millis(1);
    assert_eq!(arrives(&mut nat, server(), external, before), Ok(inside()));
}

#[test]
fn an_immediate_answer_alone_does_not_earn_the_long_timeout() {
    let mut nat = boxed(NatSpec::default());
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    arrives(&mut nat, server(), external, start).unwrap();
    assert_eq!(
        arrives(&mut nat, server(), external, start + SHORT),
        Err(DropReason::NoMapping)
    );
}

#[test]
fn traffic_both_ways_over_two_seconds_earns_the_long_timeout() {
    let mut nat = boxed(NatSpec::default());
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    let answered = start + 3 * SECOND;
    arrives(&mut nat, server(), external, answered).unwrap();
    let last = answered + LONG - SECOND;
    assert_eq!(nat.stats().sessions, 1);
    arrives(&mut nat, server(), external, last).unwrap();
    assert_eq!(
        arrives(&mut nat, server(), external, last + LONG),
        Err(DropReason::NoMapping)
    );
}

#[test]
fn inbound_packets_refresh_only_where_the_box_says_so() {
    for (inbound_refresh, alive) in [(true, true), (false, false)] {
        let mut nat = boxed(NatSpec {
            inbound_refresh,
            ..NatSpec::default()
        });
        let start = Instant::now();
        let external = send(&mut nat, inside(), server(), start);
        arrives(&mut nat, server(), external, start + 20 * SECOND).unwrap();
        let later = arrives(&mut nat, server(), external, start + 40 * SECOND);
        assert_eq!(later.is_ok(), alive, "inbound_refresh {inbound_refresh}");
    }
}

#[test]
fn strangers_do_not_keep_a_mapping_alive_where_inbound_packets_do_not_refresh() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        inbound_refresh: false,
        ..NatSpec::default()
    });
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    arrives(&mut nat, at("7.7.7.7:7"), external, start + 29 * SECOND).unwrap();
    assert_eq!(
        arrives(&mut nat, at("7.7.7.7:7"), external, start + SHORT),
        Err(DropReason::NoMapping)
    );
}

#[test]
fn outbound_packets_always_refresh() {
    let mut nat = boxed(NatSpec {
        inbound_refresh: false,
        ..NatSpec::default()
    });
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    for i in 1..10 {
        assert_eq!(
            send(&mut nat, inside(), server(), start + i * 20 * SECOND),
            external
        );
    }
}

#[test]
fn a_mapping_lives_as_long_as_its_last_session() {
    let mut nat = boxed(NatSpec {
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    let other = at("5.5.5.2:1");
    assert_eq!(send(&mut nat, inside(), other, start + 20 * SECOND), external);
    // The filter forgets the server, the mapping stays for the other one.
    assert_eq!(
        arrives(&mut nat, server(), external, start + 40 * SECOND),
        Err(DropReason::Filtered)
    );
    assert_eq!(send(&mut nat, inside(), server(), start + 40 * SECOND), external);
    assert_ne!(send(&mut nat, inside(), server(), start + 80 * SECOND), external);
}

#[test]
fn an_expired_mapping_comes_back_on_the_same_port_only_if_ports_are_preserved() {
    let start = Instant::now();
    let mut nat = boxed(NatSpec::default());
    assert_eq!(send(&mut nat, inside(), server(), start).port(), 5000);
    assert_eq!(
        send(&mut nat, inside(), server(), start + 60 * SECOND).port(),
        5000
    );
    let mut nat = boxed(NatSpec {
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let first = send(&mut nat, inside(), server(), start);
    assert_ne!(send(&mut nat, inside(), server(), start + 60 * SECOND), first);
}

#[test]
fn two_hosts_with_one_source_port_get_two_external_ports() {
    let mut nat = boxed(NatSpec::default());
    let now = Instant::now();
    let first = send(&mut nat, inside(), server(), now);
    let second = send(&mut nat, at("192.168.1.11:5000"), at("5.5.5.2:9"), now);
    assert_eq!(first.port(), 5000);
    assert_ne!(
        second.port(),
        5000,
        "no port overloading (RFC 4787 REQ-3), even towards different destinations"
    );
    assert_eq!(
        arrives(&mut nat, at("5.5.5.2:9"), second, now),
        Ok(at("192.168.1.11:5000"))
    );
}

#[test]
fn counted_ports_follow_one_another_at_the_given_step() {
    let mut nat = boxed(NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports: PortAllocation::Counter { step: 2, foreign: 0 },
        ..NatSpec::default()
    });
    let now = Instant::now();
    let ports: Vec<u16> = (1..=5)
        .map(|port| send(&mut nat, inside(), SocketAddr::new(server().ip(), port), now).port())
        .collect();
    assert!(ports.windows(2).all(|pair| pair[1] == pair[0] + 2), "{ports:?}");
}

#[test]
fn the_same_seed_gives_the_same_ports_and_another_seed_others() {
    let ports = |seed| {
        let spec = NatSpec {
            mapping: Mapping::AddressAndPortDependent,
            ports: PortAllocation::Random,
            ..NatSpec::default()
        };
        let mut nat = NatBox::new(spec, W, seed);
        let now = Instant::now();
        (1..=20u16)
            .map(|port| send(&mut nat, inside(), SocketAddr::new(server().ip(), port), now).port())
            .collect::<Vec<_>>()
    };
    assert_eq!(ports(1), ports(1));
    assert_ne!(ports(1), ports(2));
    assert!(ports(1).iter().all(|port| *port >= 1024));
}

#[test]
fn a_full_table_refuses_new_sessions_and_keeps_the_old_until_they_expire() {
    let mut nat = boxed(NatSpec {
        table_size: 2,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    send(&mut nat, inside(), at("5.5.5.2:1"), now);
    let third = Flow::udp(inside(), at("5.5.5.2:2"));
    assert_eq!(nat.outbound(third, now), Verdict::Drop(DropReason::TableFull));
    assert_eq!(arrives(&mut nat, server(), external, now), Ok(inside()));
    assert_eq!(nat.stats().drops[&DropReason::TableFull], 1);
    assert!(matches!(nat.outbound(third, now + SHORT), Verdict::Forward(_)));
    assert_eq!(nat.stats().peak_entries, 2);
}

#[test]
fn when_every_port_is_taken_a_new_mapping_is_refused() {
    let mut nat = boxed(NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports: PortAllocation::Random,
        table_size: 100_000,
        ..NatSpec::default()
    });
    let now = Instant::now();
    for port in 1024..=u16::MAX {
        send(&mut nat, inside(), SocketAddr::new(server().ip(), port), now);
    }
    let one_more = Flow::udp(inside(), at("5.5.5.2:1"));
    assert_eq!(
        nat.outbound(one_more, now),
        Verdict::Drop(DropReason::PortsExhausted)
    );
    assert_eq!(nat.stats().mappings, 64_512);
}

fn clashing() -> NatBox {
    boxed(NatSpec {
        input: InputPolicy::AcceptConntrackClash,
        ..NatSpec::default()
    })
}

#[test]
fn an_early_packet_of_the_peer_costs_the_flow_its_port_where_input_accepts() {
    let (mut nat, now, peer) = (clashing(), Instant::now(), at("7.7.7.7:700"));
    let announced = send(&mut nat, inside(), server(), now);
    assert_eq!(arrives(&mut nat, peer, announced, now), Err(DropReason::Filtered));
    let used = send(&mut nat, inside(), peer, now);
    assert_ne!(used, announced);
    assert_eq!(
        arrives(&mut nat, peer, announced, now),
        Err(DropReason::Filtered),
        "the hole is elsewhere"
    );
    assert_eq!(arrives(&mut nat, peer, used, now), Ok(inside()));
    assert_eq!(
        send(&mut nat, inside(), server(), now),
        announced,
        "the server does not see the difference"
    );
    assert_eq!(
        send(&mut nat, inside(), at("7.7.7.8:1"), now),
        announced,
        "nor does anyone else"
    );
}

#[test]
fn an_early_packet_of_the_peer_costs_nothing_where_input_drops() {
    let (mut nat, now, peer) = (boxed(NatSpec::default()), Instant::now(), at("7.7.7.7:700"));
    let announced = send(&mut nat, inside(), server(), now);
    assert_eq!(arrives(&mut nat, peer, announced, now), Err(DropReason::Filtered));
    assert_eq!(send(&mut nat, inside(), peer, now), announced);
}

#[test]
fn an_early_packet_of_the_peer_costs_nothing_after_our_own_first_packet() {
    let (mut nat, now, peer) = (clashing(), Instant::now(), at("7.7.7.7:700"));
    let announced = send(&mut nat, inside(), server(), now);
    assert_eq!(send(&mut nat, inside(), peer, now), announced);
    assert_eq!(arrives(&mut nat, peer, announced, now), Ok(inside()));
    assert_eq!(send(&mut nat, inside(), peer, now), announced);
}

#[test]
fn the_clash_does_not_heal_while_the_peer_keeps_sending_and_does_after_silence() {
    let (mut nat, start, peer) = (clashing(), Instant::now(), at("7.7.7.7:700"));
    let announced = send(&mut nat, inside(), server(), start);
    for i in 0..20 {
        let now = start + i * 10 * SECOND;
        send(&mut nat, inside(), server(), now);
        arrives(&mut nat, peer, announced, now).unwrap_err();
    }
    let last = start + 190 * SECOND;
    assert_ne!(send(&mut nat, inside(), peer, last), announced);
    send(&mut nat, inside(), server(), last + 29 * SECOND);
    assert_eq!(send(&mut nat, inside(), peer, last + SHORT), announced);
}

#[test]
fn a_port_that_a_stranger_has_taken_is_not_preserved_towards_him() {
    let (mut nat, now, peer) = (clashing(), Instant::now(), at("7.7.7.7:700"));
    assert_eq!(
        arrives(&mut nat, peer, at("5.5.16.2:5000"), now),
        Err(DropReason::NoMapping)
    );
    assert_ne!(send(&mut nat, inside(), peer, now).port(), 5000);
}

#[test]
fn remembered_strangers_are_bounded_by_the_table_size() {
    let mut nat = boxed(NatSpec {
        input: InputPolicy::AcceptConntrackClash,
        table_size: 10,
        ..NatSpec::default()
    });
    let now = Instant::now();
    for port in 1..=100u16 {
        arrives(
            &mut nat,
            SocketAddr::new(server().ip(), port),
            at("5.5.16.2:5000"),
            now,
        )
        .unwrap_err();
    }
    assert_eq!(nat.stats().unsolicited, 10);
}

#[test]
fn hairpinned_packets_show_the_source_that_the_box_describes() {
    let neighbour = at("192.168.1.11:6000");
    for (hairpin, source) in [
        (Hairpin::Internal, inside()),
        (Hairpin::External, at("5.5.16.2:5000")),
    ] {
        let mut nat = boxed(NatSpec {
            hairpin,
            filtering: Filtering::EndpointIndependent,
            ..NatSpec::default()
        });
        let now = Instant::now();
        let target = send(&mut nat, neighbour, server(), now);
        let verdict = nat.outbound(Flow::udp(inside(), target), now);
        assert_eq!(verdict, Verdict::Hairpin(Flow::udp(source, neighbour)));
    }
}

#[test]
fn without_hairpinning_the_own_external_address_is_out_of_reach() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let target = send(&mut nat, at("192.168.1.11:6000"), server(), now);
    assert_eq!(
        nat.outbound(Flow::udp(inside(), target), now),
        Verdict::Drop(DropReason::HairpinOff)
    );
}

#[test]
fn two_neighbours_that_punch_each_other_through_a_hairpin_meet() {
    let mut nat = boxed(NatSpec {
        hairpin: Hairpin::External,
        ..NatSpec::default()
    });
    let (now, neighbour) = (Instant::now(), at("192.168.1.11:6000"));
    let mine = send(&mut nat, inside(), server(), now);
    let theirs = send(&mut nat, neighbour, server(), now);
    assert_eq!(
        nat.outbound(Flow::udp(inside(), theirs), now),
        Verdict::Drop(DropReason::Filtered)
    );
    let answer = nat.outbound(Flow::udp(neighbour, mine), now);
    assert_eq!(answer, Verdict::Hairpin(Flow::udp(theirs, inside())));
    let again = nat.outbound(Flow::udp(inside(), theirs), now);
    assert_eq!(again, Verdict::Hairpin(Flow::udp(mine, neighbour)));
}

#[test]
fn udp_goes_only_where_the_policy_lets_it() {
    let udp = UdpPolicy::OnlyTo([server().ip()].into());
    let mut nat = boxed(NatSpec {
        udp,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    assert_eq!(arrives(&mut nat, server(), external, now), Ok(inside()));
    let elsewhere = Flow::udp(inside(), at("5.5.5.2:1"));
    assert_eq!(
        nat.outbound(elsewhere, now),
        Verdict::Drop(DropReason::UdpBlocked)
    );
    let tcp = Flow {
        proto: Proto::Tcp,
        ..elsewhere
    };
    assert!(
        matches!(nat.outbound(tcp, now), Verdict::Forward(_)),
        "TCP is another matter"
    );
    nat.set_udp(UdpPolicy::Blocked(None));
    assert_eq!(
        arrives(&mut nat, server(), external, now),
        Err(DropReason::UdpBlocked)
    );
    nat.set_udp(UdpPolicy::Open);
    assert!(matches!(nat.outbound(elsewhere, now), Verdict::Forward(_)));
}

#[test]
fn tcp_and_echo_are_mapped_independently_of_the_endpoint_even_by_a_symmetric_box() {
    let symmetric = kind("symmetric").unwrap().chain(&[]).remove(0);
    for proto in [Proto::Tcp, Proto::Icmp] {
        let mut nat = boxed(symmetric.clone());
        let now = Instant::now();
        for dst in [server(), at("5.5.5.2:80")] {
            let Verdict::Forward(out) = nat.outbound(
                Flow {
                    proto,
                    src: inside(),
                    dst,
                },
                now,
            ) else {
                panic!()
            };
            assert_eq!(out.src, at("5.5.16.2:5000"));
            let back = Flow {
                proto,
                src: dst,
                dst: out.src,
            };
            assert_eq!(
                nat.inbound(back, now),
                Verdict::Forward(Flow {
                    dst: inside(),
                    ..back
                })
            );
        }
    }
}

#[test]
fn protocols_do_not_share_mappings() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    let tcp = Flow {
        proto: Proto::Tcp,
        src: server(),
        dst: external,
    };
    assert_eq!(nat.inbound(tcp, now), Verdict::Drop(DropReason::NoMapping));
}

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

#[test]
fn a_reboot_forgets_all_mappings() {
    let mut nat = boxed(NatSpec {
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let before = send(&mut nat, inside(), server(), now);
    nat.reboot();
    assert_eq!(
        arrives(&mut nat, server(), before, now),
        Err(DropReason::NoMapping)
    );
    assert_ne!(send(&mut nat, inside(), server(), now), before);
}

#[test]
fn nothing_is_left_once_every_session_has_expired() {
    let mut nat = clashing();
    let start = Instant::now();
    for port in 1..=50u16 {
        send(&mut nat, inside(), SocketAddr::new(server().ip(), port), start);
        arrives(
            &mut nat,
            at("7.7.7.7:7"),
            SocketAddr::new(W.into(), 9000 + port),
            start,
        )
        .unwrap_err();
    }
    arrives(&mut nat, at("7.7.7.7:7"), at("5.5.16.2:1"), start + 200 * SECOND).unwrap_err();
    let stats = nat.stats();
    assert_eq!((stats.sessions, stats.mappings, stats.unsolicited), (0, 0, 1));
    assert_eq!(stats.peak_entries, 100);
}

#[test]
fn every_kind_has_its_own_name_and_can_be_found_by_it() {
    for entry in kinds() {
        let found = kind(entry.name).unwrap();
        assert_eq!(found.doc, entry.doc, "two kinds are called {}", entry.name);
    }
    assert!(kind("no-such-kind").is_none());
    assert!(kind("open").unwrap().chain(&[]).is_empty());
}

#[test]
fn a_description_reads_in_the_terms_of_rfc_4787() {
    assert_eq!(
        NatSpec::default().to_string(),
        "EIM, APDF, port preserving, hairpin off, 30 s/120 s"
    );
}
