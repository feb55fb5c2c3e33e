//! A spoofing stranger: it sees what it likes, sends from any address, and knows no secret.

use std::net::SocketAddr;

use knothole_proto::path::SocketId;
use knothole_proto::wire::Kind;

use super::rig::{Rig, session};
use super::{MS, SECOND, networks, offered, victim};

/// Where the peer is.
fn friend() -> SocketAddr {
    SocketAddr::from(([7, 7, 7, 7], 7000))
}

/// A node with a direct path to an honest peer.
fn met() -> Rig {
    let mut rig = Rig::new(1, false);
    rig.honest = Some((friend(), session(0)));
    rig.meet(friend());
    rig.run(rig.now + 5 * SECOND);
    assert_eq!(rig.paths(), [friend()]);
    rig
}

#[test]
fn probes_that_it_recorded_and_sends_from_elsewhere_move_no_path_and_flood_nobody() {
    let mut rig = met();
    let recorded: Vec<Vec<u8>> = rig
        .sent
        .iter()
        .filter(|(_, sent)| Kind::of(&sent.bytes) == Kind::Probe)
        .map(|(_, sent)| sent.bytes.clone())
        .collect();
    assert!(recorded.len() > 2);
    for _ in 0..200 {
        for bytes in &recorded {
            rig.arrives(SocketId::V4, victim(), bytes);
            rig.arrives(SocketId::V4, friend(), bytes);
        }
        rig.run(rig.now + 50 * MS);
    }
    assert_eq!(rig.paths(), [friend()]);
    assert!(
        rig.sent_to(victim().ip()).is_empty(),
        "an own probe that comes back is nobody's"
    );
}

#[test]
fn probes_of_the_peer_that_it_sends_again_from_elsewhere_bring_at_most_a_few_datagrams_there() {
    let mut rig = met();
    let keys = Rig::keys_of(0);
    let genuine = keys.seal(&knothole_proto::wire::probe::Probe {
        flags: knothole_proto::wire::probe::Flags::ANSWER_ME,
        round: 0,
        nonce: 4_711,
        echo: 0,
        observed: None,
    });
    // The copy may even come first.
    rig.arrives(SocketId::V4, victim(), &genuine);
    rig.arrives(SocketId::V4, friend(), &genuine);
    for _ in 0..2_000 {
        rig.arrives(SocketId::V4, victim(), &genuine);
        rig.run(rig.now + 5 * MS);
    }
    rig.run(rig.now + 10 * SECOND);
    let sent = rig.sent_to(victim().ip()).len();
    assert!(sent <= 4, "{sent}");
    assert!(
        rig.paths().iter().all(|path| *path == friend()),
        "{:?}",
        rig.paths()
    );
}

#[test]
fn whoever_answers_questions_in_the_servers_place_makes_nobody_a_target() {
    for survey in [false, true] {
        let mut rig = Rig::new(1, survey);
        rig.liar = Some(victim());
        rig.honest = Some((friend(), session(0)));
        rig.run(rig.now + 10 * SECOND);
        rig.meet(friend());
        rig.run(rig.now + 60 * SECOND);
        let sent = rig.sent_to(victim().ip()).len();
        // The test of its own router sends six datagrams to where it believes itself to be.
        assert!(sent <= if survey { 24 } else { 0 }, "{sent}, survey {survey}");
        assert_eq!(rig.paths(), [friend()], "and the path comes about all the same");
    }
}

#[test]
fn a_lie_about_the_own_address_in_the_middle_of_a_round_stays_a_lie() {
    let all = networks();
    for pair in [[all[1], all[4]], [all[4], all[1]], [all[4]; 2], [all[5]; 2]] {
        let mut rig = Rig::new(1, false);
        rig.run(2 * SECOND);
        rig.liar = Some(victim());
        let introduction = rig.introduction(0, vec![offered(friend(), true)], pair);
        rig.introduce(introduction);
        rig.run(rig.now + 20 * SECOND);
        assert!(rig.sent_to(victim().ip()).is_empty(), "{pair:?}");
        assert!(rig.paths().is_empty());
    }
}

#[test]
fn noise_of_every_kind_leaves_a_path_alone() {
    let mut rig = met();
    rig.sent.clear();
    let mut dice = knothole_proto::seed::Seed::from_number(7).rng();
    for number in 0..5_000_u64 {
        let len = usize::try_from(dice.below(100)).unwrap();
        let mut bytes = dice.bytes::<100>()[..len].to_vec();
        if let Some(first) = bytes.first_mut() {
            *first = u8::try_from(number % 8).unwrap();
        }
        let from = if number % 2 == 0 { friend() } else { victim() };
        rig.arrives(SocketId::V4, from, &bytes);
    }
    rig.run(rig.now + SECOND);
    assert!(rig.sent_to(victim().ip()).is_empty());
    assert_eq!(rig.paths(), [friend()]);
}
