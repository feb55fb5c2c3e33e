//! What peers, servers and strangers cannot do to a node.

use super::*;

pub(super) fn introduction(peer: usize, tag: PairTag) -> Introduction {
    Introduction {
        session: SessionId::from_bytes([4; 16]),
        round: 0,
        role: Role::Callee,
        request: None,
        peer: id(peer),
        peer_name: None,
        peer_instance: Instance(6),
        tag,
        candidates: vec![OfferedCandidate {
            candidate: Candidate {
                kind: CandidateKind::Reflexive,
                addr: addr("66.6.6.6:6"),
            },
            attested: true,
        }],
        channel: Some(ChannelId(1)),
        policy: PathPolicy::Auto,
        start: ServerTime(0),
        now: ServerTime(0),
        second: ServerTime(0),
        networks: Default::default(),
        guess: false,
        again: false,
    }
}

#[test]
fn a_server_cannot_introduce_a_stranger() {
    let mut town = Town::new(2);
    town.clear();
    for (peer, tag) in [
        (9, PairTag([0; 16])),
        (1, PairTag([0; 16])),
        (9, secret(0, 1).tag()),
    ] {
        town.feed(
            0,
            Input::Control(FromServer::Introduction(introduction(peer, tag))),
        );
    }
    town.run(town.now + 10 * SECOND);
    assert!(events(&town, 0).is_empty() && town.citizens[0].sent.is_empty());
    let left = town.citizens[0]
        .said
        .iter()
        .filter(|said| matches!(said, ToServer::Leave { .. }))
        .count();
    assert_eq!(left, 3);
}

#[test]
fn a_server_that_forges_a_thousand_introductions_fills_nothing() {
    let mut town = Town::new(2);
    town.clear();
    for n in 0..1000u16 {
        let mut forged = introduction(1, secret(0, 1).tag());
        forged.peer_instance = Instance(n.into());
        let [a, b] = n.to_be_bytes();
        forged.session = SessionId::from_bytes([a, b, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        town.feed(0, Input::Control(FromServer::Introduction(forged)));
    }
    assert_eq!(town.links(0).len(), 64);
    town.run(town.now + 60 * SECOND);
    let probes = town.citizens[0]
        .sent
        .iter()
        .filter(|sent| sent.bytes[0] == 4)
        .count();
    assert!(
        (64..=600).contains(&probes),
        "{probes} to an address that never answered"
    );
}

#[test]
fn a_node_that_accepts_nobody_leaves_what_it_did_not_ask_for() {
    let mut town = Town::new(2);
    let shy = knothole_proto::connector::ConnectorConfig {
        accepting: false,
        ..config(0, 3)
    };
    town.control_down(0);
    town.citizens[0] = Citizen::new(0, 2, shy);
    town.run(town.now + SECOND);
    town.control_up(0);
    town.run(town.now + SECOND);
    town.clear();
    town.feed(
        0,
        Input::Control(FromServer::Introduction(introduction(1, secret(0, 1).tag()))),
    );
    assert!(events(&town, 0).is_empty());
    town.connect(0, 1, PathPolicy::Auto);
    town.run(town.now + 5 * SECOND);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
}

#[test]
fn probes_of_a_closed_link_are_nothing() {
    let mut town = met();
    let probes: Vec<_> = town.citizens[1]
        .sent
        .iter()
        .map(|sent| sent.bytes.clone())
        .collect();
    let link = town.links(0)[0];
    town.command(0, Command::Close { link });
    town.run(town.now + 5 * SECOND);
    town.clear();
    for bytes in &probes {
        town.feed(
            0,
            Input::Datagram {
                socket: SocketId::V4,
                from: addr("5.0.0.2:1000"),
                bytes,
            },
        );
    }
    assert!(events(&town, 0).is_empty() && town.citizens[0].sent.is_empty());
}

#[test]
fn datagrams_of_no_kind_are_nothing() {
    let mut town = met();
    town.clear();
    let mut dice = knothole_proto::seed::Seed::from_number(1).rng();
    for n in 0..5000u64 {
        let len = usize::try_from(dice.below(100)).unwrap();
        let mut bytes: Vec<u8> = dice.bytes::<100>()[..len].to_vec();
        if let Some(first) = bytes.first_mut() {
            *first = u8::try_from(n % 8).unwrap();
        }
        town.feed(
            0,
            Input::Datagram {
                socket: SocketId::V4,
                from: addr("9.9.9.9:5668"),
                bytes: &bytes,
            },
        );
    }
    assert!(events(&town, 0).is_empty() && town.citizens[0].sent.is_empty());
}
