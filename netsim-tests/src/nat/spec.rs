//! [`NatSpec`]: what a NAT does, in the terms of RFC 4787. Plain data; [`NatBox`](super::NatBox) acts on it.
//!
//! Build one with struct update syntax (`NatSpec { mapping: .., ..NatSpec::default() }`), so that a field added
//! here does not break the descriptions that exist.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
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
    },
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

/// What becomes of an unsolicited inbound packet beyond not being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputPolicy {
    /// It leaves no trace.
    Drop,
    /// The box accepts it for itself and remembers the flow, as Linux does when its INPUT chain accepts. An outbound
    /// flow that later needs the same addresses and ports the other way round is given *another* external port, for
    /// as long as either side keeps sending (`reference/netsim.md` section 5: 30 of 30 trials).
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
    /// No UDP passes.
    Blocked,
}

impl UdpPolicy {
    /// May UDP be exchanged with `remote`?
    #[must_use]
    pub fn allows(&self, remote: IpAddr) -> bool {
        match self {
            Self::Open => true,
            Self::OnlyTo(allowed) => allowed.contains(&remote),
            Self::Blocked => false,
        }
    }
}

/// A NAT, described. The default is the common home router: EIM, APDF, port preserving, no hairpin, 30 s / 120 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSpec {
    /// Which outbound packets share an external endpoint. UDP only; TCP and ICMP echo are always EIM.
    pub mapping: Mapping,
    /// Which inbound packets pass. UDP only; TCP and ICMP echo are always APDF.
    pub filtering: Filtering,
    /// How external ports are chosen. UDP only; TCP and ICMP echo preserve.
    pub ports: PortAllocation,
    /// Packets from inside to the own external address.
    pub hairpin: Hairpin,
    /// Life of a UDP session in which packets have gone one way only, or both ways for under two seconds, after its
    /// last refresh. Linux: `nf_conntrack_udp_timeout`, 30 s.
    pub unreplied_timeout: Duration,
    /// Life of a UDP session with traffic both ways for over two seconds, after its last refresh. Linux:
    /// `nf_conntrack_udp_timeout_stream`, 120 s.
    pub stream_timeout: Duration,
    /// Do inbound packets refresh the timers? Outbound ones always do (RFC 4787 REQ-6).
    pub inbound_refresh: bool,
    /// Most sessions (and remembered unsolicited flows) at a time. A full table refuses new sessions; it never evicts
    /// live ones.
    pub table_size: usize,
    /// What unsolicited packets leave behind.
    pub input: InputPolicy,
    /// Whether UDP passes at all.
    pub udp: UdpPolicy,
}

impl Default for NatSpec {
    fn default() -> Self {
        Self {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
            ports: PortAllocation::Preserving,
            hairpin: Hairpin::Off,
            unreplied_timeout: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(120),
            inbound_refresh: true,
            table_size: 65_535,
            input: InputPolicy::Drop,
            udp: UdpPolicy::Open,
        }
    }
}

impl fmt::Display for NatSpec {
    /// One line in RFC 4787 terms: `EIM, APDF, port preserving, hairpin off, 30 s/120 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapping = match self.mapping {
            Mapping::EndpointIndependent => "EIM",
            Mapping::AddressDependent => "ADM",
            Mapping::AddressAndPortDependent => "APDM",
        };
        let filtering = match self.filtering {
            Filtering::EndpointIndependent => "EIF",
            Filtering::AddressDependent => "ADF",
            Filtering::AddressAndPortDependent => "APDF",
        };
        write!(f, "{mapping}, {filtering}, ")?;
        match self.ports {
            PortAllocation::Preserving => write!(f, "port preserving")?,
            PortAllocation::Random => write!(f, "random ports")?,
            PortAllocation::Counter { step } => write!(f, "ports counted by {}", step.max(1))?,
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
        if self.input == InputPolicy::AcceptConntrackClash {
            write!(f, ", unsolicited packets take the flow")?;
        }
        match &self.udp {
            UdpPolicy::Open => Ok(()),
            UdpPolicy::OnlyTo(_) => write!(f, ", UDP to listed addresses only"),
            UdpPolicy::Blocked => write!(f, ", UDP blocked"),
        }
    }
}
