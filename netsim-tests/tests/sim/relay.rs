//! Pairs that cannot become direct, or must not: the relay, and what it may be used for.

use std::collections::BTreeSet;

use knothole_netsim::nat::NatSpec;
use knothole_netsim::sim::{NodeSpec, ServerSpec, World};
use knothole_proto::connector::{Event, LinkId};
use knothole_proto::path::{Path, Why};
use knothole_proto::wire::PathPolicy;

use crate::stage::{MS, SECOND, clear, nats, stage, staged};

#[test]
fn data_flows_over_the_relay_before_the_first_probe_is_sent() {
    let mut stage = stage("port-restricted", "port-restricted", 1);
    let begun = stage.world.now();
    stage.connect();
    let (a, b) = (stage.a, stage.b);
    let arrived = |world: &World| world.traffic(b, a).is_some_and(|traffic| traffic.by_relay > 0);
    assert!(stage.world.run_until(SECOND, arrived).unwrap());
    // Connect, introduction, first datagram: two round trips of 80 ms to the server.
    assert!(
        stage.world.now() - begun <= 180 * MS,
        "{:?}",
        stage.world.now() - begun
    );
    assert_eq!(stage.why(), [Some(Why::Punching); 2]);
}

#[test]
fn a_pair_with_udp_to_the_server_only_stays_relayed_and_says_why() {
    for (a, b) in [
        ("udp-server-only", "udp-server-only"),
        ("udp-server-only", "port-restricted"),
        ("open", "udp-server-only"),
    ] {
        let mut stage = stage(a, b, 2);
        stage.connect();
        stage.pass(10 * SECOND);
        assert_eq!(stage.why(), [Some(Why::Silence); 2], "{a} and {b}");
        let (to_a, to_b) = stage.arrivals(5 * SECOND);
        assert!(to_a >= 49 && to_b >= 49, "{a} and {b}: {to_a} and {to_b} of 50");
        let (registry, relay) = stage.world.server_stats(stage.server).unwrap();
        assert_eq!((registry.sessions, registry.channels), (1, 1));
        assert_eq!((relay.channels, relay.queue.dropped_bytes()), (1, 0));
        assert!(relay.forwarded_bytes > 0);
    }
}

#[test]
fn who_wants_the_relay_only_is_told_to_nobody() {
    let mut stage = stage("open", "open", 3);
    stage
        .world
        .connect(stage.a, stage.b, PathPolicy::RelayOnly)
        .unwrap();
    stage.pass(10 * SECOND);
    assert_eq!(stage.why(), [Some(Why::Policy); 2]);
    assert_eq!(
        stage.world.probes_sent(stage.a) + stage.world.probes_sent(stage.b),
        0
    );
    let (to_a, to_b) = stage.arrivals(SECOND);
    assert!(to_a >= 9 && to_b >= 9);
}

#[test]
fn who_wants_no_relay_gets_none_and_becomes_direct() {
    let mut stage = stage("port-restricted", "address-restricted", 4);
    stage
        .world
        .connect(stage.a, stage.b, PathPolicy::DirectOnly)
        .unwrap();
    stage.becomes_direct(10 * SECOND);
    stage.pass(SECOND);
    let (registry, relay) = stage.world.server_stats(stage.server).unwrap();
    assert_eq!(
        (registry.channels, relay.channels, relay.forwarded_bytes),
        (0, 0, 0)
    );
}

#[test]
fn without_a_relay_and_without_a_hole_there_is_no_path() {
    let server = ServerSpec {
        relay: false,
        ..ServerSpec::default()
    };
    let mut stage = staged(&nats("udp-server-only"), &nats("open"), server, clear(), 5);
    stage.connect();
    stage.pass(10 * SECOND);
    assert_eq!(stage.paths(), [Some(Path::None(Why::Silence)); 2]);
    assert_eq!(stage.arrivals(SECOND), (0, 0));
}

#[test]
fn both_sides_asking_at_once_get_one_session() {
    let mut stage = stage("port-restricted", "port-restricted", 6);
    stage.world.connect(stage.a, stage.b, PathPolicy::Auto).unwrap();
    stage.world.connect(stage.b, stage.a, PathPolicy::Auto).unwrap();
    stage.becomes_direct(10 * SECOND);
    stage.pass(3 * SECOND);
    for host in [stage.a, stage.b] {
        let link = |event: &Event| match event {
            Event::LinkUp(up) => Some(up.link),
            _ => None,
        };
        let links: BTreeSet<LinkId> = stage
            .world
            .events(host)
            .iter()
            .filter_map(|(_, event)| link(event))
            .collect();
        assert_eq!(links.len(), 1, "one link at each side");
    }
    let (registry, _) = stage.world.server_stats(stage.server).unwrap();
    assert_eq!((registry.sessions, registry.channels), (1, 1));
    let (to_a, to_b) = stage.arrivals(SECOND);
    assert!(to_a >= 9 && to_b >= 9, "{to_a} and {to_b}");
}

#[test]
fn a_full_relay_starves_nobody_forever() {
    let server = ServerSpec {
        // Below what the two pings a second of twenty pairs take.
        relay_rate: 8_000,
        ..ServerSpec::default()
    };
    let mut stage = staged(
        &nats("udp-server-only"),
        &[NatSpec::default()],
        server,
        clear(),
        7,
    );
    stage.connect();
    stage.pass(300 * SECOND);
    let (_, relay) = stage.world.server_stats(stage.server).unwrap();
    assert!(
        relay.queue.dropped_bytes() == 0,
        "the burst of 256 KiB covers this pair"
    );
    let more = NodeSpec {
        period: Some(2 * MS),
        port: 40_001,
        ..NodeSpec::default()
    };
    let loud = stage.world.add_node(stage.sites[0], more).unwrap();
    stage.world.pair(loud, stage.b).unwrap();
    stage.pass(2 * SECOND);
    stage.world.connect(loud, stage.b, PathPolicy::Auto).unwrap();
    stage.pass(60 * SECOND);
    let (_, relay) = stage.world.server_stats(stage.server).unwrap();
    assert!(relay.queue.dropped_bytes() > 0, "the cap is reached");
    let admitted = relay.forwarded_bytes * 8 / stage.world.now().as_secs();
    assert!(
        admitted <= 8_000 + 256 * 1024 * 8 / stage.world.now().as_secs(),
        "{admitted} bit/s"
    );
    assert_eq!(stage.why(), [Some(Why::Silence); 2], "and the links live on");
}
