//! What a router answers when a packet ends at it: ICMP errors and TCP resets as packets. Who answers, when and how
//! often is decided in `refusal.rs`.

use std::net::IpAddr;

use crate::inet::{ICMP, ICMP6, IpHeader, TCP, V4_LEN, V6_LEN, be16, fold, put16, sum};
use crate::nat::Proto;

use super::headers::{ICMP_HEADER, Transport, is_error};
use super::packet::{Packet, VNET_LEN};
use super::segment::segments;
use super::translate::set_icmp_checksum;

/// Life of what a router sends: the default of Linux.
const TTL: u8 = 64;

/// Precedence "internetwork control", which RFC 1812 section 4.3.2.5 asks for in errors, as type of service.
const CONTROL: u8 = 0xc0;

/// Longest error in bytes, with its IP header: RFC 1812 section 4.3.2.3, and the least MTU of IPv6 (RFC 4443 section
/// 2.4 c).
const V4_ERROR_MAX: usize = 576;
pub(super) const V6_ERROR_MAX: usize = 1280;

// TCP flags (RFC 9293).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bytes of a TCP header without options, and the value of its data offset field.
const TCP_HEADER: usize = 20;
const DATA_OFFSET: u8 = 5 << 4;

/// What a router has to say about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// Its life ended here.
    TimeExceeded,
    /// There is no way to its destination.
    NoRoute,
    /// A rule forbids it.
    AdminProhibited,
    /// Nobody listens there.
    PortUnreachable,
    /// It is too big for the next link, which takes this many bytes.
    TooBig(u16),
}

impl Complaint {
    /// Type, code, and the last two bytes of the header: RFC 792, RFC 1191, RFC 1812 section 5.2.7.1, RFC 4443. No
    /// way is "network unreachable": a router of the core does not know the hosts one by one.
    fn message(self, is_v4: bool) -> (u8, u8, u16) {
        match (self, is_v4) {
            (Self::TimeExceeded, true) => (11, 0, 0),
            (Self::NoRoute, true) => (3, 0, 0),
            (Self::AdminProhibited, true) => (3, 13, 0),
            (Self::PortUnreachable, true) => (3, 3, 0),
            (Self::TooBig(mtu), true) => (3, 4, mtu),
            (Self::TimeExceeded, false) => (3, 0, 0),
            (Self::NoRoute, false) => (1, 0, 0),
            (Self::AdminProhibited, false) => (1, 1, 0),
            (Self::PortUnreachable, false) => (1, 4, 0),
            (Self::TooBig(mtu), false) => (2, 0, mtu),
        }
    }
}

/// The error that tells the sender of `about` so, in a buffer from `buffer(length)`. `None` if nobody may be told.
pub(super) fn error(
    about: &Packet,
    complaint: Complaint,
    from: IpAddr,
    mut buffer: impl FnMut(usize) -> Vec<u8>,
) -> Option<Packet> {
    if !may_be_answered(about) {
        return None;
    }
    let quoted = as_on_the_wire(about, &mut buffer);
    let header = IpHeader {
        src: from,
        dst: about.source(),
        protocol: if about.is_v4() { ICMP } else { ICMP6 },
        ttl: TTL,
        class: if about.is_v4() { CONTROL } else { 0 },
    };
    let limit = if about.is_v4() { V4_ERROR_MAX } else { V6_ERROR_MAX };
    let kept = quoted.ip().len().min(limit - header.len() - ICMP_HEADER);
    let (kind, code, word) = complaint.message(about.is_v4());
    let at = VNET_LEN + header.len();
    let end = at + ICMP_HEADER + kept;
    let mut bytes = buffer(end);
    bytes[..VNET_LEN].fill(0);
    header.write(&mut bytes[VNET_LEN..], ICMP_HEADER + kept);
    bytes[at..at + ICMP_HEADER].fill(0);
    bytes[at] = kind;
    bytes[at + 1] = code;
    put16(&mut bytes, at + 6, word);
    bytes[at + ICMP_HEADER..end].copy_from_slice(&quoted.ip()[..kept]);
    set_icmp_checksum(&mut bytes[..end], at, &header);
    Packet::parse(bytes, end).ok()
}

/// The reset that a closed port answers `about` with: RFC 9293 section 3.10.7.1. `None` if that is no TCP, or is a
/// reset itself.
pub(super) fn reset(about: &Packet, buffer: impl FnOnce(usize) -> Vec<u8>) -> Option<Packet> {
    let segment = about.transport_bytes();
    if about.transport() != Transport::Ports(Proto::Tcp) || !may_be_answered(about) {
        return None;
    }
    let flags = segment[13];
    if flags & RST != 0 {
        return None;
    }
    let header = IpHeader {
        src: about.destination(),
        dst: about.source(),
        protocol: TCP,
        ttl: TTL,
        class: 0,
    };
    let at = VNET_LEN + header.len();
    let end = at + TCP_HEADER;
    let mut bytes = buffer(end);
    bytes[..VNET_LEN].fill(0);
    header.write(&mut bytes[VNET_LEN..], TCP_HEADER);
    let answer = &mut bytes[at..end];
    answer.fill(0);
    answer[..2].copy_from_slice(&segment[2..4]);
    answer[2..4].copy_from_slice(&segment[..2]);
    answer[12] = DATA_OFFSET;
    if flags & ACK != 0 {
        answer[4..8].copy_from_slice(&segment[8..12]);
        answer[13] = RST;
    } else {
        answer[8..12].copy_from_slice(&end_of(segment).to_be_bytes());
        answer[13] = RST | ACK;
    }
    let check = !fold(header.pseudo(TCP_HEADER) + sum(answer));
    put16(answer, 16, check);
    Packet::parse(bytes, end).ok()
}

/// The sequence number after a TCP segment; SYN and FIN count as a byte each.
fn end_of(segment: &[u8]) -> u32 {
    let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
    let data = segment.len() - usize::from(segment[12] >> 4) * 4;
    let flags = segment[13];
    let marks = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    sequence
        .wrapping_add(u32::try_from(data).unwrap_or(0))
        .wrapping_add(marks)
}

/// The first packet that a wire would carry for it, its checksum complete: what a router quotes.
fn as_on_the_wire(packet: &Packet, buffer: &mut impl FnMut(usize) -> Vec<u8>) -> Packet {
    let mut pieces = segments(packet, &mut *buffer);
    let mut first = if pieces.is_empty() {
        packet.copy_into(buffer(packet.bytes().len()))
    } else {
        pieces.swap_remove(0)
    };
    first.complete();
    first
}

/// May a router send anything because of this packet? Not because of an ICMP error, a fragment but the first, or a
/// packet to or from anything but a single host: RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section
/// 2.4 e.
fn may_be_answered(packet: &Packet) -> bool {
    let ip = packet.ip();
    let (protocol, is_later_fragment) = if packet.is_v4() {
        (ip[9], be16(ip, 6) & 0x1fff != 0)
    } else {
        (ip[6], false)
    };
    let is_about_an_error = match packet.transport_bytes().first() {
        Some(kind) => is_error(protocol, *kind),
        None => matches!(protocol, ICMP | ICMP6),
    };
    !is_later_fragment
        && !is_about_an_error
        && is_one_host(packet.source())
        && is_one_host(packet.destination())
        && !is_broadcast_of(packet.source(), packet.destination())
        && ip.len() >= if packet.is_v4() { V4_LEN } else { V6_LEN }
}

/// Is it the address of one host of the internet or of a network in it?
pub(super) fn is_one_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let first = ip.octets()[0];
            // "This network", loopback; multicast, reserved and broadcast from 224 on; link-local.
            first != 0 && first != 127 && first < 224 && !ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unicast_link_local()
        }
    }
}

/// Is `dst` the broadcast address of the network of `src`? Hosts of a lab are in networks of /24.
pub(super) fn is_broadcast_of(src: IpAddr, dst: IpAddr) -> bool {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (src, dst) = (src.octets(), dst.octets());
            dst[3] == 255 && src[..3] == dst[..3]
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{build, checksums_hold};
    use super::*;

    const V4: [&str; 2] = ["192.168.1.10:5000", "5.5.5.1:3478"];
    const V6: [&str; 2] = ["[2a01:1::10]:5000", "[2a01:2::20]:3478"];

    fn parsed(bytes: Vec<u8>) -> Packet {
        let end = bytes.len();
        Packet::parse(bytes, end).unwrap()
    }

    fn packet(proto: Proto, [src, dst]: [&str; 2], payload: &[u8]) -> Packet {
        parsed(build(proto, src, dst, payload, true))
    }

    fn error_about(about: &Packet, complaint: Complaint) -> Option<Packet> {
        let from = if about.is_v4() { "5.5.0.1" } else { "2a00:5::1" };
        error(about, complaint, from.parse().unwrap(), |length| {
            vec![0xee; length]
        })
    }

    #[test]
    fn an_error_quotes_the_packet_with_complete_checksums() {
        for (ends, header, protocol) in [(V4, 20, ICMP), (V6, 40, ICMP6)] {
            let about = packet(Proto::Udp, ends, b"hello");
            let error = error_about(&about, Complaint::PortUnreachable).unwrap();
            assert_eq!(error.destination(), about.source());
            assert_eq!(error.quote().unwrap().flow, about.flow().unwrap());
            let quoted = &error.ip()[header + 8..];
            let whole = [&[0; VNET_LEN], quoted].concat();
            assert!(checksums_hold(&whole));
            assert_eq!(quoted[header + 8..], *b"hello");
            let seen = IpHeader {
                src: error.source(),
                dst: error.destination(),
                protocol,
                ttl: 0,
                class: 0,
            };
            let message = error.transport_bytes();
            let pseudo = if header == 20 {
                0
            } else {
                seen.pseudo(message.len())
            };
            assert_eq!(fold(pseudo + sum(message)), 0xffff);
        }
    }

    #[test]
    fn each_complaint_has_its_type_and_code() {
        for (complaint, v4, v6) in [
            (Complaint::TimeExceeded, [11, 0], [3, 0]),
            (Complaint::NoRoute, [3, 0], [1, 0]),
            (Complaint::AdminProhibited, [3, 13], [1, 1]),
            (Complaint::PortUnreachable, [3, 3], [1, 4]),
            (Complaint::TooBig(1480), [3, 4], [2, 0]),
        ] {
            for (ends, expected) in [(V4, v4), (V6, v6)] {
                let error = error_about(&packet(Proto::Udp, ends, b"x"), complaint).unwrap();
                assert_eq!(error.transport_bytes()[..2], expected);
                let mtu = if let Complaint::TooBig(mtu) = complaint {
                    mtu
                } else {
                    0
                };
                assert_eq!(error.transport_bytes()[4..8], u32::from(mtu).to_be_bytes());
            }
        }
    }

    #[test]
    fn an_error_is_short_and_quotes_the_first_segment_of_a_super_packet() {
        let long = packet(Proto::Udp, V4, &[7; 1400]);
        let short = error_about(&long, Complaint::NoRoute).unwrap();
        assert_eq!(short.ip().len(), V4_ERROR_MAX);
        let long = packet(Proto::Udp, V6, &[7; 1400]);
        let short = error_about(&long, Complaint::NoRoute).unwrap();
        assert_eq!(short.ip().len(), V6_ERROR_MAX);
        let mut bytes = build(Proto::Udp, V4[0], V4[1], &[7; 3000], true);
        bytes[1] = 5;
        bytes[4..6].copy_from_slice(&100u16.to_ne_bytes());
        let error = error_about(&parsed(bytes), Complaint::NoRoute).unwrap();
        assert_eq!(error.ip().len(), 20 + 8 + 20 + 8 + 100);
    }

    #[test]
    fn nobody_is_told_about_errors_broadcasts_and_later_fragments() {
        let about = packet(Proto::Udp, V4, b"x");
        let error = error_about(&about, Complaint::NoRoute).unwrap();
        assert!(error_about(&error, Complaint::NoRoute).is_none());
        let about = packet(Proto::Udp, V6, b"x");
        let error = error_about(&about, Complaint::NoRoute).unwrap();
        assert!(error_about(&error, Complaint::TimeExceeded).is_none());
        for (src, dst) in [
            (V4[0], "224.0.0.251:5353"),
            (V4[0], "255.255.255.255:67"),
            (V4[0], "192.168.1.255:137"),
            ("0.0.0.0:68", V4[1]),
            ("127.0.0.1:1", V4[1]),
            (V6[0], "[ff02::fb]:5353"),
            ("[::]:546", V6[1]),
        ] {
            assert!(error_about(&packet(Proto::Udp, [src, dst], b"x"), Complaint::NoRoute).is_none());
        }
        let mut bytes = build(Proto::Udp, V4[0], V4[1], b"x", false);
        bytes[VNET_LEN + 6] = 0x20;
        assert!(error_about(&parsed(bytes.clone()), Complaint::NoRoute).is_some());
        bytes[VNET_LEN + 7] = 0x10;
        assert!(error_about(&parsed(bytes), Complaint::NoRoute).is_none());
    }

    /// Sequence and acknowledgement number and flags of the reset for a segment with these.
    fn reset_for(ends: [&str; 2], numbers: [u32; 2], flags: u8, payload: &[u8]) -> Option<(u32, u32, u8)> {
        let mut bytes = build(Proto::Tcp, ends[0], ends[1], payload, true);
        let at = bytes.len() - payload.len() - TCP_HEADER;
        bytes[at + 4..at + 8].copy_from_slice(&numbers[0].to_be_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&numbers[1].to_be_bytes());
        bytes[at + 13] = flags;
        let about = parsed(bytes);
        let reset = reset(&about, |length| vec![0xee; length])?;
        assert!(checksums_hold(reset.bytes()));
        let (there, back) = (about.flow().unwrap(), reset.flow().unwrap());
        assert_eq!((there.src, there.dst), (back.dst, back.src));
        let tcp = reset.transport_bytes();
        let number = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        Some((number(4), number(8), tcp[13]))
    }

    #[test]
    fn a_reset_fits_the_segment_that_it_answers() {
        for ends in [V4, V6] {
            // Without ACK: sequence 0, everything acknowledged, SYN and FIN counted.
            assert_eq!(reset_for(ends, [1000, 0], SYN, b""), Some((0, 1001, RST | ACK)));
            assert_eq!(
                reset_for(ends, [u32::MAX, 0], SYN | FIN, b"abc"),
                Some((0, 4, RST | ACK))
            );
            // With ACK: the sequence number is what was acknowledged.
            assert_eq!(reset_for(ends, [1000, 77], ACK, b"abc"), Some((77, 0, RST)));
            assert_eq!(reset_for(ends, [1000, 77], RST | ACK, b""), None);
        }
        assert!(reset(&packet(Proto::Udp, V4, b"x"), |length| vec![0; length]).is_none());
    }
}
