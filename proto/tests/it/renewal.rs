//! A round that begins while the one before is about to succeed.

use knothole_proto::punch::{Orders, Plan, Round};
use knothole_proto::wire::Role;
use knothole_proto::wire::network::{Filtering, Mapping, Network, Ports};

use crate::duo::{Duo, PUBLIC, SECOND, START, at, open, public, round};
use crate::support::{addr, ms};

#[test]
fn a_round_that_comes_while_a_pair_is_being_proven_does_not_begin_anew() {
    let met = |renewed: bool| {
        let mut duo = Duo::new([public(1), public(0)], open(ms(20)));
        // Heard after 20 ms, proven after 60.
        duo.run(START + ms(50));
        for side in 0..if renewed { 2 } else { 0 } {
            let next = round(1, duo.now + ms(30), public(1 - side));
            duo.sides[side].agent.handle_round(&next, at(duo.now));
        }
        duo.run(START + 5 * SECOND);
        for side in [0, 1] {
            let locked = [(START + ms(60), addr(PUBLIC[1 - side]))];
            assert_eq!(duo.locks(side), locked, "renewed: {renewed}");
        }
        duo.sides.map(|side| side.sent.len())
    };
    assert_eq!(met(true), met(false), "and nothing more is sent for it");
}

#[test]
fn guesses_wait_for_a_proof_that_is_on_its_way_and_follow_if_it_does_not_come() {
    let mut net = open(ms(20));
    // The caller hears, and is not heard.
    let mut duo = Duo::new(
        [public(1), public(0)],
        Box::new(move |side, transmit, now| (side == 1).then(|| net(side, transmit, now)).flatten()),
    );
    duo.run(START + ms(50));
    let own = Network {
        mapping: Mapping::Independent,
        filtering: Filtering::AddressAndPort,
        ports: Ports::Preserving,
        ..Network::default()
    };
    let orders = Orders {
        plan: Plan::Birthday { hard: Role::Callee },
        again: false,
        second: at(duo.now),
        own,
        peer: Network {
            mapping: Mapping::AddressAndPort,
            ports: Ports::Random,
            ..own
        },
        sockets: Vec::new(),
        stun: Vec::new(),
        together: false,
    };
    let guesses = Round {
        orders: Some(orders),
        ..round(1, duo.now, public(1))
    };
    duo.sides[0].agent.handle_round(&guesses, at(duo.now));
    let guessed = |duo: &Duo| duo.sides[0].sent.len() - duo.sent_to(0, PUBLIC[1]);
    duo.run(START + SECOND);
    assert_eq!(guessed(&duo), 0);
    duo.run(START + 2 * SECOND);
    assert!(guessed(&duo) > 50, "{}", guessed(&duo));
}
