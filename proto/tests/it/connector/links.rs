//! How links come about, what they say about their path, and how rounds go on.

use super::*;

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
