//! Where a node's sockets are bound.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

/// Local addresses of the two UDP sockets. A family that is `None`, or that this machine lacks, is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The IPv4 socket.
    pub v4: Option<SocketAddrV4>,
    /// The IPv6 socket.
    pub v6: Option<SocketAddrV6>,
}

impl Default for Bind {
    /// Both families, all interfaces, ports of the system's choice.
    fn default() -> Self {
        Self {
            v4: Some(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
            v6: Some(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)),
        }
    }
}
