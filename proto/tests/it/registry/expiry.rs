//! What silence, time and shutdown leave behind: nothing.

use std::time::Duration;

use knothole_proto::rendezvous::Timer;
use knothole_proto::wire::{CloseReason, FromServer, PathPolicy, ToServer};

use super::world::{World, open};
use crate::support::ms;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_connection_that_never_says_hello_is_closed_after_ten_seconds() {
    let mut world = World::new(open());
    let conn = world.connect(1);
    assert_eq!(
        world.registry.poll_timeout(),
        Some((world.now + ms(10_000), Timer::Silence))
    );
    world.wait(ms(9_999));
    assert!(!world.is_closed(conn));
    world.wait(ms(1));
    assert!(world.is_closed(conn));
    world.assert_empty();
    assert_eq!(world.registry.poll_timeout(), None);
}

#[test]
fn a_node_that_is_silent_for_three_refreshes_is_forgotten() {
    let mut world = World::new(open());
    let conn = world.join(1, Some("nas"));
    world.wait_alive(ms(120_000), &[conn]);
    assert!(!world.is_closed(conn));
    world.wait(ms(44_999));
    assert!(!world.is_closed(conn));
    world.wait(ms(1));
    assert!(world.is_closed(conn));
    world.assert_empty();
    let stats = world.stats();
    assert_eq!((stats.silenced, stats.names), (1, 1), "its name is kept");
}

#[test]
fn silence_ends_sessions_and_nameplates_too() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    world.say(one, ToServer::PairOpen);
    world.told(one);
    world.wait_alive(ms(60_000), &[two]);
    assert!(world.is_closed(one));
    let why = CloseReason::PeerGone;
    assert_eq!(world.told(two), [FromServer::SessionClosed { session, why }]);
    world.wait(2 * HOUR);
    world.assert_empty();
}

#[test]
fn a_session_that_nobody_asks_for_is_given_up() {
    let mut world = World::new(open());
    let (one, two, session) = world.pair();
    world.wait_alive(HOUR - ms(1000), &[one, two]);
    world.call(one, 1, 2, PathPolicy::Auto);
    world.told(one);
    world.told(two);
    world.wait_alive(HOUR - ms(1000), &[one, two]);
    assert_eq!(world.stats().sessions, 1, "another round is a sign of life");
    world.wait_alive(ms(2000), &[one, two]);
    let closed = FromServer::SessionClosed {
        session,
        why: CloseReason::Idle,
    };
    assert_eq!(
        (world.told(one), world.told(two)),
        (vec![closed.clone()], vec![closed])
    );
    assert!(world.channels.is_empty());
}

#[test]
fn a_session_on_the_relay_by_choice_asks_for_nothing_and_is_kept() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    world.call(one, 1, 2, PathPolicy::RelayOnly);
    world.wait_alive(HOUR * 10, &[one, two]);
    assert_eq!(world.channels.len(), 1);
    world.disconnect(two);
    assert!(world.channels.is_empty());
}

#[test]
fn at_shutdown_everybody_is_told_when_to_come_back_and_not_all_at_once() {
    let mut world = World::new(open());
    let (one, two, _) = world.pair();
    let more: Vec<_> = (10..60).map(|number| world.join(number, None)).collect();
    world.say(one, ToServer::PairOpen);
    world.told(one);
    world.registry.handle_shutdown(world.now);
    world.wait(ms(0));
    let late = world.connect(99);
    let mut times = Vec::new();
    for conn in [vec![one, two, late], more].concat() {
        match world.told(conn)[..] {
            [FromServer::Draining { retry_after_ms }] => times.push(retry_after_ms),
            ref other => panic!("{other:?}"),
        }
        assert!(world.is_closed(conn));
    }
    assert!(times.iter().all(|time| (500..5000).contains(time)));
    times.sort_unstable();
    times.dedup();
    assert!(times.len() > 40, "spread out");
    world.assert_empty();
}

#[test]
fn ten_thousand_nodes_come_and_go_and_nothing_stays_but_their_keys() {
    let mut world = World::new(open());
    for number in 1..=10_000 {
        let conn = world.join(number, None);
        let other = world.join(number + 100_000, None);
        world.call(conn, number, number + 100_000, PathPolicy::Auto);
        world.say(conn, ToServer::PairOpen);
        match number % 3 {
            0 => world.disconnect(conn),
            1 => world.say(other, ToServer::Bye),
            _ => {}
        }
        world.told(conn);
        world.told(other);
        world.wait(ms(50));
    }
    let busy = world.stats();
    assert!(
        busy.connections > 0 && busy.connections < 4_000,
        "{}",
        busy.connections
    );
    world.wait(2 * HOUR);
    world.assert_empty();
    assert_eq!(world.stats().keys, 20_000);
}
