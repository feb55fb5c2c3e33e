//! How long things are remembered, and how many.

use super::*;

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
    let mut nat = super::unsolicited::clashing();
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
fn nothing_prolongs_a_session_beyond_its_absolute_end() {
    let mut nat = boxed(NatSpec {
        absolute_timeout: Some(50 * SECOND),
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    for second in (10..50).step_by(10) {
        assert_eq!(
            send(&mut nat, inside(), server(), start + second * SECOND),
            external
        );
        arrives(&mut nat, server(), external, start + second * SECOND).unwrap();
    }
    let end = start + 50 * SECOND;
    assert_eq!(
        arrives(&mut nat, server(), external, end),
        Err(DropReason::NoMapping)
    );
    let renewed = send(&mut nat, inside(), server(), end);
    assert_ne!(renewed, external, "another session, another port");
    assert_eq!(
        arrives(&mut nat, server(), renewed, end + 20 * SECOND),
        Ok(inside())
    );
}

#[test]
fn an_absolute_end_shorter_than_the_others_is_the_only_one() {
    let mut nat = boxed(NatSpec {
        absolute_timeout: Some(5 * SECOND),
        ..NatSpec::default()
    });
    let start = Instant::now();
    let external = send(&mut nat, inside(), server(), start);
    let before = start + 5 * SECOND - Duration::from_millis(1);
    assert_eq!(arrives(&mut nat, server(), external, before), Ok(inside()));
    assert_eq!(
        arrives(&mut nat, server(), external, start + 5 * SECOND),
        Err(DropReason::NoMapping)
    );
}

#[test]
fn lives_of_any_length_can_be_described() {
    for life in [Duration::ZERO, Duration::MAX] {
        let mut nat = boxed(NatSpec {
            unreplied_timeout: life,
            stream_timeout: life,
            absolute_timeout: Some(life),
            input: InputPolicy::Blacklist {
                life,
                refreshed: true,
            },
            ..NatSpec::default()
        });
        let start = Instant::now();
        let external = send(&mut nat, inside(), server(), start);
        let answer = arrives(&mut nat, server(), external, start + 3 * SECOND);
        assert_eq!(answer.is_ok(), life > Duration::ZERO);
        let stranger = at("7.7.7.7:7");
        arrives(&mut nat, stranger, external, start + 3 * SECOND).unwrap_err();
        let again = arrives(&mut nat, stranger, external, start + 4 * SECOND).unwrap_err();
        assert_eq!(again == DropReason::Barred, life > Duration::ZERO);
    }
}
