//! What a lab has counted. Data only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::link::LinkStats;
use crate::nat::NatStats;

use super::kernel_nat::NatEngine;

/// Why a packet ended outside of NATs and links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FabricDrop {
    /// No IP packet.
    Malformed,
    /// Its time to live ran out.
    TtlExpired,
    /// Nobody has that address: also multicast and broadcast.
    NoRoute,
    /// A fragment, an ICMP error or another protocol at a NAT.
    Untranslatable,
    /// More bytes in flight than the lab holds.
    Overflow,
    /// The receiver's kernel did not take it.
    NotTaken,
}

impl FabricDrop {
    /// Every reason, in the order of [`FabricDrop::index`].
    pub const ALL: [Self; 6] = [
        Self::Malformed,
        Self::TtlExpired,
        Self::NoRoute,
        Self::Untranslatable,
        Self::Overflow,
        Self::NotTaken,
    ];

    /// Position in [`FabricDrop::ALL`], to count by.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Malformed => 0,
            Self::TtlExpired => 1,
            Self::NoRoute => 2,
            Self::Untranslatable => 3,
            Self::Overflow => 4,
            Self::NotTaken => 5,
        }
    }
}

/// Everything that a lab counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabStats {
    /// Each NAT by name.
    pub nats: BTreeMap<String, NatReport>,
    /// Each host by name.
    pub hosts: BTreeMap<String, HostStats>,
    /// Each access link by the name of its NAT, or of its host if that is public.
    pub links: BTreeMap<String, LinkPairStats>,
    /// Packets that ended elsewhere; reasons that never occurred are absent.
    pub drops: BTreeMap<FabricDrop, u64>,
}

/// One NAT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatReport {
    /// Its address on the outside.
    pub external: Ipv4Addr,
    /// Who plays it.
    pub engine: NatEngine,
    /// Its tables and drops. Of a NAT that the kernel plays only `sessions`, the flows that connection tracking holds (of
    /// all protocols, and those of the router itself), and `peak_entries`, the most that any reading of these statistics
    /// has seen.
    pub stats: NatStats,
}

/// Traffic of one host, in packets as a wire would carry them and in bytes of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Packets from the host.
    pub sent_packets: u64,
    /// Bytes from the host.
    pub sent_bytes: u64,
    /// Packets to the host.
    pub received_packets: u64,
    /// Bytes to the host.
    pub received_bytes: u64,
}

/// Both directions of an access link. A super-packet that passed whole counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkPairStats {
    /// Towards the core.
    pub up: LinkStats,
    /// Towards the host.
    pub down: LinkStats,
}
