//! The life of a node: registration, links, paths, loss and return, pairing; and what peers and servers cannot do to it.

use std::time::Duration;

use knothole_proto::addr::{Candidate, CandidateKind, OfferedCandidate};
use knothole_proto::connector::{
    Command, ConnectFailure, Event, Input, LinkEnd, LinkId, Nat, Output, PairEvent, PairFailure, Timer,
};
use knothole_proto::id::{ChannelId, Instance, Nameplate, PairTag, RequestId, SessionId};
use knothole_proto::pairing::Code;
use knothole_proto::path::{How, Path, SocketId, Why};
use knothole_proto::wire::{
    ConnectRefusal, FromServer, Introduction, PairEnd, PathPolicy, Refusal, Role, ServerTime, ToServer,
    Welcome,
};

use crate::support::{addr, ms};
use crate::town::{Citizen, Town, config, id, secret};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes with a direct path between them; node 0 called.
fn met() -> Town {
    let mut town = Town::new(2);
    town.connect(0, 1, PathPolicy::Auto);
    town.run(5 * SECOND);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
    town
}

/// Two nodes whose datagrams to each other get lost; traffic runs through the relay.
fn relayed() -> Town {
    let mut town = Town::new(2);
    town.passes = Box::new(|_, _| false);
    town.connect(0, 1, PathPolicy::Auto);
    town.run(4500 * ms(1));
    assert_eq!(town.path(0), Some(Path::Relay(Why::Silence)));
    town
}

fn connects(town: &Town, index: usize) -> usize {
    town.citizens[index]
        .said
        .iter()
        .filter(|said| matches!(said, ToServer::Connect(_)))
        .count()
}

fn events(town: &Town, index: usize) -> Vec<Event> {
    town.citizens[index]
        .events
        .iter()
        .map(|(_, event)| event.clone())
        .collect()
}

fn down(town: &Town, index: usize) -> Option<(Duration, LinkEnd)> {
    town.citizens[index]
        .events
        .iter()
        .find_map(|(when, event)| match event {
            Event::LinkDown { why, .. } => Some((*when, *why)),
            _ => None,
        })
}

#[test]
fn a_node_says_hello_first_and_is_registered() {
    let town = Town::new(1);
    let ToServer::Hello(hello) = &town.citizens[0].said[0] else {
        panic!("{:?}", town.citizens[0].said[0]);
    };
    assert_eq!(hello.instance, Instance(1));
    assert_eq!(hello.facts.candidates.len(), 1);
    let registered = Event::Registered {
        name: Some("node-0".parse().unwrap()),
        reflexive: addr("5.0.0.1:1000"),
        relay: true,
    };
    assert!(town.has(0, &registered));
}

#[test]
fn clocks_are_compared_three_times_at_once_and_then_at_every_refresh() {
    let mut town = Town::new(1);
    town.run(601 * SECOND);
    let times: Vec<u32> = town.citizens[0]
        .said
        .iter()
        .filter_map(|said| match said {
            ToServer::Time { rtt_us, .. } => Some(*rtt_us),
            _ => None,
        })
        .collect();
    assert!((43..=49).contains(&times.len()), "{} in ten minutes", times.len());
    assert!(times[1..].iter().all(|rtt| *rtt == 40_000), "{times:?}");
}

#[test]
fn a_refusal_is_told_and_nothing_more_is_said() {
    let mut town = Town::new(1);
    town.clear();
    town.feed(0, Input::Control(FromServer::Refused(Refusal::NameTaken)));
    assert!(town.has(0, &Event::Refused(Refusal::NameTaken)));
    town.run(60 * SECOND);
    assert!(town.citizens[0].said.is_empty());
}

#[test]
fn both_nodes_get_a_link_with_the_relay_at_once_and_then_a_direct_path() {
    let mut town = Town::new(2);
    town.clear();
    town.connect(0, 1, PathPolicy::Auto);
    town.run(5 * SECOND);
    for (index, role, request) in [(0, Role::Caller, Some(RequestId(77))), (1, Role::Callee, None)] {
        let told = events(&town, index);
        let Event::LinkUp(link) = &told[0] else {
            panic!("{told:?}");
        };
        assert_eq!(
            (link.peer, link.role, link.request),
            (id(1 - index), role, request)
        );
        assert!(link.channel.is_some());
        assert!(matches!(
            told[1],
            Event::Path {
                path: Path::Relay(Why::Punching),
                ..
            }
        ));
        assert!(told.iter().any(|event| matches!(event, Event::Source { .. })));
        let Some(Path::Direct { how, remote, rtt, .. }) = town.path(index) else {
            panic!("{told:?}");
        };
        assert_eq!(
            (how, remote, rtt),
            (How::Punched, town.citizens[1 - index].public, ms(40))
        );
        let direct = town.citizens[index]
            .events
            .iter()
            .find_map(|(_, event)| match event {
                Event::Path { path, after, .. } if path.is_direct() => Some(*after),
                _ => None,
            });
        assert!(direct.is_some_and(|after| after < ms(220)), "{direct:?}");
    }
}

#[test]
fn a_wish_that_cannot_be_fulfilled_is_answered_with_the_reason() {
    let mut town = Town::new(2);
    let failed = |town: &mut Town, peer| {
        town.clear();
        let (request, policy) = (RequestId(5), PathPolicy::Auto);
        town.command(
            0,
            Command::Connect {
                request,
                peer,
                policy,
            },
        );
        let now = town.now;
        town.run(now + SECOND);
        events(town, 0).into_iter().find_map(|event| match event {
            Event::ConnectFailed {
                request: RequestId(5),
                why,
            } => Some(why),
            _ => None,
        })
    };
    assert_eq!(
        failed(&mut town, id(0)),
        Some(ConnectFailure::Refused(ConnectRefusal::Yourself))
    );
    assert_eq!(failed(&mut town, id(9)), Some(ConnectFailure::NotPaired));
    town.control_down(1);
    assert_eq!(
        failed(&mut town, id(1)),
        Some(ConnectFailure::Refused(ConnectRefusal::Offline))
    );
    town.control_down(0);
    assert_eq!(failed(&mut town, id(1)), Some(ConnectFailure::ServerLost));
}

#[test]
fn questions_that_nobody_answers_fail_after_five_seconds() {
    let mut town = Town::new(2);
    town.clear();
    town.citizens[0].conn = None;
    town.connect(0, 1, PathPolicy::Auto);
    town.command(
        0,
        Command::Lookup {
            request: RequestId(8),
            name: "node-1".parse().unwrap(),
        },
    );
    town.run(town.now + 6 * SECOND);
    for request in [RequestId(77), RequestId(8)] {
        assert!(town.has(
            0,
            &Event::ConnectFailed {
                request,
                why: ConnectFailure::Timeout
            }
        ));
    }
}

#[test]
fn a_name_is_looked_up() {
    let mut town = Town::new(2);
    for (name, peer) in [("node-1", Some(id(1))), ("nobody", None)] {
        let request = RequestId(3);
        town.command(
            0,
            Command::Lookup {
                request,
                name: name.parse().unwrap(),
            },
        );
        town.run(town.now + SECOND);
        assert!(town.has(0, &Event::Found { request, peer }), "{name}");
    }
}

#[test]
fn a_round_without_a_path_leaves_the_relay_and_says_why() {
    let town = relayed();
    assert_eq!(
        town.paths(0),
        [Path::Relay(Why::Punching), Path::Relay(Why::Silence)]
    );
    assert_eq!(
        town.paths(1),
        [Path::Relay(Why::Punching), Path::Relay(Why::Silence)]
    );
}

#[test]
fn without_a_relay_and_a_path_there_is_none() {
    let mut town = Town::new(2);
    town.passes = Box::new(|from, _| from == 0);
    town.connect(0, 1, PathPolicy::DirectOnly);
    town.run(5 * SECOND);
    assert_eq!(
        town.paths(0),
        [Path::None(Why::Punching), Path::None(Why::Silence)]
    );
    assert_eq!(
        town.paths(1),
        [Path::None(Why::Punching), Path::None(Why::OneWayIn)]
    );
}

#[test]
fn with_the_relay_only_no_probe_leaves_and_none_is_answered() {
    let mut town = Town::new(2);
    town.clear();
    town.connect(0, 1, PathPolicy::RelayOnly);
    town.run(10 * SECOND);
    for index in [0, 1] {
        assert_eq!(town.paths(index), [Path::Relay(Why::Policy)]);
        assert!(town.citizens[index].sent.is_empty());
    }
}

#[test]
fn the_caller_alone_asks_again_with_growing_pauses() {
    let mut town = relayed();
    let begun = town.now;
    town.clear();
    town.run(begun + 240 * SECOND);
    // Pauses of 2, 8, 30, 60, 120 s, with 3 s for each round.
    assert_eq!(connects(&town, 0), 5);
    assert_eq!(connects(&town, 1), 0);
    assert!(town.paths(0).is_empty(), "the same reason is not told again");
}

#[test]
fn a_path_that_opens_later_is_found_by_a_later_round() {
    let mut town = relayed();
    town.passes = Box::new(|_, _| true);
    town.run(town.now + 20 * SECOND);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
    assert!(town.path(1).is_some_and(|path| path.is_direct()));
    let begun = town.now;
    town.clear();
    town.run(begun + 600 * SECOND);
    assert_eq!(connects(&town, 0), 0, "no more rounds once there is a path");
}

#[test]
fn calls_that_cross_give_one_link_on_each_side() {
    let mut town = Town::new(2);
    town.connect(0, 1, PathPolicy::Auto);
    town.connect(1, 0, PathPolicy::Auto);
    town.run(5 * SECOND);
    for index in [0, 1] {
        let links = town.links(index);
        assert!(links.iter().all(|link| *link == links[0]), "{links:?}");
        let answered = events(&town, index)
            .iter()
            .any(|event| matches!(event, Event::LinkUp(link) if link.request == Some(RequestId(77))));
        assert!(answered);
        assert!(town.path(index).is_some_and(|path| path.is_direct()));
    }
}

#[test]
fn a_second_call_gets_the_link_that_there_is() {
    let mut town = met();
    let link = town.links(0)[0];
    town.clear();
    town.connect(0, 1, PathPolicy::Auto);
    town.run(town.now + 5 * SECOND);
    assert_eq!(town.links(0), [link]);
    assert_eq!(town.paths(0).len(), 1);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
    assert!(events(&town, 1).is_empty(), "{:?}", events(&town, 1));
}

#[test]
fn a_lost_server_takes_the_relay_but_not_the_direct_path() {
    let mut town = met();
    let link = town.links(0)[0];
    town.clear();
    town.control_down(0);
    town.control_down(1);
    town.run(town.now + 300 * SECOND);
    for index in [0, 1] {
        assert_eq!(events(&town, index), [Event::Channel { link, channel: None }]);
    }
    // And a call serves itself with it.
    town.clear();
    town.connect(0, 1, PathPolicy::Auto);
    assert_eq!(town.links(0), [link]);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
}

#[test]
fn after_the_return_of_the_server_links_get_their_relay_back() {
    for first in [0, 1] {
        let mut town = met();
        let link = town.links(0)[0];
        town.clear();
        town.replace_server();
        town.run(town.now + 3 * SECOND);
        town.control_up(first);
        town.run(town.now + 5 * SECOND);
        town.control_up(1 - first);
        town.run(town.now + 120 * SECOND);
        for index in [0, 1] {
            let told = events(&town, index);
            let back =
                |event: &Event| matches!(event, Event::Channel { link: l, channel: Some(_) } if *l == link);
            assert!(told.iter().any(back), "{told:?}");
            assert!(
                !told
                    .iter()
                    .any(|event| matches!(event, Event::Path { .. } | Event::LinkDown { .. })),
                "{told:?}"
            );
        }
    }
}

#[test]
fn a_relayed_link_outlives_a_restart_of_the_server() {
    let mut town = relayed();
    let link = town.links(0)[0];
    town.clear();
    town.replace_server();
    assert_eq!(town.path(0), Some(Path::None(Why::Silence)));
    town.run(town.now + 3 * SECOND);
    town.control_up(0);
    town.control_up(1);
    town.run(town.now + 30 * SECOND);
    for index in [0, 1] {
        assert!(
            matches!(town.path(index), Some(Path::Relay(_))),
            "{:?}",
            events(&town, index)
        );
        assert!(down(&town, index).is_none());
        let back =
            |event: &Event| matches!(event, Event::Channel { link: l, channel: Some(_) } if *l == link);
        assert!(events(&town, index).iter().any(back));
    }
}

#[test]
fn a_peer_that_loses_the_server_for_a_moment_keeps_its_relayed_link() {
    for index in [0, 1] {
        let mut town = relayed();
        town.clear();
        town.control_down(index);
        town.run(town.now + SECOND);
        town.control_up(index);
        town.run(town.now + 30 * SECOND);
        for side in [0, 1] {
            assert!(down(&town, side).is_none());
            assert!(
                matches!(town.path(side), Some(Path::Relay(_))),
                "{:?}",
                events(&town, side)
            );
        }
    }
}

#[test]
fn a_peer_that_vanishes_from_a_relayed_link_is_given_up_after_a_minute() {
    for gone in [0, 1] {
        let mut town = relayed();
        let begun = town.now;
        town.clear();
        town.control_down(gone);
        town.run(begun + 120 * SECOND);
        let stays = 1 - gone;
        let (when, why) = down(&town, stays).unwrap();
        assert_eq!(why, LinkEnd::PeerGone);
        assert!((59 * SECOND..=62 * SECOND).contains(&(when - begun)), "{when:?}");
        town.clear();
        town.run(begun + 600 * SECOND);
        assert_eq!(connects(&town, stays), 0);
    }
}

#[test]
fn a_peer_that_closes_ends_a_relayed_link_at_once_and_a_direct_one_after_a_check() {
    for (mut town, within) in [(relayed(), ms(100)), (met(), ms(1200))] {
        let begun = town.now;
        let link = town.links(1)[0];
        town.clear();
        town.command(1, Command::Close { link });
        assert_eq!(down(&town, 1), Some((begun, LinkEnd::Closed)));
        town.run(begun + 60 * SECOND);
        let (when, why) = down(&town, 0).unwrap();
        assert_eq!(why, LinkEnd::PeerGone);
        assert!(when - begun <= within, "{:?}", when - begun);
        assert_eq!(connects(&town, 0), 0, "nobody calls back one that left");
    }
}

#[test]
fn a_link_to_a_machine_that_is_no_longer_paired_ends() {
    let mut town = met();
    town.clear();
    town.command(0, Command::SetPeers(Vec::new()));
    assert_eq!(down(&town, 0).map(|(_, why)| why), Some(LinkEnd::Unpaired));
    town.run(town.now + 5 * SECOND);
    assert_eq!(down(&town, 1).map(|(_, why)| why), Some(LinkEnd::PeerGone));
    town.clear();
    town.connect(1, 0, PathPolicy::Auto);
    town.run(town.now + 5 * SECOND);
    let why = ConnectFailure::Refused(ConnectRefusal::Offline);
    assert!(town.has(
        1,
        &Event::ConnectFailed {
            request: RequestId(77),
            why
        }
    ));
    assert!(events(&town, 0).is_empty());
}

#[test]
fn a_path_that_dies_falls_back_to_the_relay_and_comes_back() {
    let mut town = met();
    town.clear();
    town.passes = Box::new(|_, _| false);
    let link = town.links(0).first().copied().unwrap_or(LinkId(1));
    for _ in 0..60 {
        let now = town.now + ms(50);
        town.run(now);
        for index in [0, 1] {
            town.feed(
                index,
                Input::Traffic {
                    link,
                    sent: true,
                    received: false,
                },
            );
        }
    }
    for index in [0, 1] {
        assert_eq!(town.paths(index).first(), Some(&Path::Relay(Why::PathLost)));
    }
    assert!(connects(&town, 0) >= 1 && connects(&town, 1) == 0);
    town.passes = Box::new(|_, _| true);
    town.run(town.now + 20 * SECOND);
    for index in [0, 1] {
        assert!(town.path(index).is_some_and(|path| path.is_direct()));
    }
}

#[test]
fn a_restarted_peer_is_another_link() {
    let mut town = met();
    let old = town.links(0)[0];
    town.control_down(1);
    town.citizens[1] = Citizen::new(1, 2, config(1, 2));
    town.run(town.now + SECOND);
    town.control_up(1);
    town.run(town.now + SECOND);
    town.clear();
    town.connect(0, 1, PathPolicy::Auto);
    town.run(town.now + 60 * SECOND);
    assert!(town.links(0).iter().all(|link| *link != old));
    assert!(
        town.has(
            0,
            &Event::LinkDown {
                link: old,
                why: LinkEnd::PeerGone
            }
        ),
        "{:?}",
        events(&town, 0)
    );
    assert!(town.path(1).is_some_and(|path| path.is_direct()));
}

#[test]
fn rounds_are_not_forced_upon_a_restarted_peer() {
    let mut town = relayed();
    town.control_down(1);
    town.citizens[1] = Citizen::new(1, 2, config(1, 2));
    town.run(town.now + SECOND);
    town.control_up(1);
    town.clear();
    town.run(town.now + 30 * SECOND);
    assert_eq!(down(&town, 0).map(|(_, why)| why), Some(LinkEnd::PeerGone));
    assert!(town.links(0).is_empty());
    assert_eq!(
        town.links(1).len(),
        events(&town, 1)
            .iter()
            .filter(|e| matches!(e, Event::LinkDown { .. }))
            .count()
    );
}

#[test]
fn new_addresses_are_told_to_the_server_and_lead_to_a_new_round() {
    let mut town = relayed();
    town.clear();
    let there = Candidate {
        kind: CandidateKind::Mapped,
        addr: addr("5.0.0.1:9999"),
    };
    town.feed(0, Input::LocalCandidates(vec![there]));
    town.feed(0, Input::LocalCandidates(vec![there]));
    town.run(town.now + SECOND);
    let updates: Vec<_> = town.citizens[0]
        .said
        .iter()
        .filter(|said| matches!(said, ToServer::Update(_)))
        .collect();
    assert_eq!(updates.len(), 1);
    assert_eq!(connects(&town, 0), 1);
}

#[test]
fn a_public_address_that_changes_leads_to_a_check_and_a_new_round() {
    let mut town = met();
    town.clear();
    town.moves(0, "5.0.0.9:4000");
    town.run(town.now + 3 * SECOND);
    assert_eq!(
        connects(&town, 0),
        1,
        "{:?} {:?}",
        events(&town, 0),
        town.citizens[0].said
    );
    let Some(Path::Direct { remote, .. }) = town.path(1) else {
        panic!("{:?}", events(&town, 1));
    };
    assert_eq!(remote, addr("5.0.0.9:4000"));
    assert!(
        !town.paths(0).iter().any(|path| !path.is_direct()),
        "{:?}",
        town.paths(0)
    );
}

fn introduction(peer: usize, tag: PairTag) -> Introduction {
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

#[test]
fn a_deadline_that_comes_early_or_twice_changes_nothing() {
    let mut town = met();
    town.clear();
    for _ in 0..10 {
        town.feed(0, Input::Timeout);
    }
    assert!(town.citizens[0].said.is_empty() && town.citizens[0].sent.is_empty());
    assert!(events(&town, 0).is_empty());
    let now = town.at();
    let Output::Wait(Some((when, timer))) = town.citizens[0].connector.poll_output(now) else {
        panic!("there is always a refresh to come");
    };
    assert!(when > now && matches!(timer, Timer::Refresh | Timer::Punch(_)));
}

#[test]
fn stun_answers_tell_what_the_nat_does() {
    for (ports, expected) in [
        ([1000, 1000], Nat::EndpointIndependent),
        ([1000, 1001], Nat::EndpointDependent),
    ] {
        let mut town = Town::new(1);
        town.feed(
            0,
            Input::ControlUp {
                stun: vec![(SocketId::V4, addr("9.9.9.9:5668"))],
            },
        );
        let welcome = Welcome {
            name: None,
            reflexive: addr("5.0.0.1:1000"),
            server: ServerTime(0),
            refresh_ms: 15_000,
            alternate_port: 5669,
            alternate: None,
            relay: true,
        };
        town.clear();
        town.feed(0, Input::Control(FromServer::Welcome(welcome)));
        let asked = town.citizens[0].sent.clone();
        let to: Vec<_> = asked.iter().map(|sent| sent.to.port()).collect();
        assert_eq!(to, [5668, 5669]);
        for (sent, port) in asked.iter().zip(ports) {
            let mapped = format!("5.0.0.1:{port}");
            let answer = stun_answer(&sent.bytes, &mapped);
            town.feed(
                0,
                Input::Datagram {
                    socket: SocketId::V4,
                    from: sent.to,
                    bytes: &answer,
                },
            );
        }
        let nat = events(&town, 0).into_iter().rev().find_map(|event| match event {
            Event::Nat { nat, .. } => Some(nat),
            _ => None,
        });
        assert_eq!(nat, Some(expected));
    }
}

/// A Binding success with an XOR-MAPPED-ADDRESS (RFC 8489 section 14.2), by hand.
fn stun_answer(request: &[u8], mapped: &str) -> Vec<u8> {
    let mapped = addr(mapped);
    let std::net::IpAddr::V4(ip) = mapped.ip() else {
        panic!("IPv4 only");
    };
    let mut answer = vec![0x01, 0x01, 0, 12];
    answer.extend_from_slice(&request[4..20]);
    answer.extend_from_slice(&[0x00, 0x20, 0, 8, 0, 1]);
    answer.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
    let octets = (u32::from(ip) ^ 0x2112_a442).to_be_bytes();
    answer.extend_from_slice(&octets);
    answer
}

#[test]
fn equal_seeds_and_inputs_give_equal_lives() {
    let life = || {
        let mut town = met();
        town.run(120 * SECOND);
        let citizens = std::mem::take(&mut town.citizens);
        citizens
            .into_iter()
            .map(|citizen| (citizen.events, citizen.said, citizen.sent))
            .collect::<Vec<_>>()
    };
    assert_eq!(life(), life());
}

fn pair_event(town: &Town, index: usize) -> Option<PairEvent> {
    events(town, index)
        .into_iter()
        .rev()
        .find_map(|event| match event {
            Event::Pair(event) => Some(event),
            _ => None,
        })
}

/// Node 0 opens a nameplate; gives its code.
fn opened(town: &mut Town) -> Code {
    town.clear();
    town.command(0, Command::PairOpen);
    town.run(town.now + SECOND);
    match pair_event(town, 0) {
        Some(PairEvent::Code { code, ttl }) => {
            assert_eq!(ttl, 600 * SECOND);
            code
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_nodes_pair_by_a_code() {
    let mut town = Town::new(2);
    let code = opened(&mut town);
    town.command(1, Command::PairJoin { code });
    town.run(town.now + SECOND);
    let secrets: Vec<_> = [0, 1]
        .map(|index| match pair_event(&town, index) {
            Some(PairEvent::Paired { peer, name, secret }) => {
                assert_eq!(peer, id(1 - index));
                assert_eq!(name, Some(format!("node-{}", 1 - index).parse().unwrap()));
                secret
            }
            other => panic!("{other:?}"),
        })
        .into();
    assert!(secrets[0] == secrets[1]);
    town.clear();
    town.run(town.now + 700 * SECOND);
    assert_eq!(
        (pair_event(&town, 0), pair_event(&town, 1)),
        (None, None),
        "and it is over"
    );
}

#[test]
fn a_wrong_code_uses_the_nameplate_up() {
    let mut town = Town::new(3);
    let code = opened(&mut town);
    let wrong: Code = format!("{}-wrong-words", code.nameplate().0).parse().unwrap();
    town.command(1, Command::PairJoin { code: wrong });
    town.run(town.now + SECOND);
    for index in [0, 1] {
        assert_eq!(
            pair_event(&town, index),
            Some(PairEvent::Failed(PairFailure::WrongCode))
        );
    }
    town.command(2, Command::PairJoin { code });
    town.run(town.now + SECOND);
    assert_eq!(
        pair_event(&town, 2),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Unknown)))
    );
}

#[test]
fn pairing_that_nobody_joins_expires_and_a_cancelled_one_is_silent() {
    let mut town = Town::new(2);
    opened(&mut town);
    town.run(town.now + 601 * SECOND);
    assert_eq!(
        pair_event(&town, 0),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Expired)))
    );
    let code = opened(&mut town);
    town.clear();
    town.command(0, Command::PairCancel);
    town.command(1, Command::PairJoin { code });
    town.run(town.now + SECOND);
    assert_eq!(pair_event(&town, 0), None);
    assert_eq!(
        pair_event(&town, 1),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Unknown)))
    );
}

#[test]
fn pairing_fails_with_the_reason_when_it_cannot_go_on() {
    let mut town = Town::new(2);
    let code = opened(&mut town);
    town.command(0, Command::PairJoin { code: code.clone() });
    let own = PairFailure::Nameplate(code.nameplate());
    assert_eq!(pair_event(&town, 0), Some(PairEvent::Failed(own)));
    let unknown: Code = "999-acorn-acorn".parse().unwrap();
    assert_eq!(unknown.nameplate(), Nameplate(999));
    town.command(1, Command::PairJoin { code: unknown });
    town.run(town.now + SECOND);
    assert_eq!(
        pair_event(&town, 1),
        Some(PairEvent::Failed(PairFailure::Ended(PairEnd::Unknown)))
    );
    opened(&mut town);
    town.control_down(0);
    assert_eq!(
        pair_event(&town, 0),
        Some(PairEvent::Failed(PairFailure::ServerLost))
    );
    town.command(0, Command::PairOpen);
    assert_eq!(
        pair_event(&town, 0),
        Some(PairEvent::Failed(PairFailure::ServerLost))
    );
}
