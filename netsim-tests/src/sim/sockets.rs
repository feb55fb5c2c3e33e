//! The UDP sockets of a node: two main ones on a port of their own, and those that its connector has opened besides.
//!
//! A further socket gets a port as a system gives it: from the ephemeral range, in no order, and none again before all
//! others had their turn. It knows no network: where a socket is follows from the addresses that the node has at the
//! moment, as with sockets that are bound to all addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use knothole_proto::path::SocketId;
use knothole_proto::seed::Seed;

/// First port for a socket that asked for none: Linux's `ip_local_port_range` begins here.
const FIRST: u16 = 32_768;

/// How many of them there are: Linux's range ends at 60999.
const PORTS: u16 = 28_232;

/// Distance of two ports in a row: far enough that a NAT that keeps ports does not look like one that counts, and without a
/// common divisor with [`PORTS`], so that every port comes once before the first comes again.
const STRIDE: u16 = 10_459;

/// Where a node's main sockets are, at least one, and where its server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
    pub(super) server: SocketAddr,
    pub(super) server_v6: SocketAddr,
}

impl Addresses {
    /// The socket and the address of the server that control connection and relay use: IPv4 where the node has it.
    pub(super) fn control(&self) -> (SocketId, SocketAddr) {
        match self.v4 {
            Some(_) => (SocketId::V4, self.server),
            None => (SocketId::V6, self.server_v6),
        }
    }

    fn main(&self, v6: bool) -> Option<SocketAddr> {
        if v6 { self.v6 } else { self.v4 }
    }
}

/// What becomes of a datagram that is to leave from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// It leaves from this endpoint.
    From(SocketAddr),
    /// The socket could not be opened, so it vanishes.
    Nowhere,
    /// There is no such socket.
    NoSocket,
}

/// All sockets of one node.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) addresses: Addresses,
    /// Most that may be open beside the main ones.
    max: u16,
    open: BTreeMap<SocketId, Local>,
    by_local: BTreeMap<Local, SocketId>,
    refused: BTreeSet<SocketId>,
    next: u16,
    opened: u32,
}

/// A family and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Local {
    v6: bool,
    port: u16,
}

impl Sockets {
    pub(super) fn new(addresses: Addresses, max: u16, seed: &Seed) -> Self {
        let first = seed.rng().below(PORTS.into());
        Self {
            addresses,
            max,
            open: BTreeMap::new(),
            by_local: BTreeMap::new(),
            refused: BTreeSet::new(),
            next: u16::try_from(first).unwrap_or(0),
            opened: 0,
        }
    }

    /// Opens another one; `None`: too many are open, or the node has no address of that family. The answer is its own
    /// endpoint.
    pub(super) fn open(&mut self, socket: SocketId, v6: bool) -> Option<SocketAddr> {
        let taken = [SocketId::V4, SocketId::V6].contains(&socket) || self.open.contains_key(&socket);
        let main = self.addresses.main(v6);
        let main = main.filter(|_| !taken && self.open.len() < usize::from(self.max));
        let Some(main) = main else {
            self.refused.insert(socket);
            return None;
        };
        let local = Local {
            v6,
            port: self.free_port(v6, main.port()),
        };
        self.refused.remove(&socket);
        self.open.insert(socket, local);
        self.by_local.insert(local, socket);
        self.opened += 1;
        Some(SocketAddr::new(main.ip(), local.port))
    }

    pub(super) fn close(&mut self, socket: SocketId) {
        self.refused.remove(&socket);
        if let Some(local) = self.open.remove(&socket) {
            self.by_local.remove(&local);
        }
    }

    /// From where does a datagram of this socket leave?
    pub(super) fn leaves(&self, socket: SocketId) -> Leaves {
        let at = match socket {
            SocketId::V4 => self.addresses.v4,
            SocketId::V6 => self.addresses.v6,
            _ => match self.open.get(&socket) {
                Some(local) => {
                    // Without an address of its family a socket sends nothing, as after a move to another network.
                    let main = self.addresses.main(local.v6);
                    return main.map_or(Leaves::Nowhere, |main| {
                        Leaves::From(SocketAddr::new(main.ip(), local.port))
                    });
                }
                None if self.refused.contains(&socket) => return Leaves::Nowhere,
                None => None,
            },
        };
        at.map_or(Leaves::NoSocket, Leaves::From)
    }

    /// The socket at this endpoint.
    pub(super) fn at(&self, at: SocketAddr) -> Option<SocketId> {
        let main = self.addresses.main(at.is_ipv6())?;
        if at == main {
            return Some(if at.is_ipv6() { SocketId::V6 } else { SocketId::V4 });
        }
        let local = Local {
            v6: at.is_ipv6(),
            port: at.port(),
        };
        let socket = self.by_local.get(&local).copied();
        socket.filter(|_| at.ip() == main.ip())
    }

    /// How many were opened so far, beside the main ones.
    pub(super) fn opened(&self) -> u32 {
        self.opened
    }

    /// Entries in its tables.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.refused.len()
    }

    fn free_port(&mut self, v6: bool, main: u16) -> u16 {
        // Fewer sockets than ports: one is free.
        loop {
            let port = FIRST + self.next;
            let next = (u32::from(self.next) + u32::from(STRIDE)) % u32::from(PORTS);
            self.next = u16::try_from(next).unwrap_or(0);
            if port != main && !self.by_local.contains_key(&Local { v6, port }) {
                return port;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(max: u16) -> Sockets {
        let addresses = Addresses {
            v4: Some("192.168.1.10:40000".parse().unwrap()),
            v6: None,
            server: "203.0.113.1:5668".parse().unwrap(),
            server_v6: "[2001:db8::1]:5668".parse().unwrap(),
        };
        Sockets::new(addresses, max, &Seed::from_number(1))
    }

    #[test]
    fn every_port_comes_once_before_the_first_comes_again() {
        let mut sockets = sockets(1);
        let mut seen = BTreeSet::new();
        for _ in 0..PORTS - 1 {
            let at = sockets.open(SocketId(7), false).unwrap();
            assert!(at.port() != 40_000 && seen.insert(at.port()), "{at}");
            sockets.close(SocketId(7));
        }
        let again = sockets.open(SocketId(7), false).unwrap();
        assert!(seen.contains(&again.port()));
    }

    #[test]
    fn a_socket_is_found_at_its_port_until_it_is_closed() {
        let mut sockets = sockets(9);
        let at = sockets.open(SocketId(5), false).unwrap();
        assert_eq!(sockets.at(at), Some(SocketId(5)));
        assert_eq!(sockets.leaves(SocketId(5)), Leaves::From(at));
        assert_eq!(
            sockets.at("192.168.1.10:40000".parse().unwrap()),
            Some(SocketId::V4)
        );
        sockets.close(SocketId(5));
        assert_eq!(sockets.at(at), None);
        assert_eq!(sockets.leaves(SocketId(5)), Leaves::NoSocket);
    }

    #[test]
    fn no_more_than_allowed_are_open_and_none_without_an_address() {
        let mut sockets = sockets(2);
        assert!(sockets.open(SocketId(5), false).is_some());
        assert!(sockets.open(SocketId(5), false).is_none(), "it is in use");
        assert!(sockets.open(SocketId(6), true).is_none(), "no IPv6 here");
        assert_eq!(sockets.leaves(SocketId(6)), Leaves::Nowhere);
        assert!(sockets.open(SocketId(7), false).is_some());
        assert!(sockets.open(SocketId(8), false).is_none());
        sockets.close(SocketId(7));
        assert!(sockets.open(SocketId(8), false).is_some());
        assert_eq!(sockets.opened(), 3);
    }
}
