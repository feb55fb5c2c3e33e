//! What unsolicited packets leave behind.

use super::*;

pub(super) fn clashing() -> NatBox {
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

fn with_input(input: InputPolicy) -> NatBox {
    boxed(NatSpec {
        input,
        ..NatSpec::default()
    })
}

#[test]
fn the_sender_of_an_unsolicited_packet_is_told_where_the_box_refuses() {
    for (input, told) in [
        (InputPolicy::Drop, None),
        (
            InputPolicy::Reject(Refusal::PortUnreachable),
            Some(Refusal::PortUnreachable),
        ),
        (
            InputPolicy::Reject(Refusal::AdminProhibited),
            Some(Refusal::AdminProhibited),
        ),
        (InputPolicy::Reject(Refusal::Reset), Some(Refusal::Reset)),
        (InputPolicy::AcceptConntrackClash, Some(Refusal::Reset)),
        (
            InputPolicy::Blacklist {
                life: SECOND,
                refreshed: false,
            },
            None,
        ),
    ] {
        let (mut nat, now) = (with_input(input), Instant::now());
        let external = send(&mut nat, inside(), server(), now);
        for (proto, dst, reason) in [
            (Proto::Udp, external, DropReason::Filtered),
            (Proto::Udp, at("5.5.16.2:1"), DropReason::NoMapping),
            (Proto::Tcp, external, DropReason::NoMapping),
        ] {
            let src = at("7.7.7.7:7");
            let expected = told.map_or(Verdict::Drop(reason), |told| Verdict::Reject(reason, told));
            assert_eq!(nat.inbound(Flow { proto, src, dst }, now), expected, "{input:?}");
        }
        assert_eq!(arrives(&mut nat, server(), external, now), Ok(inside()));
        assert_eq!(
            nat.stats().drops[&DropReason::NoMapping],
            2,
            "told or not, it is counted"
        );
    }
}

#[test]
fn a_refusing_box_keeps_the_port_for_the_flow_that_comes_later() {
    let (mut nat, now) = (
        with_input(InputPolicy::Reject(Refusal::PortUnreachable)),
        Instant::now(),
    );
    let announced = send(&mut nat, inside(), server(), now);
    let peer = at("7.7.7.7:700");
    assert_eq!(arrives(&mut nat, peer, announced, now), Err(DropReason::Filtered));
    assert_eq!(send(&mut nat, inside(), peer, now), announced);
    assert_eq!(nat.stats().unsolicited, 0);
}

#[test]
fn a_reset_tcp_flow_is_forgotten_sooner_than_a_udp_flow() {
    let (mut nat, start, peer) = (clashing(), Instant::now(), at("7.7.7.7:700"));
    for proto in [Proto::Tcp, Proto::Udp] {
        let early = Flow {
            proto,
            src: peer,
            dst: at("5.5.16.2:5000"),
        };
        assert_eq!(
            nat.inbound(early, start),
            Verdict::Reject(DropReason::NoMapping, Refusal::Reset)
        );
    }
    let mut port = |proto| {
        let out = Flow {
            proto,
            src: inside(),
            dst: peer,
        };
        match nat.outbound(out, start + 11 * SECOND) {
            Verdict::Forward(flow) => flow.src.port(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(port(Proto::Tcp), 5000);
    assert_ne!(port(Proto::Udp), 5000);
}

fn blacklisting(refreshed: bool) -> NatBox {
    with_input(InputPolicy::Blacklist {
        life: 2 * SECOND,
        refreshed,
    })
}

#[test]
fn whoever_sent_something_unsolicited_is_barred_for_a_time_solicited_or_not() {
    let (mut nat, start, peer) = (blacklisting(false), Instant::now(), at("7.7.7.7:700"));
    let external = send(&mut nat, inside(), server(), start);
    assert_eq!(
        arrives(&mut nat, peer, external, start),
        Err(DropReason::Filtered)
    );
    assert_eq!(
        send(&mut nat, inside(), peer, start),
        external,
        "the flow has its usual port"
    );
    assert_eq!(arrives(&mut nat, peer, external, start), Err(DropReason::Barred));
    assert_eq!(
        arrives(&mut nat, peer, external, start + SECOND),
        Err(DropReason::Barred)
    );
    assert_eq!(
        arrives(&mut nat, server(), external, start),
        Ok(inside()),
        "others are not"
    );
    let other_port = at("7.7.7.7:701");
    send(&mut nat, inside(), other_port, start);
    assert_eq!(
        arrives(&mut nat, other_port, external, start),
        Ok(inside()),
        "nor other ports"
    );
    assert_eq!(
        arrives(&mut nat, peer, external, start + 2 * SECOND),
        Ok(inside())
    );
}

#[test]
fn a_barred_sender_that_keeps_sending_stays_barred_only_where_that_counts() {
    for (refreshed, last) in [(true, Err(DropReason::Barred)), (false, Ok(inside()))] {
        let (mut nat, start, peer) = (blacklisting(refreshed), Instant::now(), at("7.7.7.7:700"));
        let external = send(&mut nat, inside(), server(), start);
        arrives(&mut nat, peer, external, start).unwrap_err();
        send(&mut nat, inside(), peer, start);
        arrives(&mut nat, peer, external, start + SECOND).unwrap_err();
        assert_eq!(
            arrives(&mut nat, peer, external, start + 2500 * Duration::from_millis(1)),
            last
        );
    }
}

#[test]
fn barred_senders_are_bounded_by_the_table_size_and_forgotten() {
    let (mut nat, start) = (blacklisting(true), Instant::now());
    nat.spec.table_size = 10;
    for port in 1..=100 {
        let stranger = SocketAddr::new(at("7.7.7.7:7").ip(), port);
        arrives(&mut nat, stranger, at("5.5.16.2:5000"), start).unwrap_err();
    }
    assert_eq!(nat.stats().unsolicited, 10);
    assert_eq!(
        nat.outbound(Flow::udp(inside(), server()), start),
        Verdict::Drop(DropReason::TableFull)
    );
    send(&mut nat, inside(), server(), start + 2 * SECOND);
    assert_eq!(nat.stats().unsolicited, 0);
}
