//! A [`Ground`] in memory: bare hosts on the networks of [`crate::sim`], in virtual time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::link::LinkSpec;
use crate::nat::Side;
use crate::sim::{HostId, Plain, PlainNews, PlainSocket};

use super::facts::{Property, Said, Tcp};
use super::ground::{Arrival, Depth, Ground, GroundError, Handle, News, Place, Search, Stage};

/// Hosts inside. Enough that each of four addresses of a paired pool is somebody's in all but one of 2,500 worlds.
const HOSTS: u8 = 32;

/// Most mappings that are opened in search of the end of a table: more than any small table or block has.
const TABLE_MAX: usize = 1_000;

/// Longer than any timer of a NAT that is not without an end. Virtual seconds cost nothing.
const LONG: Duration = Duration::from_secs(400);

/// A bar is over before this.
const LONGEST_BAR: Duration = Duration::from_secs(20);

/// Hosts on networks in memory.
#[derive(Debug)]
pub struct Memory {
    plain: Plain,
    server: HostId,
    stranger: HostId,
    inside: Vec<HostId>,
    /// The socket's peer, if it was opened for one.
    sockets: Vec<(PlainSocket, Option<SocketAddr>)>,
}

impl Memory {
    /// The stage before hosts of this side.
    #[must_use]
    pub fn new(side: &Side, seed: u64) -> (Self, Stage) {
        let stage = stage(side);
        let mut plain = Plain::new(seed);
        let internet = plain.internet();
        let server = plain.add_host(internet, &stage.servers);
        let stranger = plain.add_host(internet, &stage.strangers);
        // Nothing takes time on the way, so that a timer is measured as exactly as it is kept.
        let site = plain.add_site(&side.nats, LinkSpec::default());
        let inside = stage
            .inside
            .iter()
            .map(|addresses| plain.add_host(site, addresses));
        let inside = inside.collect();
        let memory = Self {
            plain,
            server,
            stranger,
            inside,
            sockets: Vec::new(),
        };
        (memory, stage)
    }

    /// Everything, exactly.
    #[must_use]
    pub fn depth() -> Depth {
        Depth {
            grace: Duration::from_millis(1),
            behaviour: true,
            lifetimes: Some(Search {
                limit: LONG,
                points: 16,
                rounds: 5,
            }),
            absolute: Some(LONG),
            bar: Some(Search {
                limit: LONGEST_BAR,
                points: 16,
                rounds: 4,
            }),
            table: Some(TABLE_MAX),
            recovery: Some(LONG),
            clashes: 20,
        }
    }
}

/// Addresses as in the namespaces: globally scoped outside.
fn stage(side: &Side) -> Stage {
    let host = |number: u8| {
        let four = IpAddr::from([192, 168, 1, 10 + number]);
        let six = IpAddr::from([0x2a01, 1, 0, 0, 0, 0, 0, 0x10 + u16::from(number)]);
        // Without a NAT the address must be a public one.
        let four = if side.nats.is_empty() {
            IpAddr::from([5, 5, 8, 10 + number])
        } else {
            four
        };
        let families = [(side.families.v4, four), (side.families.v6, six)];
        let own = families.into_iter().filter(|(has, _)| *has);
        own.map(|(_, ip)| ip).collect()
    };
    Stage {
        servers: super::SERVERS.to_vec(),
        ports: super::PORTS,
        strangers: super::STRANGERS.to_vec(),
        inside: (0..HOSTS).map(host).collect(),
        families: side.families,
        nat64: side.families.v6 && side.nats.iter().any(|nat| nat.ipv6 == crate::nat::Ipv6::Nat64),
    }
}

impl Ground for Memory {
    fn now(&self) -> Instant {
        self.plain.instant()
    }

    fn open(
        &mut self,
        place: Place,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Result<Handle, GroundError> {
        let host = match place {
            Place::Server => Some(self.server),
            Place::Stranger => Some(self.stranger),
            Place::Inside(number) => self.inside.get(number).copied(),
        };
        let socket = host.and_then(|host| self.plain.open(host, local));
        let socket = socket.ok_or_else(|| GroundError {
            what: format!("open a socket at {local} of {place:?}"),
            source: std::io::ErrorKind::AddrInUse.into(),
        })?;
        self.sockets.push((socket, peer));
        Ok(Handle(self.sockets.len() - 1))
    }

    fn close(&mut self, socket: Handle) {
        if let Some((socket, _)) = self.sockets.get(socket.0) {
            self.plain.close(*socket);
        }
    }

    fn local(&self, socket: Handle) -> SocketAddr {
        self.plain.local(self.sockets[socket.0].0)
    }

    fn send(
        &mut self,
        socket: Handle,
        to: SocketAddr,
        ttl: Option<u8>,
        bytes: &[u8],
    ) -> Result<(), GroundError> {
        self.plain.send(self.sockets[socket.0].0, to, ttl, bytes.to_vec());
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> Result<Option<News>, GroundError> {
        while let Some(news) = self.plain.next(until) {
            let handle = |plain| self.sockets.iter().rposition(|(socket, _)| *socket == plain);
            match news {
                PlainNews::Arrived { socket, from, bytes } => {
                    if let Some(index) = handle(socket)
                        && self.sockets[index].1.is_none_or(|peer| peer == from)
                    {
                        let socket = Handle(index);
                        return Ok(Some(News::Arrived(Arrival { socket, from, bytes })));
                    }
                }
                PlainNews::Refused { socket, refusal } => {
                    if let Some(index) = handle(socket) {
                        return Ok(Some(News::Told(Handle(index), Said::from(refusal))));
                    }
                }
            }
        }
        Ok(None)
    }

    fn reboot(&mut self) -> Result<(), GroundError> {
        self.plain.reboot_nats();
        Ok(())
    }

    fn tcp(&mut self) -> Result<Option<Tcp>, GroundError> {
        Ok(None)
    }

    fn lacks(&self, property: Property) -> Option<&'static str> {
        match property {
            Property::Tcp => Some("the world in memory has UDP only"),
            Property::OutlivesIcmp => Some("the world in memory has no errors of routers and hosts"),
            _ => None,
        }
    }
}
