//! What a node says that an attempt costs in the routers before it.

use std::collections::BTreeSet;

use knothole_proto::path::SocketId;
use knothole_proto::punch::{Orders, Plan, Round};
use knothole_proto::wire::Role;
use knothole_proto::wire::network::{Filtering, Mapping, Network, Ports};
use knothole_proto::wire::probe::Flags;

use crate::duo::{Duo, PUBLIC, SECOND, START, at, keys, probe, public, round};
use crate::support::{addr, ms};

#[test]
fn what_leaves_from_where_something_was_opened_is_no_further_entry() {
    let mut duo = Duo::new([public(1), public(0)], Box::new(|_, _, _| None));
    let sockets: Vec<SocketId> = (16..24).map(SocketId).collect();
    let own = Network {
        mapping: Mapping::AddressAndPort,
        filtering: Filtering::AddressAndPort,
        ports: Ports::Counter { step: 1, rate: 0 },
        ..Network::default()
    };
    let orders = Orders {
        plan: Plan::Bracket { hard: Role::Caller },
        again: false,
        second: at(START),
        own,
        peer: Network {
            mapping: Mapping::Independent,
            ports: Ports::Preserving,
            ..own
        },
        sockets: sockets.clone(),
        stun: vec![addr("9.9.9.9:3478")],
        together: false,
    };
    let bracket = Round {
        orders: Some(orders),
        ..round(1, START, public(1))
    };
    duo.sides[0].agent.handle_round(&bracket, at(duo.now));
    duo.run(START + ms(50));
    let opened = duo.sides[0].sent.len();
    // The peer finds all six openers, and each of them answers.
    for (nonce, socket) in (1..).zip(&sockets[1..7]) {
        let asked = keys(1, 1).seal(&probe(Flags::default().with(Flags::ANSWER_ME), nonce, 0));
        assert!(duo.feed(0, *socket, addr(PUBLIC[1]), &asked));
    }
    duo.run(START + SECOND);
    let sent = &duo.sides[0].sent;
    assert!(sent.len() >= opened + 6, "{} after {opened}", sent.len());
    let places: BTreeSet<_> = sent.iter().map(|(_, sent)| (sent.socket, sent.to)).collect();
    assert_eq!(places.len(), 9, "eight fresh sockets and a main one");
    let counted = duo.sides[0].agent.cost().nat_entries;
    assert_eq!(usize::try_from(counted).unwrap(), places.len());
}
