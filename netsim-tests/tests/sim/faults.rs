//! What goes wrong in the middle: servers, routers, links, machines.

use std::time::Duration;

use knothole_netsim::link::{LinkSpec, Loss};
use knothole_netsim::nat::UdpPolicy;
use knothole_netsim::sim::{NodeSpec, SERVER_IP};
use knothole_proto::connector::{ConnectFailure, LinkEnd};
use knothole_proto::path::Why;
use knothole_proto::wire::{ConnectRefusal, PathPolicy};

use crate::stage::{MS, SECOND, blackout, clear, ends, failures, stage};

#[test]
fn a_round_that_was_lost_is_healed_by_the_next() {
    let mut stage = stage("port-restricted", "port-restricted", 1);
    let (a, b) = (stage.a, stage.b);
    // A firewall on one side that opens after the first round.
    let server = UdpPolicy::OnlyTo([SERVER_IP].into());
    stage.world.set_udp(stage.sites[1], &server);
    stage.connect();
    stage.pass(4 * SECOND);
    assert!(!stage.world.is_direct(a, b));
    assert_eq!(stage.why(), [Some(Why::Silence); 2]);
    stage.world.set_udp(stage.sites[1], &UdpPolicy::Open);
    let took = stage.becomes_direct(15 * SECOND);
    assert!(
        took <= 12 * SECOND,
        "rounds come 2 and 8 s after a verdict, not {took:?}"
    );
    let (to_a, to_b) = stage.arrivals(2 * SECOND);
    assert!(to_a >= 19 && to_b >= 19);
}

#[test]
fn a_direct_path_does_not_need_the_server() {
    let mut stage = stage("port-restricted", "port-restricted", 2);
    stage.connect_directly();
    stage.world.kill_server(stage.server);
    stage.pass(120 * SECOND);
    assert!(stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
    let (to_a, to_b) = stage.arrivals(10 * SECOND);
    assert!(to_a >= 99 && to_b >= 99, "{to_a} and {to_b} of 100");
}

#[test]
fn a_server_that_starts_anew_while_a_pair_is_direct_costs_nothing() {
    let mut stage = stage("port-restricted", "port-restricted", 3);
    stage.connect_directly();
    stage.world.kill_server(stage.server);
    stage.pass(5 * SECOND);
    stage.world.restart_server(stage.server);
    let before = stage.arrivals(Duration::ZERO);
    assert_eq!(before, (0, 0));
    let (to_a, to_b) = stage.arrivals(60 * SECOND);
    assert!(to_a >= 598 && to_b >= 598, "{to_a} and {to_b} of 600");
    assert!(stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
    let (registry, relay) = stage.world.server_stats(stage.server).unwrap();
    assert_eq!(registry.connected, 2, "both are back within a minute");
    assert_eq!(
        (registry.sessions, relay.channels),
        (1, 1),
        "and their link has a channel again"
    );
    assert!(ends(&stage.world, stage.a).is_empty() && ends(&stage.world, stage.b).is_empty());
}

#[test]
fn after_a_restart_of_the_server_a_relayed_pair_has_traffic_again() {
    let mut stage = stage("udp-server-only", "port-restricted", 4);
    stage.connect();
    stage.pass(5 * SECOND);
    stage.world.kill_server(stage.server);
    stage.pass(2 * SECOND);
    stage.world.restart_server(stage.server);
    stage.pass(60 * SECOND);
    let (to_a, to_b) = stage.arrivals(10 * SECOND);
    assert!(to_a >= 99 && to_b >= 99, "{to_a} and {to_b} of 100");
}

#[test]
fn a_server_that_says_goodbye_is_found_again() {
    let mut stage = stage("port-restricted", "port-restricted", 5);
    stage.connect_directly();
    stage.world.shut_server_down(stage.server).unwrap();
    stage.pass(SECOND);
    stage.world.kill_server(stage.server);
    stage.pass(SECOND);
    stage.world.restart_server(stage.server);
    stage.pass(30 * SECOND);
    let (registry, _) = stage.world.server_stats(stage.server).unwrap();
    assert_eq!(registry.connected, 2);
    assert!(stage.world.is_direct(stage.a, stage.b));
}

#[test]
fn a_router_that_forgets_its_mappings_costs_a_few_seconds() {
    for seed in 0..20 {
        let mut stage = stage("port-restricted", "port-restricted", seed);
        stage.connect_directly();
        stage.world.reboot_nats(stage.sites[(seed % 2) as usize]);
        stage.world.set_traffic(stage.a, Some(100 * MS)).unwrap();
        stage.pass(30 * SECOND);
        assert!(
            stage.world.is_direct(stage.a, stage.b),
            "seed {seed}: {:?}",
            stage.paths()
        );
        let gap = stage.world.traffic(stage.a, stage.b).unwrap().longest_gap;
        // The callee here only answers: it notices when its keepalive is due.
        let limit = [5, 20][(seed % 2) as usize] * SECOND;
        assert!(gap <= limit, "seed {seed}: nothing arrived for {gap:?}");
        let (to_a, to_b) = stage.arrivals(5 * SECOND);
        assert!(to_a >= 49 && to_b >= 49, "seed {seed}: {to_a} and {to_b} of 50");
    }
}

#[test]
fn a_router_that_forgets_its_mappings_under_an_idle_pair_is_noticed() {
    let mut stage = stage("port-restricted", "port-restricted", 7);
    stage.connect_directly();
    stage.world.set_traffic(stage.a, None).unwrap();
    stage.pass(60 * SECOND);
    stage.world.reboot_nats(stage.sites[0]);
    stage.pass(120 * SECOND);
    assert!(stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
    stage.world.set_traffic(stage.a, Some(100 * MS)).unwrap();
    let (to_a, to_b) = stage.arrivals(5 * SECOND);
    assert!(to_a >= 48 && to_b >= 48, "{to_a} and {to_b} of 50");
}

#[test]
fn an_idle_pair_keeps_its_path_for_an_hour_with_few_packets() {
    let mut stage = stage("port-restricted", "port-restricted", 8);
    stage.connect_directly();
    stage.world.set_traffic(stage.a, None).unwrap();
    let before = stage.world.probes_sent(stage.a) + stage.world.probes_sent(stage.b);
    stage.pass(3600 * SECOND);
    let probes = stage.world.probes_sent(stage.a) + stage.world.probes_sent(stage.b) - before;
    assert!(stage.world.is_direct(stage.a, stage.b));
    // Each side asks every 13.5 to 15 s, and is answered.
    assert!((950..1100).contains(&probes), "{probes} probes in an hour");
    stage.world.set_traffic(stage.a, Some(100 * MS)).unwrap();
    let (to_a, to_b) = stage.arrivals(5 * SECOND);
    assert!(to_a >= 49 && to_b >= 49, "{to_a} and {to_b} of 50");
}

#[test]
fn a_direct_path_that_dies_goes_to_the_relay_within_seconds_and_comes_back() {
    let mut stage = stage("port-restricted", "port-restricted", 9);
    stage.connect_directly();
    let server = UdpPolicy::OnlyTo([SERVER_IP].into());
    stage.world.set_udp(stage.sites[0], &server);
    stage.world.set_traffic(stage.a, Some(50 * MS)).unwrap();
    stage.pass(10 * SECOND);
    assert!(!stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
    let gap = stage.world.traffic(stage.a, stage.b).unwrap().longest_gap;
    let (to_a, to_b) = stage.arrivals(5 * SECOND);
    assert!(to_a >= 99 && to_b >= 99, "{to_a} and {to_b} of 100; gap {gap:?}");
    stage.world.set_udp(stage.sites[0], &UdpPolicy::Open);
    stage.becomes_direct(90 * SECOND);
}

#[test]
fn a_storm_of_losses_in_runs_breaks_no_rule_and_ends_direct() {
    for seed in 0..20 {
        let mut stage = stage("port-restricted", "port-restricted", 100 + seed);
        let storm = LinkSpec {
            loss: Loss::Burst {
                rate: 0.2,
                length: 4.0,
            },
            jitter: 10 * MS,
            ..clear()
        };
        stage.weather(0, storm);
        stage.weather(1, storm);
        stage.connect();
        stage.pass(120 * SECOND);
        stage.weather(0, clear());
        stage.weather(1, clear());
        stage.becomes_direct(15 * SECOND);
        let (to_a, to_b) = stage.arrivals(5 * SECOND);
        assert!(to_a >= 48 && to_b >= 48, "seed {seed}: {to_a} and {to_b} of 50");
    }
}

#[test]
fn an_outage_of_everything_is_survived() {
    for (seconds, seed) in [(3, 1), (20, 2), (70, 3), (200, 4)] {
        let mut stage = stage("port-restricted", "port-restricted", seed);
        stage.connect_directly();
        stage.weather(0, blackout());
        stage.pass(seconds * SECOND);
        stage.weather(0, clear());
        // Registered within 60 s, and every wanted link up within 10 s more (P10).
        let (a, b) = (stage.a, stage.b);
        stage.pass(60 * SECOND);
        if stage.world.path(a, b).is_none() {
            stage.connect();
        }
        let direct = stage
            .world
            .run_until(10 * SECOND, |world| world.is_direct(a, b))
            .unwrap();
        assert!(direct, "after {seconds} s: {:?}", stage.paths());
        let (to_a, to_b) = stage.arrivals(5 * SECOND);
        assert!(
            to_a >= 48 && to_b >= 48,
            "after {seconds} s: {to_a} and {to_b} of 50"
        );
    }
}

#[test]
fn a_node_that_moves_to_another_network_has_traffic_again() {
    let mut stage = stage("port-restricted", "port-restricted", 11);
    stage.connect_directly();
    let nats = crate::stage::nats("port-restricted");
    let elsewhere = stage.world.add_site(&nats, clear(), clear());
    stage.world.move_node(stage.b, elsewhere).unwrap();
    stage.world.set_traffic(stage.a, Some(100 * MS)).unwrap();
    stage.pass(60 * SECOND);
    assert!(stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
    let gap = stage.world.traffic(stage.a, stage.b).unwrap().longest_gap;
    println!("longest silence after a move: {gap:?}");
    assert!(gap <= 5 * SECOND, "{gap:?}");
}

#[test]
fn a_link_that_fails_one_way_lets_the_other_way_through_and_heals() {
    let mut stage = stage("port-restricted", "port-restricted", 15);
    stage.connect_directly();
    stage.world.set_links(stage.sites[1], blackout(), clear());
    stage.pass(SECOND);
    let (to_a, to_b) = stage.arrivals(3 * SECOND);
    assert!(to_a == 0 && to_b >= 29, "{to_a} and {to_b} of 30");
    stage.pass(40 * SECOND);
    stage.weather(1, clear());
    stage.pass(60 * SECOND);
    assert!(stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
    let (to_a, to_b) = stage.arrivals(5 * SECOND);
    assert!(to_a >= 49 && to_b >= 49, "{to_a} and {to_b} of 50");
}

#[test]
fn corrupted_datagrams_are_as_good_as_lost_and_cost_no_path() {
    let mut stage = stage("port-restricted", "port-restricted", 16);
    stage.weather(1, clear().with_corruption(0.2));
    stage.connect_directly();
    let (to_a, to_b) = stage.arrivals(60 * SECOND);
    // One in five of 600 pings is bent on the way down, and one in five of the answers on the way up.
    assert!((440..=520).contains(&to_b), "{to_b} of 600");
    assert!((330..=440).contains(&to_a), "{to_a} of 600");
    assert!(stage.world.is_direct(stage.a, stage.b), "{:?}", stage.paths());
}

#[test]
fn a_peer_that_vanished_is_given_up() {
    let mut stage = stage("port-restricted", "port-restricted", 12);
    stage.connect_directly();
    stage.world.kill_node(stage.b);
    stage.pass(300 * SECOND);
    assert_eq!(ends(&stage.world, stage.a), [LinkEnd::PeerGone]);
    stage.connect();
    stage.pass(SECOND);
    assert_eq!(
        failures(&stage.world, stage.a),
        [ConnectFailure::Refused(ConnectRefusal::Offline)]
    );
    let (registry, relay) = stage.world.server_stats(stage.server).unwrap();
    assert_eq!(
        (registry.connected, registry.sessions, relay.channels),
        (1, 0, 0),
        "nothing is left of it"
    );
}

#[test]
fn a_peer_that_is_struck_off_is_reached_no_more() {
    let mut stage = stage("port-restricted", "port-restricted", 13);
    stage.connect_directly();
    let (a, b) = (stage.a, stage.b);
    stage.world.forget(b, a).unwrap();
    stage.pass(30 * SECOND);
    assert_eq!(ends(&stage.world, b), [LinkEnd::Unpaired]);
    assert_eq!(stage.arrivals(5 * SECOND).1, 0);
    stage.world.connect(b, a, PathPolicy::Auto).unwrap();
    stage.pass(SECOND);
    assert_eq!(failures(&stage.world, b), [ConnectFailure::NotPaired]);
    let begun = failures(&stage.world, a).len();
    stage.connect();
    stage.pass(SECOND);
    let refused = ConnectFailure::Refused(ConnectRefusal::Offline);
    let now = failures(&stage.world, a);
    assert!(
        now.len() > begun && now.iter().all(|failure| *failure == refused),
        "{now:?}"
    );
}

#[test]
fn a_server_without_a_working_disk_refuses_new_names_and_keeps_old_ones() {
    let mut stage = stage("open", "open", 14);
    stage.world.set_disk_fails(stage.server, true);
    let spec = NodeSpec {
        name: Some("nas".parse().unwrap()),
        port: 40_001,
        ..NodeSpec::default()
    };
    let late = stage.world.add_node(stage.sites[0], spec).unwrap();
    stage.pass(5 * SECOND);
    assert!(!stage.world.is_registered(late));
    stage.connect_directly();
}
