//! A malicious peer: paired, so that it knows the secret of the pair, behind a server that is honest.

use std::net::SocketAddr;

use knothole_proto::path::SocketId;
use knothole_proto::wire::network::SPANS_MAX;
use knothole_proto::wire::probe::{Flags, Probe};
use knothole_proto::wire::{Aim, FromServer, Introduction, Role, Span};

use super::rig::{Rig, session};
use super::{MS, SECOND, networks, offered, pairs, victim};

/// Where it really is, which is what the server vouches for.
fn itself() -> SocketAddr {
    SocketAddr::from(([7, 7, 7, 7], 7000))
}

fn probe(flags: Flags, nonce: u64) -> Probe {
    Probe {
        flags,
        round: 0,
        nonce,
        echo: 0,
        observed: None,
    }
}

#[test]
fn whatever_network_it_claims_addresses_that_it_only_names_get_two_probes() {
    let victims: Vec<SocketAddr> = (1..=30_u8)
        .map(|n| SocketAddr::from(([66, 6, 6, n], 6000)))
        .collect();
    for networks in pairs() {
        let mut rig = Rig::new(1, false);
        let named = victims.iter().map(|at| offered(*at, false));
        let candidates = named.chain([offered(itself(), true)]).collect();
        let introduction = rig.introduction(0, candidates, networks);
        rig.introduce(introduction);
        for number in 0..300_u16 {
            let span = Span {
                first: number * 200,
                last: number * 200 + 199,
            };
            rig.told(FromServer::Aim(Aim {
                session: session(0),
                round: 0,
                spans: vec![span; SPANS_MAX],
                opened: number % 2 == 0,
            }));
            rig.run(rig.now + 20 * MS);
        }
        rig.run(rig.now + 20 * SECOND);
        for at in &victims {
            let sent = rig.sent_to(at.ip()).len();
            assert!(sent <= 2, "{sent} to {at}, {networks:?}");
        }
        let sent = rig.sent_to(itself().ip()).len();
        assert!(sent <= 1_536, "{sent} to the peer itself, {networks:?}");
    }
}

#[test]
fn authentic_probes_from_a_forged_source_bring_that_source_no_more_than_an_answer_each_and_a_check() {
    for networks in [
        [networks()[1]; 2],
        [networks()[1], networks()[2]],
        [networks()[4]; 2],
    ] {
        let mut rig = Rig::new(1, false);
        let introduction = rig.introduction(0, vec![offered(itself(), true)], networks);
        rig.introduce(introduction);
        let keys = Rig::keys_of(0);
        for nonce in 1..=1_000_u64 {
            let bytes = keys.seal(&probe(Flags::ANSWER_ME, nonce));
            rig.arrives(SocketId::V4, victim(), &bytes);
            rig.run(rig.now + 7 * MS);
        }
        rig.run(rig.now + 10 * SECOND);
        let sent = rig.sent_to(victim().ip()).len();
        assert!((1..=1_000 + 12).contains(&sent), "{sent} for 1000, {networks:?}");
        assert!(rig.paths().is_empty(), "and there is no path to it");
    }
}

#[test]
fn probes_from_many_forged_sources_cost_each_of_them_a_few_datagrams() {
    let mut rig = Rig::new(1, false);
    rig.meet(itself());
    let keys = Rig::keys_of(0);
    for number in 0..2_000_u32 {
        let from = SocketAddr::from(((0x4206_0000 + number).to_be_bytes(), 6000));
        rig.arrives(
            SocketId::V4,
            from,
            &keys.seal(&probe(Flags::ANSWER_ME, u64::from(number) + 1)),
        );
        rig.run(rig.now + MS);
    }
    rig.run(rig.now + 10 * SECOND);
    let most = (0..2_000_u32)
        .map(|number| rig.sent_to((0x4206_0000 + number).to_be_bytes().into()).len())
        .max();
    assert!(most <= Some(6), "{most:?}");
    let all = rig.sent.len();
    assert!(all < 2 * 2_000 + 600, "{all} datagrams for two thousand");
}

#[test]
fn a_peer_that_never_echoes_what_it_got_is_never_believed_to_hear() {
    for flags in [
        Flags::ANSWER_ME,
        Flags::ANSWER_ME.with(Flags::PROVEN),
        Flags::PROVEN.with(Flags::IN_USE),
        Flags::ANSWER_ME.with(Flags::PROVEN).with(Flags::IN_USE),
    ] {
        for role in [Role::Caller, Role::Callee] {
            let mut rig = Rig::new(1, false);
            let easy = networks()[1];
            let introduction = rig.introduction(0, vec![offered(itself(), true)], [easy, easy]);
            rig.introduce(Introduction { role, ..introduction });
            let keys = Rig::keys_of(0);
            for nonce in 1..=300_u64 {
                // An echo of something that was never sent is none.
                let forged = Probe {
                    echo: nonce * 77,
                    ..probe(flags, nonce)
                };
                rig.arrives(SocketId::V4, itself(), &keys.seal(&forged));
                rig.run(rig.now + 20 * MS);
            }
            rig.run(rig.now + 5 * SECOND);
            assert!(rig.paths().is_empty(), "{flags:?} {role:?}");
        }
    }
}

#[test]
fn an_echo_of_what_was_sent_elsewhere_proves_nothing() {
    let mut rig = Rig::new(1, false);
    rig.meet(itself());
    let keys = Rig::keys_of(0);
    let mut seen = 0;
    for step in 0..200_u64 {
        rig.run(rig.now + 20 * MS);
        // It reads what comes to its own address, and not what goes to the victim's.
        let new: Vec<_> = rig.sent[seen..]
            .iter()
            .filter(|(_, sent)| sent.to == itself())
            .map(|(_, sent)| sent.bytes.clone())
            .collect();
        seen = rig.sent.len();
        for (number, bytes) in new.iter().enumerate() {
            if let Some(got) = keys.open(bytes) {
                let nonce = 1 + step * 1_000 + number as u64;
                let forged = Probe {
                    echo: got.nonce,
                    ..probe(Flags::ANSWER_ME.with(Flags::PROVEN), nonce)
                };
                rig.arrives(SocketId::V4, victim(), &keys.seal(&forged));
            }
        }
    }
    rig.run(rig.now + 5 * SECOND);
    let to_victim = rig.paths().iter().filter(|at| **at == victim()).count();
    assert!(seen > 3, "there was something to echo");
    assert_eq!(to_victim, 0, "{:?}", rig.paths());
}
