//! Which external address and port a mapping gets.

use std::net::IpAddr;

use super::*;

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

#[test]
fn counted_ports_with_an_even_step_reach_every_port_before_they_run_out() {
    let spec = NatSpec {
        table_size: 100_000,
        ..symmetric(PortAllocation::Counter { step: 2, foreign: 0 })
    };
    let (mut nat, now) = (boxed(spec), Instant::now());
    let mut ports = ports_towards(&mut nat, inside(), 1024..u16::MAX, now);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 64_511);
}

/// How far the counter moved on while so much time passed, modulo all ports.
fn foreign_steps(step: u16, foreign: u32, wait: Duration, seed: u64) -> u16 {
    let spec = symmetric(PortAllocation::Counter { step, foreign });
    let mut nat = NatBox::new(spec, W, seed);
    let start = Instant::now();
    let first = send(&mut nat, inside(), server(), start).port();
    let second = send(&mut nat, inside(), at("5.5.5.2:1"), start + wait).port();
    let distance = (i32::from(second) - i32::from(first)).rem_euclid(64_512);
    u16::try_from(distance).unwrap() - step
}

#[test]
fn other_peoples_flows_move_the_counter_as_often_as_the_box_says() {
    let moved: Vec<u16> = (0..200).map(|seed| foreign_steps(2, 30, SECOND, seed)).collect();
    assert!(
        moved.iter().all(|steps| steps % 2 == 0),
        "each moves it by a step"
    );
    let mean = moved.iter().map(|steps| f64::from(steps / 2)).sum::<f64>() / 200.0;
    // 30 on average; of 200 draws the mean scatters by 0.4.
    assert!((28.0..32.0).contains(&mean), "{mean}");
    assert!(moved.iter().min() < Some(&50) && moved.iter().max() > Some(&70));
    assert_eq!(
        foreign_steps(2, 30, Duration::ZERO, 1),
        0,
        "nobody comes in no time"
    );
    assert_eq!(
        foreign_steps(2, 0, 3600 * SECOND, 1),
        0,
        "nobody comes where nobody is"
    );
}

#[test]
fn other_peoples_flows_are_the_same_for_the_same_seed_and_cost_nothing_after_days() {
    let days = 30 * 86_400 * SECOND;
    let moved = |seed| foreign_steps(1, u32::MAX, days, seed);
    assert_eq!(moved(3), moved(3));
    assert_ne!(moved(3), moved(4));
}

#[test]
fn the_first_mapping_keeps_the_inside_port_and_the_others_are_counted() {
    let spec = symmetric(PortAllocation::PreserveThenCounter { step: 3 });
    let (mut nat, start) = (boxed(spec), Instant::now());
    let ports = ports_towards(&mut nat, inside(), 1..5, start);
    assert_eq!(ports[0], 5000);
    assert!(
        ports[1] != 5000 && ports[1..].windows(2).all(|pair| pair[1] == pair[0] + 3),
        "{ports:?}"
    );
    let neighbour = at("192.168.1.11:5000");
    let taken = send(&mut nat, neighbour, server(), start).port();
    assert_eq!(
        taken,
        ports[3] + 3,
        "where the inside port is taken, the first one is counted too"
    );
    let later = start + 31 * SECOND;
    assert_eq!(
        send(&mut nat, inside(), server(), later).port(),
        5000,
        "forgotten and first again"
    );
}

fn in_blocks(size: u16) -> NatBox {
    boxed(symmetric(PortAllocation::Block { size }))
}

fn subscriber(number: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, number).into(), 5000)
}

#[test]
fn a_subscriber_has_an_aligned_block_of_ports_and_no_two_have_the_same() {
    let (mut nat, now) = (in_blocks(512), Instant::now());
    let mut blocks = std::collections::BTreeSet::new();
    for number in 1..=100 {
        let ports = ports_towards(&mut nat, subscriber(number), 1..20, now);
        let block = ports[0] / 512;
        assert!(
            ports.iter().all(|port| port / 512 == block && *port >= 1024),
            "{ports:?}"
        );
        assert!(
            ports.windows(2).any(|pair| pair[1] != pair[0] + 1),
            "random inside it"
        );
        assert!(blocks.insert(block));
        let other_socket = SocketAddr::new(subscriber(number).ip(), 6000);
        assert_eq!(send(&mut nat, other_socket, server(), now).port() / 512, block);
    }
}

#[test]
fn a_full_block_refuses_its_subscriber_and_nobody_else() {
    let (mut nat, now) = (in_blocks(8), Instant::now());
    let mut ports = ports_towards(&mut nat, subscriber(1), 1..9, now);
    ports.sort_unstable();
    assert!(
        ports[0].is_multiple_of(8) && ports.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{ports:?}"
    );
    assert_eq!(
        nat.outbound(Flow::udp(subscriber(1), server()), now),
        Verdict::Drop(DropReason::PortsExhausted)
    );
    send(&mut nat, subscriber(2), server(), now);
}

#[test]
fn a_block_is_free_again_when_the_last_mapping_of_its_subscriber_has_ended() {
    // Blocks of 16,384 begin at 16384, 32768 and 49152.
    let (mut nat, start) = (in_blocks(16_384), Instant::now());
    for number in 1..=3 {
        send(&mut nat, subscriber(number), server(), start);
    }
    let fourth = Flow::udp(subscriber(4), server());
    let refused = Verdict::Drop(DropReason::PortsExhausted);
    assert_eq!(nat.outbound(fourth, start), refused);
    let kept = send(&mut nat, subscriber(1), at("5.5.5.2:1"), start + 20 * SECOND).port();
    for number in 2..=3 {
        send(&mut nat, subscriber(number), server(), start + 20 * SECOND);
    }
    assert_eq!(
        nat.outbound(fourth, start + 40 * SECOND),
        refused,
        "the others have mappings yet"
    );
    send(&mut nat, subscriber(1), at("5.5.5.2:1"), start + 45 * SECOND);
    let Verdict::Forward(flow) = nat.outbound(fourth, start + 50 * SECOND) else {
        panic!("two blocks have no mapping any more");
    };
    assert_ne!(flow.src.port() / 16_384, kept / 16_384);
    let again = ports_towards(&mut nat, subscriber(1), 1..9, start + 50 * SECOND);
    assert!(
        again.iter().all(|port| port / 16_384 == kept / 16_384),
        "the first kept its own"
    );
}

#[test]
fn blocks_that_do_not_fit_refuse_and_the_smallest_hold_one_mapping() {
    let now = Instant::now();
    let out = Flow::udp(subscriber(1), server());
    assert_eq!(
        in_blocks(40_000).outbound(out, now),
        Verdict::Drop(DropReason::PortsExhausted)
    );
    let mut nat = in_blocks(0);
    send(&mut nat, subscriber(1), server(), now);
    let second = Flow::udp(subscriber(1), at("5.5.5.2:1"));
    assert_eq!(
        nat.outbound(second, now),
        Verdict::Drop(DropReason::PortsExhausted)
    );
}

#[test]
fn tcp_keeps_its_port_whatever_blocks_udp_has() {
    let (mut nat, now) = (in_blocks(8), Instant::now());
    let tcp = Flow {
        proto: Proto::Tcp,
        ..Flow::udp(inside(), server())
    };
    let Verdict::Forward(out) = nat.outbound(tcp, now) else {
        panic!("TCP passes")
    };
    assert_eq!(out.src.port(), 5000);
}

fn pool(pooling: Pooling, seed: u64) -> NatBox {
    let spec = NatSpec {
        addresses: 4,
        pooling,
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..NatSpec::default()
    };
    NatBox::new(spec, W, seed)
}

#[test]
fn a_pool_is_so_many_addresses_in_a_row() {
    let addresses: Vec<Ipv4Addr> = pool(Pooling::Paired, 7).externals().collect();
    assert_eq!(addresses, [2, 3, 4, 5].map(|last| Ipv4Addr::new(5, 5, 16, last)));
    let none = NatSpec {
        addresses: 0,
        ..NatSpec::default()
    };
    assert_eq!(
        boxed(none).externals().collect::<Vec<_>>(),
        [W],
        "none is treated as one"
    );
}

#[test]
fn a_paired_pool_gives_all_mappings_of_a_host_one_address_for_good() {
    let (mut nat, start) = (pool(Pooling::Paired, 7), Instant::now());
    let mut used = std::collections::BTreeSet::new();
    for number in 1..=40 {
        let host = subscriber(number);
        let address = send(&mut nat, host, server(), start).ip();
        assert!(nat.externals().any(|external| IpAddr::V4(external) == address));
        for port in 5001..5010 {
            let socket = SocketAddr::new(host.ip(), port);
            assert_eq!(send(&mut nat, socket, server(), start).ip(), address);
        }
        used.insert(address);
    }
    assert_eq!(used.len(), 4, "different hosts have different ones");
    let of_host = |seed| send(&mut pool(Pooling::Paired, seed), subscriber(1), server(), start).ip();
    assert!((0..50).all(|seed| of_host(seed) == of_host(seed)));
    assert!((0..50).any(|seed| of_host(seed) != of_host(0)));
}

#[test]
fn an_arbitrary_pool_gives_each_mapping_any_address_and_each_socket_one_if_eim() {
    let (mut nat, now) = (pool(Pooling::Arbitrary, 7), Instant::now());
    let sockets: Vec<SocketAddr> = (5000..5020)
        .map(|port| SocketAddr::new(subscriber(1).ip(), port))
        .collect();
    let addresses: std::collections::BTreeSet<IpAddr> = sockets
        .iter()
        .map(|socket| send(&mut nat, *socket, server(), now).ip())
        .collect();
    assert_eq!(addresses.len(), 4);
    for socket in sockets {
        let first = send(&mut nat, socket, server(), now);
        assert_eq!(send(&mut nat, socket, at("5.5.5.2:1"), now), first);
    }
}

#[test]
fn packets_to_any_address_of_a_pool_come_in_and_hairpin() {
    for pooling in [Pooling::Paired, Pooling::Arbitrary] {
        let (mut nat, now) = (pool(pooling, 7), Instant::now());
        for number in 1..=20 {
            let external = send(&mut nat, subscriber(number), server(), now);
            assert_eq!(
                arrives(&mut nat, at("7.7.7.7:7"), external, now),
                Ok(subscriber(number))
            );
            let Verdict::Hairpin(flow) = nat.outbound(Flow::udp(inside(), external), now) else {
                panic!("{external} is the box itself")
            };
            assert_eq!(flow.dst, subscriber(number));
        }
    }
}

#[test]
fn where_one_address_has_no_port_left_an_arbitrary_pool_takes_another_and_a_paired_one_refuses() {
    for (pooling, room) in [(Pooling::Paired, 1), (Pooling::Arbitrary, 4)] {
        let spec = NatSpec {
            addresses: 4,
            pooling,
            ..symmetric(PortAllocation::Block { size: 32_768 })
        };
        // One block fits at each address.
        let (mut nat, now) = (boxed(spec), Instant::now());
        let same_address: Vec<SocketAddr> = (1..=200)
            .map(subscriber)
            .filter(|host| {
                let mut alone = pool(Pooling::Paired, 7);
                send(&mut alone, *host, server(), now).ip() == IpAddr::V4(W)
            })
            .take(5)
            .collect();
        let verdicts = same_address
            .iter()
            .map(|host| nat.outbound(Flow::udp(*host, server()), now));
        let passed = verdicts
            .filter(|verdict| matches!(verdict, Verdict::Forward(_)))
            .count();
        assert_eq!(passed, room, "{pooling:?}");
    }
}
