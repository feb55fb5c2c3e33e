//! IP headers as bytes: writing them, and the Internet checksum (RFC 1071). Reads nothing and decides nothing.

use std::net::IpAddr;

/// IP protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

/// Bytes of a header without options or extensions.
pub(crate) const V4_LEN: usize = 20;
pub(crate) const V6_LEN: usize = 40;

/// Don't fragment, among the flags of IPv4.
pub(crate) const DONT_FRAGMENT: u8 = 0x40;

/// An IP header to be written. Both addresses are of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpHeader {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// What follows.
    pub(crate) protocol: u8,
    /// Time to live or hop limit.
    pub(crate) ttl: u8,
    /// Type of service or traffic class.
    pub(crate) class: u8,
}

impl IpHeader {
    /// Bytes that it takes.
    pub(crate) fn len(&self) -> usize {
        if self.src.is_ipv4() { V4_LEN } else { V6_LEN }
    }

    /// Writes it to the beginning of `to`, for `payload` bytes behind it. An IPv4 packet must not be fragmented and needs
    /// no identification therefore (an atomic datagram, RFC 6864).
    pub(crate) fn write(&self, to: &mut [u8], payload: usize) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                to[..V4_LEN].fill(0);
                to[0] = 0x45;
                to[1] = self.class;
                to[2..4].copy_from_slice(&low16(V4_LEN + payload).to_be_bytes());
                to[6] = DONT_FRAGMENT;
                to[8] = self.ttl;
                to[9] = self.protocol;
                to[12..16].copy_from_slice(&src.octets());
                to[16..20].copy_from_slice(&dst.octets());
                let check = !fold(sum(&to[..V4_LEN]));
                to[10..12].copy_from_slice(&check.to_be_bytes());
            }
            (src, dst) => {
                to[..V6_LEN].fill(0);
                to[0] = 0x60 | self.class >> 4;
                to[1] = self.class << 4;
                to[4..6].copy_from_slice(&low16(payload).to_be_bytes());
                to[6] = self.protocol;
                to[7] = self.ttl;
                to[8..24].copy_from_slice(&octets6(src));
                to[24..40].copy_from_slice(&octets6(dst));
            }
        }
    }

    /// The sum of the pseudo-header that the checksums of UDP, TCP and ICMPv6 cover, for `length` bytes of transport
    /// header and payload.
    pub(crate) fn pseudo(&self, length: usize) -> u32 {
        address_sum(self.src) + address_sum(self.dst) + u32::from(self.protocol) + u32::from(low16(length))
    }
}

/// Sum over the words of an address.
pub(crate) fn address_sum(ip: IpAddr) -> u32 {
    match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    }
}

/// Ones' complement sum of 16-bit words. Nothing is folded or complemented; 64 KiB do not overflow it.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let total: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    total + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// Brings a sum down to 16 bits.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = sum.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The 16 bits at `at`, in network order.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Writes 16 bits to `at`, in network order.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length that is below 65536 by the field that it was read from.
pub(crate) fn low16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn octets6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_written_as_the_rfcs_draw_them() {
        let header = IpHeader {
            src: "192.168.0.1".parse().unwrap(),
            dst: "192.168.0.199".parse().unwrap(),
            protocol: UDP,
            ttl: 64,
            class: 0,
        };
        let mut bytes = [0xff; 20];
        header.write(&mut bytes, 95);
        // The textbook example of a header checksum: b861.
        assert_eq!(
            bytes,
            [
                0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199
            ]
        );
        let header = IpHeader {
            src: "2a01:1::10".parse().unwrap(),
            dst: "2a01:2::20".parse().unwrap(),
            protocol: ICMP6,
            ttl: 255,
            class: 0xb8,
        };
        let mut bytes = [0xff; 40];
        header.write(&mut bytes, 8);
        assert_eq!(bytes[..8], [0x6b, 0x80, 0, 0, 0, 8, 58, 255]);
        assert_eq!(header.pseudo(8), 0x2a01 + 1 + 0x10 + 0x2a01 + 2 + 0x20 + 58 + 8);
    }
}
