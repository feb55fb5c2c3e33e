//! [`Ground`]: what measuring needs of a world: hosts with UDP sockets, and time that passes. It measures nothing.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::nat::{Families, NAT64_PREFIX};

use super::facts::{Path, Property, Said, Tcp};

/// A world to measure in. One thread drives it; time passes in [`Ground::receive`] alone.
pub trait Ground {
    /// Now.
    fn now(&self) -> Instant;

    /// A socket at this endpoint of a host; port 0: any that is free. With a `peer` it hears of nobody else, and learns
    /// what the network says of its datagrams.
    ///
    /// # Errors
    ///
    /// The host does not have the address, the port is in use, or the machine has no more sockets.
    fn open(&mut self, place: Place, local: SocketAddr, peer: Option<SocketAddr>) -> GroundResult<Handle>;

    /// Closes a socket.
    fn close(&mut self, socket: Handle);

    /// The endpoint that a socket has on its host.
    fn local(&self, socket: Handle) -> SocketAddr;

    /// Sends a datagram; `ttl` is for those that are to end on the way. What the network has against it comes as
    /// [`News::Told`].
    ///
    /// # Errors
    ///
    /// The machine, not the network, refused.
    fn send(&mut self, socket: Handle, to: SocketAddr, ttl: Option<u8>, bytes: &[u8]) -> GroundResult<()>;

    /// What happens next on any open socket; `None` when nothing does until `until`.
    ///
    /// # Errors
    ///
    /// The machine refused.
    fn receive(&mut self, until: Instant) -> GroundResult<Option<News>>;

    /// Lets the NATs forget everything, as a power cycle does.
    ///
    /// # Errors
    ///
    /// The machine refused.
    fn reboot(&mut self) -> GroundResult<()>;

    /// What becomes of TCP; `None` where this world has no TCP.
    ///
    /// # Errors
    ///
    /// The machine refused.
    fn tcp(&mut self) -> GroundResult<Option<Tcp>>;

    /// Why this world cannot show a property; `None` if it can.
    fn lacks(&self, property: Property) -> Option<&'static str>;
}

/// What a ground did, or why it could not.
pub type GroundResult<T> = Result<T, GroundError>;

/// A socket, numbered by its [`Ground`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub usize);

/// A host of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The observer with two addresses.
    Server,
    /// A public host that nobody has sent to.
    Stranger,
    /// The host behind the NAT that is measured, 0, and its neighbours, 1 and up.
    Inside(usize),
}

/// What happened on a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A datagram came.
    Arrived(Arrival),
    /// The network said that an earlier datagram did not pass.
    Told(Handle, Said),
}

/// A datagram that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where.
    pub socket: Handle,
    /// From whom.
    pub from: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// Why a world could not do what was asked of it; says nothing about the NAT.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what} ({source}): the machine may be short of sockets or memory, measure fewer kinds at a time"
)]
pub struct GroundError {
    /// What was asked.
    pub what: String,
    /// What the machine said.
    pub source: io::Error,
}

/// Who stands where: the addresses of an observer, a stranger, and hosts behind the NAT that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The observer's two addresses of each family.
    pub servers: Vec<IpAddr>,
    /// Its two ports.
    pub ports: [u16; 2],
    /// The stranger's address of each family.
    pub strangers: Vec<IpAddr>,
    /// Addresses of the hosts inside, at least two hosts.
    pub inside: Vec<Vec<IpAddr>>,
    /// Which families the hosts inside have.
    pub families: Families,
    /// Do they reach IPv4 by a translator?
    pub nat64: bool,
}

/// The stage as one way of reaching the internet shows it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) path: Path,
    /// First address first port, first address second port, second address first port, both second.
    pub(super) servers: [SocketAddr; 4],
    pub(super) stranger: IpAddr,
    inside: Vec<IpAddr>,
}

impl Stage {
    /// The views of the stage that there are.
    pub(super) fn views(&self) -> Vec<View> {
        let ways = [
            (Path::V4, self.families.v4),
            (Path::V6, self.families.v6),
            (Path::Nat64, self.nat64),
        ];
        let there = ways.into_iter().filter(|(_, there)| *there);
        there.filter_map(|(path, _)| self.view(path)).collect()
    }

    /// The same stage as many times as it has views, each showing one of them.
    pub(super) fn split(&self) -> Vec<Self> {
        let one = |view: View| Self {
            families: Families {
                v4: view.path == Path::V4,
                v6: view.path == Path::V6,
            },
            nat64: view.path == Path::Nat64,
            ..self.clone()
        };
        self.views().into_iter().map(one).collect()
    }

    fn view(&self, path: Path) -> Option<View> {
        let outside = |ip: &&IpAddr| ip.is_ipv4() == (path != Path::V6);
        let own = |ip: &&IpAddr| ip.is_ipv4() == (path == Path::V4);
        let mut servers = self.servers.iter().filter(outside);
        let (first, second) = (*servers.next()?, *servers.next()?);
        let [low, high] = self.ports;
        let places = [(first, low), (first, high), (second, low), (second, high)];
        let inside = self
            .inside
            .iter()
            .filter_map(|host| host.iter().find(own).copied());
        Some(View {
            path,
            servers: places.map(SocketAddr::from),
            stranger: *self.strangers.iter().find(outside)?,
            inside: inside.collect(),
        })
    }
}

impl View {
    /// How many hosts are inside.
    pub(super) fn hosts(&self) -> usize {
        self.inside.len()
    }

    /// Any port of the host inside with this number.
    pub(super) fn local(&self, host: usize) -> SocketAddr {
        let unknown = if self.path == Path::V4 {
            IpAddr::from([0; 4])
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        SocketAddr::new(self.inside.get(host).copied().unwrap_or(unknown), 0)
    }

    /// Where a host inside sends to in order to reach an endpoint outside.
    pub(super) fn toward(&self, outside: SocketAddr) -> SocketAddr {
        match (self.path, outside.ip()) {
            (Path::Nat64, IpAddr::V4(ip)) => {
                let [a, b, c, d] = ip.octets();
                let mut octets = NAT64_PREFIX.octets();
                octets[12..].copy_from_slice(&[a, b, c, d]);
                SocketAddr::new(Ipv6Addr::from(octets).into(), outside.port())
            }
            _ => outside,
        }
    }
}

/// How thoroughly to measure, as far as a world's time and sockets allow.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// How long a measurement waits for what may still come once it is certain that the packets around it came.
    pub grace: Duration,
    /// Measure everything that takes no longer than a few seconds.
    pub behaviour: bool,
    /// How long mappings live; `None`: not measured.
    pub lifetimes: Option<Search>,
    /// Follow a mapping that is used all the time for so long.
    pub absolute: Option<Duration>,
    /// How long a sender stays barred; `None`: whether, not how long.
    pub bar: Option<Search>,
    /// Most mappings to open in search of the end of the table.
    pub table: Option<usize>,
    /// How long to wait for a full table to have room again.
    pub recovery: Option<Duration>,
    /// How often to send an unsolicited packet before the own first one.
    pub clashes: usize,
}

/// How to look for the end of something.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Not beyond this.
    pub limit: Duration,
    /// Sockets that wait for different times, in one round.
    pub points: u32,
    /// Rounds, each inside the gap that the one before has left.
    pub rounds: u32,
}
