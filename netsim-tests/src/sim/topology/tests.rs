//! How packets travel.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::link::LinkSpec;
use crate::nat::{Filtering, Ipv6, NatSpec, Pooling, nat64};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 1, 100);

fn links(up: LinkSpec, down: LinkSpec) -> Option<Links> {
    Some(Links {
        up: Link::new(up, 1),
        down: Link::new(down, 2),
    })
}

/// A server in the internet and a host at `ip` in a network of its own, behind `nat` if there is one.
fn one_site(ip: &str, nat: Option<NatSpec>, links: Option<Links>) -> (Topology, NetId, SocketAddr) {
    let mut topology = Topology::new();
    topology.add_address(INTERNET, SERVER, HostId(0));
    let nat = nat.map(|spec| NatBox::new(spec, EXTERNAL, 3));
    let net = topology.add_network(INTERNET, nat, links);
    let ip: IpAddr = ip.parse().unwrap();
    topology.add_address(net, ip, HostId(1));
    (topology, net, SocketAddr::new(ip, 4000))
}

fn server() -> SocketAddr {
    SocketAddr::new(SERVER, 5668)
}

fn packet(src: SocketAddr, dst: SocketAddr) -> Packet {
    Packet::new(Origin::Host(HostId(9)), src, dst, None, vec![0x55; 40])
}

/// Where a packet ends, over all links on its way.
fn end(topology: &mut Topology, net: NetId, packet: &mut Packet) -> Result<HostId, &'static str> {
    let mut now = Instant::now();
    let mut step = topology.route(net, packet, now);
    loop {
        match step {
            Step::Deliver(host) => return Ok(host),
            Step::Lost(loss) => return Err(loss.word()),
            Step::Transit(hop, due) => {
                let arrival = due.into_iter().next().ok_or("on the link")?;
                now = arrival.at;
                step = topology.resume(hop, packet, now);
            }
        }
    }
}

#[test]
fn a_link_may_fail_in_one_direction_alone() {
    let dead = LinkSpec::default().with_loss(1.0);
    for (up, down) in [(dead, LinkSpec::default()), (LinkSpec::default(), dead)] {
        let (mut topology, net, host) = one_site("192.0.2.7", None, links(up, down));
        let out = end(&mut topology, net, &mut packet(host, server()));
        let back = end(&mut topology, INTERNET, &mut packet(server(), host));
        assert_eq!(
            out,
            if up == dead {
                Err("on the link")
            } else {
                Ok(HostId(0))
            }
        );
        assert_eq!(
            back,
            if down == dead {
                Err("on the link")
            } else {
                Ok(HostId(1))
            }
        );
    }
}

#[test]
fn every_address_of_a_pool_leads_to_its_nat() {
    let spec = NatSpec {
        addresses: 3,
        pooling: Pooling::Arbitrary,
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    };
    let (mut topology, net, host) = one_site("192.168.1.7", Some(spec), None);
    let mut used = std::collections::BTreeSet::new();
    for port in 4000..4030 {
        let mut out = packet(SocketAddr::new(host.ip(), port), server());
        assert_eq!(end(&mut topology, net, &mut out), Ok(HostId(0)));
        used.insert(out.flow.src.ip());
        let mut back = packet(server(), out.flow.src);
        assert_eq!(end(&mut topology, INTERNET, &mut back), Ok(HostId(1)));
        assert_eq!(back.flow.dst.port(), port);
    }
    assert_eq!(used.len(), 3);
    let beyond = SocketAddr::new(Ipv4Addr::new(198, 51, 1, 103).into(), 1);
    assert_eq!(
        end(&mut topology, INTERNET, &mut packet(server(), beyond)),
        Err("unroutable")
    );
}

#[test]
fn an_ipv6_host_reaches_ipv4_through_a_nat64_and_nowhere_without() {
    let prefixed = SocketAddr::new(nat64::embed(Ipv4Addr::new(203, 0, 113, 1)).into(), 5668);
    for (ipv6, through) in [(Ipv6::Nat64, true), (Ipv6::Firewall, false), (Ipv6::Open, false)] {
        let spec = NatSpec {
            ipv6,
            ..NatSpec::default()
        };
        let (mut topology, net, host) = one_site("2001:db8::7", Some(spec), None);
        let mut out = packet(host, prefixed);
        let arrived = end(&mut topology, net, &mut out);
        if !through {
            assert_eq!(arrived, Err("unroutable"));
            continue;
        }
        assert_eq!((arrived, out.flow.dst), (Ok(HostId(0)), server()));
        let mut back = packet(server(), out.flow.src);
        assert_eq!(end(&mut topology, INTERNET, &mut back), Ok(HostId(1)));
        assert_eq!((back.flow.src, back.flow.dst), (prefixed, host));
    }
}

#[test]
fn a_bent_packet_is_nobodys_and_differs_in_one_bit() {
    let corrupting = LinkSpec::default().with_corruption(1.0);
    let (mut topology, net, host) = one_site("192.0.2.7", None, links(corrupting, corrupting));
    let mut out = packet(host, server());
    let before = out.bytes.clone();
    let Step::Transit(_, due) = topology.route(net, &mut out, Instant::now()) else {
        panic!("there is a link")
    };
    let flip = due.into_iter().next().and_then(|arrival| arrival.flip);
    out.bend(flip.unwrap());
    assert_eq!(out.origin, Origin::Stranger);
    let changed = out.bytes.iter().zip(&before).map(|(a, b)| (a ^ b).count_ones());
    assert_eq!(changed.sum::<u32>(), 1);
    assert_eq!(out.flow, Flow::udp(host, server()), "addresses stay");
}
