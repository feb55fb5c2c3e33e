//! What the registry does about plans: leave to guess, aims, and rounds that knew too little.

use knothole_proto::id::SessionId;
use knothole_proto::wire::network::{Filtering, Mapping, Ports};
use knothole_proto::wire::{
    Aim, FromServer, Introduction, Network, PathPolicy, Refusal, Report, Span, ToServer, Update,
};

use super::world::{World, hello, open};
use crate::support::ms;

fn facts(number: u32, network: Network) -> ToServer {
    ToServer::Update(Update {
        network,
        ..hello(number, None).facts
    })
}

fn easy() -> Network {
    Network {
        mapping: Mapping::Independent,
        filtering: Filtering::AddressAndPort,
        guesses: true,
        ..Network::default()
    }
}

fn random() -> Network {
    Network {
        mapping: Mapping::AddressAndPort,
        ports: Ports::Random,
        ..easy()
    }
}

fn introductions(told: Vec<FromServer>) -> Vec<Introduction> {
    let introduction = |message| match message {
        FromServer::Introduction(told) => Some(told),
        _ => None,
    };
    told.into_iter().filter_map(introduction).collect()
}

#[test]
fn a_round_that_knew_too_little_is_followed_by_another_once_the_networks_are_known() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    world.say(two, facts(2, easy()));
    assert!(
        introductions(world.told(one)).is_empty(),
        "one side is not enough"
    );
    world.say(one, facts(1, random()));
    for conn in [one, two] {
        let told = introductions(world.told(conn));
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].session, told[0].round, told[0].request),
            (session, 1, None)
        );
        assert_eq!(told[0].networks, [random(), easy()]);
        assert!(told[0].guess && !told[0].again, "nothing was tried yet");
    }
    world.say(one, facts(1, Network::default()));
    world.say(one, facts(1, random()));
    assert!(introductions(world.told(one)).is_empty(), "once in a session");
}

#[test]
fn no_round_follows_where_it_would_be_the_same_or_there_is_a_path() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    world.say(one, facts(1, easy()));
    world.say(two, facts(2, easy()));
    assert!(
        introductions(world.told(one)).is_empty(),
        "both would punch as they do"
    );
    let report = Report {
        session,
        round: 0,
        direct_ms: Some(300),
        probes: 12,
    };
    world.say(one, ToServer::Report(report));
    world.say(one, facts(1, random()));
    assert!(introductions(world.told(one)).is_empty(), "the caller has a path");
}

#[test]
fn no_round_follows_before_it_is_known_whom_the_easy_side_lets_in() {
    let unasked = Network {
        filtering: Filtering::Unknown,
        ..easy()
    };
    let by_address = Network {
        filtering: Filtering::Address,
        ..easy()
    };
    for (known, follows) in [(easy(), true), (by_address, false)] {
        let mut world = World::new(open());
        let (one, two, _) = world.pair();
        world.say(one, facts(1, random()));
        world.say(two, facts(2, unasked));
        assert!(
            introductions(world.told(one)).is_empty(),
            "perhaps nothing has to be guessed"
        );
        world.say(two, facts(2, known));
        let told = introductions(world.told(one));
        assert_eq!(
            !told.is_empty(),
            follows,
            "both send already, which opens the way in"
        );
        assert!(
            told.iter().all(|told| told.guess && !told.again),
            "nothing was tried yet"
        );
    }
}

#[test]
fn a_second_round_is_another_try_only_if_the_first_knew_enough() {
    let mut world = World::new(open());
    let (one, two, _) = world.pair();
    world.call(one, 1, 2, PathPolicy::Auto);
    assert!(world.introduced(one).again, "nothing is known, and it was tried");
    world.introduced(two);
    world.say(one, facts(1, easy()));
    world.say(two, facts(2, easy()));
    for again in [false, true] {
        world.wait(ms(2000));
        world.call(one, 1, 2, PathPolicy::Auto);
        assert_eq!(world.introduced(one).again, again);
        world.introduced(two);
    }
}

#[test]
fn an_aim_reaches_the_other_side_of_its_session_and_round_and_nobody_else() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    let three = world.join(3, None);
    let span = Span {
        first: 4660,
        last: 4662,
    };
    let aim = |session, round, count| Aim {
        session,
        round,
        spans: vec![span; count],
        opened: false,
    };
    world.say(one, ToServer::Aim(aim(session, 0, 2)));
    assert_eq!(world.told(two), [FromServer::Aim(aim(session, 0, 2))]);
    for (conn, lost) in [
        (one, aim(session, 1, 1)),
        (three, aim(session, 0, 1)),
        (one, aim(SessionId::from_bytes([9; 16]), 0, 1)),
    ] {
        world.say(conn, ToServer::Aim(lost));
        assert!(world.told(one).is_empty() && world.told(two).is_empty());
    }
    world.say(two, ToServer::Aim(aim(session, 0, 17)));
    assert!(
        matches!(world.told(two)[..], [FromServer::Refused(Refusal::Protocol)]),
        "more than the protocol allows"
    );
}

#[test]
fn guessing_takes_the_leave_of_both_and_an_address_is_spared_whoever_asks() {
    let mut world = World::new(open());
    let (one, two, _) = world.pair();
    world.say(one, facts(1, random()));
    let shy = Network {
        guesses: false,
        ..easy()
    };
    world.say(two, facts(2, shy));
    for conn in [one, two] {
        let told = introductions(world.told(conn));
        assert!(told.iter().all(|told| !told.guess), "one side declines");
    }
    world.say(two, facts(2, easy()));
    let mut given = 0;
    for _ in 0..20 {
        world.call(one, 1, 2, PathPolicy::Auto);
        given += u32::from(world.introduced(one).guess);
        world.introduced(two);
        world.wait(ms(300));
    }
    assert_eq!(given, 8, "the burst of one address");
    world.wait(ms(15_000));
    world.call(one, 1, 2, PathPolicy::Auto);
    assert!(
        world.introduced(one).guess,
        "one more after a quarter of a minute"
    );
}
