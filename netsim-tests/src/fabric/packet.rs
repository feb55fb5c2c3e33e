//! One IP packet in a buffer: reading its addresses, rewriting them, taking hops off its life.
//!
//! The buffer begins with a virtio-net header (zeroes where the kernel gives none), then the packet. Checksums stay
//! right in both forms: complete ones are updated as RFC 1624 describes, partial ones (`NEEDS_CSUM`: the field holds
//! the sum of the pseudo-header, the kernel adds the rest) get the new addresses into that sum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::link::Flip;
use crate::nat::{Flow, Proto};

/// Length of the virtio-net header that a TUN device with `IFF_VNET_HDR` puts in front, in bytes.
pub(super) const VNET_LEN: usize = 10;

/// Longest packet with its virtio-net header.
pub(super) const BUFFER_LEN: usize = VNET_LEN + 65_536;

/// The checksum field holds the pseudo-header's sum only (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub(super) const NEEDS_CSUM: u8 = 1;

// IP protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// What stands where a NAT looks for ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Ports(Proto),
    EchoRequest,
    EchoReply,
    /// Fragments, other protocols, ICMP errors: can be routed but not translated.
    Opaque,
}

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

    pub(super) fn destination(&self) -> IpAddr {
        self.dst.ip()
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
            Transport::Opaque => return None,
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
        self.rewrite_address(VNET_LEN + 12, self.src.ip(), flow.src.ip(), &mut addresses);
        self.rewrite_address(VNET_LEN + 16, self.dst.ip(), flow.dst.ip(), &mut addresses);
        let at = self.transport_at;
        match self.transport {
            Transport::Ports(_) => {
                self.rewrite_port(at, flow.src.port(), &mut ports);
                self.rewrite_port(at + 2, flow.dst.port(), &mut ports);
            }
            Transport::EchoRequest => self.rewrite_port(at + 4, flow.src.port(), &mut ports),
            Transport::EchoReply => self.rewrite_port(at + 4, flow.dst.port(), &mut ports),
            Transport::Opaque => {}
        }
        self.src = flow.src;
        self.dst = flow.dst;
        addresses.apply(&mut self.buffer, VNET_LEN + 10);
        match self.transport {
            Transport::Ports(Proto::Udp) => self.fix_checksum(at + 6, addresses, ports),
            Transport::Ports(_) => self.fix_checksum(at + 16, addresses, ports),
            // The ICMP checksum covers no addresses.
            Transport::EchoRequest | Transport::EchoReply => ports.apply(&mut self.buffer, at + 2),
            Transport::Opaque => {}
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
            Transport::Opaque => return,
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
        if let (IpAddr::V4(old), IpAddr::V4(new)) = (old, new) {
            let ([a, b, c, d], [e, f, g, h]) = (old.octets(), new.octets());
            change.word([a, b], [e, f]);
            change.word([c, d], [g, h]);
            self.buffer[at..at + 4].copy_from_slice(&new.octets());
        }
    }

    fn rewrite_port(&mut self, at: usize, new: u16, change: &mut Change) {
        change.word([self.buffer[at], self.buffer[at + 1]], new.to_be_bytes());
        self.buffer[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }

    fn fix_checksum(&mut self, at: usize, addresses: Change, ports: Change) {
        let field = [self.buffer[at], self.buffer[at + 1]];
        if self.buffer[0] & NEEDS_CSUM != 0 {
            // A partial sum is not complemented and does not cover the ports.
            let sum = fold(u32::from(u16::from_be_bytes(field)) + addresses.0);
            self.buffer[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            return;
        }
        let is_udp = self.transport == Transport::Ports(Proto::Udp);
        if is_udp && field == [0, 0] {
            return; // the sender sent none
        }
        Change(addresses.0 + ports.0).apply(&mut self.buffer, at);
        if is_udp && self.buffer[at..at + 2] == [0, 0] {
            self.buffer[at..at + 2].copy_from_slice(&[0xff, 0xff]);
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
struct Change(u32);

impl Change {
    fn word(&mut self, old: [u8; 2], new: [u8; 2]) {
        self.0 += u32::from(!u16::from_be_bytes(old)) + u32::from(u16::from_be_bytes(new));
    }

    /// Updates the complete (complemented) checksum at `at`.
    fn apply(self, buffer: &mut [u8], at: usize) {
        let old = !u16::from_be_bytes([buffer[at], buffer[at + 1]]);
        let new = !fold(u32::from(old) + self.0);
        buffer[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
}

/// Ones' complement sum of 16-bit words, folded to one. Nothing is complemented.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let total: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    total + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

pub(super) fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// What the headers say.
struct Layout {
    total: usize,
    transport_at: usize,
    transport: Transport,
    src: SocketAddr,
    dst: SocketAddr,
}

impl Layout {
    fn read(ip: &[u8]) -> Option<Self> {
        match ip.first()? >> 4 {
            4 => Self::read_v4(ip),
            6 => Self::read_v6(ip),
            _ => None,
        }
    }

    fn read_v4(ip: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = ip.first_chunk()?;
        let transport_at = usize::from(header[0] & 0x0f) * 4;
        let said = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if transport_at < 20 || said < transport_at || ip.len() < said {
            return None;
        }
        // More fragments, or an offset.
        let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        let src = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let dst = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let protocol = if is_fragment { None } else { Some(header[9]) };
        Some(Self::finish(
            &ip[..said],
            transport_at,
            protocol,
            src.into(),
            dst.into(),
        ))
    }

    fn read_v6(ip: &[u8]) -> Option<Self> {
        let header: &[u8; 40] = ip.first_chunk()?;
        let said = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if ip.len() < said {
            return None;
        }
        let src = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
        let dst = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
        Some(Self::finish(
            &ip[..said],
            40,
            Some(header[6]),
            src.into(),
            dst.into(),
        ))
    }

    fn finish(ip: &[u8], transport_at: usize, protocol: Option<u8>, src: IpAddr, dst: IpAddr) -> Self {
        let rest = &ip[transport_at..];
        let (transport, from, to) = ports(protocol, rest).unwrap_or((Transport::Opaque, 0, 0));
        Self {
            total: ip.len(),
            transport_at,
            transport,
            src: SocketAddr::new(src, from),
            dst: SocketAddr::new(dst, to),
        }
    }
}

/// Kind of transport and the two ports as a NAT counts them.
fn ports(protocol: Option<u8>, header: &[u8]) -> Option<(Transport, u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?]));
    match protocol? {
        UDP if header.len() >= 8 => Some((Transport::Ports(Proto::Udp), word(0)?, word(2)?)),
        TCP if header.len() >= 20 => {
            let data_at = usize::from(header[12] >> 4) * 4;
            (20..=header.len()).contains(&data_at).then_some((
                Transport::Ports(Proto::Tcp),
                word(0)?,
                word(2)?,
            ))
        }
        protocol @ (ICMP | ICMP6) if header.len() >= 8 => match (protocol, header[0]) {
            (ICMP, 8) | (ICMP6, 128) => Some((Transport::EchoRequest, word(4)?, 0)),
            (ICMP, 0) | (ICMP6, 129) => Some((Transport::EchoReply, 0, word(4)?)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Is every checksum of this IPv4 packet right, completing a partial one first?
    pub(in crate::fabric) fn checksums_hold(bytes: &[u8]) -> bool {
        let ip = &bytes[VNET_LEN..];
        let header = usize::from(ip[0] & 0x0f) * 4;
        let is_tcp = ip[9] == TCP;
        let at = header + if is_tcp { 16 } else { 6 };
        let pseudo = sum(&ip[12..20]) + u32::from(ip[9]) + u32::try_from(ip.len() - header).unwrap();
        let header_holds = fold(sum(&ip[..header])) == 0xffff;
        if bytes[0] & NEEDS_CSUM != 0 {
            return header_holds && fold(pseudo) == u16::from_be_bytes([ip[at], ip[at + 1]]);
        }
        header_holds && fold(pseudo + sum(&ip[header..])) == 0xffff
    }

    /// A UDP or TCP packet over IPv4, with virtio-net header and right checksums.
    pub(in crate::fabric) fn build(
        proto: Proto,
        src: &str,
        dst: &str,
        payload: &[u8],
        partial: bool,
    ) -> Vec<u8> {
        let (src, dst): (std::net::SocketAddrV4, std::net::SocketAddrV4) =
            (src.parse().unwrap(), dst.parse().unwrap());
        let (number, header, field) = if proto == Proto::Tcp {
            (TCP, 20, 16)
        } else {
            (UDP, 8, 6)
        };
        let transport_len = u16::try_from(header + payload.len()).unwrap();
        let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, number, 0, 0];
        ip[2..4].copy_from_slice(&(20 + transport_len).to_be_bytes());
        ip.extend(src.ip().octets());
        ip.extend(dst.ip().octets());
        let check = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        let mut transport = vec![0; header];
        transport[..2].copy_from_slice(&src.port().to_be_bytes());
        transport[2..4].copy_from_slice(&dst.port().to_be_bytes());
        if proto == Proto::Tcp {
            transport[12] = 5 << 4;
        } else {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
        }
        transport.extend(payload);
        let pseudo = sum(&ip[12..20]) + u32::from(number) + u32::from(transport_len);
        let check = if partial {
            fold(pseudo)
        } else {
            !fold(pseudo + sum(&transport))
        };
        transport[field..field + 2].copy_from_slice(&check.to_be_bytes());
        let mut bytes = vec![0; VNET_LEN];
        if partial {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&20u16.to_ne_bytes());
            bytes[8..10].copy_from_slice(&u16::try_from(field).unwrap().to_ne_bytes());
        }
        bytes.extend(ip);
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
