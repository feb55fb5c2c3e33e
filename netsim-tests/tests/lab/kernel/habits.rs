//! What real NATs do in special cases: collisions, hairpins, packets that come too early, refusals, full tables.

use std::io::{ErrorKind, Read};
use std::net::UdpSocket;

use knothole_netsim::nat::{
    Filtering, Hairpin, InputPolicy, Mapping, NatSpec, PortAllocation, Refusal, UdpPolicy,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::*;

#[test]
fn a_packet_that_comes_too_early_takes_the_port_only_where_the_router_accepts_it() {
    if !kernel_possible() {
        return;
    }
    for (input, moved) in [
        (InputPolicy::Drop, false),
        (InputPolicy::Reject(Refusal::PortUnreachable), false),
        (InputPolicy::AcceptConntrackClash, true),
    ] {
        let lab = lab_of(vec![NatSpec {
            input,
            ..NatSpec::default()
        }]);
        let (server, at) = server(&lab);
        for trial in 0..10 {
            let client = any(&lab, "a");
            let external = seen(&client, &server, at).unwrap();
            let (peer, peer_at) = observer(&lab, 1, 7000 + trial);
            assert_eq!(seen(&peer, &client, external), None);
            let from = seen(&client, &peer, peer_at).unwrap();
            assert_eq!(from != external, moved, "{input:?}, trial {trial}");
            assert_eq!(
                seen(&client, &server, at),
                Some(external),
                "the mapping itself stays"
            );
        }
    }
}

#[test]
fn two_hosts_on_one_port_never_share_an_external_one() {
    if !kernel_possible() {
        return;
    }
    let lab = two_inside(NatSpec::default());
    let (a, b) = (socket(&lab, "a", LAN_A, 5000), socket(&lab, "b", NEIGHBOUR, 5000));
    let (one, one_at) = server(&lab);
    let (other, other_at) = observer(&lab, 1, PORTS[0]);
    let of_a = seen(&a, &one, one_at).unwrap();
    // The second host talks to somebody else first, which plain connection tracking would give the same port.
    let of_b = seen(&b, &other, other_at).unwrap();
    assert_eq!(of_a.port(), 5000);
    assert_ne!(of_b.port(), 5000);
    assert_eq!(seen(&b, &one, one_at), Some(of_b));
    assert_eq!(seen(&a, &other, other_at), Some(of_a));
}

#[test]
fn plain_masquerade_lets_two_hosts_share_a_port_towards_different_destinations() {
    if !kernel_possible() {
        return;
    }
    let lab = two_inside(NatSpec {
        input: InputPolicy::AcceptConntrackClash,
        ..NatSpec::default()
    });
    let (a, b) = (socket(&lab, "a", LAN_A, 5000), socket(&lab, "b", NEIGHBOUR, 5000));
    let (one, one_at) = server(&lab);
    let (other, other_at) = observer(&lab, 1, PORTS[0]);
    let of_a = seen(&a, &one, one_at).unwrap();
    assert_eq!(seen(&b, &other, other_at), Some(of_a));
    assert_ne!(
        seen(&b, &one, one_at),
        Some(of_a),
        "the very flow that collides is moved"
    );
}

#[test]
fn a_hairpin_is_off_or_shows_the_inside_source_or_the_external_one() {
    if !kernel_possible() {
        return;
    }
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressAndPortDependent] {
        for hairpin in [Hairpin::Off, Hairpin::Internal, Hairpin::External] {
            let lab = two_inside(NatSpec {
                filtering,
                hairpin,
                ..NatSpec::default()
            });
            let (a, b) = (any(&lab, "a"), any(&lab, "b"));
            let (server, at) = server(&lab);
            let (of_a, of_b) = (seen(&a, &server, at).unwrap(), seen(&b, &server, at).unwrap());
            let inside = |ip, socket: &UdpSocket| SocketAddr::from((ip, socket.local_addr().unwrap().port()));
            let (first, second) = match hairpin {
                Hairpin::Off => (None, None),
                Hairpin::Internal => (Some(inside(LAN_A, &a)), Some(inside(NEIGHBOUR, &b))),
                Hairpin::External => (Some(of_a), Some(of_b)),
            };
            // The filter of b knows nobody but the server yet, that of a knows b after its own packet.
            let open = filtering == Filtering::EndpointIndependent;
            assert_eq!(
                seen(&a, &b, of_b),
                first.filter(|_| open),
                "{hairpin:?}, {filtering}"
            );
            assert_eq!(seen(&b, &a, of_a), second, "{hairpin:?}, {filtering}");
            assert_eq!(seen(&a, &b, of_b), first, "{hairpin:?}, {filtering}");
            assert_eq!(seen(&a, &server, at), Some(of_a), "the mapping is the same");
        }
    }
}

#[test]
fn who_sends_something_unsolicited_is_barred_for_a_time() {
    if !kernel_possible() {
        return;
    }
    for refreshed in [false, true] {
        let life = Duration::from_secs(1);
        let lab = lab_of(vec![NatSpec {
            input: InputPolicy::Blacklist { life, refreshed },
            ..NatSpec::default()
        }]);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let (peer, peer_at) = stranger(&lab);
        let external = seen(&client, &server, at).unwrap();
        assert!(!reaches(&peer, &client, external));
        assert_eq!(seen(&client, &peer, peer_at), Some(external));
        assert!(
            !reaches(&peer, &client, external),
            "solicited now, and barred all the same"
        );
        // Three tries within the life, each longer after the first packet: only a fixed bar has ended by the last.
        for _ in 0..3 {
            pause(Duration::from_millis(400));
            peer.send_to(b"again", external).unwrap();
        }
        assert_eq!(
            source_of(&client, b"again").is_some(),
            !refreshed,
            "refreshed: {refreshed}"
        );
        pause(life + PATIENCE);
        client.send_to(b"hello", peer_at).unwrap();
        assert!(reaches(&peer, &client, external), "after silence it passes");
        assert!(reaches(&server, &client, external), "nobody else is concerned");
    }
}

#[test]
fn an_unsolicited_packet_is_answered_as_the_input_policy_says() {
    if !kernel_possible() {
        return;
    }
    for (input, error) in [
        (InputPolicy::Drop, None),
        (
            InputPolicy::Reject(Refusal::PortUnreachable),
            Some(ErrorKind::ConnectionRefused),
        ),
        (
            InputPolicy::Reject(Refusal::Reset),
            Some(ErrorKind::ConnectionRefused),
        ),
        (
            InputPolicy::Reject(Refusal::AdminProhibited),
            Some(ErrorKind::HostUnreachable),
        ),
        (
            InputPolicy::AcceptConntrackClash,
            Some(ErrorKind::ConnectionRefused),
        ),
    ] {
        let lab = lab_of(vec![NatSpec {
            input,
            ..NatSpec::default()
        }]);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let external = seen(&client, &server, at).unwrap();
        let (peer, _) = stranger(&lab);
        peer.connect(external).unwrap();
        assert_eq!(told(&peer), error, "at a mapped port, {input:?}");
        peer.connect(SocketAddr::new(external.ip(), 9)).unwrap();
        assert_eq!(told(&peer), error, "where nothing is mapped, {input:?}");
    }
}

/// What a connected socket learns of a packet that it sends.
fn told(socket: &UdpSocket) -> Option<ErrorKind> {
    socket.send(b"anyone?").unwrap();
    let error = socket.recv(&mut [0; 16]).unwrap_err().kind();
    (!matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut)).then_some(error)
}

#[test]
fn udp_is_blocked_in_silence_or_with_one_of_two_errors() {
    if !kernel_possible() {
        return;
    }
    for (kind, error) in [
        ("udp-blocked", None),
        ("udp-prohibited", Some(ErrorKind::HostUnreachable)),
        ("tcp-443-only", Some(ErrorKind::ConnectionRefused)),
    ] {
        let lab = lab_of(chain(kind));
        let (server, at) = server(&lab);
        let client = any(&lab, "a");
        client.connect(at).unwrap();
        assert_eq!(told(&client), error, "{kind}");
        assert_eq!(source_of(&server, b"anyone?"), None, "{kind}");
    }
}

#[test]
fn tcp_passes_to_the_allowed_place_only() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_of(chain("tcp-443-only"));
    assert!(connects(&lab, 443).is_ok());
    assert_eq!(connects(&lab, 80), Err(ErrorKind::ConnectionRefused));
    let lab = lab_of(chain("http-proxy-only"));
    assert_eq!(connects(&lab, 443), Err(ErrorKind::TimedOut));
    let lab = lab_of(chain("udp-prohibited"));
    assert!(connects(&lab, 80).is_ok());
}

/// Does host a get a TCP connection to the server's port?
fn connects(lab: &Lab, port: u16) -> Result<(), ErrorKind> {
    let at = SocketAddr::from((SERVERS[0], port));
    let server = lab.host("srv").unwrap();
    let _listener = server.run(|| std::net::TcpListener::bind(at)).unwrap().unwrap();
    let connect = || std::net::TcpStream::connect_timeout(&at, 10 * PATIENCE);
    let result = lab.host("a").unwrap().run(connect).unwrap();
    result.map(drop).map_err(|error| error.kind())
}

#[test]
fn udp_policy_changes_at_run_time_and_mappings_stay() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_of(vec![NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    }]);
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let external = seen(&client, &server, at);
    assert!(external.is_some());
    lab.set_udp_policy("a", UdpPolicy::Blocked(None)).unwrap();
    assert_eq!(seen(&client, &server, at), None);
    assert!(!reaches(&server, &client, external.unwrap()));
    let allowed = UdpPolicy::OnlyTo([SERVERS[0].into()].into());
    lab.set_udp_policy("a", allowed).unwrap();
    assert_eq!(seen(&client, &server, at), external);
    let (other, other_at) = observer(&lab, 1, PORTS[0]);
    assert_eq!(seen(&client, &other, other_at), None);
    lab.set_udp_policy("a", UdpPolicy::Open).unwrap();
    assert_eq!(seen(&client, &server, at), external);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old_ones() {
    if !kernel_possible() {
        return;
    }
    for size in [5, 256] {
        let lab = lab_of(vec![NatSpec {
            table_size: size,
            ..NatSpec::default()
        }]);
        let (server, at) = server(&lab);
        let clients: Vec<UdpSocket> = (0..size + 2).map(|_| any(&lab, "a")).collect();
        let passed = clients.iter().filter(|client| reaches(client, &server, at));
        assert_eq!(passed.count(), size);
        let (old, new) = clients.split_at(size);
        assert!(old.iter().all(|client| reaches(client, &server, at)));
        assert!(!reaches(&new[0], &server, at), "still no room");
        let stats = &lab.stats().nats["a.nat0"].stats;
        assert_eq!((stats.sessions, stats.peak_entries), (size, size));
        lab.reboot_nat("a").unwrap();
        assert!(reaches(&new[0], &server, at));
    }
}

#[test]
fn the_router_answers_an_echo_from_inside_to_its_own_address_as_the_model_does_not() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_of(vec![NatSpec::default()]);
    let host = lab.host("a").unwrap();
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    let socket = host.run(open).unwrap();
    socket.set_read_timeout(Some(10 * PATIENCE)).unwrap();
    // Echo request, identifier 0x1234, sequence number 1.
    let to = SocketAddr::new(host.public_ip(), 0);
    socket
        .send_to(&[8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1], &to.into())
        .unwrap();
    let mut reply = [0; 64];
    let length = (&socket).read(&mut reply).unwrap();
    assert_eq!(reply[20..length], [0, 0, 0xed, 0xca, 0x12, 0x34, 0, 1]);
}
