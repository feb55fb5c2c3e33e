//! An IPv6 packet becomes an IPv4 packet and the other way round, as RFC 7915 says: headers, checksums both complete
//! and partial, echoes, super-packets. Which addresses it gets is the [NAT](crate::nat::NatBox)'s decision.
//!
//! IPv4 options and fragments are not carried over. Every IPv4 packet made here is an atomic datagram (don't fragment,
//! identification 0), also a small one, for which RFC 7915 section 5.1 would allow fragments: no router of the lab
//! makes any.

use std::net::IpAddr;

use crate::inet::{ICMP, ICMP6, IpHeader, TCP, UDP, V4_LEN, V6_LEN, be16, fold, low16, put16, sum};
use crate::nat::{Flow, Proto};

use super::headers::Transport;
use super::packet::{Change, NEEDS_CSUM, Packet, VNET_LEN};

/// Segmentation types in the virtio-net header (`VIRTIO_NET_HDR_GSO_*`): TCP has one for each family.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Flag beside them: a congestion mark must be taken over.
const GSO_ECN: u8 = 0x80;

/// Longest IPv4 packet, in bytes: what its length field holds.
const V4_MAX: usize = 65_535;

/// Types of echo requests and replies (RFC 792, RFC 4443).
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_6: u8 = 128;
const ECHO_REPLY_6: u8 = 129;

/// Gives the packet the addresses of `flow`, which is of the other family, in a buffer from `buffer(length)`. `None` for
/// what cannot be translated: fragments, ICMP errors (see `quote.rs`), packets too long for the other header.
pub(super) fn translated(
    packet: &Packet,
    flow: &Flow,
    buffer: impl FnOnce(usize) -> Vec<u8>,
) -> Option<Packet> {
    let payload = packet.transport_bytes();
    let header = IpHeader {
        src: flow.src.ip(),
        dst: flow.dst.ip(),
        protocol: protocol(packet.transport(), flow.src.is_ipv4())?,
        ttl: packet.ttl(),
        class: packet.class(),
    };
    if flow.src.is_ipv4() && V4_LEN + payload.len() > V4_MAX {
        return None;
    }
    let at = VNET_LEN + header.len();
    let end = at + payload.len();
    let mut bytes = buffer(end);
    bytes[..VNET_LEN].copy_from_slice(&packet.bytes()[..VNET_LEN]);
    header.write(&mut bytes[VNET_LEN..], payload.len());
    bytes[at..end].copy_from_slice(payload);
    adjust_offload(&mut bytes, packet, &header);
    match packet.transport() {
        Transport::Ports(proto) => adjust_ports(&mut bytes[..end], at, packet, flow, proto),
        _ => adjust_echo(&mut bytes[..end], at, flow, &header),
    }
    Packet::parse(bytes, end).ok()
}

/// Bytes by which a packet of this family grows when it is translated.
pub(super) fn growth(is_v4: bool) -> isize {
    let (v4, v6) = (V4_LEN.cast_signed(), V6_LEN.cast_signed());
    if is_v4 { v6 - v4 } else { v4 - v6 }
}

fn protocol(transport: Transport, to_v4: bool) -> Option<u8> {
    match transport {
        Transport::Ports(Proto::Tcp) => Some(TCP),
        Transport::Ports(_) => Some(UDP),
        Transport::EchoRequest | Transport::EchoReply => Some(if to_v4 { ICMP } else { ICMP6 }),
        Transport::Error(_) | Transport::Opaque => None,
    }
}

/// The virtio-net header of the packet, for an IP header of another length and family.
fn adjust_offload(bytes: &mut [u8], packet: &Packet, header: &IpHeader) {
    let before = packet.ip().len() - packet.transport_bytes().len();
    let mut shift = |at: usize| {
        let old = usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
        if old >= before {
            let new = low16(old - before + header.len());
            bytes[at..at + 2].copy_from_slice(&new.to_ne_bytes());
        }
    };
    shift(2); // bytes of all headers
    shift(6); // where the checksum begins
    let mark = bytes[1] & GSO_ECN;
    bytes[1] = match (bytes[1] & !GSO_ECN, header.src) {
        (GSO_TCPV4 | GSO_TCPV6, IpAddr::V4(_)) => GSO_TCPV4 | mark,
        (GSO_TCPV4 | GSO_TCPV6, IpAddr::V6(_)) => GSO_TCPV6 | mark,
        (other, _) => other | mark,
    };
}

fn adjust_ports(bytes: &mut [u8], at: usize, packet: &Packet, flow: &Flow, proto: Proto) {
    let field = at + if proto == Proto::Tcp { 16 } else { 6 };
    let (mut addresses, mut ports) = (Change::default(), Change::default());
    addresses.address(packet.source(), flow.src.ip());
    addresses.address(packet.destination(), flow.dst.ip());
    for (place, port) in [(at, flow.src.port()), (at + 2, flow.dst.port())] {
        ports.word([bytes[place], bytes[place + 1]], port.to_be_bytes());
        put16(bytes, place, port);
    }
    if bytes[0] & NEEDS_CSUM != 0 {
        return addresses.apply_partial(bytes, field);
    }
    if proto == Proto::Udp && be16(bytes, field) == 0 {
        // IPv6 has no UDP without checksum, so one is made (RFC 7915 section 4.5).
        let whole = IpHeader {
            src: flow.src.ip(),
            dst: flow.dst.ip(),
            protocol: UDP,
            ttl: 0,
            class: 0,
        };
        let check = !fold(whole.pseudo(bytes.len() - at) + sum(&bytes[at..]));
        put16(bytes, field, check);
    } else {
        addresses.and(ports).apply(bytes, field);
    }
    if proto == Proto::Udp && be16(bytes, field) == 0 {
        put16(bytes, field, 0xffff);
    }
}

fn adjust_echo(bytes: &mut [u8], at: usize, flow: &Flow, header: &IpHeader) {
    // The one of the two ports that is not 0 by the convention of `Proto::Icmp`.
    let is_request = matches!(bytes[at], ECHO_REQUEST | ECHO_REQUEST_6);
    let id = if is_request {
        flow.src.port()
    } else {
        flow.dst.port()
    };
    bytes[..VNET_LEN].fill(0);
    bytes[at] = echo_type(is_request, header.src.is_ipv4());
    put16(bytes, at + 4, id);
    set_icmp_checksum(bytes, at, header);
}

/// The type of an echo in a family.
pub(super) fn echo_type(is_request: bool, is_v4: bool) -> u8 {
    match (is_request, is_v4) {
        (true, true) => ECHO_REQUEST,
        (false, true) => ECHO_REPLY,
        (true, false) => ECHO_REQUEST_6,
        (false, false) => ECHO_REPLY_6,
    }
}

/// Writes the checksum of the ICMP message that begins at `at` and ends with `bytes`. That of ICMPv6 covers the
/// pseudo-header too.
pub(super) fn set_icmp_checksum(bytes: &mut [u8], at: usize, header: &IpHeader) {
    put16(bytes, at + 2, 0);
    let pseudo = if header.src.is_ipv4() {
        0
    } else {
        header.pseudo(bytes.len() - at)
    };
    let check = !fold(pseudo + sum(&bytes[at..]));
    put16(bytes, at + 2, check);
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{build, checksums_hold};
    use super::super::segment::segments;
    use super::*;

    const V4: [&str; 2] = ["5.5.16.2:61000", "5.5.5.1:3478"];
    const V6: [&str; 2] = ["[2a01:1::10]:5000", "[64:ff9b::505:501]:3478"];

    fn flow(proto: Proto, [src, dst]: [&str; 2]) -> Flow {
        Flow {
            proto,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    fn packet(proto: Proto, [src, dst]: [&str; 2], payload: &[u8], partial: bool) -> Packet {
        let bytes = build(proto, src, dst, payload, partial);
        let end = bytes.len();
        Packet::parse(bytes, end).unwrap()
    }

    fn other(packet: &Packet, flow: &Flow) -> Packet {
        translated(packet, flow, |length| vec![0xee; length + 7]).unwrap()
    }

    #[test]
    fn there_and_back_changes_nothing_but_what_the_nat_changed() {
        for proto in [Proto::Udp, Proto::Tcp] {
            for partial in [false, true] {
                for last in 0..=255u8 {
                    let payload = [last, 1, 2, 3, 4];
                    let inside = packet(proto, V6, &payload, partial);
                    assert!(checksums_hold(inside.bytes()));
                    let outside = other(&inside, &flow(proto, V4));
                    assert!(
                        checksums_hold(outside.bytes()),
                        "{proto:?}, partial {partial}, {last}"
                    );
                    assert_eq!(outside.flow(), Some(flow(proto, V4)));
                    assert_eq!((outside.ttl(), outside.ip()[6]), (64, 0x40));
                    assert_eq!(outside.ip().len() + 20, inside.ip().len());
                    let back = other(&outside, &flow(proto, V6));
                    assert_eq!(back.bytes(), inside.bytes());
                }
            }
        }
    }

    #[test]
    fn a_translated_packet_is_what_its_new_sender_would_have_built() {
        for (from, to) in [(V4, V6), (V6, V4)] {
            let there = other(&packet(Proto::Udp, from, b"hello", false), &flow(Proto::Udp, to));
            let built = packet(Proto::Udp, to, b"hello", false);
            assert_eq!(there.transport_bytes(), built.transport_bytes());
        }
    }

    #[test]
    fn udp_without_a_checksum_gets_one_on_the_way_to_ipv6() {
        let mut bytes = build(Proto::Udp, V4[0], V4[1], b"odd", false);
        bytes[VNET_LEN + 26..VNET_LEN + 28].fill(0);
        let end = bytes.len();
        let without = Packet::parse(bytes, end).unwrap();
        let there = other(&without, &flow(Proto::Udp, V6));
        assert_ne!(there.transport_bytes()[6..8], [0, 0]);
        assert!(checksums_hold(there.bytes()));
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
        let zeroes = (0..=u16::MAX).find(|word| {
            let inside = packet(Proto::Udp, V6, &word.to_be_bytes(), false);
            let there = other(&inside, &flow(Proto::Udp, V4));
            assert_ne!(there.transport_bytes()[6..8], [0, 0]);
            there.transport_bytes()[6..8] == [0xff, 0xff]
        });
        assert!(zeroes.is_some(), "one payload in 65536 sums up so");
    }

    #[test]
    fn super_packets_stay_super_packets() {
        let payload: Vec<u8> = (0..10_007u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for (proto, kinds) in [(Proto::Udp, [5, 5]), (Proto::Tcp, [0x81, 0x84])] {
            for (from, to, kind, becomes) in [(V4, V6, kinds[0], kinds[1]), (V6, V4, kinds[1], kinds[0])] {
                let mut bytes = build(proto, from[0], from[1], &payload, true);
                let transport = if proto == Proto::Tcp { 20 } else { 8 };
                let header = bytes.len() - VNET_LEN - payload.len();
                bytes[1] = kind;
                bytes[2..4].copy_from_slice(&low16(header).to_ne_bytes());
                bytes[4..6].copy_from_slice(&1200u16.to_ne_bytes());
                let end = bytes.len();
                let there = other(&Packet::parse(bytes, end).unwrap(), &flow(proto, to));
                let ip = if to == V4 { V4_LEN } else { V6_LEN };
                assert_eq!(there.bytes()[1], becomes);
                assert_eq!(there.bytes()[2..4], low16(ip + transport).to_ne_bytes());
                assert_eq!(there.bytes()[6..8], low16(ip).to_ne_bytes());
                assert_eq!(there.wire_len(), ip + transport + 1200);
                let pieces = segments(&there, |length| vec![0; length]);
                assert_eq!(pieces.len(), 9);
                assert!(pieces.iter().all(|piece| checksums_hold(piece.bytes())));
                let joined: Vec<u8> = pieces
                    .iter()
                    .flat_map(|piece| piece.transport_bytes()[transport..].to_vec())
                    .collect();
                assert_eq!(joined, payload);
            }
        }
    }

    #[test]
    fn an_echo_keeps_its_sequence_and_gets_the_type_of_its_family() {
        let echo = |kind: u8, id: u16, [src, dst]: [&str; 2]| {
            let flow = flow(Proto::Icmp, [src, dst]);
            let header = IpHeader {
                src: flow.src.ip(),
                dst: flow.dst.ip(),
                protocol: if flow.src.is_ipv4() { ICMP } else { ICMP6 },
                ttl: 64,
                class: 0,
            };
            let at = VNET_LEN + header.len();
            let mut bytes = vec![0; at + 12];
            header.write(&mut bytes[VNET_LEN..], 12);
            bytes[at] = kind;
            put16(&mut bytes, at + 4, id);
            bytes[at + 6..].copy_from_slice(&[0, 7, 1, 2, 3, 4]);
            set_icmp_checksum(&mut bytes, at, &header);
            let end = bytes.len();
            Packet::parse(bytes, end).unwrap()
        };
        let (v4, v6) = (
            ["5.5.16.2:777", "5.5.5.1:0"],
            ["[2a01:1::10]:4660", "[64:ff9b::505:501]:0"],
        );
        let request = other(&echo(128, 4660, v6), &flow(Proto::Icmp, v4));
        assert_eq!(request.bytes(), echo(8, 777, v4).bytes());
        let back = |[there, here]: [&'static str; 2]| [here, there];
        let reply = other(&echo(0, 777, back(v4)), &flow(Proto::Icmp, back(v6)));
        assert_eq!(reply.bytes(), echo(129, 4660, back(v6)).bytes());
    }

    #[test]
    fn what_does_not_fit_an_ipv4_packet_is_not_translated() {
        let long = packet(Proto::Udp, V6, &[7; 65_520], false);
        assert!(translated(&long, &flow(Proto::Udp, V4), |length| vec![0; length]).is_none());
        let fits = packet(Proto::Udp, V6, &[7; 65_507], false);
        assert!(translated(&fits, &flow(Proto::Udp, V4), |length| vec![0; length]).is_some());
    }

    #[test]
    fn fragments_are_not_translated() {
        let mut bytes = build(Proto::Udp, V4[0], V4[1], b"x", false);
        bytes[VNET_LEN + 6] = 0x20;
        let end = bytes.len();
        let fragment = Packet::parse(bytes, end).unwrap();
        assert!(translated(&fragment, &flow(Proto::Udp, V6), |length| vec![0; length]).is_none());
    }
}
