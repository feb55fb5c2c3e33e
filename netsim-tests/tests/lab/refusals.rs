//! NATs that refuse: what does a program behind them, or before them, hear?

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::nat::{InputPolicy, NatSpec, Refusal, TcpPolicy, UdpPolicy};

use crate::support::*;

/// Long enough for an answer on a machine under load.
const LONG: Duration = Duration::from_secs(2);

fn behind(spec: NatSpec) -> Lab {
    with_server()
        .host("a", HostSpec::behind(vec![spec], LAN_A))
        .build()
        .unwrap()
}

/// What a connected UDP socket of `host` hears after it has sent to `to`.
fn udp_error(lab: &Lab, host: &str, to: SocketAddr) -> ErrorKind {
    let socket = any(lab, host);
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.connect(to).unwrap();
    socket.send(b"anyone?").unwrap();
    socket.recv(&mut [0; 16]).unwrap_err().kind()
}

fn tcp_error(lab: &Lab, host: &str, to: SocketAddr) -> ErrorKind {
    let connect = || TcpStream::connect_timeout(&to, LONG).unwrap_err();
    lab.host(host).unwrap().run(connect).unwrap().kind()
}

#[test]
fn blocked_udp_is_refused_as_the_box_is_described() {
    if !possible() {
        return;
    }
    for (refusal, heard) in [
        (Refusal::AdminProhibited, ErrorKind::HostUnreachable),
        (Refusal::PortUnreachable, ErrorKind::ConnectionRefused),
        (Refusal::Reset, ErrorKind::ConnectionRefused),
    ] {
        let lab = behind(NatSpec {
            udp: UdpPolicy::Blocked(Some(refusal)),
            ..NatSpec::default()
        });
        assert_eq!(
            udp_error(&lab, "a", (SERVERS[0], 3478).into()),
            heard,
            "{refusal}"
        );
    }
}

#[test]
fn an_unsolicited_packet_is_refused_as_the_box_is_described() {
    if !possible() {
        return;
    }
    for (refusal, udp, tcp) in [
        (
            Refusal::AdminProhibited,
            ErrorKind::HostUnreachable,
            ErrorKind::HostUnreachable,
        ),
        (
            Refusal::PortUnreachable,
            ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionRefused,
        ),
        (
            Refusal::Reset,
            ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionRefused,
        ),
    ] {
        let lab = behind(NatSpec {
            input: InputPolicy::Reject(refusal),
            ..NatSpec::default()
        });
        let public = lab.host("a").unwrap().public_ip();
        assert_eq!(udp_error(&lab, "srv", (public, 9).into()), udp, "{refusal}");
        assert_eq!(tcp_error(&lab, "srv", (public, 9).into()), tcp, "{refusal}");
    }
}

#[test]
fn a_box_that_lets_one_port_of_tcp_out_answers_for_the_others() {
    if !possible() {
        return;
    }
    let lab = behind(NatSpec {
        tcp: TcpPolicy::OnlyPort(443),
        udp: UdpPolicy::Blocked(Some(Refusal::Reset)),
        ..NatSpec::default()
    });
    let open = |port: u16| {
        let listen = move || TcpListener::bind((SERVERS[0], port)).unwrap();
        lab.host("srv").unwrap().run(listen).unwrap()
    };
    let _listeners = [open(443), open(80)];
    let to = |port: u16| SocketAddr::from((SERVERS[0], port));
    let connect = || TcpStream::connect_timeout(&to(443), LONG).is_ok();
    assert!(lab.host("a").unwrap().run(connect).unwrap());
    assert_eq!(tcp_error(&lab, "a", to(80)), ErrorKind::ConnectionRefused);
}
