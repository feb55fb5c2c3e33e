//! [`NatSpec`]: what a NAT does, in the terms of RFC 4787. Plain data; [`NatBox`](super::NatBox) acts on it.
//!
//! Build one with struct update syntax (`NatSpec { mapping: .., ..NatSpec::default() }`), so that a field added
//! here does not break the descriptions that exist.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Which outbound packets of one inside endpoint share an external endpoint (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// One external endpoint for every destination (EIM).
    EndpointIndependent,
    /// One external endpoint for each destination address (ADM).
    AddressDependent,
    /// One external endpoint for each destination address and port (APDM, "symmetric").
    AddressAndPortDependent,
}

/// Which inbound packets a mapping lets in (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filtering {
    /// From anyone (EIF, "full cone").
    EndpointIndependent,
    /// From addresses that the inside endpoint has sent to (ADF).
    AddressDependent,
    /// From exactly the address and port that the inside endpoint has sent to (APDF).
    AddressAndPortDependent,
}

/// Whose outbound packets a filter remembers. It matters only where one inside endpoint has several mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterScope {
    /// Those of the mapping at which a packet arrives.
    Mapping,
    /// Those of the inside endpoint through any of its mappings, as RFC 4787 section 5 words it. Two NATs with
    /// address-and-port-dependent mapping and address-dependent filtering meet under this scope and not under the other.
    Endpoint,
}

/// How the port of a new mapping is chosen (RFC 4787 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortAllocation {
    /// The inside port where it is free, a random one otherwise; never two mappings on one port.
    Preserving,
    /// A random port from 1024..=65535.
    Random,
    /// The port of the mapping before, plus `step`; the first one is drawn from the seed.
    Counter {
        /// Distance between two ports in a row; 0 is treated as 1.
        step: u16,
        /// New mappings of other people behind the same box, a second; each moves the counter by a step at a random
        /// moment (Poisson).
        foreign: u32,
    },
    /// A random port inside the block that belongs to the inside address (RFC 7422 and what carriers do in practice).
    /// Blocks are aligned to their size; one subscriber gets one block, and the box has as many as fit.
    Block {
        /// Ports in a block; 0 is treated as 1.
        size: u16,
    },
    /// The inside port for the first mapping of an inside endpoint, then as [`PortAllocation::Counter`] without
    /// foreign traffic.
    PreserveThenCounter {
        /// Distance between two counted ports in a row; 0 is treated as 1.
        step: u16,
    },
}

/// Which of several external addresses a mapping gets (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// All mappings of an inside address have one external address.
    Paired,
    /// Each mapping has any of them.
    Arbitrary,
}

/// What happens to a packet from inside to the NAT's own external address (RFC 4787 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hairpin {
    /// It is dropped.
    Off,
    /// It is delivered with the sender's inside endpoint as source. Helps only receivers on the same LAN: a second
    /// NAT further in sees a source that nobody has sent to.
    Internal,
    /// It is delivered with the sender's external endpoint as source, as RFC 4787 REQ-9 asks.
    External,
}

/// How a box says no instead of saying nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// ICMP destination unreachable, communication administratively prohibited (RFC 1812 section 5.2.7.1).
    AdminProhibited,
    /// ICMP destination unreachable, port unreachable (RFC 792).
    PortUnreachable,
    /// TCP gets a reset (RFC 9293 section 3.10.7.1), anything else [`Refusal::PortUnreachable`].
    Reset,
}

/// What becomes of an unsolicited inbound packet beyond not being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputPolicy {
    /// It leaves no trace.
    Drop,
    /// The sender is told; nothing is remembered.
    Reject(Refusal),
    /// It leaves a trace: for so long nothing that the same remote endpoint sends to the same external endpoint passes,
    /// solicited or not.
    Blacklist {
        /// How long.
        life: Duration,
        /// Does every further packet of that remote endpoint begin the time anew?
        refreshed: bool,
    },
    /// The box accepts it for itself and remembers the flow, as Linux does when its INPUT chain accepts. An outbound
    /// flow that later needs the same addresses and ports the other way round is given *another* external port, for
    /// as long as either side keeps sending. The sender is told as by [`Refusal::Reset`].
    AcceptConntrackClash,
}

/// What the box does with UDP as such, before any translation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UdpPolicy {
    /// UDP passes.
    #[default]
    Open,
    /// UDP passes only to and from these addresses.
    OnlyTo(BTreeSet<IpAddr>),
    /// No UDP passes; `None`: nor does anything come back.
    Blocked(Option<Refusal>),
}

impl UdpPolicy {
    /// May UDP be exchanged with `remote`?
    #[must_use]
    pub fn allows(&self, remote: IpAddr) -> bool {
        match self {
            Self::Open => true,
            Self::OnlyTo(allowed) => allowed.contains(&remote),
            Self::Blocked(_) => false,
        }
    }

    /// How it tells a sender inside that a packet did not pass.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Open | Self::OnlyTo(_) => None,
            Self::Blocked(refusal) => *refusal,
        }
    }
}

/// What the box does with TCP as such. ICMP echo passes only where TCP is [`TcpPolicy::Open`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpPolicy {
    /// TCP passes.
    #[default]
    Open,
    /// TCP passes only to this port, whatever the address: 443 where only web pages are let through.
    OnlyPort(u16),
    /// TCP passes only to this endpoint: the HTTP proxy of a network that lets nothing else out.
    OnlyTo(SocketAddr),
}

impl TcpPolicy {
    /// May TCP be exchanged with `remote`?
    #[must_use]
    pub fn allows(&self, remote: SocketAddr) -> bool {
        match self {
            Self::Open => true,
            Self::OnlyPort(port) => *port == remote.port(),
            Self::OnlyTo(proxy) => *proxy == remote,
        }
    }
}

/// What the box does with IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ipv6 {
    /// It passes untranslated through a stateful firewall whose filter is [`NatSpec::filtering`] (RFC 6092).
    #[default]
    Firewall,
    /// It passes untranslated and unfiltered.
    Open,
    /// Packets to [`NAT64_PREFIX`] become IPv4 and are mapped and filtered as such (RFC 6146, RFC 7915); others pass as
    /// under [`Ipv6::Firewall`].
    Nat64,
}

/// Under which IPv6-only hosts find the IPv4 internet behind [`Ipv6::Nat64`]: the well-known prefix of RFC 6052 section
/// 2.1, 96 bits.
pub const NAT64_PREFIX: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// A NAT, described. The default is the common home router: EIM, APDF, port preserving, no hairpin, 30 s / 120 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSpec {
    /// Which outbound packets share an external endpoint. UDP only; TCP and ICMP echo are always EIM.
    pub mapping: Mapping,
    /// Which inbound packets pass. UDP only; TCP and ICMP echo are always APDF.
    pub filtering: Filtering,
    /// Whose outbound packets the filter remembers.
    pub filter_scope: FilterScope,
    /// How external ports are chosen. UDP only; TCP and ICMP echo preserve.
    pub ports: PortAllocation,
    /// How many external addresses the box has, in a row from the first; 0 is treated as 1.
    pub addresses: u8,
    /// Which of them a mapping gets.
    pub pooling: Pooling,
    /// Packets from inside to the own external address.
    pub hairpin: Hairpin,
    /// Life of a UDP session in which packets have gone one way only, or both ways for under two seconds, after its
    /// last refresh. Linux: `nf_conntrack_udp_timeout`, 30 s.
    pub unreplied_timeout: Duration,
    /// Life of a UDP session with traffic both ways for over two seconds, after its last refresh. Linux:
    /// `nf_conntrack_udp_timeout_stream`, 120 s.
    pub stream_timeout: Duration,
    /// Life of a UDP session from its first packet on, whatever passes; `None`: without end.
    pub absolute_timeout: Option<Duration>,
    /// Do inbound packets refresh the timers? Outbound ones always do (RFC 4787 REQ-6).
    pub inbound_refresh: bool,
    /// Most sessions (and remembered unsolicited flows) at a time. A full table refuses new sessions; it never evicts
    /// live ones.
    pub table_size: usize,
    /// What unsolicited packets leave behind.
    pub input: InputPolicy,
    /// Whether UDP passes at all.
    pub udp: UdpPolicy,
    /// Whether TCP passes at all.
    pub tcp: TcpPolicy,
    /// What becomes of IPv6.
    pub ipv6: Ipv6,
}

impl Default for NatSpec {
    fn default() -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            filter_scope: FilterScope::Mapping,
            ports: PortAllocation::Preserving,
            addresses: 1,
            pooling: Pooling::Paired,
            hairpin: Hairpin::Off,
            unreplied_timeout: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(120),
            absolute_timeout: None,
            inbound_refresh: true,
            table_size: 65_535,
            input: InputPolicy::Drop,
            udp: UdpPolicy::Open,
            tcp: TcpPolicy::Open,
            ipv6: Ipv6::Firewall,
        }
    }
}

impl fmt::Display for NatSpec {
    /// One line in RFC 4787 terms: `EIM, APDF, port preserving, hairpin off, 30 s/120 s`. What is as in
    /// [`NatSpec::default`] beyond these is not said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.mapping, self.filtering)?;
        if self.filter_scope == FilterScope::Endpoint {
            write!(f, " by endpoint")?;
        }
        write!(f, ", {}", self.ports)?;
        if self.addresses > 1 {
            let pooling = match self.pooling {
                Pooling::Paired => "paired",
                Pooling::Arbitrary => "arbitrary",
            };
            write!(f, ", {} addresses {pooling}", self.addresses)?;
        }
        let hairpin = match self.hairpin {
            Hairpin::Off => "off",
            Hairpin::Internal => "internal source",
            Hairpin::External => "external source",
        };
        let (short, long) = (
            self.unreplied_timeout.as_secs_f32(),
            self.stream_timeout.as_secs_f32(),
        );
        write!(f, ", hairpin {hairpin}, {short} s/{long} s")?;
        if let Some(end) = self.absolute_timeout {
            write!(f, " and {} s at most", end.as_secs_f32())?;
        }
        if !self.inbound_refresh {
            write!(f, ", inbound does not refresh")?;
        }
        match self.input {
            InputPolicy::Drop => {}
            InputPolicy::Reject(refusal) => write!(f, ", unsolicited packets are refused ({refusal})")?,
            InputPolicy::Blacklist { life, .. } => {
                write!(
                    f,
                    ", unsolicited packets bar their sender for {} s",
                    life.as_secs_f32()
                )?;
            }
            InputPolicy::AcceptConntrackClash => write!(f, ", unsolicited packets take the flow")?,
        }
        match &self.udp {
            UdpPolicy::Open => {}
            UdpPolicy::OnlyTo(_) => write!(f, ", UDP to listed addresses only")?,
            UdpPolicy::Blocked(None) => write!(f, ", UDP blocked")?,
            UdpPolicy::Blocked(Some(refusal)) => write!(f, ", UDP blocked ({refusal})")?,
        }
        match self.tcp {
            TcpPolicy::Open => {}
            TcpPolicy::OnlyPort(port) => write!(f, ", TCP to port {port} only")?,
            TcpPolicy::OnlyTo(proxy) => write!(f, ", TCP to {proxy} only")?,
        }
        match self.ipv6 {
            Ipv6::Firewall => Ok(()),
            Ipv6::Open => write!(f, ", IPv6 unfiltered"),
            Ipv6::Nat64 => write!(f, ", NAT64"),
        }
    }
}

impl fmt::Display for Mapping {
    /// `EIM`, `ADM` or `APDM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointIndependent => "EIM",
            Self::AddressDependent => "ADM",
            Self::AddressAndPortDependent => "APDM",
        })
    }
}

impl fmt::Display for Filtering {
    /// `EIF`, `ADF` or `APDF`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointIndependent => "EIF",
            Self::AddressDependent => "ADF",
            Self::AddressAndPortDependent => "APDF",
        })
    }
}

impl fmt::Display for PortAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserving => write!(f, "port preserving"),
            Self::Random => write!(f, "random ports"),
            Self::Counter { step, foreign: 0 } => write!(f, "ports counted by {}", step.max(&1)),
            Self::Counter { step, foreign } => {
                write!(f, "ports counted by {}, {foreign} foreign flows/s", step.max(&1))
            }
            Self::Block { size } => write!(f, "random ports in a block of {}", size.max(&1)),
            Self::PreserveThenCounter { step } => {
                write!(
                    f,
                    "first port preserved, further ones counted by {}",
                    step.max(&1)
                )
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminProhibited => "ICMP prohibited",
            Self::PortUnreachable => "ICMP port unreachable",
            Self::Reset => "TCP reset",
        })
    }
}
