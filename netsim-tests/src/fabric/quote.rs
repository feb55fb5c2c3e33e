//! ICMP errors through a NAT: the error and the packet that it quotes get the addresses of the other side, all
//! checksums rewritten (RFC 5508 section 4; across families RFC 7915 sections 4.2 and 5.2). Which addresses those are
//! the [NAT](crate::nat::NatBox) says, from the quoted packet alone.

use std::net::{IpAddr, Ipv4Addr};

use crate::inet::{ICMP, ICMP6, IpHeader, TCP, UDP, V4_LEN, V6_LEN, be16, fold, low16, put16, sum};
use crate::nat::{Flow, NAT64_PREFIX, Proto};

use super::headers::{ICMP_HEADER, Quote, QuotedPorts};
use super::icmp::V6_ERROR_MAX;
use super::packet::{Change, Packet, VNET_LEN};
use super::translate::{echo_type, set_icmp_checksum};

/// Longest IPv4 header, in bytes: 15 words.
const V4_HEADER_MAX: usize = 60;

/// By how much a packet is longer under IPv6 than under IPv4.
const LONGER: u16 = 20;

/// The error `packet` with `quoted` as the addresses of the packet that it is about and `src` and `dst` as its own, all
/// of one family, in a buffer from `buffer(length)`. `None` if it is no error, is damaged, or means nothing in the
/// other family.
pub(super) fn carried(
    packet: &Packet,
    src: IpAddr,
    dst: IpAddr,
    quoted: &Flow,
    buffer: impl FnOnce(usize) -> Vec<u8>,
) -> Option<Packet> {
    let quote = packet.quote()?;
    let message = packet.transport_bytes();
    let (head, old) = message.split_at_checked(ICMP_HEADER)?;
    if !is_intact(packet, quote, message, old) {
        return None;
    }
    let is_v4 = src.is_ipv4();
    let (kind, code, word) = if is_v4 == packet.is_v4() {
        let word = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        (head[0], head[1], word)
    } else {
        message_of_other_family(is_v4, head)?
    };
    let header = IpHeader {
        src,
        dst,
        protocol: if is_v4 { ICMP } else { ICMP6 },
        ttl: packet.ttl(),
        class: packet.class(),
    };
    let new_ip = quoted_header_len(quote, is_v4, packet.is_v4());
    let at = VNET_LEN + header.len();
    let inner_at = at + ICMP_HEADER;
    let whole = inner_at + new_ip + old.len() - quote.transport_at;
    let end = whole.min(VNET_LEN + if is_v4 { whole } else { V6_ERROR_MAX });
    let mut bytes = buffer(whole);
    bytes[..VNET_LEN].fill(0);
    header.write(&mut bytes[VNET_LEN..], end - at);
    bytes[at] = kind;
    bytes[at + 1] = code;
    bytes[at + 4..inner_at].copy_from_slice(&word.to_be_bytes());
    write_quote(&mut bytes[inner_at..whole], old, quote, quoted, new_ip);
    set_icmp_checksum(&mut bytes[..end], at, &header);
    Packet::parse(bytes, end).ok()
}

/// Under which address the hosts of a NAT64 find an IPv4 router or host (RFC 6052 section 2.2).
pub(super) fn embedded(ip: Ipv4Addr) -> IpAddr {
    let mut octets = NAT64_PREFIX.octets();
    octets[12..].copy_from_slice(&ip.octets());
    octets.into()
}

/// RFC 5508 REQ-3: the checksums of the error and of the quoted IP header must hold; that of the quoted transport is
/// the business of its sender.
fn is_intact(packet: &Packet, quote: &Quote, message: &[u8], old: &[u8]) -> bool {
    let seen = IpHeader {
        src: packet.source(),
        dst: packet.destination(),
        protocol: ICMP6,
        ttl: 0,
        class: 0,
    };
    let pseudo = if packet.is_v4() {
        0
    } else {
        seen.pseudo(message.len())
    };
    let inner = if packet.is_v4() {
        fold(sum(&old[..quote.transport_at]))
    } else {
        0xffff
    };
    fold(pseudo + sum(message)) == 0xffff && inner == 0xffff
}

fn quoted_header_len(quote: &Quote, to_v4: bool, from_v4: bool) -> usize {
    match (to_v4, from_v4) {
        (true, true) => quote.transport_at.min(V4_HEADER_MAX),
        (true, false) => V4_LEN,
        (false, _) => V6_LEN,
    }
}

/// Writes the quoted packet anew: its header, then what is there of its transport.
fn write_quote(to: &mut [u8], old: &[u8], quote: &Quote, flow: &Flow, new_ip: usize) {
    let (old_header, transport) = old.split_at(quote.transport_at);
    to[new_ip..].copy_from_slice(transport);
    let was_v4 = quote.flow.src.is_ipv4();
    if flow.src.is_ipv4() == was_v4 {
        to[..new_ip].copy_from_slice(old_header);
        replace_addresses(&mut to[..new_ip], quote, flow);
    } else {
        translate_header(&mut to[..new_ip], old_header, flow);
    }
    let transport = &mut to[new_ip..];
    let mut ports = Change::default();
    let mut put = |transport: &mut [u8], at: usize, port: u16| {
        ports.word([transport[at], transport[at + 1]], port.to_be_bytes());
        put16(transport, at, port);
    };
    match quote.ports {
        QuotedPorts::Both => {
            put(transport, 0, flow.src.port());
            put(transport, 2, flow.dst.port());
        }
        QuotedPorts::EchoRequest => put(transport, 4, flow.src.port()),
        QuotedPorts::EchoReply => put(transport, 4, flow.dst.port()),
    }
    fix_quoted_checksum(transport, quote, flow, ports);
}

fn replace_addresses(header: &mut [u8], quote: &Quote, flow: &Flow) {
    let mut change = Change::default();
    change.address(quote.flow.src.ip(), flow.src.ip());
    change.address(quote.flow.dst.ip(), flow.dst.ip());
    match (flow.src.ip(), flow.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            change.apply(header, 10);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
        }
        _ => {}
    }
}

/// The header that the quoted packet had in the other family. Its length field tells of the whole packet, not of what
/// is quoted.
fn translate_header(to: &mut [u8], old: &[u8], flow: &Flow) {
    let is_v4 = flow.src.is_ipv4();
    let (payload, protocol, ttl, class) = if is_v4 {
        (be16(old, 4), old[6], old[7], old[0] << 4 | old[1] >> 4)
    } else {
        let payload = be16(old, 2).saturating_sub(low16(old.len()));
        (payload, old[9], old[8], old[1])
    };
    let header = IpHeader {
        src: flow.src.ip(),
        dst: flow.dst.ip(),
        protocol: match protocol {
            TCP | UDP => protocol,
            _ if is_v4 => ICMP,
            _ => ICMP6,
        },
        ttl,
        class,
    };
    header.write(to, usize::from(payload));
}

/// Brings the checksum of the quoted transport up to date, if so much is quoted.
fn fix_quoted_checksum(transport: &mut [u8], quote: &Quote, flow: &Flow, ports: Change) {
    let mut addresses = Change::default();
    addresses.address(quote.flow.src.ip(), flow.src.ip());
    addresses.address(quote.flow.dst.ip(), flow.dst.ip());
    let is_v4 = flow.src.is_ipv4();
    match quote.flow.proto {
        Proto::Udp if be16(transport, 6) == 0 => {} // the sender sent none
        Proto::Udp => addresses.and(ports).apply(transport, 6),
        Proto::Tcp if transport.len() >= 18 => addresses.and(ports).apply(transport, 16),
        Proto::Tcp => {}
        Proto::Icmp if is_v4 && quote.flow.src.is_ipv4() => ports.apply(transport, 2),
        Proto::Icmp if is_v4 == quote.flow.src.is_ipv4() => addresses.and(ports).apply(transport, 2),
        Proto::Icmp => {
            // How long the echo was, which its pseudo-header says, matters to nobody any more: the type is changed, and
            // the checksum is left as one of the other family.
            transport[0] = echo_type(quote.ports == QuotedPorts::EchoRequest, is_v4);
        }
    }
}

/// Type, code and second word of an error in the other family: the tables of RFC 7915 sections 4.2 and 5.2. Parameter
/// problems point into a header that is gone; only the one about the next header has a meaning.
fn message_of_other_family(to_v4: bool, head: &[u8]) -> Option<(u8, u8, u32)> {
    let mtu = be16(head, 6);
    if to_v4 {
        return match (head[0], head[1]) {
            (1, 1) => Some((3, 10, 0)),
            (1, 4) => Some((3, 3, 0)),
            (1, _) => Some((3, 1, 0)),
            (2, _) => Some((3, 4, u32::from(mtu.saturating_sub(LONGER)))),
            (3, code) => Some((11, code, 0)),
            (4, 1) => Some((3, 2, 0)),
            _ => None,
        };
    }
    match (head[0], head[1]) {
        // Pointer 6: the next header field.
        (3, 2) => Some((4, 1, 6)),
        (3, 3) => Some((1, 4, 0)),
        (3, 4) => Some((2, 0, u32::from(mtu.saturating_add(LONGER)))),
        (3, 9 | 10 | 13 | 15) => Some((1, 1, 0)),
        (3, 0 | 1 | 5..=8 | 11 | 12) => Some((1, 0, 0)),
        (11, code) => Some((3, code, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::icmp::{Complaint, error};
    use super::super::packet::tests::{build, checksums_hold};
    use super::*;

    const INSIDE: [&str; 2] = ["192.168.1.10:5000", "5.5.5.1:3478"];
    const OUTSIDE: [&str; 2] = ["5.5.16.2:61000", "5.5.5.1:3478"];
    const INSIDE6: [&str; 2] = ["[2a01:1::10]:5000", "[64:ff9b::505:501]:3478"];

    fn flow(proto: Proto, [src, dst]: [&str; 2]) -> Flow {
        Flow {
            proto,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        }
    }

    /// The error of a router at `from` about a packet between these ends.
    fn error_about(proto: Proto, ends: [&str; 2], from: &str, complaint: Complaint) -> Packet {
        let bytes = build(proto, ends[0], ends[1], b"hello", false);
        let end = bytes.len();
        let about = Packet::parse(bytes, end).unwrap();
        error(&about, complaint, from.parse().unwrap(), |length| vec![0; length]).unwrap()
    }

    fn carry(error: &Packet, src: &str, quoted: &Flow) -> Option<Packet> {
        let (src, dst) = (src.parse().unwrap(), quoted.src.ip());
        carried(error, src, dst, quoted, |length| vec![0xee; length + 5])
    }

    #[test]
    fn an_error_arrives_as_if_it_were_about_the_packet_that_was_sent() {
        for proto in [Proto::Udp, Proto::Tcp] {
            let outside = error_about(proto, OUTSIDE, "5.5.0.1", Complaint::TimeExceeded);
            let inside = carry(&outside, "5.5.0.1", &flow(proto, INSIDE)).unwrap();
            let expected = error_about(proto, INSIDE, "5.5.0.1", Complaint::TimeExceeded);
            assert_eq!(inside.bytes(), expected.bytes());
        }
    }

    #[test]
    fn an_error_changes_its_family_with_the_packet_that_it_quotes() {
        for (complaint, expected) in [
            (Complaint::PortUnreachable, [1, 4, 0, 0, 0, 0]),
            (Complaint::AdminProhibited, [1, 1, 0, 0, 0, 0]),
            (Complaint::NoRoute, [1, 0, 0, 0, 0, 0]),
            (Complaint::TimeExceeded, [3, 0, 0, 0, 0, 0]),
            (Complaint::TooBig(1400), [2, 0, 0, 0, 5, 0x8c]),
        ] {
            let outside = error_about(Proto::Udp, OUTSIDE, "5.5.0.1", complaint);
            let inside = carry(&outside, "64:ff9b::505:1", &flow(Proto::Udp, INSIDE6)).unwrap();
            assert_eq!(inside.quote().unwrap().flow, flow(Proto::Udp, INSIDE6));
            let message = inside.transport_bytes();
            assert_eq!([&message[..2], &message[4..8]].concat(), expected);
            let built = build(Proto::Udp, INSIDE6[0], INSIDE6[1], b"hello", false);
            assert_eq!(message[8..], built[VNET_LEN..]);
            let back = carry(&inside, "5.5.0.1", &flow(Proto::Udp, OUTSIDE)).unwrap();
            let quoted = [&[0; VNET_LEN], &back.transport_bytes()[8..]].concat();
            assert!(checksums_hold(&quoted));
            assert_eq!(back.transport_bytes()[8..], outside.transport_bytes()[8..]);
        }
    }

    #[test]
    fn a_damaged_error_goes_no_further() {
        let outside = error_about(Proto::Udp, OUTSIDE, "5.5.0.1", Complaint::TimeExceeded);
        for at in 20..outside.ip().len() {
            let mut bytes = outside.bytes().to_vec();
            bytes[VNET_LEN + at] ^= 0x40;
            let end = bytes.len();
            let damaged = Packet::parse(bytes, end).unwrap();
            assert!(
                carry(&damaged, "5.5.0.1", &flow(Proto::Udp, INSIDE)).is_none(),
                "byte {at}"
            );
        }
    }

    #[test]
    fn an_error_with_the_least_that_can_be_quoted_is_carried() {
        let outside = error_about(Proto::Tcp, OUTSIDE, "5.5.0.1", Complaint::TimeExceeded);
        let end = VNET_LEN + 20 + 8 + 28;
        let mut bytes = outside.bytes()[..end].to_vec();
        let header = IpHeader {
            src: outside.source(),
            dst: outside.destination(),
            protocol: ICMP,
            ttl: 64,
            class: 0,
        };
        header.write(&mut bytes[VNET_LEN..], 36);
        set_icmp_checksum(&mut bytes, VNET_LEN + 20, &header);
        let short = Packet::parse(bytes, end).unwrap();
        let inside = carry(&short, "5.5.0.1", &flow(Proto::Tcp, INSIDE)).unwrap();
        assert_eq!(inside.quote().unwrap().flow, flow(Proto::Tcp, INSIDE));
        let inside = carry(&short, "64:ff9b::505:1", &flow(Proto::Tcp, INSIDE6)).unwrap();
        assert_eq!(inside.quote().unwrap().flow, flow(Proto::Tcp, INSIDE6));
    }

    #[test]
    fn random_bytes_in_place_of_an_error_harm_nobody() {
        let outside = error_about(Proto::Udp, OUTSIDE, "5.5.0.1", Complaint::TimeExceeded);
        let mut state = 1u32;
        for _ in 0..20_000 {
            let mut bytes = outside.bytes().to_vec();
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let [a, b, value, _] = state.to_be_bytes();
                let at = usize::from(u16::from_be_bytes([a, b])) % (bytes.len() - VNET_LEN);
                bytes[VNET_LEN + at] = value;
            }
            // Its checksums hold, so that it gets past their check.
            for (from, to) in [(28, 48), (0, 20)] {
                let header = &mut bytes[VNET_LEN..][from..to];
                put16(header, 10, 0);
                let check = !fold(sum(header));
                put16(header, 10, check);
            }
            put16(&mut bytes, VNET_LEN + 22, 0);
            let check = !fold(sum(&bytes[VNET_LEN + 20..]));
            put16(&mut bytes, VNET_LEN + 22, check);
            let end = bytes.len();
            if let Ok(packet) = Packet::parse(bytes, end) {
                let _harmless = carry(&packet, "64:ff9b::505:1", &flow(Proto::Udp, INSIDE6));
            }
        }
    }
}
