//! What is counted of attempts, whose word counts, and what a node is told of it.

use knothole_proto::id::{RequestId, SessionId};
use knothole_proto::rendezvous::ConnId;
use knothole_proto::wire::{
    FromServer, NetworkClass, OddsRow, PathPolicy, Refusal, Report, ToServer, Update,
};

use super::world::{World, open, tag};

/// A node of this class of network.
fn join(world: &mut World, number: u32, class: NetworkClass) -> ConnId {
    let conn = world.join(number, None);
    let mut accept: Vec<_> = (1..10).map(|other| tag(number, other)).collect();
    accept.sort();
    let facts = Update {
        accept,
        network: class.example(),
        ..Update::default()
    };
    world.say(conn, ToServer::Update(facts));
    conn
}

fn report(world: &mut World, conn: ConnId, session: SessionId, round: u8, direct_ms: Option<u32>) {
    let report = Report {
        session,
        round,
        direct_ms,
        probes: 9,
    };
    world.say(conn, ToServer::Report(report));
}

/// Two ask for each other; the session.
fn meet(world: &mut World, [one, two]: [ConnId; 2], [caller, callee]: [u32; 2]) -> SessionId {
    world.call(one, caller, callee, PathPolicy::Auto);
    world.told(two);
    world.introduced(one).session
}

/// What was counted: classes, plan, attempts, direct ones.
fn counted(world: &World) -> Vec<(&'static str, &'static str, &'static str, u64, u64)> {
    let stats = world.stats();
    let rows = stats.outcomes.iter().map(|(sort, outcome)| {
        let [one, other] = sort.classes.map(NetworkClass::word);
        (one, other, sort.plan, outcome.attempts, outcome.direct)
    });
    rows.collect()
}

#[test]
fn the_callers_word_counts_once_for_each_round_and_nobody_elses() {
    let mut world = World::new(open());
    let one = join(&mut world, 1, NetworkClass::PortRestricted);
    let two = join(&mut world, 2, NetworkClass::PortRestricted);
    let three = join(&mut world, 3, NetworkClass::Open);
    let session = meet(&mut world, [one, two], [1, 2]);
    report(&mut world, two, session, 0, Some(5));
    report(&mut world, three, session, 0, Some(5));
    report(&mut world, one, SessionId::from_bytes([7; 16]), 0, Some(5));
    report(&mut world, one, session, 1, Some(5));
    assert_eq!(counted(&world), []);
    report(&mut world, one, session, 0, Some(250));
    report(&mut world, one, session, 0, Some(5));
    report(&mut world, one, session, 0, None);
    let row = ("port-restricted", "port-restricted", "punch", 1, 1);
    assert_eq!(counted(&world), [row]);
    assert!(!world.is_closed(one) && !world.is_closed(two) && !world.is_closed(three));
}

#[test]
fn a_late_report_counts_for_the_round_before_and_not_for_older_ones() {
    let mut world = World::new(open());
    let one = join(&mut world, 1, NetworkClass::PortRestricted);
    let two = join(&mut world, 2, NetworkClass::PortRestricted);
    let session = meet(&mut world, [one, two], [1, 2]);
    for _ in 0..2 {
        assert_eq!(meet(&mut world, [one, two], [1, 2]), session);
    }
    report(&mut world, one, session, 0, None);
    assert_eq!(counted(&world), []);
    report(&mut world, one, session, 1, None);
    report(&mut world, one, session, 2, Some(900));
    let row = ("port-restricted", "port-restricted", "fresh", 2, 1);
    assert_eq!(counted(&world), [row], "further rounds take fresh ports");
}

#[test]
fn who_calls_makes_no_difference_and_plans_are_told_apart() {
    let mut world = World::new(open());
    let easy = join(&mut world, 1, NetworkClass::AddressRestricted);
    let hard = join(&mut world, 2, NetworkClass::Random);
    let session = meet(&mut world, [easy, hard], [1, 2]);
    report(&mut world, easy, session, 0, Some(100));
    // A session keeps its roles; the other one calls in a session of its own.
    world.say(easy, ToServer::Leave { session });
    world.told(hard);
    let session = meet(&mut world, [hard, easy], [2, 1]);
    report(&mut world, hard, session, 0, Some(100));
    meet(&mut world, [hard, easy], [2, 1]);
    report(&mut world, hard, session, 1, None);
    let words = ("address-restricted", "random");
    let expected = [
        (words.0, words.1, "birthday", 1, 0),
        (words.0, words.1, "reverse", 2, 2),
    ];
    assert_eq!(counted(&world), expected);
    assert_eq!(world.stats().outcomes.totals(), (3, 2));
}

#[test]
fn what_was_to_be_relayed_is_no_attempt() {
    let mut world = World::new(open());
    let one = join(&mut world, 1, NetworkClass::Open);
    let two = join(&mut world, 2, NetworkClass::Open);
    world.call(one, 1, 2, PathPolicy::RelayOnly);
    let session = world.introduced(one).session;
    world.told(two);
    report(&mut world, one, session, 0, None);
    assert_eq!(counted(&world), []);
}

#[test]
fn a_node_is_told_the_odds_and_a_stranger_is_not() {
    let mut world = World::new(open());
    let one = join(&mut world, 1, NetworkClass::Counter);
    let two = join(&mut world, 2, NetworkClass::PortRestricted);
    let ask = ToServer::Odds {
        request: RequestId(7),
    };
    world.told(one);
    world.say(one, ask.clone());
    let request = RequestId(7);
    assert_eq!(
        world.told(one),
        [FromServer::Odds {
            request,
            rows: Vec::new()
        }]
    );
    let session = meet(&mut world, [one, two], [1, 2]);
    report(&mut world, one, session, 0, Some(350));
    world.say(two, ask.clone());
    let rows = vec![OddsRow {
        classes: [NetworkClass::PortRestricted, NetworkClass::Counter],
        attempts: 1,
        direct: 1,
        median_ms: 400,
    }];
    assert_eq!(world.told(two), [FromServer::Odds { request, rows }]);
    let stranger = world.connect(3);
    world.say(stranger, ask);
    world.assert_refused(stranger, Refusal::Protocol);
}
