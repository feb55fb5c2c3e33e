//! Is every NAT what it says? Measures it by RFC 5780 probes and more, and holds that against its description.
//!
//! One measuring code serves all worlds: it drives sockets of a [`Ground`], of which there are two, in memory with virtual
//! time ([`Memory`]) and between network namespaces ([`Namespaces`]). [`measure()`] does not know what it measures;
//! [`expected`] does not measure; [`Facts::disagreements`] compares. The stage is always the same: an observer with two
//! addresses and two ports, which is our own STUN server; a stranger; and at least two hosts behind the NAT.
//!
//! ```
//! use knothole_netsim::nat::kind;
//! use knothole_netsim::verify::{Path, Property, Value, verify_in_memory};
//!
//! let symmetric = kind("symmetric").unwrap();
//! let report = verify_in_memory(symmetric)?;
//! assert!(report.disagreements.is_empty());
//! let mapping = report.measured.get(Path::V4, Property::Mapping);
//! assert_eq!(mapping.unwrap().to_string(), "APDM");
//! # Ok::<(), knothole_netsim::verify::GroundError>(())
//! ```

#[cfg(target_os = "linux")]
mod batch;
mod bench;
#[cfg(target_os = "linux")]
mod coturn;
mod expect;
mod facts;
mod ground;
mod icmp;
mod lifetimes;
mod measure;
mod memory;
#[cfg(target_os = "linux")]
mod namespaces;
mod neighbours;
mod ports;
mod report;
mod table;
#[cfg(test)]
mod tests;
mod unsolicited;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(target_os = "linux")]
pub use batch::{VerifyError, verify_in_namespaces};
#[cfg(target_os = "linux")]
pub use coturn::has_coturn;
pub use expect::{expected, expected_of_kernel};
pub use facts::{
    Capacity, Disagreement, Facts, HairpinSeen, Life, Path, Ports, Property, Reach, Said, Tcp, Trace, Value,
};
pub use ground::{Arrival, Depth, Ground, GroundError, GroundResult, Handle, News, Place, Search, Stage};
pub use measure::measure;
pub use memory::Memory;
#[cfg(target_os = "linux")]
pub use namespaces::{Namespaces, Yard};
pub use report::{Report, Second, World, verify_in_memory};

/// The observer's two addresses of each family. Globally scoped, since real software refuses to use documentation ranges.
pub const SERVERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(5, 5, 5, 1)),
    IpAddr::V4(Ipv4Addr::new(5, 5, 5, 2)),
    IpAddr::V6(Ipv6Addr::new(0x2a01, 0x5, 0, 1, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2a01, 0x5, 0, 1, 0, 0, 0, 2)),
];

/// Its two ports: that of STUN (RFC 8489 section 18.6) and the next.
pub const PORTS: [u16; 2] = [3478, 3479];

/// The stranger's address of each family.
pub const STRANGERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(5, 5, 6, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2a01, 0x5, 0, 2, 0, 0, 0, 1)),
];
