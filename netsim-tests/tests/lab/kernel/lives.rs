//! How long kernel NATs remember, and what ends a mapping.

use knothole_netsim::nat::{Filtering, Mapping, NatSpec, PortAllocation};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn lab_with_lives(unreplied: u64, stream: u64, filtering: Filtering) -> Lab {
    lab_of(vec![NatSpec {
        unreplied_timeout: Duration::from_secs(unreplied),
        stream_timeout: Duration::from_secs(stream),
        filtering,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    }])
}

#[test]
fn a_flow_one_way_ends_with_the_short_timeout() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_with_lives(2, 60, Filtering::AddressAndPortDependent);
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let external = seen(&client, &server, at).unwrap();
    assert!(reaches(&server, &client, external));
    pause(2 * SECOND + 2 * PATIENCE);
    assert!(
        !reaches(&server, &client, external),
        "an answer at once does not make it a stream"
    );
    assert_ne!(seen(&client, &server, at).unwrap(), external, "a new port");
}

#[test]
fn a_flow_both_ways_for_over_two_seconds_lasts_for_the_long_timeout() {
    if !kernel_possible() {
        return;
    }
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressAndPortDependent] {
        let lab = lab_with_lives(2, 6, filtering);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let external = seen(&client, &server, at).unwrap();
        for _ in 0..5 {
            assert!(reaches(&server, &client, external));
            assert_eq!(seen(&client, &server, at), Some(external));
            pause(SECOND / 2);
        }
        assert!(reaches(&server, &client, external));
        pause(3 * SECOND);
        let (other, other_at) = observer(&lab, 1, PORTS[0]);
        assert!(reaches(&server, &client, external), "{filtering}");
        assert_eq!(seen(&client, &other, other_at), Some(external), "{filtering}");
        pause(6 * SECOND + 2 * PATIENCE);
        assert!(!reaches(&server, &client, external), "{filtering}");
    }
}

#[test]
fn a_new_flow_of_a_socket_shortens_the_memory_of_its_mapping_but_not_the_older_flow() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_with_lives(1, 60, Filtering::AddressAndPortDependent);
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let external = seen(&client, &server, at).unwrap();
    for _ in 0..7 {
        assert!(reaches(&server, &client, external));
        assert_eq!(seen(&client, &server, at), Some(external));
        pause(2 * SECOND / 5);
    }
    assert_eq!(seen(&client, &server, at), Some(external));
    let [(one, one_at), (other, other_at)] = PORTS.map(|port| observer(&lab, 1, port));
    assert_eq!(seen(&client, &one, one_at), Some(external));
    pause(SECOND + 2 * PATIENCE);
    assert_ne!(seen(&client, &other, other_at), Some(external));
    assert!(reaches(&server, &client, external));
}

#[test]
fn the_open_filter_ends_with_the_mapping() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_with_lives(2, 60, Filtering::EndpointIndependent);
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let (stranger, _) = stranger(&lab);
    let external = seen(&client, &server, at).unwrap();
    assert!(reaches(&stranger, &client, external));
    pause(2 * SECOND + 2 * PATIENCE);
    assert!(!reaches(&stranger, &client, external));
}

#[test]
fn inbound_packets_keep_a_mapping_alive() {
    if !kernel_possible() {
        return;
    }
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressAndPortDependent] {
        let lab = lab_with_lives(2, 2, filtering);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let external = seen(&client, &server, at).unwrap();
        for _ in 0..6 {
            pause(SECOND / 2);
            assert!(reaches(&server, &client, external), "{filtering}");
        }
        let (other, other_at) = observer(&lab, 1, PORTS[0]);
        assert_eq!(seen(&client, &other, other_at), Some(external), "{filtering}");
    }
}

#[test]
fn icmp_errors_reach_the_host_and_never_end_a_mapping() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_with_lives(30, 60, Filtering::AddressAndPortDependent);
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let external = seen(&client, &server, at).unwrap();
    let closed = SocketAddr::from((SERVERS[0], 7000));
    client.connect(closed).unwrap();
    for _ in 0..3 {
        client.send(b"anyone?").unwrap();
        let error = client.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let (opened, _) = observer(&lab, 0, 7000);
    assert_eq!(seen_connected(&client, &opened), Some(external));
    assert!(
        reaches(&opened, &client, external),
        "the flow that was refused goes on"
    );
    drop(server);
}

/// As [`seen`], from a socket that is connected to the other.
fn seen_connected(from: &UdpSocket, to: &UdpSocket) -> Option<SocketAddr> {
    from.send(b"connected").unwrap();
    source_of(to, b"connected")
}

#[test]
fn a_rebooted_nat_forgets_flows_and_mappings() {
    if !kernel_possible() {
        return;
    }
    for mapping in [Mapping::EndpointIndependent, Mapping::AddressAndPortDependent] {
        let lab = lab_of(vec![NatSpec {
            mapping,
            filtering: Filtering::EndpointIndependent,
            ports: PortAllocation::Counter { step: 1, foreign: 0 },
            ..NatSpec::default()
        }]);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let (stranger, _) = stranger(&lab);
        let external = seen(&client, &server, at).unwrap();
        assert!(reaches(&stranger, &client, external));
        assert!(lab.stats().nats["a.nat0"].stats.sessions > 0);
        lab.reboot_nat("a").unwrap();
        assert_eq!(lab.stats().nats["a.nat0"].stats.sessions, 0);
        assert!(!reaches(&stranger, &client, external));
        assert!(!reaches(&server, &client, external));
        assert_ne!(seen(&client, &server, at).unwrap(), external);
    }
}
