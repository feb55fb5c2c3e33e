//! A malicious server: it introduces whom it likes, vouches for whom it likes, and never tires.

use std::net::SocketAddr;
use std::time::Duration;

use knothole_proto::wire::network::SPANS_MAX;
use knothole_proto::wire::{Aim, FromServer, Introduction, Network, Role, Span};

use super::rig::{Rig, peer, secret, session};
use super::{MINUTE, MS, SECOND, offered, pairs, victim};

/// Most that one address gets in any minute: a round of the dearest plan, and the ordinary probes of many rounds.
const MINUTE_MAX: usize = 1_536 + 600;

/// What rounds that guess nothing send to an address in a minute at most.
const ORDINARY_MAX: usize = 600;

/// Rounds of guesses at one address in an hour.
const GUESSES_MAX: usize = 4;

/// Introduces the victim as these peers in turn, every `pause`, for so long.
fn harass(networks: [Network; 2], role: Role, peers: usize, pause: Duration, time: Duration) -> Rig {
    let mut rig = Rig::new(peers, false);
    let mut number = 0_u32;
    while rig.now < time {
        let who = usize::try_from(number).unwrap() % peers;
        let introduction = rig.introduction(who, vec![offered(victim(), true)], networks);
        rig.introduce(Introduction {
            session: session(number),
            role,
            peer: peer(who),
            tag: secret(who).tag(),
            round: u8::try_from(number / 3 % 2).unwrap(),
            ..introduction
        });
        number += 1;
        rig.run(rig.now + pause);
    }
    rig
}

#[test]
fn whatever_it_says_of_both_networks_an_address_it_vouches_for_gets_one_dear_round_a_minute_and_four_an_hour()
{
    let (mut tried, mut all) = (0, 0);
    for (number, networks) in pairs().enumerate() {
        let role = [Role::Caller, Role::Callee][number % 2];
        let rig = harass(networks, role, 4, 15 * SECOND, 59 * MINUTE);
        let (most, dear) = (
            rig.most_in_a_minute(victim().ip()),
            rig.minutes_above(victim().ip(), ORDINARY_MAX),
        );
        // Who waits to be dialled sends next to nothing.
        tried += u32::from(most > 8);
        all += 1;
        assert!(most <= MINUTE_MAX, "{most} in a minute, {role:?}, {networks:?}");
        assert!(
            dear <= GUESSES_MAX,
            "{dear} dear minutes in an hour, {role:?}, {networks:?}"
        );
    }
    assert!(tried > all * 3 / 4, "{tried} of {all} pairs tried something");
}

#[test]
fn in_a_hurry_and_with_many_peers_it_gets_no_more() {
    for (number, networks) in pairs().enumerate() {
        let role = [Role::Caller, Role::Callee][number % 2];
        let rig = harass(networks, role, 60, 100 * MS, 100 * SECOND);
        let (most, all) = (
            rig.most_in_a_minute(victim().ip()),
            rig.sent_to(victim().ip()).len(),
        );
        // Two windows of the node's can meet in one minute of the observer's.
        assert!(most <= 2 * MINUTE_MAX, "{most} in a minute, {networks:?}");
        assert!(all <= 3 * MINUTE_MAX, "{all} in a hundred seconds, {networks:?}");
    }
}

#[test]
fn aims_of_any_width_and_number_do_not_widen_a_round() {
    let wide = Span {
        first: 1,
        last: u16::MAX,
    };
    let back = Span {
        first: u16::MAX,
        last: 1,
    };
    for networks in pairs() {
        let mut rig = Rig::new(1, false);
        let introduction = rig.introduction(0, vec![offered(victim(), true)], networks);
        let session = introduction.session;
        rig.introduce(introduction);
        for number in 0..600_u32 {
            let spans = vec![if number % 2 == 0 { wide } else { back }; SPANS_MAX];
            let opened = number % 3 == 0;
            let round = u8::try_from(number % 4 / 3).unwrap();
            rig.told(FromServer::Aim(Aim {
                session,
                round,
                spans,
                opened,
            }));
            rig.run(rig.now + 20 * MS);
        }
        rig.run(rig.now + 20 * SECOND);
        let sent = rig.sent_to(victim().ip()).len();
        assert!(sent <= 1_536, "{sent} in one round, {networks:?}");
    }
}

#[test]
fn an_aim_for_a_session_that_is_not_there_is_nothing() {
    let mut rig = Rig::new(1, false);
    rig.run(2 * SECOND);
    rig.sent.clear();
    let span = Span { first: 1, last: 9 };
    rig.told(FromServer::Aim(Aim {
        session: session(0),
        round: 0,
        spans: vec![span; 3],
        opened: true,
    }));
    rig.run(rig.now + 5 * SECOND);
    assert!(rig.sent_to(victim().ip()).is_empty());
}

#[test]
fn an_address_that_it_does_not_vouch_for_gets_two_probes_in_a_round_and_sixty_in_a_minute() {
    let mut rig = Rig::new(1, false);
    let networks = super::networks();
    let introduction = rig.introduction(0, vec![offered(victim(), false)], [networks[1], networks[2]]);
    rig.introduce(introduction);
    rig.run(rig.now + 30 * SECOND);
    assert_eq!(rig.sent_to(victim().ip()).len(), 2);
    let rig = {
        let mut rig = Rig::new(60, false);
        for number in 0..2_400_usize {
            let who = number % 60;
            let at = SocketAddr::new(victim().ip(), u16::try_from(2_000 + number).unwrap());
            let introduction = rig.introduction(who, vec![offered(at, false)], [networks[1], networks[2]]);
            rig.introduce(Introduction {
                session: session(u32::try_from(number).unwrap()),
                ..introduction
            });
            rig.run(rig.now + 100 * MS);
        }
        rig
    };
    let most = rig.most_in_a_minute(victim().ip());
    // Two windows of the node's can meet in one minute of the observer's.
    assert!((30..=120).contains(&most), "{most}");
}

#[test]
fn without_the_nodes_leave_or_its_own_it_makes_nobody_guess() {
    for networks in pairs() {
        for (leave, own) in [(true, false), (false, true)] {
            let mut rig = Rig::new(1, false);
            let claimed = networks.map(|network| Network {
                guesses: own,
                ..network
            });
            let introduction = rig.introduction(0, vec![offered(victim(), true)], claimed);
            rig.introduce(Introduction {
                guess: leave && own,
                ..introduction
            });
            rig.run(rig.now + 10 * SECOND);
            let sent = rig.sent_to(victim().ip()).len();
            // Two counters may be stepped through; that is no guess.
            assert!(sent <= 300, "{sent}: {networks:?}");
        }
    }
}
