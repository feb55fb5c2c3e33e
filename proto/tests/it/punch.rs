//! The life of a direct path, from the first probe to its loss, and what an attacker cannot do to it.

use std::time::Duration;

use knothole_proto::addr::CandidateKind::{Host, Mapped, Reflexive};
use knothole_proto::path::{How, SocketId, Why};
use knothole_proto::punch::{Event, Timer};
use knothole_proto::wire::Role;
use knothole_proto::wire::probe::Flags;

use crate::duo::{
    Duo, INSIDE, Net, PUBLIC, SECOND, START, asks, at, flags, keys, millis, offered, open, probe, public,
    round,
};
use crate::support::{addr, ms, traffic};

fn met() -> Duo {
    let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
    duo.run(START + 2 * SECOND);
    duo.clear();
    duo
}

fn nothing() -> Net {
    Box::new(|_, _, _| None)
}

/// Only what this side sends arrives.
fn only_from(side: usize, mut net: Net) -> Net {
    Box::new(move |sender, transmit, now| {
        if sender == side {
            net(sender, transmit, now)
        } else {
            None
        }
    })
}

#[test]
fn nobody_sends_before_the_common_start() {
    let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
    duo.run(START - ms(1));
    assert!(duo.sides.iter().all(|side| side.sent.is_empty()));
    duo.run(START);
    assert!(duo.sides.iter().all(|side| side.sent.len() == 1));
}

#[test]
fn both_sides_lock_the_same_pair_three_one_way_delays_after_the_start() {
    let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
    duo.run(START + 5 * SECOND);
    for (side, other) in [(0, 1), (1, 0)] {
        assert_eq!(duo.locks(side), [(START + ms(60), addr(PUBLIC[other]))]);
    }
    let locked = duo.sides[0].events.iter().find_map(|(_, event)| match event {
        Event::Locked { how, socket, rtt, .. } => Some((*how, *socket, *rtt)),
        _ => None,
    });
    assert_eq!(locked, Some((How::Punched, SocketId::V4, ms(40))));
    let failed = |side: usize| {
        duo.sides[side]
            .events
            .iter()
            .any(|(_, event)| matches!(event, Event::Failed(_)))
    };
    assert!(!failed(0) && !failed(1));
    assert!(duo.sides[0].sent.len() < 20, "{} probes", duo.sides[0].sent.len());
}

#[test]
fn equal_seeds_and_inputs_give_equal_bytes() {
    let run = || {
        let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
        duo.run(60 * SECOND);
        duo.sides.map(|side| (side.sent, side.events))
    };
    assert_eq!(run(), run());
}

#[test]
fn an_address_that_nobody_vouches_for_gets_two_probes() {
    let remote = vec![
        offered("7.7.7.7:7", Reflexive, false),
        offered("8.8.8.8:8", Reflexive, true),
    ];
    let mut duo = Duo::new([remote, Vec::new()], nothing());
    duo.run(60 * SECOND);
    assert_eq!(duo.sent_to(0, "7.7.7.7:7"), 2);
    assert_eq!(duo.sent_to(0, "8.8.8.8:8"), 9);
}

#[test]
fn many_rounds_do_not_add_up_to_a_flood() {
    let mut duo = Duo::new(
        [vec![offered("7.7.7.7:7", Reflexive, false)], Vec::new()],
        nothing(),
    );
    for number in 1..=100 {
        let now = START + ms(100) * u32::from(number);
        duo.run(now);
        duo.sides[0].agent.handle_round(
            &round(number, now, vec![offered("7.7.7.7:7", Reflexive, false)]),
            at(now),
        );
        duo.drain();
    }
    let sent = duo.sent_to(0, "7.7.7.7:7");
    assert!((8..=12).contains(&sent), "{sent} in ten seconds");
}

#[test]
fn an_evil_peer_with_a_thousand_addresses_makes_no_flood_and_reaches_no_forbidden_place() {
    let mut remote: Vec<_> = [
        "127.0.0.1:22",
        "169.254.169.254:80",
        "[::1]:22",
        "224.0.0.1:9",
        "[::ffff:127.0.0.1]:22",
    ]
    .iter()
    .map(|text| offered(text, Host, true))
    .collect();
    for n in 0..1000 {
        remote.push(offered(&format!("9.9.{}.{}:9", n / 250, n % 250), Host, false));
    }
    let mut duo = Duo::new([remote, Vec::new()], nothing());
    duo.run(60 * SECOND);
    let sent = &duo.sides[0].sent;
    assert_eq!(sent.len(), 64, "32 addresses, 2 probes each");
    assert!(
        sent.iter()
            .all(|(_, transmit)| transmit.to.ip().to_string().starts_with("9.9."))
    );
}

#[test]
fn probes_leave_at_the_pace_of_the_limit() {
    let remote: Vec<_> = (1..=30)
        .map(|n| offered(&format!("9.9.9.{n}:9"), Reflexive, true))
        .collect();
    let mut duo = Duo::new([remote, Vec::new()], nothing());
    duo.run(60 * SECOND);
    let times: Vec<Duration> = duo.sides[0].sent.iter().map(|(when, _)| *when).collect();
    assert!(times.len() > 100, "{} probes", times.len());
    for (n, when) in times.iter().enumerate() {
        let within = times[n..]
            .iter()
            .take_while(|later| **later < *when + SECOND)
            .count();
        assert!(within <= 220, "{within} within a second from {when:?}");
    }
}

#[test]
fn a_pair_on_which_only_one_side_hears_is_never_locked() {
    for deaf in [0, 1] {
        let mut duo = Duo::new([public(1), public(0)], only_from(deaf, open(ms(20))));
        duo.run(START + 30 * SECOND);
        assert!(duo.locks(0).is_empty() && duo.locks(1).is_empty());
        let verdict = |side: usize| {
            duo.sides[side]
                .events
                .iter()
                .find_map(|(when, event)| match event {
                    Event::Failed(why) => Some((*when, *why)),
                    _ => None,
                })
        };
        let end = START + ms(2000);
        assert_eq!(verdict(deaf), Some((end, Why::Silence)));
        assert_eq!(verdict(1 - deaf), Some((end, Why::OneWayIn)));
    }
}

#[test]
fn a_round_says_why_it_failed() {
    let mut duo = Duo::new([public(1), Vec::new()], nothing());
    duo.run(START + 3 * SECOND);
    let told = |side: usize| {
        duo.sides[side]
            .events
            .iter()
            .map(|(_, event)| event.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(told(0), [Event::Failed(Why::Silence)]);
    assert_eq!(told(1), [Event::Failed(Why::NoCandidates)]);
}

#[test]
fn a_side_behind_another_port_for_each_destination_is_learnt_from_its_probe() {
    // The caller's NAT maps to port 4444 toward the callee; the callee's lets in what it has sent to, address-dependent.
    let net: Net = Box::new(|side, transmit, _| match side {
        0 if transmit.to == addr(PUBLIC[1]) => Some((1, addr("5.0.0.1:4444"), ms(20))),
        1 if transmit.to == addr("5.0.0.1:4444") => Some((0, addr(PUBLIC[1]), ms(20))),
        _ => None,
    });
    let mut duo = Duo::new([public(1), public(0)], net);
    duo.run(START + 2 * SECOND);
    assert_eq!(duo.locks(0), [(START + ms(80), addr(PUBLIC[1]))]);
    assert_eq!(duo.locks(1).last().map(|lock| lock.1), Some(addr("5.0.0.1:4444")));
    let first = duo.sides[1].events.first().map(|(_, event)| event.clone());
    assert_eq!(
        first,
        Some(Event::Source {
            socket: SocketId::V4,
            remote: addr("5.0.0.1:4444")
        })
    );
}

#[test]
fn a_start_that_one_side_learns_late_still_leads_to_a_path() {
    for late in [ms(30), ms(300), ms(1200)] {
        let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
        let start = START + late;
        duo.sides[1]
            .agent
            .handle_round(&round(0, start, public(0)), at(Duration::ZERO));
        // What comes before the callee has opened its own hole does not pass.
        let mut inner = open(ms(20));
        duo.set_net(Box::new(move |side, transmit, now| {
            if side == 0 && now + ms(20) < start {
                None
            } else {
                inner(side, transmit, now)
            }
        }));
        duo.run(START + 5 * SECOND);
        for side in [0, 1] {
            let (when, _) = duo.locks(side)[0];
            assert!(when <= start + ms(150), "{late:?}: {when:?}");
        }
    }
}

#[test]
fn thirty_per_cent_loss_does_not_keep_two_sides_apart() {
    for seed in 0..200u64 {
        let mut dice = knothole_proto::seed::Seed::from_number(seed).rng();
        let mut inner = open(ms(40));
        let net: Net = Box::new(move |side, transmit, now| {
            if dice.below(100) < 30 {
                None
            } else {
                inner(side, transmit, now)
            }
        });
        let mut duo = Duo::new([public(1), public(0)], net);
        duo.run(START + 10 * SECOND);
        let locked = (duo.locks(0).len(), duo.locks(1).len());
        assert!(locked.0 > 0 && locked.1 > 0, "seed {seed}: {locked:?}");
    }
}

#[test]
fn two_sides_that_locked_different_pairs_agree_on_the_callers() {
    let both = |side: usize| {
        vec![
            offered(PUBLIC[side], Reflexive, true),
            offered("6.0.0.2:9", Reflexive, true),
            offered("5.0.0.2:9", Reflexive, true),
        ]
    };
    for (slow_caller, slow_callee) in [(ms(0), ms(9)), (ms(9), ms(0)), (ms(3), ms(3))] {
        // Two ways of nearly the same length; answers on one of them are delayed for one side only.
        let net: Net = Box::new(move |side, transmit, _| {
            let second = transmit.to.ip().octets_end() == 2;
            let from = if second {
                ["5.0.0.2:9", "6.0.0.2:9"][side]
            } else {
                PUBLIC[side]
            };
            let own = if side == 0 { "6." } else { "5." };
            let delay = if second {
                [slow_caller, slow_callee][side]
            } else {
                [slow_callee, slow_caller][side]
            };
            transmit
                .to
                .to_string()
                .starts_with(own)
                .then(|| (1 - side, addr(from), ms(20) + delay))
        });
        let mut duo = Duo::new([both(1), both(0)], net);
        duo.run(START + 5 * SECOND);
        let pair = |side: usize| duo.locks(side).last().map(|lock| lock.1.ip().octets_end());
        assert_eq!(pair(0), pair(1), "{slow_caller:?} {slow_callee:?}");
    }
}

trait LastOctet {
    fn octets_end(&self) -> u8;
}

impl LastOctet for std::net::IpAddr {
    fn octets_end(&self) -> u8 {
        match self {
            Self::V4(ip) => ip.octets()[3],
            Self::V6(ip) => ip.octets()[15],
        }
    }
}

#[test]
fn a_better_class_that_is_proven_later_takes_over_on_both_sides() {
    // The way through the routers is shorter at first: the one inside is held up for 100 ms.
    let mut inner = open(ms(10));
    let net: Net = Box::new(move |side, transmit, now| {
        let held = transmit.to.ip().to_string().starts_with("192.") && now < START + ms(90);
        if held { None } else { inner(side, transmit, now) }
    });
    let all = |side: usize| vec![public(side)[0], offered(INSIDE[side], Host, false)];
    let mut duo = Duo::new([all(1), all(0)], net);
    duo.run(START + 5 * SECOND);
    for (side, other) in [(0, 1), (1, 0)] {
        let locks = duo.locks(side);
        assert_eq!(locks.len(), 2);
        assert_eq!(locks[0].1, addr(PUBLIC[other]));
        assert_eq!(locks[1].1, addr(INSIDE[other]));
        assert!(
            millis(locks[1].0 - locks[0].0) <= 320,
            "at the second look: {locks:?}"
        );
    }
}

#[test]
fn a_path_of_the_same_class_takes_over_only_if_clearly_faster() {
    for (gain, moves) in [(ms(2), false), (ms(20), true)] {
        let net: Net = Box::new(move |side, transmit, now| {
            let second = transmit.to.ip().octets_end() == 2;
            let from = if second {
                ["5.0.0.2:9", "6.0.0.2:9"][side]
            } else {
                PUBLIC[side]
            };
            let delay = if second { ms(30) - gain / 2 } else { ms(30) };
            let held = second && now < START + ms(40);
            (!held).then(|| (1 - side, addr(from), delay))
        });
        let all = |first: &str, second: &str| {
            vec![offered(first, Reflexive, true), offered(second, Reflexive, true)]
        };
        let mut duo = Duo::new([all(PUBLIC[1], "6.0.0.2:9"), all(PUBLIC[0], "5.0.0.2:9")], net);
        duo.run(START + 5 * SECOND);
        assert_eq!(
            duo.locks(0).len(),
            if moves { 2 } else { 1 },
            "{gain:?}: {:?}",
            duo.locks(0)
        );
        assert_eq!(duo.locks(1).len(), duo.locks(0).len());
    }
}

#[test]
fn a_mapped_port_and_ipv6_are_called_by_their_names() {
    let how = |text: &'static str, kind, own: &'static str| {
        let net: Net = Box::new(move |side, transmit, _| {
            let expected = if side == 0 { text } else { own };
            let from = if side == 0 { own } else { text };
            (transmit.to == addr(expected)).then(|| (1 - side, addr(from), ms(10)))
        });
        let mut duo = Duo::new(
            [
                vec![offered(text, kind, true)],
                vec![offered(own, Reflexive, true)],
            ],
            net,
        );
        duo.run(START + SECOND);
        duo.sides[0].events.iter().find_map(|(_, event)| match event {
            Event::Locked { how, .. } => Some(*how),
            _ => None,
        })
    };
    assert_eq!(how("6.0.0.1:2000", Mapped, "5.0.0.1:1000"), Some(How::Mapped));
    assert_eq!(how("[2a00::1]:2000", Host, "[2a01::1]:1000"), Some(How::Ipv6));
    assert_eq!(how("10.1.1.1:2000", Host, "10.2.2.2:1000"), Some(How::Lan));
}

#[test]
fn answers_are_never_answered() {
    let mut duo = met();
    let answer = probe(Flags::PROVEN, 11, 0);
    assert!(duo.forge(1, PUBLIC[1], &answer));
    assert!(duo.sides[0].sent.is_empty());
    let question = probe(Flags::ANSWER_ME, 12, 0);
    assert!(duo.forge(1, PUBLIC[1], &question));
    assert_eq!(duo.sides[0].sent.len(), 1);
    assert!(!asks(&duo.sides[0].sent[0].1.bytes));
    assert_eq!(duo.sides[0].sent[0].1.bytes.len(), 64);
}

#[test]
fn answers_to_a_flood_of_authentic_questions_are_limited() {
    let mut duo = met();
    for n in 0..10_000 {
        duo.forge(1, PUBLIC[1], &probe(Flags::ANSWER_ME, 1_000 + n, 0));
    }
    assert!(duo.sides[0].sent.len() <= 64, "{}", duo.sides[0].sent.len());
}

#[test]
fn what_is_not_sealed_by_the_peer_changes_nothing() {
    let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
    let mut dice = knothole_proto::seed::Seed::from_number(1).rng();
    for n in 0..2000u64 {
        duo.run(ms(n / 4));
        let mut bytes: Vec<u8> = dice.bytes::<64>().to_vec();
        if n % 2 == 0 {
            // The right form and the right tag, which are no secret.
            bytes[..3].copy_from_slice(&[4, 1, 7]);
            bytes[4..12].copy_from_slice(&keys(1, 0).tag().0);
        }
        assert!(!duo.feed(
            usize::try_from(n % 2).unwrap(),
            SocketId::V4,
            addr("66.6.6.6:6"),
            &bytes
        ));
    }
    duo.run(START + 5 * SECOND);
    let mut quiet = Duo::new([public(1), public(0)], open(ms(20)));
    quiet.run(START + 5 * SECOND);
    for side in [0, 1] {
        assert_eq!(duo.sides[side].events, quiet.sides[side].events);
        assert_eq!(duo.sides[side].sent, quiet.sides[side].sent);
    }
}

#[test]
fn a_recorded_probe_that_comes_again_changes_nothing() {
    let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
    duo.run(START + 5 * SECOND);
    let records: Vec<_> = duo.sides.iter().map(|side| side.got.clone()).collect();
    duo.clear();
    let due = duo.sides.each_ref().map(|side| side.agent.poll_timeout());
    for (side, record) in records.iter().enumerate() {
        for (socket, from, bytes) in record {
            duo.feed(side, *socket, *from, bytes);
            duo.feed(side, *socket, addr("66.6.6.6:6"), bytes);
            // And what the one got, sent to the other.
            assert!(!duo.feed(1 - side, *socket, *from, bytes));
        }
    }
    for side in [0, 1] {
        assert!(duo.sides[side].sent.is_empty() && duo.sides[side].events.is_empty());
        assert_eq!(duo.sides[side].agent.poll_timeout(), due[side]);
    }
}

#[test]
fn a_copier_from_an_address_of_his_own_gets_two_datagrams_and_no_source() {
    let mut duo = met();
    for n in 0..100 {
        assert!(duo.forge(
            1,
            "66.6.6.6:6",
            &probe(Flags::ANSWER_ME.with(Flags::PROVEN), 500 + n, 0)
        ));
        duo.run(duo.now + ms(10));
    }
    assert_eq!(duo.sent_to(0, "66.6.6.6:6"), 2);
    assert!(duo.sides[0].events.is_empty());
}

#[test]
fn a_copier_who_is_always_first_does_not_keep_two_sides_apart() {
    let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
    // Every datagram comes from the copier's address just before it comes from its own.
    for step in 0..4000u32 {
        let until = ms(1) * step;
        let before: Vec<usize> = duo.sides.iter().map(|side| side.sent.len()).collect();
        duo.run(until);
        for side in [0, 1] {
            let copies: Vec<_> = duo.sides[side].sent[before[side]..].to_vec();
            for (_, transmit) in copies {
                duo.feed(1 - side, SocketId::V4, addr("66.6.6.6:6"), &transmit.bytes);
            }
        }
    }
    for (side, other) in [(0, 1), (1, 0)] {
        assert_eq!(duo.locks(side), [(START + ms(60), addr(PUBLIC[other]))]);
        assert!(duo.sent_to(side, "66.6.6.6:6") <= 2);
    }
}

#[test]
fn a_probe_of_an_old_session_is_nothing_in_a_new_one() {
    let mut duo = met();
    let old = keys(9, 1).seal(&probe(Flags::ANSWER_ME, 5, 0));
    assert!(!duo.feed(0, SocketId::V4, addr(PUBLIC[1]), &old));
    assert!(duo.sides[0].sent.is_empty() && duo.sides[0].events.is_empty());
}

#[test]
fn the_old_keys_work_for_half_a_minute_after_a_change() {
    let mut duo = met();
    let now = duo.now;
    duo.sides[0].agent.handle_keys(keys(2, 0), Role::Caller, at(now));
    let old = |nonce| keys(1, 1).seal(&probe(Flags::ANSWER_ME, nonce, 0));
    assert!(duo.feed(0, SocketId::V4, addr(PUBLIC[1]), &old(5)));
    let answer = duo.sides[0].sent[0].1.bytes.clone();
    assert_eq!(
        keys(1, 1).open(&answer).map(|probe| probe.echo),
        Some(5),
        "answered under the same keys"
    );
    duo.set_net(nothing());
    duo.now = now + 31 * SECOND;
    assert!(!duo.feed(0, SocketId::V4, addr(PUBLIC[1]), &old(6)));
    let new = keys(2, 1).seal(&probe(Flags::ANSWER_ME, 7, 0));
    assert!(duo.feed(0, SocketId::V4, addr(PUBLIC[1]), &new));
}

#[test]
fn a_live_path_outlives_a_change_of_keys() {
    let mut duo = met();
    let now = duo.now;
    for side in [0, 1] {
        let role = [Role::Caller, Role::Callee][side];
        duo.sides[side].agent.handle_keys(keys(2, side), role, at(now));
        duo.sides[side]
            .agent
            .handle_round(&round(0, now + ms(150), public(1 - side)), at(now));
        duo.run(now + ms(20));
    }
    duo.run(now + 120 * SECOND);
    for side in [0, 1] {
        assert!(duo.sides[side].agent.has_path());
        assert!(
            !duo.sides[side]
                .events
                .iter()
                .any(|(_, event)| matches!(event, Event::Lost | Event::Failed(_)))
        );
    }
}

#[test]
fn another_round_after_a_failed_one_succeeds_and_old_probes_count() {
    let mut duo = Duo::new([public(1), public(0)], nothing());
    duo.run(START + 4 * SECOND);
    duo.clear();
    duo.set_net(open(ms(20)));
    let start = duo.now + ms(150);
    // Only the caller hears of the new round: the callee still sends and expects round 0.
    duo.sides[0]
        .agent
        .handle_round(&round(1, start, public(1)), at(duo.now));
    duo.run(start + 3 * SECOND);
    for (side, other) in [(0, 1), (1, 0)] {
        assert_eq!(
            duo.locks(side).first().map(|lock| lock.1),
            Some(addr(PUBLIC[other]))
        );
    }
}

#[test]
fn a_new_round_does_not_interrupt_the_used_path() {
    let mut duo = met();
    let now = duo.now;
    for side in [0, 1] {
        duo.sides[side]
            .agent
            .handle_round(&round(1, now + ms(150), public(1 - side)), at(now));
    }
    duo.run(now + 10 * SECOND);
    for side in [0, 1] {
        assert!(duo.sides[side].agent.has_path());
        assert!(
            duo.locks(side).is_empty(),
            "nothing to tell: {:?}",
            duo.sides[side].events
        );
    }
}

#[test]
fn an_idle_path_is_kept_alive_at_its_interval() {
    let mut duo = met();
    let begun = duo.now;
    duo.run(begun + 600 * SECOND);
    for side in [0, 1] {
        assert!(duo.sides[side].agent.has_path());
        let questions = duo.sides[side]
            .sent
            .iter()
            .filter(|(_, transmit)| asks(&transmit.bytes))
            .count();
        assert!((20..=50).contains(&questions), "{questions} in ten minutes");
        let times: Vec<Duration> = duo.sides[side].sent.iter().map(|(when, _)| *when).collect();
        let gap = times.windows(2).map(|two| two[1] - two[0]).max();
        assert!(gap.is_some_and(|gap| gap <= 15 * SECOND), "{gap:?}");
        assert!(
            duo.sides[side]
                .sent
                .iter()
                .all(|(_, transmit)| flags(&transmit.bytes).has(Flags::IN_USE))
        );
    }
}

#[test]
fn traffic_makes_keepalives_rare_but_consent_is_still_asked_for() {
    let mut duo = met();
    let begun = duo.now;
    for step in 0..600u32 {
        let now = begun + ms(200) * step;
        duo.run(now);
        for side in &mut duo.sides {
            side.agent.handle_traffic(traffic(true), at(now));
        }
    }
    let questions = duo.sides[0]
        .sent
        .iter()
        .filter(|(_, transmit)| asks(&transmit.bytes))
        .count();
    assert!((5..=7).contains(&questions), "{questions} in two minutes");
}

#[test]
fn an_idle_path_that_dies_is_given_up_seven_seconds_after_its_keepalive() {
    let mut duo = met();
    let begun = duo.now;
    duo.set_net(nothing());
    duo.run(begun + 60 * SECOND);
    let lost = duo.sides[0]
        .events
        .iter()
        .find(|(_, event)| *event == Event::Lost)
        .map(|(when, _)| *when - begun);
    assert!(
        lost.is_some_and(|lost| (18 * SECOND..=22 * SECOND).contains(&lost)),
        "{lost:?}"
    );
    assert!(!duo.sides[0].agent.has_path());
}

/// Report traffic of the layer above every 50 ms: what leaves always does, what arrives only while the path works.
fn under_load(duo: &mut Duo, until: Duration, works: bool) {
    while duo.now < until {
        let now = duo.now + ms(50);
        duo.run(now);
        for side in &mut duo.sides {
            side.agent.handle_traffic(traffic(works), at(now));
        }
        duo.drain();
    }
}

#[test]
fn a_path_that_dies_under_load_is_given_up_within_two_and_a_half_seconds() {
    let mut duo = met();
    let begun = duo.now;
    duo.set_net(nothing());
    under_load(&mut duo, begun + 5 * SECOND, false);
    for side in [0, 1] {
        let lost = duo.sides[side]
            .events
            .iter()
            .find(|(_, event)| *event == Event::Lost)
            .map(|(when, _)| *when - begun);
        assert!(
            lost.is_some_and(|lost| (ms(1900)..=ms(2500)).contains(&lost)),
            "{lost:?}"
        );
    }
}

#[test]
fn silence_of_the_application_alone_loses_no_path() {
    let mut duo = met();
    let begun = duo.now;
    // Data go out for long and nothing comes in, but probes are answered: the path is fine.
    under_load(&mut duo, begun + 30 * SECOND, false);
    for side in [0, 1] {
        assert!(duo.sides[side].agent.has_path());
        assert!(duo.sides[side].events.is_empty(), "{:?}", duo.sides[side].events);
    }
}

#[test]
fn a_path_that_comes_back_is_found_again_without_the_server() {
    let mut duo = met();
    let begun = duo.now;
    duo.set_net(nothing());
    under_load(&mut duo, begun + 5 * SECOND, false);
    duo.set_net(open(ms(20)));
    duo.run(begun + 15 * SECOND);
    for (side, other) in [(0, 1), (1, 0)] {
        assert_eq!(
            duo.locks(side).iter().map(|lock| lock.1).collect::<Vec<_>>(),
            [addr(PUBLIC[other])]
        );
        assert!(duo.sides[side].agent.has_path());
    }
}

#[test]
fn another_proven_path_takes_over_without_a_gap() {
    let all = |side: usize| vec![public(side)[0], offered(INSIDE[side], Host, false)];
    let mut duo = Duo::new([all(1), all(0)], open(ms(5)));
    duo.run(START + 3 * SECOND);
    assert_eq!(duo.locks(0).last().map(|lock| lock.1), Some(addr(INSIDE[1])));
    duo.clear();
    let begun = duo.now;
    let mut inner = open(ms(5));
    duo.set_net(Box::new(move |side, transmit, now| {
        let outside = !transmit.to.ip().to_string().starts_with("192.");
        if outside { inner(side, transmit, now) } else { None }
    }));
    under_load(&mut duo, begun + 4 * SECOND, false);
    for (side, other) in [(0, 1), (1, 0)] {
        assert_eq!(
            duo.locks(side).last().map(|lock| lock.1),
            Some(addr(PUBLIC[other]))
        );
        assert!(
            !duo.sides[side]
                .events
                .iter()
                .any(|(_, event)| *event == Event::Lost)
        );
    }
}

#[test]
fn a_peer_that_moved_is_followed() {
    let mut duo = met();
    let begun = duo.now;
    // From now on the caller appears at another port; the old mapping is gone.
    duo.set_net(Box::new(|side, transmit, _| match side {
        0 => Some((1, addr("5.0.0.1:7777"), ms(20))),
        _ => (transmit.to == addr("5.0.0.1:7777")).then(|| (0, addr(PUBLIC[1]), ms(20))),
    }));
    duo.run(begun + 40 * SECOND);
    assert_eq!(duo.locks(1).last().map(|lock| lock.1), Some(addr("5.0.0.1:7777")));
    assert!(duo.sides.iter().all(|side| side.agent.has_path()));
}

#[test]
fn a_source_that_falls_silent_is_forgotten_after_a_minute() {
    let mut duo = met();
    let begun = duo.now;
    assert!(duo.forge(1, "6.0.0.1:6", &probe(Flags::default(), 77, 0)));
    let source = Event::Source {
        socket: SocketId::V4,
        remote: addr("6.0.0.1:6"),
    };
    assert_eq!(duo.sides[0].events[0].1, source);
    duo.run(begun + 61 * SECOND);
    let gone = Event::SourceGone {
        socket: SocketId::V4,
        remote: addr("6.0.0.1:6"),
    };
    assert!(duo.sides[0].events.iter().any(|(_, event)| *event == gone));
    assert!(duo.sides[0].agent.has_path());
}

#[test]
fn sources_are_bounded_whatever_the_peer_does() {
    let mut duo = met();
    for n in 0..5000u64 {
        let from = format!("66.{}.{}.6:6", n / 250, n % 250);
        duo.forge(1, &from, &probe(Flags::default(), 1000 + n, 0));
    }
    let told = duo.sides[0]
        .events
        .iter()
        .filter(|(_, event)| matches!(event, Event::Source { .. }))
        .count();
    assert!(told <= 64, "{told}");
    duo.run(duo.now + 10 * SECOND);
    assert!(duo.sides[0].agent.has_path());
}

#[test]
fn the_next_deadline_names_its_reason() {
    let duo = Duo::new([public(1), public(0)], nothing());
    assert_eq!(duo.sides[0].agent.poll_timeout(), Some((at(START), Timer::Probe)));
    let duo = Duo::new([Vec::new(), public(0)], nothing());
    assert_eq!(
        duo.sides[0].agent.poll_timeout(),
        Some((at(START + ms(2000)), Timer::Verdict))
    );
    assert!(matches!(
        met().sides[0].agent.poll_timeout(),
        Some((_, Timer::Upkeep))
    ));
}
