//! What a NAT is asked ([`Flow`]) and what it answers ([`Verdict`]). Data only.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::spec::Refusal;

/// Transport protocols that a [`NatBox`](super::NatBox) follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// UDP, the one that all of [`NatSpec`](super::NatSpec) is about.
    Udp,
    /// TCP: endpoint-independent mapping, so that ordinary programs work.
    Tcp,
    /// ICMP echo: the identifier is the port of the inside end, the remote end's port is 0.
    Icmp,
}

/// The addresses of one packet as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Transport protocol.
    pub proto: Proto,
    /// Where it comes from.
    pub src: SocketAddr,
    /// Where it goes to.
    pub dst: SocketAddr,
}

impl Flow {
    /// A UDP packet from `src` to `dst`.
    #[must_use]
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            proto: Proto::Udp,
            src,
            dst,
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves on the other side with these addresses.
    Forward(Flow),
    /// It came from inside and goes back inside with these addresses.
    Hairpin(Flow),
    /// It ends here without a sign.
    Drop(DropReason),
    /// It ends here, and its sender is told.
    Reject(DropReason, Refusal),
}

/// Why a packet ended at a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Inbound to an external endpoint that nothing is mapped to.
    NoMapping,
    /// Inbound to a mapping whose filter does not know the sender.
    Filtered,
    /// Out of an inside endpoint to the own external address, hairpinning being off.
    HairpinOff,
    /// UDP that the box does not let pass.
    UdpBlocked,
    /// TCP or ICMP that the box does not let pass.
    TcpBlocked,
    /// Inbound from an endpoint that sent something unsolicited before ([`InputPolicy::Blacklist`]).
    ///
    /// [`InputPolicy::Blacklist`]: super::InputPolicy::Blacklist
    Barred,
    /// A new session while the table is full.
    TableFull,
    /// A new mapping while no external port is free.
    PortsExhausted,
}

impl DropReason {
    /// Every reason, in the order of [`DropReason::index`].
    pub const ALL: [Self; 8] = [
        Self::NoMapping,
        Self::Filtered,
        Self::HairpinOff,
        Self::UdpBlocked,
        Self::TcpBlocked,
        Self::Barred,
        Self::TableFull,
        Self::PortsExhausted,
    ];

    /// Position in [`DropReason::ALL`], to count by.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::NoMapping => 0,
            Self::Filtered => 1,
            Self::HairpinOff => 2,
            Self::UdpBlocked => 3,
            Self::TcpBlocked => 4,
            Self::Barred => 5,
            Self::TableFull => 6,
            Self::PortsExhausted => 7,
        }
    }

    /// Short name for tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMapping => "no-mapping",
            Self::Filtered => "filtered",
            Self::HairpinOff => "hairpin-off",
            Self::UdpBlocked => "udp-blocked",
            Self::TcpBlocked => "tcp-blocked",
            Self::Barred => "barred",
            Self::TableFull => "table-full",
            Self::PortsExhausted => "ports-exhausted",
        }
    }
}

/// Counters of one NAT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatStats {
    /// Sessions (inside endpoint, remote endpoint) alive when asked; expired ones may be counted until the next
    /// packet passes.
    pub sessions: usize,
    /// External endpoints in use.
    pub mappings: usize,
    /// Unsolicited flows remembered under [`InputPolicy::AcceptConntrackClash`](super::InputPolicy), or barred under
    /// [`InputPolicy::Blacklist`](super::InputPolicy).
    pub unsolicited: usize,
    /// Most sessions and remembered flows at one time since the start.
    pub peak_entries: usize,
    /// Sessions and remembered flows that were ever made.
    pub made: u64,
    /// Packets that ended here, by reason; reasons that never occurred are absent.
    pub drops: BTreeMap<DropReason, u64>,
}
