//! Hops, neighbours, chains of NATs, IPv6, TCP: does the simulated internet route as it says?

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use knothole_netsim::fabric::{FabricDrop, HostSpec, Lab};
use knothole_netsim::nat::{Filtering, Hairpin, NatSpec};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::*;

#[test]
fn a_packet_with_little_life_ends_where_the_map_says() {
    if !possible() {
        return;
    }
    let lab = Lab::builder()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .host("b", HostSpec::behind(chain("full-cone"), LAN_B))
        .host("srv", HostSpec::public(SERVERS))
        .build()
        .unwrap();
    let (a, b) = (any(&lab, "a"), socket(&lab, "b", LAN_B, 6000));
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let to_b = seen(&b, &server, (SERVERS[0], 3478).into()).unwrap();
    // Where TTL 1 to 4 end: (mappings at a, sessions at b); then 5 arrives.
    for (ttl, mapped_a, sessions_b) in [(1, 0, 1), (2, 1, 1), (3, 1, 1), (4, 1, 2)] {
        a.set_ttl(ttl).unwrap();
        assert_eq!(seen(&a, &b, to_b), None, "TTL {ttl}");
        let stats = lab.stats();
        assert_eq!(stats.drops[&FabricDrop::TtlExpired], u64::from(ttl));
        assert_eq!(stats.nats["a.nat0"].stats.mappings, mapped_a, "TTL {ttl}");
        assert_eq!(stats.nats["b.nat0"].stats.sessions, sessions_b, "TTL {ttl}");
    }
    a.set_ttl(5).unwrap();
    assert!(seen(&a, &b, to_b).is_some());
}

#[test]
fn hosts_behind_one_nat_reach_each_other_directly_and_share_its_address() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .nat("home", NatSpec::default())
        .host("a", HostSpec::lan("home", LAN_A))
        .host("b", HostSpec::lan("home", [192, 168, 1, 11]))
        .build()
        .unwrap();
    let (a, b) = (
        socket(&lab, "a", LAN_A, 5000),
        socket(&lab, "b", [192, 168, 1, 11], 5000),
    );
    a.set_ttl(1).unwrap();
    assert_eq!(
        seen(&a, &b, "192.168.1.11:5000".parse().unwrap()),
        Some("192.168.1.10:5000".parse().unwrap())
    );
    a.set_ttl(64).unwrap();
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let at = (SERVERS[0], 3478).into();
    let (outer_a, outer_b) = (seen(&a, &server, at).unwrap(), seen(&b, &server, at).unwrap());
    assert_eq!(outer_a.ip(), outer_b.ip());
    assert_ne!(outer_a.port(), outer_b.port());
    assert_eq!(seen(&a, &b, outer_b), None, "no hairpin");
}

#[test]
fn two_homes_behind_one_carrier_nat_meet_by_its_hairpin() {
    if !possible() {
        return;
    }
    let cgn = NatSpec {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..NatSpec::default()
    };
    let lab = with_server()
        .nat("cgn", cgn)
        .nat_behind("home-a", "cgn", NatSpec::default())
        .nat_behind("home-b", "cgn", NatSpec::default())
        .host("a", HostSpec::lan("home-a", LAN_A))
        .host("b", HostSpec::lan("home-b", LAN_B))
        .build()
        .unwrap();
    let (a, b) = (any(&lab, "a"), any(&lab, "b"));
    let server = socket(&lab, "srv", SERVERS[0], 3478);
    let at = (SERVERS[0], 3478).into();
    let (outer_a, outer_b) = (seen(&a, &server, at).unwrap(), seen(&b, &server, at).unwrap());
    assert_eq!(outer_a.ip(), lab.host("a").unwrap().public_ip());
    assert_eq!(outer_a.ip(), outer_b.ip());
    assert_eq!(seen(&a, &b, outer_b), None, "the home of b does not know a yet");
    assert_eq!(seen(&b, &a, outer_a), Some(outer_b));
    assert_eq!(seen(&a, &b, outer_b), Some(outer_a));
}

#[test]
fn tcp_passes_two_nats_whole_and_unharmed() {
    if !possible() {
        return;
    }
    let nats = vec![NatSpec::default(), NatSpec::default()];
    let lab = with_server()
        .host("a", HostSpec::behind(nats, LAN_A))
        .build()
        .unwrap();
    let server = lab.host("srv").unwrap();
    let listener = server
        .run(|| TcpListener::bind((SERVERS[1], 443)))
        .unwrap()
        .unwrap();
    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    let client = lab.host("a").unwrap();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, from) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            (received, from)
        });
        client
            .run(|| {
                TcpStream::connect((SERVERS[1], 443))
                    .unwrap()
                    .write_all(&sent)
                    .unwrap()
            })
            .unwrap();
        let (received, from) = receiver.join().unwrap();
        assert!(received == sent);
        assert_eq!(from.ip(), client.public_ip());
    });
}

#[test]
fn ipv6_hosts_keep_their_addresses_behind_a_stateful_firewall() {
    if !possible() {
        return;
    }
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let lab = Lab::builder()
        .host(
            "a",
            HostSpec::behind(chain("port-restricted"), LAN_A).and(ip("2a01:1::10")),
        )
        .host(
            "b",
            HostSpec::behind(chain("port-restricted"), LAN_B).and(ip("2a01:2::20")),
        )
        .build()
        .unwrap();
    let (a, b) = (
        socket(&lab, "a", ip("2a01:1::10"), 5000),
        socket(&lab, "b", ip("2a01:2::20"), 6000),
    );
    let (at_a, at_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    assert_eq!(seen(&a, &b, at_b), None, "the first packet meets the firewall");
    assert_eq!(seen(&b, &a, at_a), Some(at_b));
    assert_eq!(seen(&a, &b, at_b), Some(at_a));
}

#[test]
fn an_echo_request_is_answered_through_nats() {
    if !possible() {
        return;
    }
    let nats = vec![NatSpec::default(), NatSpec::default()];
    let lab = with_server()
        .host("a", HostSpec::behind(nats, LAN_A))
        .build()
        .unwrap();
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    let socket = lab.host("a").unwrap().run(open).unwrap();
    socket.set_read_timeout(Some(10 * PATIENCE)).unwrap();
    // Type, code, checksum, identifier, sequence number: 0x0800 + 0x1234 + 0x0001 complemented is 0xe5ca.
    let request = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
    let server: SocketAddr = (SERVERS[0], 0).into();
    socket.send_to(&request, &server.into()).unwrap();
    let mut reply = [0; 64];
    let length = (&socket).read(&mut reply).unwrap();
    // Type 0, the same identifier and sequence number, checksum accordingly.
    assert_eq!(reply[20..length], [0, 0, 0xed, 0xca, 0x12, 0x34, 0, 1]);
}

#[test]
fn a_contradictory_description_is_refused() {
    let lan = |ip: Ipv4Addr| HostSpec::lan("home", ip);
    let home = || Lab::builder().nat("home", NatSpec::default());
    assert!(
        home()
            .host("a", lan(LAN_A))
            .host("a", lan(LAN_B))
            .build()
            .is_err()
    );
    assert!(
        home()
            .host("a", lan(LAN_A))
            .host("b", lan(LAN_A))
            .build()
            .is_err()
    );
    assert!(home().nat("home", NatSpec::default()).build().is_err());
    assert!(Lab::builder().host("a", lan(LAN_A)).build().is_err());
    assert!(
        home()
            .host("a", lan(LAN_A))
            .link("b", knothole_netsim::link::LinkSpec::default())
            .build()
            .is_err()
    );
    assert!(
        Lab::builder()
            .host("a", HostSpec::public(Vec::<IpAddr>::new()))
            .build()
            .is_err()
    );
}

#[test]
fn a_rebooted_nat_forgets_its_mappings() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("full-cone"), LAN_A))
        .build()
        .unwrap();
    let (a, server) = (any(&lab, "a"), socket(&lab, "srv", SERVERS[0], 3478));
    let external: SocketAddr = seen(&a, &server, (SERVERS[0], 3478).into()).unwrap();
    assert!(seen(&server, &a, external).is_some());
    lab.reboot_nat("a").unwrap();
    assert_eq!(seen(&server, &a, external), None);
}
