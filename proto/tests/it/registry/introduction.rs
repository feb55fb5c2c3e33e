//! Who is told of whom, with what, and when.

use std::net::SocketAddr;
use std::time::Duration;

use knothole_proto::addr::{CANDIDATES_MAX, Candidate, CandidateKind};
use knothole_proto::id::{Instance, RequestId};
use knothole_proto::rendezvous::{ConnId, RegistryConfig};
use knothole_proto::wire::{
    CloseReason, Connect, ConnectRefusal, FromServer, Hello, PathPolicy, Role, ToServer, Update,
};

use super::world::{World, hello, key, open, tag};
use crate::support::{addr, ms};

fn rtt(ms: u32) -> ToServer {
    ToServer::Time {
        sent_us: 0,
        rtt_us: ms * 1000,
    }
}

fn candidates(world: &mut World, conn: ConnId, number: u32, texts: &[(CandidateKind, &str)]) {
    let candidates = texts.iter().map(|(kind, text)| Candidate {
        kind: *kind,
        addr: addr(text),
    });
    let facts = Update {
        candidates: candidates.collect(),
        ..hello(number, None).facts
    };
    world.say(conn, ToServer::Update(facts));
}

/// What the other side of a session of 1 and 2 is told of node 2.
fn told_of_two(world: &mut World, texts: &[(CandidateKind, &str)]) -> Vec<(CandidateKind, SocketAddr, bool)> {
    let (one, two) = (world.join(1, None), world.join(2, None));
    candidates(world, two, 2, texts);
    world.call(one, 1, 2, PathPolicy::Auto);
    let offered = world.introduced(one).candidates;
    offered
        .iter()
        .map(|offer| (offer.candidate.kind, offer.candidate.addr, offer.attested))
        .collect()
}

#[test]
fn both_sides_are_told_the_same_session_channel_and_moment() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, Some("laptop")), world.join(2, Some("nas")));
    let request = world.call(one, 1, 2, PathPolicy::Auto);
    let (caller, callee) = (world.introduced(one), world.introduced(two));
    assert_eq!((caller.session, caller.channel), (callee.session, callee.channel));
    assert_eq!((caller.start, caller.now), (callee.start, callee.now));
    assert_eq!((caller.round, callee.round), (0, 0));
    assert_eq!((caller.role, callee.role), (Role::Caller, Role::Callee));
    assert_eq!((caller.request, callee.request), (Some(request), None));
    assert_eq!((caller.peer, callee.peer), (key(2), key(1)));
    assert_eq!(caller.peer_name.unwrap().as_str(), "nas");
    assert_eq!(callee.peer_name.unwrap().as_str(), "laptop");
    assert_eq!(
        (caller.peer_instance, callee.peer_instance),
        (Instance(2), Instance(1))
    );
    assert_eq!((caller.tag, callee.tag), (tag(1, 2), tag(1, 2)));
    assert_eq!(world.channels[&caller.channel.unwrap()], [one, two]);
    assert_eq!(world.stats().introduced, 1);
}

#[test]
fn the_start_leaves_both_the_time_to_hear_of_it() {
    for (rtt_one, rtt_two) in [(1, 1), (20, 400), (400, 20), (1900, 1000), (0, 0), (0, 900)] {
        let mut world = World::new(open());
        let (one, two) = (world.join(1, None), world.join(2, None));
        for (conn, ms) in [(one, rtt_one), (two, rtt_two)] {
            world.say(conn, rtt(ms));
            world.told(conn);
        }
        world.call(one, 1, 2, PathPolicy::Auto);
        let told = world.introduced(one);
        let lead = told.start.0 - told.now.0;
        let one_way = u64::from(rtt_one.max(rtt_two)) * 1000 / 2;
        assert!(lead >= one_way + 50_000, "{rtt_one} and {rtt_two} ms: {lead} us");
        assert!(lead <= 1_550_000, "nobody waits for longer than two seconds");
        let second = told.second.0 - told.now.0;
        assert!(
            second >= 5 * one_way,
            "there, to the server, back, and to the other side"
        );
    }
}

#[test]
fn a_round_trip_that_nobody_can_have_does_not_hold_up_the_other_side() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    world.say(
        two,
        ToServer::Time {
            sent_us: 0,
            rtt_us: u32::MAX,
        },
    );
    world.call(one, 1, 2, PathPolicy::Auto);
    let told = world.introduced(one);
    assert_eq!(told.start.0 - told.now.0, 1_550_000);
}

#[test]
fn another_call_is_the_next_round_of_the_same_session() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    let channel = world.channels.keys().next().copied();
    for round in 1..=3 {
        world.wait(ms(2000));
        let request = world.call(one, 1, 2, PathPolicy::Auto);
        let (caller, callee) = (world.introduced(one), world.introduced(two));
        assert_eq!((caller.session, callee.session), (session, session));
        assert_eq!((caller.round, callee.round), (round, round));
        assert_eq!((caller.channel, callee.channel), (channel, channel));
        assert_eq!((caller.request, callee.request), (Some(request), None));
        assert!(caller.start.0 >= u64::from(round) * 2_000_000, "a new start");
    }
    assert_eq!((world.stats().sessions, world.stats().channels), (1, 1));
}

#[test]
fn two_who_call_each_other_at_once_get_one_session() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    let first = world.call(one, 1, 2, PathPolicy::Auto);
    let second = world.call(two, 2, 1, PathPolicy::Auto);
    let requests = |told: Vec<FromServer>| -> Vec<_> {
        let seen = told.into_iter().map(|message| match message {
            FromServer::Introduction(told) => (told.session, told.round, told.role, told.request),
            other => panic!("{other:?}"),
        });
        seen.collect()
    };
    let (at_one, at_two) = (requests(world.told(one)), requests(world.told(two)));
    let session = at_one[0].0;
    assert_eq!(
        at_one,
        [
            (session, 0, Role::Caller, Some(first)),
            (session, 1, Role::Caller, None)
        ]
    );
    assert_eq!(
        at_two,
        [
            (session, 0, Role::Callee, None),
            (session, 1, Role::Callee, Some(second))
        ],
        "who called first stays the caller"
    );
    assert_eq!((world.stats().sessions, world.channels.len()), (1, 1));
}

#[test]
fn a_session_that_ran_out_of_rounds_is_replaced() {
    let mut world = World::new(open());
    let (one, two, first) = world.pair();
    for _ in 0..255 {
        world.wait_alive(ms(200), &[one, two]);
        world.call(one, 1, 2, PathPolicy::Auto);
        assert_eq!(world.introduced(one).session, first);
    }
    world.told(two);
    world.wait_alive(ms(200), &[one, two]);
    world.call(one, 1, 2, PathPolicy::Auto);
    let told = world.told(two);
    let why = CloseReason::Ended;
    assert_eq!(told[0], FromServer::SessionClosed { session: first, why });
    let FromServer::Introduction(fresh) = &told[1] else {
        panic!("{told:?}");
    };
    assert!(fresh.session != first && fresh.round == 0);
    assert_eq!((world.stats().sessions, world.channels.len()), (1, 1));
}

#[test]
fn who_was_never_here_is_unknown_and_who_is_away_is_offline() {
    let mut world = World::new(open());
    let one = world.join(1, None);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.not_introduced(one), ConnectRefusal::Unknown);
    let two = world.join(2, None);
    world.disconnect(two);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.not_introduced(one), ConnectRefusal::Offline);
    let two = world.connect(2);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(
        world.not_introduced(one),
        ConnectRefusal::Offline,
        "before its hello"
    );
    assert_eq!(world.told(two), []);
    assert_eq!(world.stats().connect_refused[&ConnectRefusal::Offline], 2);
}

#[test]
fn who_does_not_list_the_tag_looks_offline_and_hears_nothing() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    let connect = Connect {
        request: RequestId(1),
        peer: key(2),
        tag: tag(1, 99),
        policy: PathPolicy::Auto,
        guess: true,
    };
    world.say(one, ToServer::Connect(connect));
    let refused = world.told(one);
    world.disconnect(two);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(
        refused,
        world.told(one),
        "the very same answer as for one who is away"
    );
    assert_eq!(world.told(two), []);
    world.assert_no_session();
}

#[test]
fn a_tag_that_is_taken_back_lets_nobody_in() {
    let mut world = World::new(open());
    let (one, two, _) = world.pair();
    world.say(two, ToServer::Update(Update::default()));
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.not_introduced(one), ConnectRefusal::Offline);
    assert_eq!(world.told(two), []);
}

#[test]
fn a_node_that_only_calls_is_never_called() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.connect(2));
    let dial_only = Hello {
        accepting: false,
        ..hello(2, None)
    };
    world.say(two, ToServer::Hello(dial_only));
    world.told(two);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.not_introduced(one), ConnectRefusal::Offline);
    world.call(two, 2, 1, PathPolicy::Auto);
    assert_eq!(world.introduced(two).peer, key(1));
    assert_eq!(world.introduced(one).peer, key(2));
}

#[test]
fn of_several_connections_of_a_key_the_newest_that_accepts_and_lists_the_tag_is_called() {
    let mut world = World::new(open());
    let one = world.join(1, None);
    let run = |world: &mut World, instance, change: &dyn Fn(&mut Hello)| {
        let conn = world.connect(2);
        let mut hello = Hello {
            instance: Instance(instance),
            ..hello(2, None)
        };
        change(&mut hello);
        world.say(conn, ToServer::Hello(hello));
        world.told(conn);
        conn
    };
    let old = run(&mut world, 20, &|_| {});
    let newer = run(&mut world, 21, &|_| {});
    let deaf = run(&mut world, 22, &|hello| hello.accepting = false);
    let other_tags = run(&mut world, 23, &|hello| hello.facts.accept.clear());
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.introduced(one).peer_instance, Instance(21));
    assert_eq!(world.introduced(newer).peer, key(1));
    for conn in [old, deaf, other_tags] {
        assert_eq!(world.told(conn), []);
    }
    world.disconnect(newer);
    world.told(one);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.introduced(one).peer_instance, Instance(20));
}

#[test]
fn nobody_is_introduced_to_itself() {
    let mut world = World::new(open());
    let one = world.join(1, None);
    world.call(one, 1, 1, PathPolicy::Auto);
    assert_eq!(world.not_introduced(one), ConnectRefusal::Yourself);
    let copy = world.connect(1);
    world.say(
        copy,
        ToServer::Hello(Hello {
            instance: Instance(11),
            ..hello(1, None)
        }),
    );
    world.told(copy);
    world.call(one, 1, 1, PathPolicy::Auto);
    assert_eq!(
        world.introduced(one).peer_instance,
        Instance(11),
        "another run of the key is somebody else"
    );
    assert_eq!(world.introduced(copy).peer_instance, Instance(1));
}

#[test]
fn the_reflexive_address_is_added_and_attested_and_others_are_not() {
    let mut world = World::new(open());
    let told = told_of_two(
        &mut world,
        &[
            (CandidateKind::Host, "10.0.0.2:4660"),
            (CandidateKind::Mapped, "5.0.0.2:7000"),
            (CandidateKind::Mapped, "9.9.9.9:7000"),
            (CandidateKind::Reflexive, "[2a00::1]:4660"),
        ],
    );
    let expected = [
        (CandidateKind::Reflexive, addr("5.0.0.2:4660"), true),
        (CandidateKind::Host, addr("10.0.0.2:4660"), false),
        (CandidateKind::Mapped, addr("5.0.0.2:7000"), true),
        (CandidateKind::Mapped, addr("9.9.9.9:7000"), false),
        (CandidateKind::Reflexive, addr("[2a00::1]:4660"), false),
    ];
    assert_eq!(told, expected);
}

#[test]
fn places_that_no_probe_may_go_are_not_passed_on() {
    let mut world = World::new(open());
    let never = [
        "127.0.0.1:9",
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
        "0.0.0.0:9",
        "169.254.169.254:80",
        "255.255.255.255:9",
        "224.0.0.1:9",
        "10.0.0.1:0",
        "[fe80::1]:9",
        "[64:ff9b::a00:1]:9",
    ];
    let told = told_of_two(&mut world, &never.map(|text| (CandidateKind::Host, text)));
    assert_eq!(told, [(CandidateKind::Reflexive, addr("5.0.0.2:4660"), true)]);
}

#[test]
fn loopback_is_passed_on_where_that_is_allowed() {
    let mut world = World::new(RegistryConfig {
        allow_loopback: true,
        ..open()
    });
    let told = told_of_two(&mut world, &[(CandidateKind::Host, "127.0.0.1:9")]);
    assert_eq!(told.len(), 2);
    assert_eq!(told[1].1, addr("127.0.0.1:9"));
}

#[test]
fn nobody_can_name_more_than_sixteen_addresses_of_itself() {
    let mut world = World::new(open());
    let texts: Vec<String> = (0..CANDIDATES_MAX).map(|n| format!("9.9.9.{n}:9")).collect();
    let texts: Vec<_> = texts
        .iter()
        .map(|text| (CandidateKind::Host, text.as_str()))
        .collect();
    let told = told_of_two(&mut world, &texts);
    assert_eq!(told.len(), CANDIDATES_MAX);
    assert_eq!(
        told[0].1,
        addr("5.0.0.2:4660"),
        "what the server saw itself comes first"
    );
}

#[test]
fn a_node_that_moves_is_told_so_and_offered_from_there() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    let moved = addr("6.6.6.6:1234");
    world.registry.handle_address(two, moved, world.now);
    world
        .registry
        .handle_address(two, addr("[::ffff:6.6.6.6]:1234"), world.now);
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.introduced(one).candidates[0].candidate.addr, moved);
    let told = world.told(two);
    assert_eq!(told[0], FromServer::Observed { reflexive: moved });
    assert!(
        matches!(told[1], FromServer::Introduction(_)),
        "told once: {told:?}"
    );
}

#[test]
fn relay_only_hides_all_addresses_of_both_whoever_wants_it() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    for (conn, caller, callee, policy) in [(one, 1, 2, PathPolicy::RelayOnly), (two, 2, 1, PathPolicy::Auto)]
    {
        world.call(conn, caller, callee, policy);
        for conn in [one, two] {
            let told = world.introduced(conn);
            assert_eq!(told.candidates, []);
            assert_eq!(told.policy, PathPolicy::RelayOnly);
            assert!(told.channel.is_some());
        }
    }
}

#[test]
fn direct_only_gets_no_channel_and_closes_one_that_is_open() {
    let mut world = World::new(open());
    let (one, two, _) = world.pair();
    assert_eq!(world.channels.len(), 1);
    world.call(one, 1, 2, PathPolicy::DirectOnly);
    for conn in [one, two] {
        let told = world.introduced(conn);
        assert_eq!((told.channel, told.policy), (None, PathPolicy::DirectOnly));
        assert_ne!(told.candidates, []);
    }
    assert!(world.channels.is_empty());
    world.call(one, 1, 2, PathPolicy::Auto);
    assert!(world.introduced(one).channel.is_some(), "minds may change");
}

#[test]
fn wishes_that_exclude_each_other_leave_no_path_and_betray_nothing() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    world.call(one, 1, 2, PathPolicy::RelayOnly);
    world.told(two);
    world.call(two, 2, 1, PathPolicy::DirectOnly);
    let told = world.introduced(two);
    assert_eq!((told.candidates, told.channel), (Vec::new(), None));
    assert!(world.channels.is_empty());
}

#[test]
fn a_server_without_a_relay_opens_no_channel() {
    let mut world = World::new(RegistryConfig {
        relay: false,
        ..open()
    });
    let (one, two) = (world.join(1, None), world.join(2, None));
    world.call(one, 1, 2, PathPolicy::Auto);
    assert_eq!(world.introduced(one).channel, None);
    assert_eq!(world.introduced(two).channel, None);
    assert!(world.channels.is_empty());
}

#[test]
fn one_who_calls_too_often_is_slowed_down_and_the_callee_is_spared() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    for n in 0..100_u64 {
        world.call(one, 1, 2, PathPolicy::Auto);
        let told = world.told(one);
        let refused = matches!(
            told[..],
            [FromServer::ConnectFailed {
                why: ConnectRefusal::TooFast,
                ..
            }]
        );
        assert_eq!(refused, n >= 10, "call {n}");
    }
    assert_eq!(world.told(two).len(), 10);
    world.wait(ms(1000));
    for _ in 0..10 {
        world.call(one, 1, 2, PathPolicy::Auto);
    }
    assert_eq!(world.told(two).len(), 5, "five a second");
}

#[test]
fn a_connection_has_thirty_two_sessions_and_no_more() {
    let mut world = World::new(open());
    let hub = world.connect(1);
    let mut accept: Vec<_> = (100..140).map(|number| tag(1, number)).collect();
    accept.sort();
    let facts = Update {
        accept,
        ..Update::default()
    };
    world.say(
        hub,
        ToServer::Hello(Hello {
            facts,
            ..hello(1, None)
        }),
    );
    let conns: Vec<_> = (100..140)
        .map(|number| (number, world.join(number, None)))
        .collect();
    for (n, (number, conn)) in conns.iter().enumerate() {
        world.call(*conn, *number, 1, PathPolicy::Auto);
        let told = world.told(*conn);
        let refused = matches!(
            told[..],
            [FromServer::ConnectFailed {
                why: ConnectRefusal::TooMany,
                ..
            }]
        );
        assert_eq!(refused, n >= 32, "session {n}");
    }
    world.call(conns[0].1, 100, 1, PathPolicy::Auto);
    assert_eq!(
        world.introduced(conns[0].1).round,
        1,
        "another round needs no other session"
    );
    world.disconnect(conns[0].1);
    world.call(conns[39].1, 139, 1, PathPolicy::Auto);
    assert_eq!(world.introduced(conns[39].1).round, 0);
    assert_eq!(world.stats().sessions, 32);
}

#[test]
fn sessions_in_all_are_bounded() {
    let mut config = open();
    config.limits.sessions = 1;
    let mut world = World::new(config);
    let (_, _, _) = world.pair();
    let (three, _) = (world.join(3, None), world.join(4, None));
    world.call(three, 3, 4, PathPolicy::Auto);
    assert_eq!(world.not_introduced(three), ConnectRefusal::TooMany);
}

#[test]
fn who_leaves_a_session_ends_it_for_the_other() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    let stranger = world.join(3, None);
    world.say(stranger, ToServer::Leave { session });
    assert_eq!(world.stats().sessions, 1, "a third cannot end it");
    world.say(two, ToServer::Leave { session });
    let why = CloseReason::PeerLeft;
    assert_eq!(world.told(one), [FromServer::SessionClosed { session, why }]);
    assert_eq!(world.told(two), []);
    world.say(one, ToServer::Leave { session });
    assert!(!world.is_closed(one), "two who leave at once are no offence");
    world.assert_no_session();
    world.call(one, 1, 2, PathPolicy::Auto);
    let fresh = world.introduced(one);
    assert!(fresh.session != session && fresh.round == 0);
}

#[test]
fn who_vanishes_ends_its_sessions_for_the_others() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    world.disconnect(one);
    let why = CloseReason::PeerGone;
    assert_eq!(world.told(two), [FromServer::SessionClosed { session, why }]);
    world.assert_no_session();
    world.say(two, ToServer::Bye);
    assert!(world.is_closed(two));
    world.assert_empty();
}

#[test]
fn a_run_that_connects_again_replaces_its_old_connection() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    let again = world.join(1, None);
    assert!(world.is_closed(one));
    let why = CloseReason::PeerGone;
    assert_eq!(world.told(two), [FromServer::SessionClosed { session, why }]);
    world.call(again, 1, 2, PathPolicy::Auto);
    assert_eq!(world.introduced(again).round, 0);
    assert_eq!((world.stats().connected, world.stats().sessions), (2, 1));
    world.disconnect(one);
    assert_eq!(world.stats().sessions, 1, "the end of the old one is no news");
}

#[test]
fn equal_inputs_give_equal_outputs() {
    let run = || {
        let mut world = World::new(open());
        let (one, two, session) = world.pair();
        world.wait(Duration::from_secs(1));
        world.call(two, 2, 1, PathPolicy::Auto);
        (session, world.told(one), world.told(two), world.channels)
    };
    assert_eq!(run(), run());
}

impl World {
    #[track_caller]
    fn assert_no_session(&self) {
        assert_eq!((self.stats().sessions, self.stats().channels), (0, 0));
        assert!(self.channels.is_empty());
    }
}
