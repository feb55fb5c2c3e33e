//! One IP packet in a buffer: reading its addresses, rewriting them, taking hops off its life.
//!
//! The buffer begins with a virtio-net header (zeroes where the kernel gives none), then the packet. Checksums stay
//! right in both forms: complete ones are updated as RFC 1624 describes, partial ones (`NEEDS_CSUM`: the field holds
//! the sum of the pseudo-header, the kernel adds the rest) get the new addresses into that sum.

use std::net::{IpAddr, SocketAddr};

use crate::inet::{DONT_FRAGMENT, address_sum, be16, fold, put16, sum};
use crate::link::Flip;
use crate::nat::{Flow, Proto};

use super::headers::{Layout, Quote, Transport};

/// Length of the virtio-net header that a TUN device with `IFF_VNET_HDR` puts in front, in bytes.
pub(super) const VNET_LEN: usize = 10;

/// Longest packet with its virtio-net header.
pub(super) const BUFFER_LEN: usize = VNET_LEN + 65_536;

/// The checksum field holds the pseudo-header's sum only (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub(super) const NEEDS_CSUM: u8 = 1;

/// A parsed packet and the buffer that it lies in.
#[derive(Debug)]
pub(super) struct Packet {
    /// Virtio-net header and packet; may be longer than both.
    buffer: Vec<u8>,
    /// Bytes in use.
    end: usize,
    /// Where the transport header begins in the buffer.
    transport_at: usize,
    transport: Transport,
    src: SocketAddr,
    dst: SocketAddr,
}

impl Packet {
    /// Parses the first `end` bytes of `buffer`. Gives the buffer back if that is no IP packet.
    pub(super) fn parse(buffer: Vec<u8>, end: usize) -> Result<Self, Vec<u8>> {
        match Layout::read(buffer.get(VNET_LEN..end).unwrap_or_default()) {
            Some(layout) => Ok(Self {
                end: VNET_LEN + layout.total,
                transport_at: VNET_LEN + layout.transport_at,
                transport: layout.transport,
                src: layout.src,
                dst: layout.dst,
                buffer,
            }),
            None => Err(buffer),
        }
    }

    /// Virtio-net header and packet.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.end]
    }

    /// The packet behind the virtio-net header.
    pub(super) fn ip(&self) -> &[u8] {
        &self.buffer[VNET_LEN..self.end]
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Bytes of memory that it holds.
    pub(super) fn footprint(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn source(&self) -> IpAddr {
        self.src.ip()
    }

    pub(super) fn destination(&self) -> IpAddr {
        self.dst.ip()
    }

    pub(super) fn is_v4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// Time to live or hop limit.
    pub(super) fn ttl(&self) -> u8 {
        self.ip()[if self.is_v4() { 8 } else { 7 }]
    }

    /// Type of service or traffic class.
    pub(super) fn class(&self) -> u8 {
        let ip = self.ip();
        if self.is_v4() {
            ip[1]
        } else {
            ip[0] << 4 | ip[1] >> 4
        }
    }

    /// Has its sender forbidden routers to cut it up? IPv6 always does.
    pub(super) fn must_not_be_fragmented(&self) -> bool {
        !self.is_v4() || self.ip()[6] & DONT_FRAGMENT != 0
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Transport header and payload.
    pub(super) fn transport_bytes(&self) -> &[u8] {
        &self.buffer[self.transport_at..self.end]
    }

    /// The packet that it quotes, if it is an ICMP error.
    pub(super) fn quote(&self) -> Option<&Quote> {
        match &self.transport {
            Transport::Error(quote) => Some(quote),
            _ => None,
        }
    }

    /// A copy in another buffer, which must be long enough.
    pub(super) fn copy_into(&self, mut buffer: Vec<u8>) -> Self {
        buffer[..self.end].copy_from_slice(self.bytes());
        Self { buffer, ..*self }
    }

    /// As a NAT sees it; `None` if it cannot be translated.
    pub(super) fn flow(&self) -> Option<Flow> {
        let proto = match self.transport {
            Transport::Ports(proto) => proto,
            Transport::EchoRequest | Transport::EchoReply => Proto::Icmp,
            Transport::Error(_) | Transport::Opaque => return None,
        };
        Some(Flow {
            proto,
            src: self.src,
            dst: self.dst,
        })
    }

    /// One router on. False when the packet's life ends there (TTL 1 or 0).
    pub(super) fn hop(&mut self) -> bool {
        let is_v4 = self.src.is_ipv4();
        let ttl_at = VNET_LEN + if is_v4 { 8 } else { 7 };
        let ttl = self.buffer[ttl_at];
        if ttl <= 1 {
            return false;
        }
        self.buffer[ttl_at] = ttl - 1;
        if is_v4 {
            let mut change = Change::default();
            change.word([ttl, 0], [ttl - 1, 0]);
            change.apply(&mut self.buffer, VNET_LEN + 10);
        }
        true
    }

    /// Gives the packet the addresses of `flow`, which must be of its own family.
    pub(super) fn rewrite(&mut self, flow: &Flow) {
        if flow.src == self.src && flow.dst == self.dst {
            return;
        }
        let mut addresses = Change::default();
        let mut ports = Change::default();
        let (src_at, dst_at) = if self.is_v4() { (12, 16) } else { (8, 24) };
        self.rewrite_address(VNET_LEN + src_at, self.src.ip(), flow.src.ip(), &mut addresses);
        self.rewrite_address(VNET_LEN + dst_at, self.dst.ip(), flow.dst.ip(), &mut addresses);
        let at = self.transport_at;
        match self.transport {
            Transport::Ports(_) => {
                self.rewrite_port(at, flow.src.port(), &mut ports);
                self.rewrite_port(at + 2, flow.dst.port(), &mut ports);
            }
            Transport::EchoRequest => self.rewrite_port(at + 4, flow.src.port(), &mut ports),
            Transport::EchoReply => self.rewrite_port(at + 4, flow.dst.port(), &mut ports),
            Transport::Error(_) | Transport::Opaque => {}
        }
        self.src = flow.src;
        self.dst = flow.dst;
        if self.is_v4() {
            addresses.apply(&mut self.buffer, VNET_LEN + 10);
        }
        match self.transport {
            Transport::Ports(Proto::Udp) => self.fix_checksum(at + 6, addresses, ports),
            Transport::Ports(_) => self.fix_checksum(at + 16, addresses, ports),
            Transport::EchoRequest | Transport::EchoReply if self.is_v4() => {
                // The checksum of ICMP covers no addresses; that of ICMPv6 does.
                ports.apply(&mut self.buffer, at + 2);
            }
            Transport::EchoRequest | Transport::EchoReply => self.fix_checksum(at + 2, addresses, ports),
            Transport::Error(_) | Transport::Opaque => {}
        }
    }

    /// Flips a bit of what the packet carries, unnoticed by its checksum. What has no ports or echo identifier, such as a
    /// fragment, is left alone.
    pub(super) fn corrupt(&mut self, flip: Flip) {
        let at = self.transport_at;
        let (header, checksum_at) = match self.transport {
            Transport::Ports(Proto::Tcp) => (usize::from(self.buffer[at + 12] >> 4) * 4, at + 16),
            Transport::Ports(_) => (8, at + 6),
            Transport::EchoRequest | Transport::EchoReply => (8, at + 2),
            Transport::Error(_) | Transport::Opaque => return,
        };
        let Some((byte, mask)) = flip.place(self.end.saturating_sub(at + header)) else {
            return;
        };
        let place = at + header + byte;
        // The sum is over words from the transport header on. The other half of this one stays, and so cancels out.
        let (old, new) = (self.buffer[place], self.buffer[place] ^ mask);
        let word = |byte: u8| {
            if (place - at).is_multiple_of(2) {
                [byte, 0]
            } else {
                [0, byte]
            }
        };
        let mut change = Change::default();
        change.word(word(old), word(new));
        self.buffer[place] = new;
        self.fix_checksum(checksum_at, Change::default(), change);
    }

    /// Makes a partial checksum complete, as the network card does at the end. Not for a super-packet, which has a
    /// checksum for each of its segments.
    pub(super) fn complete(&mut self) {
        let word = |at: usize| usize::from(u16::from_ne_bytes([self.buffer[at], self.buffer[at + 1]]));
        let start = VNET_LEN + word(6);
        let field = start + word(8);
        if self.buffer[0] & NEEDS_CSUM != 0 && field + 2 <= self.end {
            let check = !fold(sum(&self.buffer[start..self.end]));
            let is_udp = self.transport == Transport::Ports(Proto::Udp);
            put16(
                &mut self.buffer,
                field,
                if is_udp && check == 0 { 0xffff } else { check },
            );
        }
        self.buffer[..VNET_LEN].fill(0);
    }

    /// Size of the largest IP packet that it is on the wire: its segment's if it is a super-packet.
    pub(super) fn wire_len(&self) -> usize {
        let whole = self.end - VNET_LEN;
        match self.segmentation() {
            Some(cut) => whole.min(cut.payload_at - VNET_LEN + cut.size),
            None => whole,
        }
    }

    /// Packets that a wire would carry for it.
    pub(super) fn wire_count(&self) -> u64 {
        self.segmentation()
            .map_or(1, |cut| (self.end - cut.payload_at).div_ceil(cut.size) as u64)
    }

    /// How it has to be cut up, if it is a super-packet.
    pub(super) fn segmentation(&self) -> Option<Segmentation> {
        let size = usize::from(u16::from_ne_bytes([self.buffer[4], self.buffer[5]]));
        if self.buffer[1] == 0 || size == 0 {
            return None;
        }
        let Transport::Ports(proto) = self.transport else {
            return None;
        };
        let header = match proto {
            Proto::Tcp => usize::from(self.buffer[self.transport_at + 12] >> 4) * 4,
            Proto::Udp | Proto::Icmp => 8,
        };
        let payload_at = self.transport_at + header;
        (payload_at + size < self.end).then_some(Segmentation {
            proto,
            is_v4: self.src.is_ipv4(),
            transport_at: self.transport_at,
            payload_at,
            size,
        })
    }

    fn rewrite_address(&mut self, at: usize, old: IpAddr, new: IpAddr, change: &mut Change) {
        match (old, new) {
            (IpAddr::V4(old), IpAddr::V4(new)) => {
                change.words(&old.octets(), &new.octets());
                self.buffer[at..at + 4].copy_from_slice(&new.octets());
            }
            (IpAddr::V6(old), IpAddr::V6(new)) => {
                change.words(&old.octets(), &new.octets());
                self.buffer[at..at + 16].copy_from_slice(&new.octets());
            }
            _ => {}
        }
    }

    fn rewrite_port(&mut self, at: usize, new: u16, change: &mut Change) {
        change.word([self.buffer[at], self.buffer[at + 1]], new.to_be_bytes());
        self.buffer[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }

    fn fix_checksum(&mut self, at: usize, addresses: Change, ports: Change) {
        if self.buffer[0] & NEEDS_CSUM != 0 {
            // A partial sum is not complemented and does not cover the ports.
            return addresses.apply_partial(&mut self.buffer, at);
        }
        let is_udp = self.transport == Transport::Ports(Proto::Udp);
        if is_udp && be16(&self.buffer, at) == 0 {
            return; // the sender sent none
        }
        Change(addresses.0 + ports.0).apply(&mut self.buffer, at);
        if is_udp && be16(&self.buffer, at) == 0 {
            put16(&mut self.buffer, at, 0xffff);
        }
    }
}

/// Where to cut a super-packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segmentation {
    pub(super) proto: Proto,
    pub(super) is_v4: bool,
    /// Offsets in the buffer.
    pub(super) transport_at: usize,
    pub(super) payload_at: usize,
    /// Payload bytes of each segment but the last.
    pub(super) size: usize,
}

/// What a replacement of 16-bit words does to a sum over them: RFC 1624, equation 3, `~m + m'`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change(u32);

impl Change {
    /// What replaces one address by another does to the sum of a pseudo-header; the families may differ.
    pub(super) fn address(&mut self, old: IpAddr, new: IpAddr) {
        self.0 += u32::from(!fold(address_sum(old))) + u32::from(fold(address_sum(new)));
    }

    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    pub(super) fn words(&mut self, old: &[u8], new: &[u8]) {
        let (old, new) = (old.as_chunks::<2>().0, new.as_chunks::<2>().0);
        old.iter().zip(new).for_each(|(old, new)| self.word(*old, *new));
    }

    pub(super) fn word(&mut self, old: [u8; 2], new: [u8; 2]) {
        self.0 += u32::from(!u16::from_be_bytes(old)) + u32::from(u16::from_be_bytes(new));
    }

    /// Updates the complete (complemented) checksum at `at`.
    pub(super) fn apply(self, buffer: &mut [u8], at: usize) {
        let new = !fold(u32::from(!be16(buffer, at)) + self.0);
        put16(buffer, at, new);
    }

    /// Updates the partial sum at `at`.
    pub(super) fn apply_partial(self, buffer: &mut [u8], at: usize) {
        let new = fold(u32::from(be16(buffer, at)) + self.0);
        put16(buffer, at, new);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crate::inet::{ICMP, IpHeader, TCP, UDP};

    use super::*;

    /// Is every checksum of this UDP or TCP packet right, completing a partial one first?
    pub(in crate::fabric) fn checksums_hold(bytes: &[u8]) -> bool {
        let ip = &bytes[VNET_LEN..];
        let is_v4 = ip[0] >> 4 == 4;
        let (header, addresses, protocol) = if is_v4 {
            (usize::from(ip[0] & 0x0f) * 4, 12..20, ip[9])
        } else {
            (40, 8..40, ip[6])
        };
        let at = header + if protocol == TCP { 16 } else { 6 };
        let length = u32::try_from(ip.len() - header).unwrap();
        let pseudo = sum(&ip[addresses]) + u32::from(protocol) + length;
        let header_holds = !is_v4 || fold(sum(&ip[..header])) == 0xffff;
        if bytes[0] & NEEDS_CSUM != 0 {
            return header_holds && fold(pseudo) == u16::from_be_bytes([ip[at], ip[at + 1]]);
        }
        header_holds && fold(pseudo + sum(&ip[header..])) == 0xffff
    }

    /// A UDP or TCP packet with virtio-net header and right checksums.
    pub(in crate::fabric) fn build(
        proto: Proto,
        src: &str,
        dst: &str,
        payload: &[u8],
        partial: bool,
    ) -> Vec<u8> {
        let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
        let (protocol, length, field) = if proto == Proto::Tcp {
            (TCP, 20, 16)
        } else {
            (UDP, 8, 6)
        };
        let mut transport = vec![0; length];
        transport[..2].copy_from_slice(&src.port().to_be_bytes());
        transport[2..4].copy_from_slice(&dst.port().to_be_bytes());
        if proto == Proto::Tcp {
            transport[12] = 5 << 4;
        } else {
            put16(&mut transport, 4, u16::try_from(length + payload.len()).unwrap());
        }
        transport.extend(payload);
        let header = IpHeader {
            src: src.ip(),
            dst: dst.ip(),
            protocol,
            ttl: 64,
            class: 0,
        };
        let pseudo = header.pseudo(transport.len());
        let check = if partial {
            fold(pseudo)
        } else {
            !fold(pseudo + sum(&transport))
        };
        put16(&mut transport, field, check);
        let mut bytes = vec![0; VNET_LEN + header.len()];
        header.write(&mut bytes[VNET_LEN..], transport.len());
        if partial {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&u16::try_from(header.len()).unwrap().to_ne_bytes());
            bytes[8..10].copy_from_slice(&u16::try_from(field).unwrap().to_ne_bytes());
        }
        bytes.extend(transport);
        bytes
    }

    fn parsed(bytes: Vec<u8>) -> Packet {
        let end = bytes.len();
        Packet::parse(bytes, end).unwrap()
    }

    #[test]
    fn rewriting_keeps_complete_and_partial_checksums_right() {
        for proto in [Proto::Udp, Proto::Tcp] {
            for partial in [false, true] {
                for last in 0..=255u8 {
                    let bytes = build(
                        proto,
                        "192.168.1.10:5000",
                        "5.5.5.1:3478",
                        &[last, 1, 2, 3, 4],
                        partial,
                    );
                    assert!(checksums_hold(&bytes));
                    let mut packet = parsed(bytes);
                    let flow = Flow {
                        proto,
                        src: "5.5.16.2:61000".parse().unwrap(),
                        dst: format!("9.8.{last}.6:{last}1").parse().unwrap(),
                    };
                    packet.rewrite(&flow);
                    assert_eq!(packet.flow(), Some(flow));
                    assert!(packet.hop());
                    assert!(
                        checksums_hold(packet.bytes()),
                        "{proto:?}, partial {partial}, {last}"
                    );
                    assert_eq!(parsed(packet.bytes().to_vec()).flow(), Some(flow));
                }
            }
        }
    }

    #[test]
    fn a_udp_packet_without_checksum_stays_without() {
        let mut bytes = build(Proto::Udp, "192.168.1.10:5000", "5.5.5.1:3478", b"x", false);
        bytes[VNET_LEN + 26..VNET_LEN + 28].fill(0);
        let mut packet = parsed(bytes);
        packet.rewrite(&Flow::udp(
            "5.5.16.2:61000".parse().unwrap(),
            "5.5.5.1:3478".parse().unwrap(),
        ));
        assert_eq!(packet.bytes()[VNET_LEN + 26..VNET_LEN + 28], [0, 0]);
    }

    #[test]
    fn a_flipped_bit_is_in_the_payload_and_no_checksum_notices() {
        use crate::link::{Link, LinkSpec};
        let mut link = Link::new(LinkSpec::default().with_corruption(1.0), 3);
        let now = std::time::Instant::now();
        for i in 0..200usize {
            let (proto, partial) = ([Proto::Udp, Proto::Tcp][i % 2], i % 4 < 2);
            let payload = vec![7; i % 5];
            let bytes = build(proto, "192.168.1.10:5000", "5.5.5.1:3478", &payload, partial);
            let mut packet = parsed(bytes.clone());
            let flip = link
                .admit(packet.wire_len(), now)
                .into_iter()
                .next()
                .unwrap()
                .flip;
            packet.corrupt(flip.unwrap());
            assert!(
                checksums_hold(packet.bytes()),
                "{proto:?}, partial: {partial}, {i}"
            );
            let payload_at = bytes.len() - payload.len();
            let bits = |from: usize| {
                let pairs = bytes[from..].iter().zip(&packet.bytes()[from..]);
                pairs.map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
            };
            assert_eq!(bits(payload_at), u32::from(!payload.is_empty()));
        }
    }

    #[test]
    fn a_packet_dies_at_the_router_where_its_ttl_runs_out() {
        let mut packet = parsed(build(
            Proto::Udp,
            "192.168.1.10:5000",
            "5.5.5.1:3478",
            b"x",
            false,
        ));
        assert_eq!((0..100).take_while(|_| packet.hop()).count(), 63);
    }

    #[test]
    fn an_echo_is_rewritten_by_its_identifier() {
        let mut bytes = build(Proto::Udp, "192.168.1.10:1", "5.5.5.1:1", b"", false);
        bytes[VNET_LEN + 9] = ICMP;
        let icmp = [8, 0, 0, 0, 0x12, 0x34, 0, 1];
        bytes[VNET_LEN + 20..].copy_from_slice(&icmp);
        let check = !fold(sum(&icmp));
        bytes[VNET_LEN + 22..VNET_LEN + 24].copy_from_slice(&check.to_be_bytes());
        let mut packet = parsed(bytes);
        let flow = packet.flow().unwrap();
        assert_eq!(
            (flow.proto, flow.src.port(), flow.dst.port()),
            (Proto::Icmp, 0x1234, 0)
        );
        packet.rewrite(&Flow {
            src: "5.5.16.2:777".parse().unwrap(),
            ..flow
        });
        assert_eq!(fold(sum(&packet.ip()[20..])), 0xffff);
        assert_eq!(packet.ip()[24..26], 777u16.to_be_bytes());
    }

    #[test]
    fn garbage_is_refused_and_fragments_are_opaque() {
        for length in 0..40 {
            let bytes = vec![0x45; VNET_LEN + length];
            let end = bytes.len();
            assert!(Packet::parse(bytes, end).is_err());
        }
        let mut bytes = build(Proto::Udp, "192.168.1.10:5000", "5.5.5.1:3478", b"x", false);
        bytes[VNET_LEN + 6] = 0x20;
        assert_eq!(parsed(bytes).flow(), None);
    }
}
