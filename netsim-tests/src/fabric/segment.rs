//! Cutting a super-packet (TCP TSO, UDP USO) into the packets that would be on a wire, so that a link can lose or
//! delay each by itself. The pieces keep partial checksums: the receiving kernel treats them as it does its own.

use crate::inet::{TCP, UDP, be16, fold, low16, put16, sum};
use crate::nat::Proto;

use super::packet::{NEEDS_CSUM, Packet, Segmentation, VNET_LEN};

// TCP flags (RFC 9293, RFC 3168): what only the last and only the first segment carries.
const FIN_AND_PUSH: u8 = 0x09;
const CONGESTION_WINDOW_REDUCED: u8 = 0x80;

/// The segments of `packet` in order, each in a buffer from `buffer(length)`. Empty if it is no super-packet.
pub(super) fn segments(packet: &Packet, mut buffer: impl FnMut(usize) -> Vec<u8>) -> Vec<Packet> {
    let Some(cut) = packet.segmentation() else {
        return Vec::new();
    };
    let bytes = packet.bytes();
    let (headers, payload) = bytes.split_at(cut.payload_at);
    let count = payload.len().div_ceil(cut.size);
    let mut pieces = Vec::with_capacity(count);
    for (index, chunk) in payload.chunks(cut.size).enumerate() {
        let end = headers.len() + chunk.len();
        let mut piece = buffer(end);
        piece[..headers.len()].copy_from_slice(headers);
        piece[headers.len()..end].copy_from_slice(chunk);
        adjust(&mut piece[..end], &cut, index, index + 1 == count);
        if let Ok(piece) = Packet::parse(piece, end) {
            pieces.push(piece);
        }
    }
    pieces
}

/// Turns a copy of the super-packet's headers into those of one segment.
fn adjust(piece: &mut [u8], cut: &Segmentation, index: usize, is_last: bool) {
    let ip_len = piece.len() - VNET_LEN;
    let transport_len = piece.len() - cut.transport_at;
    let checksum_offset = if cut.proto == Proto::Tcp { 16 } else { 6 };
    let start = cut.transport_at - VNET_LEN;
    piece[..VNET_LEN].fill(0);
    piece[0] = NEEDS_CSUM;
    piece[6..8].copy_from_slice(&low16(start).to_ne_bytes());
    piece[8..10].copy_from_slice(&low16(checksum_offset).to_ne_bytes());
    if cut.is_v4 {
        let id = be16(piece, VNET_LEN + 4).wrapping_add(low16(index));
        put16(piece, VNET_LEN + 2, low16(ip_len));
        put16(piece, VNET_LEN + 4, id);
        put16(piece, VNET_LEN + 10, 0);
        let checksum = !fold(sum(&piece[VNET_LEN..cut.transport_at]));
        put16(piece, VNET_LEN + 10, checksum);
    } else {
        put16(piece, VNET_LEN + 4, low16(ip_len - 40));
    }
    let at = cut.transport_at;
    if cut.proto == Proto::Tcp {
        let sequence = u32::from_be_bytes([piece[at + 4], piece[at + 5], piece[at + 6], piece[at + 7]]);
        let skipped = u32::try_from(index * cut.size).unwrap_or(0);
        piece[at + 4..at + 8].copy_from_slice(&sequence.wrapping_add(skipped).to_be_bytes());
        if !is_last {
            piece[at + 13] &= !FIN_AND_PUSH;
        }
        if index > 0 {
            piece[at + 13] &= !CONGESTION_WINDOW_REDUCED;
        }
    } else {
        put16(piece, at + 4, low16(transport_len));
    }
    let addresses = if cut.is_v4 {
        VNET_LEN + 12..VNET_LEN + 20
    } else {
        VNET_LEN + 8..VNET_LEN + 40
    };
    let protocol = if cut.proto == Proto::Tcp { TCP } else { UDP };
    let pseudo = sum(&piece[addresses]) + u32::from(protocol) + u32::from(low16(transport_len));
    put16(piece, at + checksum_offset, fold(pseudo));
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{build, checksums_hold};
    use super::*;

    fn super_packet(proto: Proto, payload: &[u8], size: u16) -> Packet {
        let mut bytes = build(proto, "5.5.16.2:5000", "5.5.5.1:3478", payload, true);
        bytes[1] = if proto == Proto::Tcp { 1 } else { 5 };
        bytes[4..6].copy_from_slice(&size.to_ne_bytes());
        let end = bytes.len();
        Packet::parse(bytes, end).unwrap()
    }

    #[test]
    fn segments_carry_all_the_payload_in_order_with_right_headers() {
        let payload: Vec<u8> = (0..10_007u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for (proto, header) in [(Proto::Udp, 28), (Proto::Tcp, 40)] {
            let packet = super_packet(proto, &payload, 1200);
            assert_eq!(packet.wire_len(), header + 1200);
            let pieces = segments(&packet, |length| vec![0; length]);
            assert_eq!(pieces.len(), 9);
            let joined: Vec<u8> = pieces
                .iter()
                .flat_map(|piece| piece.ip()[header..].to_vec())
                .collect();
            assert_eq!(joined, payload);
            for (index, piece) in (0u32..).zip(&pieces) {
                assert!(checksums_hold(piece.bytes()));
                assert_eq!(piece.flow(), packet.flow());
                assert!(piece.segmentation().is_none());
                if proto == Proto::Tcp {
                    assert_eq!(piece.ip()[24..28], (index * 1200).to_be_bytes());
                }
            }
        }
    }

    #[test]
    fn only_the_last_tcp_segment_finishes() {
        let mut bytes = build(Proto::Tcp, "5.5.16.2:5000", "5.5.5.1:3478", &[7; 3000], true);
        bytes[1] = 1;
        bytes[4..6].copy_from_slice(&1000u16.to_ne_bytes());
        bytes[VNET_LEN + 33] = 0x19;
        let end = bytes.len();
        let packet = Packet::parse(bytes, end).unwrap();
        let flags: Vec<u8> = segments(&packet, |length| vec![0; length])
            .iter()
            .map(|piece| piece.ip()[33])
            .collect();
        assert_eq!(flags, [0x10, 0x10, 0x19]);
    }

    #[test]
    fn an_ordinary_packet_is_not_cut() {
        let packet = super_packet(Proto::Udp, &[1; 500], 1200);
        assert!(packet.segmentation().is_none());
        assert!(segments(&packet, |length| vec![0; length]).is_empty());
    }
}
