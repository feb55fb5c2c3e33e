//! Each kind of NAT, measured over real sockets by an observer with two addresses and two ports and by a stranger, as
//! RFC 5780 does it, and held against its description.

use std::net::{IpAddr, SocketAddr};

use knothole_netsim::fabric::HostSpec;
use knothole_netsim::nat::{UdpPolicy, kinds};
use knothole_netsim::verify::{World, has_coturn, verify_in_namespaces};

use crate::support::*;

const PORTS: [u16; 2] = [3478, 3479];

#[test]
fn every_kind_measures_between_namespaces_as_what_it_is_described() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    let began = std::time::Instant::now();
    let all: Vec<_> = kinds()
        .iter()
        .filter(|k| std::env::var("K").map_or(true, |n| n == k.name))
        .collect();
    let mut wrong = Vec::new();
    verify_in_namespaces(&all, World::Netns, has_coturn(), |report| {
        println!(
            "{:?} {} {} {:?}",
            began.elapsed(),
            report.kind.name,
            serde_json::to_string(&report.measured).unwrap(),
            report.second
        );
        let name = report.kind.name;
        wrong.extend(report.disagreements.iter().map(|one| format!("{name}: {one}")));
        let second = report.second.into_iter().flat_map(|second| second.contradictions);
        wrong.extend(second.map(|one| format!("{name}: {one}")));
    })
    .unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_policy_changed_at_run_time_cuts_udp_off_and_lets_it_on_again() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("full-cone"), LAN_A))
        .build()
        .unwrap();
    let observer = socket(&lab, "srv", SERVERS[0], PORTS[0]);
    let client = any(&lab, "a");
    let at = SocketAddr::from((SERVERS[0], PORTS[0]));
    assert!(seen(&client, &observer, at).is_some());
    lab.set_udp_policy("a", UdpPolicy::Blocked(None)).unwrap();
    assert_eq!(seen(&client, &observer, at), None);
    lab.set_udp_policy("a", UdpPolicy::OnlyTo([IpAddr::from(SERVERS[0])].into()))
        .unwrap();
    assert!(seen(&client, &observer, at).is_some());
    assert!(lab.set_udp_policy("srv", UdpPolicy::Blocked(None)).is_err());
}
