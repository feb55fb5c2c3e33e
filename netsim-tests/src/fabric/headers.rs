//! Reading headers: whose packet is it, where does its transport header begin, what can a NAT translate in it. Changes
//! nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::inet::{ICMP, ICMP6, TCP, UDP, V4_LEN, V6_LEN, be16};
use crate::nat::{Flow, Proto};

/// Bytes of the fixed part of an ICMP error before the packet that it quotes.
pub(super) const ICMP_HEADER: usize = 8;

/// The ICMP type of a redirect (RFC 792).
const REDIRECT: u8 = 5;

/// What stands where a NAT looks for ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Ports(Proto),
    EchoRequest,
    EchoReply,
    /// An ICMP error with as much of a packet in it as a NAT needs.
    Error(Quote),
    /// Fragments and other protocols: can be routed but not translated.
    Opaque,
}

/// The packet inside an ICMP error. Often only its beginning is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    /// Its addresses, as its sender wrote them or the last NAT.
    pub(super) flow: Flow,
    /// Where its transport header begins, from its own beginning on.
    pub(super) transport_at: usize,
    /// Where a NAT finds the ports, or the identifier, in the transport header.
    pub(super) ports: QuotedPorts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotedPorts {
    Both,
    EchoRequest,
    EchoReply,
}

/// What the headers of a packet say.
pub(super) struct Layout {
    pub(super) total: usize,
    pub(super) transport_at: usize,
    pub(super) transport: Transport,
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
}

impl Layout {
    /// `None` if it is no IP packet, or not all of it is there.
    pub(super) fn read(ip: &[u8]) -> Option<Self> {
        let header = Header::read(ip)?;
        if ip.len() < header.total {
            return None;
        }
        let ip = &ip[..header.total];
        let rest = &ip[header.length..];
        let (transport, from, to) = transport(header.protocol, rest).unwrap_or((Transport::Opaque, 0, 0));
        Some(Self {
            total: header.total,
            transport_at: header.length,
            transport,
            src: SocketAddr::new(header.src, from),
            dst: SocketAddr::new(header.dst, to),
        })
    }
}

/// An IP header.
struct Header {
    length: usize,
    /// With what follows, as it says itself.
    total: usize,
    /// `None` for a fragment.
    protocol: Option<u8>,
    src: IpAddr,
    dst: IpAddr,
}

impl Header {
    fn read(ip: &[u8]) -> Option<Self> {
        match ip.first()? >> 4 {
            4 => Self::read_v4(ip),
            6 => Self::read_v6(ip),
            _ => None,
        }
    }

    fn read_v4(ip: &[u8]) -> Option<Self> {
        let header: &[u8; V4_LEN] = ip.first_chunk()?;
        let length = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(be16(header, 2));
        // More fragments, or an offset.
        let is_fragment = be16(header, 6) & 0x3fff != 0;
        let src = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let dst = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        (length >= V4_LEN && total >= length && ip.len() >= length).then_some(Self {
            length,
            total,
            protocol: (!is_fragment).then_some(header[9]),
            src: src.into(),
            dst: dst.into(),
        })
    }

    /// Extension headers are not looked behind: what has them is opaque.
    fn read_v6(ip: &[u8]) -> Option<Self> {
        let header: &[u8; V6_LEN] = ip.first_chunk()?;
        let src = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
        let dst = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
        Some(Self {
            length: V6_LEN,
            total: V6_LEN + usize::from(be16(header, 4)),
            protocol: Some(header[6]),
            src: src.into(),
            dst: dst.into(),
        })
    }
}

/// Kind of transport and the two ports as a NAT counts them.
fn transport(protocol: Option<u8>, header: &[u8]) -> Option<(Transport, u16, u16)> {
    let protocol = protocol?;
    match protocol {
        UDP if header.len() >= 8 => {
            let ports = Transport::Ports(Proto::Udp);
            Some((ports, be16(header, 0), be16(header, 2)))
        }
        TCP if header.len() >= 20 => {
            let data_at = usize::from(header[12] >> 4) * 4;
            let ports = Transport::Ports(Proto::Tcp);
            (20..=header.len())
                .contains(&data_at)
                .then_some((ports, be16(header, 0), be16(header, 2)))
        }
        ICMP | ICMP6 if header.len() >= ICMP_HEADER => match echo(protocol, header[0]) {
            Some(QuotedPorts::EchoReply) => Some((Transport::EchoReply, 0, be16(header, 4))),
            Some(_) => Some((Transport::EchoRequest, be16(header, 4), 0)),
            // A redirect concerns a sender and its first router, never one beyond a NAT.
            None if is_error(protocol, header[0]) && (protocol, header[0]) != (ICMP, REDIRECT) => {
                let quote = Quote::read(protocol, &header[ICMP_HEADER..])?;
                Some((Transport::Error(quote), 0, 0))
            }
            None => None,
        },
        _ => None,
    }
}

impl Quote {
    /// What an error of the ICMP version `protocol` quotes.
    fn read(protocol: u8, inner: &[u8]) -> Option<Self> {
        let header = Header::read(inner)?;
        // An error is of the family of the packet that it is about.
        if header.src.is_ipv4() != (protocol == ICMP) {
            return None;
        }
        // RFC 792: the first 64 bits of the payload are always there.
        let rest = inner.get(header.length..).filter(|rest| rest.len() >= 8)?;
        let (proto, ports, from, to) = match header.protocol? {
            UDP => (Proto::Udp, QuotedPorts::Both, be16(rest, 0), be16(rest, 2)),
            TCP => (Proto::Tcp, QuotedPorts::Both, be16(rest, 0), be16(rest, 2)),
            protocol => match echo(protocol, rest[0])? {
                QuotedPorts::EchoReply => (Proto::Icmp, QuotedPorts::EchoReply, 0, be16(rest, 4)),
                ports => (Proto::Icmp, ports, be16(rest, 4), 0),
            },
        };
        Some(Self {
            flow: Flow {
                proto,
                src: SocketAddr::new(header.src, from),
                dst: SocketAddr::new(header.dst, to),
            },
            transport_at: header.length,
            ports,
        })
    }
}

/// Which half of an echo is it, if any?
fn echo(protocol: u8, kind: u8) -> Option<QuotedPorts> {
    match (protocol, kind) {
        (ICMP, 8) | (ICMP6, 128) => Some(QuotedPorts::EchoRequest),
        (ICMP, 0) | (ICMP6, 129) => Some(QuotedPorts::EchoReply),
        _ => None,
    }
}

/// Is a message of this type about a packet that did not get through? Unreachable, source quench, redirect, time
/// exceeded, parameter problem (RFC 792); anything below 128 (RFC 4443 section 2.1).
pub(super) fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        ICMP => matches!(kind, 3 | 4 | REDIRECT | 11 | 12),
        ICMP6 => kind < 128,
        _ => false,
    }
}
