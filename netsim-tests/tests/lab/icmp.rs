//! What senders are told: errors of routers, NATs and hosts, and their way back through NATs.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab, LabBuilder};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::{Filtering, Hairpin, NatSpec};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::*;

/// Long enough for an answer on a machine under load.
const LONG: Duration = Duration::from_secs(2);

/// A socket that hears all ICMP that reaches a host.
fn listener(lab: &Lab, host: &str, domain: Domain) -> UdpSocket {
    let protocol = if domain == Domain::IPV4 {
        Protocol::ICMPV4
    } else {
        Protocol::ICMPV6
    };
    let open = || Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    let socket: UdpSocket = lab.host(host).unwrap().run(open).unwrap().into();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// Source, type and code of the next ICMP error.
fn next_error(socket: &UdpSocket) -> (IpAddr, u8, u8) {
    let mut buffer = [0; 1500];
    loop {
        let (_, from) = socket.recv_from(&mut buffer).unwrap();
        // IPv4 comes with its header, which says protocol ICMP; IPv6 without.
        let message = if from.is_ipv4() {
            &buffer[20..]
        } else {
            &buffer[..]
        };
        let is_error = if from.is_ipv4() {
            matches!(message[0], 3 | 11)
        } else {
            message[0] < 128
        };
        if is_error {
            return (from.ip(), message[0], message[1]);
        }
    }
}

/// The error that a connected socket reports after sending to nobody.
fn refusal(socket: &UdpSocket, to: SocketAddr) -> ErrorKind {
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"anyone?").unwrap();
    socket.recv(&mut [0; 16]).unwrap_err().kind()
}

#[test]
fn a_trace_shows_the_own_nat_the_core_and_the_other_nat() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .host("b", HostSpec::behind(chain("full-cone"), LAN_B))
        .build()
        .unwrap();
    let (a, b) = (any(&lab, "a"), socket(&lab, "b", LAN_B, 6000));
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let to_b = seen(&b, &server, (SERVERS[0], 3478).into()).unwrap();
    drop(b);
    let errors = listener(&lab, "a", Domain::IPV4);
    let hops: Vec<_> = (1..=5)
        .map(|ttl| {
            a.set_ttl(ttl).unwrap();
            a.send_to(b"where?", to_b).unwrap();
            next_error(&errors)
        })
        .collect();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        hops,
        [
            (ip("192.168.1.1"), 11, 0),
            (ip("5.5.0.1"), 11, 0),
            (ip("5.5.0.2"), 11, 0),
            (to_b.ip(), 11, 0),
            (to_b.ip(), 3, 3),
        ]
    );
}

#[test]
fn a_trace_over_ipv6_shows_the_same_routers() {
    if !possible() {
        return;
    }
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let (own, other) = (ip("2a01:1::10"), ip("2a01:2::20"));
    let lab = Lab::builder()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A).and(own))
        .host("b", HostSpec::behind(chain("port-restricted"), LAN_B).and(other))
        .build()
        .unwrap();
    let (a, b) = (socket(&lab, "a", own, 5000), socket(&lab, "b", other, 6000));
    b.send_to(b"open", (own, 5000)).unwrap();
    assert_eq!(source_of(&a, b"open"), None, "the firewall of a");
    let errors = listener(&lab, "a", Domain::IPV6);
    drop(b);
    let hops: Vec<_> = (1..=5)
        .map(|ttl| {
            socket2::SockRef::from(&a).set_unicast_hops_v6(ttl).unwrap();
            a.send_to(b"where?", (other, 6000)).unwrap();
            next_error(&errors)
        })
        .collect();
    assert_eq!(
        hops,
        [
            (ip("2a01:1::1").into(), 3, 0),
            (ip("2a00:5::1").into(), 3, 0),
            (ip("2a00:5::2").into(), 3, 0),
            (ip("2a00:5:0:1::2").into(), 3, 0),
            (other.into(), 1, 4),
        ]
    );
}

#[test]
fn a_closed_port_refuses_a_socket_behind_a_nat() {
    if !possible() {
        return;
    }
    let nats = vec![NatSpec::default(), NatSpec::default()];
    let lab = with_server()
        .host("a", HostSpec::behind(nats, LAN_A))
        .build()
        .unwrap();
    let kind = refusal(&any(&lab, "a"), (SERVERS[0], 9).into());
    assert_eq!(kind, ErrorKind::ConnectionRefused);
    assert_eq!(lab.stats().refusals.carried, 2, "once at each NAT");
}

#[test]
fn a_closed_port_behind_a_nat_refuses_and_no_session_changes_by_it() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .host("b", HostSpec::behind(chain("full-cone"), LAN_B))
        .build()
        .unwrap();
    let (a, b) = (any(&lab, "a"), socket(&lab, "b", LAN_B, 6000));
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let at_server = (SERVERS[0], 3478).into();
    let (to_a, to_b) = (
        seen(&a, &server, at_server).unwrap(),
        seen(&b, &server, at_server).unwrap(),
    );
    drop(b);
    let probe = any(&lab, "a");
    assert_eq!(refusal(&probe, to_b), ErrorKind::ConnectionRefused);
    let sessions = |nat: &str| lab.stats().nats[nat].stats.sessions;
    // Server and probe at a; server and the probe that came in at b.
    assert_eq!((sessions("a.nat0"), sessions("b.nat0")), (2, 2));
    // What was open before still is.
    assert!(seen(&server, &a, to_a).is_some());
    let b = socket(&lab, "b", LAN_B, 6000);
    assert!(seen(&server, &b, to_b).is_some());
}

#[test]
fn a_neighbour_behind_the_same_nat_refuses_by_its_hairpin() {
    if !possible() {
        return;
    }
    let home = NatSpec {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..NatSpec::default()
    };
    let lab = with_server()
        .nat("home", home)
        .host("a", HostSpec::lan("home", LAN_A))
        .host("b", HostSpec::lan("home", [192, 168, 1, 11]))
        .build()
        .unwrap();
    let b = socket(&lab, "b", [192, 168, 1, 11], 6000);
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let to_b = seen(&b, &server, (SERVERS[0], 3478).into()).unwrap();
    drop(b);
    assert_eq!(refusal(&any(&lab, "a"), to_b), ErrorKind::ConnectionRefused);
}

#[test]
fn an_address_that_nobody_has_is_unreachable() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .build()
        .unwrap();
    // Linux keeps this error from a UDP socket that did not ask for it, so it is looked for below.
    let nowhere: SocketAddr = (Ipv4Addr::new(192, 168, 77, 7), 9).into();
    for host in ["a", "srv"] {
        let errors = listener(&lab, host, Domain::IPV4);
        any(&lab, host).send_to(b"anyone?", nowhere).unwrap();
        assert_eq!(next_error(&errors), (Ipv4Addr::new(5, 5, 0, 2).into(), 3, 0));
    }
}

#[test]
fn a_flood_to_nowhere_is_answered_within_bounds() {
    if !possible() {
        return;
    }
    let lab = with_server().build().unwrap();
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let start = std::time::Instant::now();
    let mut sent = 0;
    // The device drops what its queue has no room for, so that the number sent says nothing.
    while lab.stats().refusals.withheld < 1000 && sent < 1_000_000 {
        server.send_to(b"anyone?", "6.6.6.6:9").unwrap();
        sent += 1;
    }
    let refusals = lab.stats().refusals;
    println!("{refusals:?} after {sent} packets");
    assert!(refusals.withheld >= 1000);
    let most = 1001.0 + 1000.0 * start.elapsed().as_secs_f64();
    assert!(f64::from(u32::try_from(refusals.sent).unwrap()) <= most);
}

#[test]
fn multicasts_and_broadcasts_stay_in_their_network_and_nobody_is_told() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("full-cone"), LAN_A))
        .build()
        .unwrap();
    let a = any(&lab, "a");
    a.set_broadcast(true).unwrap();
    a.set_multicast_ttl_v4(8).unwrap();
    for to in ["224.0.0.251:5353", "255.255.255.255:67", "192.168.1.255:137"] {
        a.send_to(b"anyone?", to).unwrap();
    }
    // What is sent after them has passed them.
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    assert!(seen(&a, &server, (SERVERS[0], 3478).into()).is_some());
    let stats = lab.stats();
    assert_eq!(stats.nats["a.nat0"].stats.sessions, 1);
    assert_eq!(stats.refusals.sent, 0);
}

/// Behind two NATs and an access link that takes 1280 bytes.
fn narrow() -> LabBuilder {
    let link = LinkSpec {
        mtu: 1280,
        ..LinkSpec::default()
    };
    with_server()
        .host(
            "a",
            HostSpec::behind(vec![NatSpec::default(), NatSpec::default()], LAN_A),
        )
        .link("a", link)
}

#[test]
fn a_narrow_link_tells_its_limit_if_the_lab_is_made_so() {
    if !possible() {
        return;
    }
    for reports in [false, true] {
        let lab = if reports {
            narrow().with_mtu_reports()
        } else {
            narrow()
        };
        let lab = lab.build().unwrap();
        let (a, server) = (any(&lab, "a"), socket(&lab, "srv", SERVERS[0], 3478));
        let errors = listener(&lab, "a", Domain::IPV4);
        a.send_to(&[7; 1253], (SERVERS[0], 3478)).unwrap();
        if reports {
            assert_eq!(next_error(&errors), (Ipv4Addr::new(5, 5, 0, 1).into(), 3, 4));
        }
        // What is sent after it has passed it.
        assert!(seen(&a, &server, (SERVERS[0], 3478).into()).is_some());
        assert_eq!(lab.stats().refusals.sent, u64::from(reports));
    }
}

#[test]
fn tcp_finds_the_mtu_of_a_narrow_link_both_ways() {
    if !possible() {
        return;
    }
    let lab = narrow().with_mtu_reports().build().unwrap();
    let open = || TcpListener::bind((SERVERS[0], 443)).unwrap();
    let listener = lab.host("srv").unwrap().run(open).unwrap();
    let connect = || TcpStream::connect((SERVERS[0], 443)).unwrap();
    let stream = lab.host("a").unwrap().run(connect).unwrap();
    let (other, _) = listener.accept().unwrap();
    for (mut from, mut to) in [(&stream, &other), (&other, &stream)] {
        to.set_read_timeout(Some(5 * LONG)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || from.write_all(&[7; 200_000]).unwrap());
            to.read_exact(&mut [0; 200_000]).unwrap();
        });
    }
    assert!(lab.stats().refusals.sent >= 2, "{:?}", lab.stats().refusals);
}
