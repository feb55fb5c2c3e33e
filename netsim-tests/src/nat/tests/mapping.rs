//! Which packets share an external endpoint.

use super::*;

/// External ports towards: a server, another port of it, another server.
fn three_ports(mapping: Mapping) -> [u16; 3] {
    let mut nat = boxed(NatSpec {
        mapping,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let now = Instant::now();
    [server(), at("5.5.5.1:3479"), at("5.5.5.2:3478")].map(|to| send(&mut nat, inside(), to, now).port())
}

#[test]
fn endpoint_independent_mapping_uses_one_port_for_all() {
    let [a, b, c] = three_ports(Mapping::EndpointIndependent);
    assert!(a == b && b == c);
}

#[test]
fn address_dependent_mapping_uses_one_port_for_each_address() {
    let [a, b, c] = three_ports(Mapping::AddressDependent);
    assert!(a == b && b != c);
}

#[test]
fn address_and_port_dependent_mapping_uses_one_port_for_each_endpoint() {
    let [a, b, c] = three_ports(Mapping::AddressAndPortDependent);
    assert!(a != b && b != c && a != c);
}

#[test]
fn an_answer_to_a_stranger_leaves_where_the_stranger_came_in() {
    let mut nat = boxed(NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        filtering: Filtering::EndpointIndependent,
        ports: PortAllocation::Random,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    let stranger = at("7.7.7.7:7");
    assert_eq!(arrives(&mut nat, stranger, external, now), Ok(inside()));
    assert_eq!(send(&mut nat, inside(), stranger, now), external);
}

#[test]
fn two_hosts_with_one_source_port_get_two_external_ports() {
    let mut nat = boxed(NatSpec::default());
    let now = Instant::now();
    let first = send(&mut nat, inside(), server(), now);
    let second = send(&mut nat, at("192.168.1.11:5000"), at("5.5.5.2:9"), now);
    assert_eq!(first.port(), 5000);
    assert_ne!(
        second.port(),
        5000,
        "no port overloading (RFC 4787 REQ-3), even towards different destinations"
    );
    assert_eq!(
        arrives(&mut nat, at("5.5.5.2:9"), second, now),
        Ok(at("192.168.1.11:5000"))
    );
}

#[test]
fn tcp_and_echo_are_mapped_independently_of_the_endpoint_even_by_a_symmetric_box() {
    let symmetric = kind("symmetric").unwrap().chain(&[]).remove(0);
    for proto in [Proto::Tcp, Proto::Icmp] {
        let mut nat = boxed(symmetric.clone());
        let now = Instant::now();
        for dst in [server(), at("5.5.5.2:80")] {
            let Verdict::Forward(out) = nat.outbound(
                Flow {
                    proto,
                    src: inside(),
                    dst,
                },
                now,
            ) else {
                panic!()
            };
            assert_eq!(out.src, at("5.5.16.2:5000"));
            let back = Flow {
                proto,
                src: dst,
                dst: out.src,
            };
            assert_eq!(
                nat.inbound(back, now),
                Verdict::Forward(Flow {
                    dst: inside(),
                    ..back
                })
            );
        }
    }
}

#[test]
fn protocols_do_not_share_mappings() {
    let mut nat = boxed(NatSpec {
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    let tcp = Flow {
        proto: Proto::Tcp,
        src: server(),
        dst: external,
    };
    assert_eq!(nat.inbound(tcp, now), Verdict::Drop(DropReason::NoMapping));
}
