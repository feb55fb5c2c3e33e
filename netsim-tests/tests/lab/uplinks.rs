//! Hosts in two networks at once: which way does a packet go, and what happens when one network is left?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::NatSpec;
use knothole_netsim::netns::LabError;

use crate::support::*;

const MOBILE: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 7);

/// A telephone at home behind a router, and in a mobile network behind a carrier's NAT.
fn telephone() -> Lab {
    with_server()
        .nat("carrier", NatSpec::default())
        .host(
            "a",
            HostSpec::behind(chain("port-restricted"), LAN_A).also_behind("carrier", MOBILE),
        )
        .build()
        .unwrap()
}

#[test]
fn both_uplinks_work_at_once_each_with_its_own_public_address() {
    if !possible() {
        return;
    }
    let lab = telephone();
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let at = SocketAddr::from((SERVERS[0], 3478));
    let (home, mobile) = (socket(&lab, "a", LAN_A, 5000), socket(&lab, "a", MOBILE, 5000));
    let host = lab.host("a").unwrap();
    let mut seen_as = Vec::new();
    for (socket, own) in [(&home, LAN_A), (&mobile, MOBILE), (&any(&lab, "a"), LAN_A)] {
        let external = seen(socket, &server, at).unwrap();
        assert_eq!(external.ip(), host.public_ip_of(own).unwrap());
        assert!(seen(&server, socket, external).is_some());
        seen_as.push(external.ip());
    }
    assert_ne!(seen_as[0], seen_as[1]);
    assert_eq!(host.addresses(), [IpAddr::from(LAN_A), MOBILE.into()]);
    assert!(host.public_ip_of(LAN_B).is_err());
}

#[test]
fn who_leaves_the_first_network_goes_on_by_the_second() {
    if !possible() {
        return;
    }
    let lab = telephone();
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let at = SocketAddr::from((SERVERS[0], 3478));
    let host = lab.host("a").unwrap();
    let wildcard = any(&lab, "a");
    let before = seen(&wildcard, &server, at).unwrap();
    assert_eq!(before.ip(), host.public_ip());
    host.remove_address(LAN_A.into()).unwrap();
    let after = seen(&wildcard, &server, at).unwrap();
    assert_eq!(after.ip(), host.public_ip_of(MOBILE).unwrap());
    assert!(seen(&server, &wildcard, after).is_some());
}

#[test]
fn ipv6_prefers_the_first_network_too_and_goes_on_by_the_second() {
    if !possible() {
        return;
    }
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    // The second address looks more like that of the server than the first.
    let (home, mobile, observer) = (ip("2a01:1::10"), ip("2a02:2::10"), ip("2a02:2:0:9::1"));
    let lab = Lab::builder()
        .host("srv", HostSpec::public([observer]))
        .nat("carrier", NatSpec::default())
        .host(
            "a",
            HostSpec::behind(chain("port-restricted"), home)
                .also_behind("carrier", MOBILE)
                .and(mobile),
        )
        .build()
        .unwrap();
    let server = socket(&lab, "srv", observer, 3478);
    let wildcard = socket(&lab, "a", Ipv6Addr::UNSPECIFIED, 0);
    let sessions = || {
        let nats = lab.stats().nats;
        ["a.nat0", "carrier"].map(|nat| nats[nat].stats.sessions)
    };
    let at = SocketAddr::from((observer, 3478));
    assert_eq!(seen(&wildcard, &server, at).unwrap().ip(), home);
    assert_eq!(sessions(), [1, 0]);
    lab.host("a").unwrap().remove_address(home.into()).unwrap();
    let after = seen(&wildcard, &server, at).unwrap();
    assert_eq!(after.ip(), mobile);
    assert_eq!(sessions(), [1, 1]);
    assert!(seen(&server, &wildcard, after).is_some());
}

#[test]
fn each_uplink_has_a_link_of_its_own_and_may_be_public() {
    if !possible() {
        return;
    }
    let slow = LinkSpec::delay(Duration::from_millis(60));
    let lab = with_server()
        .host(
            "a",
            HostSpec::behind(chain("port-restricted"), LAN_A)
                .also_behind_own(vec![NatSpec::default(), NatSpec::default()], MOBILE)
                .also_behind_own(Vec::new(), Ipv4Addr::UNSPECIFIED),
        )
        .uplink("a", MOBILE, slow)
        .build()
        .unwrap();
    let host = lab.host("a").unwrap();
    let &[_, _, IpAddr::V4(public)] = host.addresses() else {
        panic!("{:?}", host.addresses());
    };
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let at = SocketAddr::from((SERVERS[0], 3478));
    let names: Vec<_> = lab.stats().nats.into_keys().collect();
    assert_eq!(names, ["a.nat0", "a.uplink1.nat0", "a.uplink1.nat1"]);
    assert_eq!(host.public_ip_of(public).unwrap(), public);
    for (own, is_slow) in [(LAN_A, false), (MOBILE, true), (public, false)] {
        let socket = socket(&lab, "a", own, 0);
        let mut quickest = Duration::MAX;
        for _ in 0..5 {
            let start = Instant::now();
            let external = seen(&socket, &server, at).unwrap();
            quickest = quickest.min(start.elapsed());
            assert_eq!(external.ip(), host.public_ip_of(own).unwrap());
        }
        assert_eq!(
            quickest >= Duration::from_millis(60),
            is_slow,
            "{own}: {quickest:?}"
        );
    }
    lab.set_uplink("a", MOBILE, LinkSpec::default()).unwrap();
    let socket = socket(&lab, "a", MOBILE, 0);
    let quick = (0..5).any(|_| {
        let start = Instant::now();
        seen(&socket, &server, at).unwrap();
        start.elapsed() < Duration::from_millis(60)
    });
    assert!(quick);
}

#[test]
fn two_networks_that_look_like_one_are_refused() {
    let both = |second: Ipv4Addr| {
        Lab::builder()
            .nat("carrier", NatSpec::default())
            .host(
                "a",
                HostSpec::behind(chain("port-restricted"), LAN_A).also_behind("carrier", second),
            )
            .build()
    };
    let result = both(Ipv4Addr::new(192, 168, 1, 200));
    assert!(matches!(result, Err(LabError::OneNetwork(..))), "{result:?}");
    let unknown = Lab::builder()
        .host("a", HostSpec::public(SERVERS).also_behind("nobody", MOBILE))
        .build();
    assert!(matches!(unknown, Err(LabError::UnknownNat(_))), "{unknown:?}");
    let link = with_server().uplink("srv", MOBILE, LinkSpec::default()).build();
    assert!(matches!(link, Err(LabError::NotItsAddress(..))), "{link:?}");
}
