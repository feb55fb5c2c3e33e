//! IPv6-only hosts behind a NAT64 and the IPv4 internet: do real sockets talk through the translation?

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::nat::{Ipv6, NatSpec};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use crate::support::*;

const OWN: Ipv6Addr = Ipv6Addr::new(0x2a01, 1, 0, 0, 0, 0, 0, 0x10);

/// The first server, 5.5.5.1, as it is seen from behind a NAT64.
const SERVER: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x0505, 0x0501);

fn lab() -> Lab {
    let nat64 = NatSpec {
        ipv6: Ipv6::Nat64,
        ..NatSpec::default()
    };
    with_server()
        .host("a", HostSpec::behind(vec![nat64], OWN))
        .build()
        .unwrap()
}

#[test]
fn udp_of_every_length_passes_both_ways() {
    if !possible() {
        return;
    }
    let lab = lab();
    let (a, server) = (
        socket(&lab, "a", OWN, 5000),
        socket(&lab, "srv", SERVERS[0], 3478),
    );
    let external = seen(&a, &server, (SERVER, 3478).into()).unwrap();
    assert!(external.is_ipv4());
    for length in [0, 1, 2, 700, 1451, 1452] {
        let content: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        a.send_to(&content, (SERVER, 3478)).unwrap();
        assert_eq!(source_of(&server, &content), Some(external), "{length}");
        server.send_to(&content, external).unwrap();
        assert_eq!(source_of(&a, &content), Some((SERVER, 3478).into()), "{length}");
    }
    // What fits IPv4 and not IPv6 is refused with the limit, which the sender's kernel then knows.
    server.send_to(&[7; 1472], external).unwrap();
    assert_eq!(source_of(&a, &[7; 1472]), None);
    assert_eq!(lab.stats().refusals.sent, 1);
}

#[test]
fn a_super_packet_of_udp_passes_whole_both_ways() {
    if !possible() {
        return;
    }
    let lab = lab();
    let (a, server) = (
        socket(&lab, "a", OWN, 5000),
        socket(&lab, "srv", SERVERS[0], 3478),
    );
    let external = seen(&a, &server, (SERVER, 3478).into()).unwrap();
    let contents: Vec<u8> = (0..50_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for (from, to, destination) in [(&a, &server, (SERVER, 3478).into()), (&server, &a, external)] {
        let (sender, receiver) = (
            UdpSocketState::new(from.into()).unwrap(),
            UdpSocketState::new(to.into()).unwrap(),
        );
        to.set_nonblocking(false).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &contents,
            segment_size: Some(1000),
            src_ip: None,
        };
        sender.send(from.into(), &transmit).unwrap();
        let mut received = Vec::new();
        while received.len() < contents.len() {
            let mut buffer = vec![0; 65_536];
            let mut meta = [RecvMeta::default()];
            let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
            receiver.recv(to.into(), &mut slices, &mut meta).unwrap();
            received.extend_from_slice(&buffer[..meta[0].len]);
        }
        assert!(received == contents);
    }
}

#[test]
fn tcp_passes_whole_and_unharmed_both_ways() {
    if !possible() {
        return;
    }
    let lab = lab();
    let open = || TcpListener::bind((SERVERS[0], 443)).unwrap();
    let listener = lab.host("srv").unwrap().run(open).unwrap();
    let connect = || TcpStream::connect((SERVER, 443)).unwrap();
    let stream = lab.host("a").unwrap().run(connect).unwrap();
    let (other, _) = listener.accept().unwrap();
    let sent: Vec<u8> = (0..2_000_000u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    for (mut from, mut to) in [(&stream, &other), (&other, &stream)] {
        to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let sent = &sent;
        let mut received = vec![0; sent.len()];
        std::thread::scope(|scope| {
            scope.spawn(move || from.write_all(sent).unwrap());
            to.read_exact(&mut received).unwrap();
        });
        assert!(received == *sent);
    }
}

#[test]
fn a_closed_port_of_the_other_family_refuses() {
    if !possible() {
        return;
    }
    let lab = lab();
    let a = socket(&lab, "a", OWN, 5000);
    a.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    a.connect((SERVER, 9)).unwrap();
    a.send(b"anyone?").unwrap();
    assert_eq!(
        a.recv(&mut [0; 16]).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    let closed: SocketAddr = (SERVER, 443).into();
    let connect = || TcpStream::connect_timeout(&closed, Duration::from_secs(2));
    let error = lab.host("a").unwrap().run(connect).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_closed_port_inside_refuses_whoever_asks_from_ipv4() {
    if !possible() {
        return;
    }
    let lab = lab();
    let (a, server) = (
        socket(&lab, "a", OWN, 5000),
        socket(&lab, "srv", SERVERS[0], 3478),
    );
    let external = seen(&a, &server, (SERVER, 3478).into()).unwrap();
    drop(a);
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    server.connect(external).unwrap();
    server.send(b"anyone?").unwrap();
    let error = server.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
