//! What a NAT must do, sentence by sentence.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;

mod errors;
mod filtering;
mod hairpin;
mod ipv6;
mod lives;
mod mapping;
mod policies;
mod ports;
mod random;
mod unsolicited;

const W: Ipv4Addr = Ipv4Addr::new(5, 5, 16, 2);
const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn inside() -> SocketAddr {
    at("192.168.1.10:5000")
}

fn server() -> SocketAddr {
    at("5.5.5.1:3478")
}

fn boxed(spec: NatSpec) -> NatBox {
    NatBox::new(spec, W, 7)
}

fn send(nat: &mut NatBox, src: SocketAddr, dst: SocketAddr, now: Instant) -> SocketAddr {
    match nat.outbound(Flow::udp(src, dst), now) {
        Verdict::Forward(flow) => {
            assert_eq!(flow.dst, dst, "a NAT keeps the destination of an outbound packet");
            flow.src
        }
        other => panic!("expected to leave, was {other:?}"),
    }
}

fn arrives(
    nat: &mut NatBox,
    src: SocketAddr,
    dst: SocketAddr,
    now: Instant,
) -> Result<SocketAddr, DropReason> {
    match nat.inbound(Flow::udp(src, dst), now) {
        Verdict::Forward(flow) => {
            assert_eq!(flow.src, src, "a NAT keeps the source of an inbound packet");
            Ok(flow.dst)
        }
        Verdict::Drop(reason) | Verdict::Reject(reason, _) => Err(reason),
        Verdict::Hairpin(flow) => panic!("inbound packets never hairpin: {flow:?}"),
    }
}

/// External ports of an inside endpoint towards these ports of the server.
fn ports_towards(nat: &mut NatBox, from: SocketAddr, to: std::ops::Range<u16>, now: Instant) -> Vec<u16> {
    let server = |port| SocketAddr::new(server().ip(), port);
    to.map(|port| send(nat, from, server(port), now).port()).collect()
}

fn symmetric(ports: PortAllocation) -> NatSpec {
    NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports,
        ..NatSpec::default()
    }
}

#[test]
fn every_kind_has_its_own_name_and_can_be_found_by_it() {
    for entry in kinds() {
        let found = kind(entry.name).unwrap();
        assert_eq!(found.doc, entry.doc, "two kinds are called {}", entry.name);
    }
    assert!(kind("no-such-kind").is_none());
    assert!(kind("open").unwrap().chain(&[]).is_empty());
}

#[test]
fn a_description_reads_in_the_terms_of_rfc_4787() {
    assert_eq!(
        NatSpec::default().to_string(),
        "EIM, APDF, port preserving, hairpin off, 30 s/120 s"
    );
    assert_eq!(
        kind("pool-arbitrary").unwrap().chain(&[])[0].to_string(),
        "EIM, EIF, port preserving, 4 addresses arbitrary, hairpin external source, 30 s/120 s"
    );
}
