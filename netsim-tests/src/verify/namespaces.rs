//! A [`Ground`] between network namespaces: real sockets on the hosts of a [`Lab`], in real time.
//!
//! A [`Yard`] is one lab in which several NATs are measured at the same time, each with hosts and ports of its own, so that the
//! waiting of all of them is done together.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::fabric::{HostHandle, HostSpec, Lab, LabBuilder, NatEngine};
use crate::nat::{Ipv6, NatSpec, PROXY, Side};
use crate::netns::LabError;

use super::facts::{Property, Said, Tcp};
use super::ground::{Arrival, Depth, Ground, GroundError, Handle, News, Place, Search, Stage};
use super::report::World;

/// Hosts behind each NAT: the subject and its neighbour.
const HOSTS: u8 = 2;

/// TCP ports of the server: the one that is open everywhere, and one that is not.
const WEB: u16 = 443;
const OTHER: u16 = 8_080;

/// A connection that takes longer does not come about. A thousand times what one takes in a lab at rest.
const CONNECTING: Duration = Duration::from_millis(1_000);

/// Longest datagram that is sent to anybody here: a STUN message.
const DATAGRAM_MAX: usize = 2_048;

/// Time to live of packets that are not to end on the way: what Linux sets.
const DEFAULT_TTL: u8 = 64;

/// Timers of NATs whose timers are measured with a clock on the wall. Whole seconds, as the kernel counts them, and no
/// multiples of the steps of [`Namespaces::timers`], so that a busy machine does not blur which step was the last.
const SHORT: Duration = Duration::from_secs(1);
const SHORT_STREAM: Duration = Duration::from_secs(2);

/// A lab with a server, a stranger, and the NATs to be measured.
#[derive(Debug)]
pub struct Yard {
    lab: Lab,
    sites: Vec<Side>,
    /// Bound and never accepted from: the kernel completes the handshakes.
    _listeners: Vec<TcpListener>,
}

/// The hosts behind one NAT of a [`Yard`], and the server and the stranger outside.
#[derive(Debug)]
pub struct Namespaces<'a> {
    lab: &'a Lab,
    site: usize,
    sockets: Vec<Option<UdpSocket>>,
    told: Vec<(Handle, Said)>,
    world: World,
}

impl Yard {
    /// Makes the lab: one site for each side, at most 80 of them.
    ///
    /// # Errors
    ///
    /// What the machine does not allow.
    pub fn build(sites: Vec<Side>, world: World) -> Result<Self, LabError> {
        let mut builder = played_by(world, Lab::builder())
            .host("srv", HostSpec::public(super::SERVERS))
            .host("str", HostSpec::public(super::STRANGERS))
            .host("proxy", HostSpec::public([PROXY.ip()]));
        for (number, side) in sites.iter().enumerate() {
            builder = add_site(builder, number, side);
        }
        let lab = builder.build()?;
        let server = |port| SocketAddr::new(super::SERVERS[0], port);
        let places = [("srv", server(WEB)), ("srv", server(OTHER)), ("proxy", PROXY)];
        let mut listeners = Vec::new();
        for (host, at) in places {
            let listener = lab.host(host)?.run(|| TcpListener::bind(at))?;
            listeners.push(listener.map_err(|source| LabError::Configure {
                what: format!("a TCP server at {at}"),
                source,
            })?);
        }
        Ok(Self {
            lab,
            sites,
            _listeners: listeners,
        })
    }

    /// How many sites it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Has it no site at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// The ground and the stage of a site.
    #[must_use]
    pub fn ground(&self, site: usize, world: World) -> (Namespaces<'_>, Stage) {
        self.ground_at(site, site, world)
    }

    /// The same with the observer at the ports of number `slot`, for a site that several measure at the same time.
    pub(super) fn ground_at(&self, site: usize, slot: usize, world: World) -> (Namespaces<'_>, Stage) {
        let side = &self.sites[site];
        let stage = Stage {
            servers: super::SERVERS.to_vec(),
            ports: ports(slot),
            strangers: super::STRANGERS.to_vec(),
            inside: (0..HOSTS).map(|host| addresses(site, side, host)).collect(),
            families: side.families,
            nat64: side.families.v6 && side.nats.iter().any(|nat| nat.ipv6 == Ipv6::Nat64),
        };
        let ground = Namespaces {
            lab: &self.lab,
            site,
            sockets: Vec::new(),
            told: Vec::new(),
            world,
        };
        (ground, stage)
    }
}

/// Who plays the NATs.
fn played_by(world: World, builder: LabBuilder) -> LabBuilder {
    match world {
        World::Sim | World::Netns => builder,
        World::Kernel => builder.engine(NatEngine::Kernel),
    }
}

fn add_site(mut builder: LabBuilder, number: usize, side: &Side) -> LabBuilder {
    let mut inner: Option<String> = None;
    for (level, spec) in side.nats.iter().enumerate().rev() {
        let name = format!("k{number}.{level}");
        builder = match &inner {
            None => builder.nat(&name, spec.clone()),
            Some(outer) => builder.nat_behind(&name, outer, spec.clone()),
        };
        inner = Some(name);
    }
    for host in 0..HOSTS {
        let mut own = addresses(number, side, host).into_iter();
        let spec = match (&inner, own.next()) {
            (Some(nat), Some(first)) => own.fold(HostSpec::lan(nat, first), HostSpec::and),
            (_, first) => HostSpec::public(first.into_iter().chain(own)),
        };
        builder = builder.host(&host_name(number, host.into()), spec);
    }
    builder
}

fn host_name(site: usize, host: usize) -> String {
    format!("k{site}.h{host}")
}

fn addresses(site: usize, side: &Side, host: u8) -> Vec<IpAddr> {
    let number = u8::try_from(site).unwrap_or(u8::MAX);
    let four = if side.nats.is_empty() {
        Ipv4Addr::new(5, 5, 8 + host, number)
    } else {
        Ipv4Addr::new(192, 168, 1, 10 + host)
    };
    let six = [0x2a01, 1, u16::from(number), 0, 0, 0, 0, 0x10 + u16::from(host)];
    let families = [
        (side.families.v4, IpAddr::from(four)),
        (side.families.v6, IpAddr::from(six)),
    ];
    let own = families.into_iter().filter(|(has, _)| *has);
    own.map(|(_, ip)| ip).collect()
}

/// Whoever measures has an observer of his own, at ports of its own.
fn ports(slot: usize) -> [u16; 2] {
    let first = super::PORTS[0].saturating_add(2 * u16::try_from(slot).unwrap_or(0));
    [first, first + 1]
}

/// The same side with timers that are over in a few seconds.
pub(super) fn shortened(side: &Side) -> Side {
    let shorten = |nat: &NatSpec| NatSpec {
        unreplied_timeout: SHORT,
        stream_timeout: if nat.stream_timeout > nat.unreplied_timeout {
            SHORT_STREAM
        } else {
            SHORT
        },
        ..nat.clone()
    };
    Side {
        nats: side.nats.iter().map(shorten).collect(),
        ..side.clone()
    }
}

impl<'a> Namespaces<'a> {
    /// What can be measured within seconds. The end of a table is looked for where it is near.
    #[must_use]
    pub fn behaviour(side: &Side) -> Depth {
        let near = |nat: &NatSpec| nat.table_size <= NEAR_TABLE;
        Depth {
            grace: GRACE,
            behaviour: true,
            lifetimes: None,
            absolute: None,
            bar: Some(Search {
                limit: Duration::from_millis(3_500),
                points: 5,
                rounds: 1,
            }),
            table: side.nats.iter().any(near).then_some(NEAR_TABLE + 64),
            recovery: None,
            clashes: 20,
        }
    }

    /// The timers, where none is longer than three seconds.
    #[must_use]
    pub fn timers() -> Depth {
        Depth {
            grace: GRACE,
            behaviour: false,
            lifetimes: Some(Search {
                limit: Duration::from_millis(3_450),
                points: 15,
                rounds: 1,
            }),
            absolute: None,
            bar: None,
            table: None,
            recovery: None,
            clashes: 0,
        }
    }

    /// The host that is measured.
    ///
    /// # Errors
    ///
    /// [`LabError::UnknownHost`] never: every site has it.
    pub(super) fn subject(&self) -> Result<HostHandle<'a>, LabError> {
        self.lab.host(&host_name(self.site, 0))
    }

    fn name(&self, place: Place) -> String {
        match place {
            Place::Server => "srv".to_owned(),
            Place::Stranger => "str".to_owned(),
            Place::Inside(host) => host_name(self.site, host),
        }
    }

    /// Reads one datagram, if there is one.
    fn read(&mut self, index: usize) -> Result<Option<News>, GroundError> {
        let Some(socket) = self.sockets.get(index).and_then(Option::as_ref) else {
            return Ok(None);
        };
        let mut buffer = [0; DATAGRAM_MAX];
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => Ok(Some(News::Arrived(Arrival {
                socket: Handle(index),
                from,
                bytes: buffer[..length].to_vec(),
            }))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => match said(&error) {
                Some(said) => Ok(Some(News::Told(Handle(index), said))),
                None => Err(failed("receive", error)),
            },
        }
    }
}

/// A packet crosses a lab at rest in a tenth of a millisecond; behind a fence only another processor can delay it.
const GRACE: Duration = Duration::from_millis(20);

/// Largest table that is filled: each mapping takes a socket.
const NEAR_TABLE: usize = 256;

impl Ground for Namespaces<'_> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn open(
        &mut self,
        place: Place,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Result<Handle, GroundError> {
        let name = self.name(place);
        let opened = self.lab.host(&name).and_then(|host| {
            host.run(|| {
                let socket = UdpSocket::bind(local)?;
                socket.set_nonblocking(true)?;
                peer.map_or(Ok(()), |peer| socket.connect(peer))?;
                Ok(socket)
            })
        });
        let what = || format!("open a socket at {local} of host {name}");
        let opened = opened.map_err(|error| failed(&what(), std::io::Error::other(error)))?;
        let socket = opened.map_err(|error| failed(&what(), error))?;
        self.sockets.push(Some(socket));
        Ok(Handle(self.sockets.len() - 1))
    }

    fn close(&mut self, socket: Handle) {
        if let Some(place) = self.sockets.get_mut(socket.0) {
            *place = None;
        }
    }

    fn local(&self, socket: Handle) -> SocketAddr {
        let socket = self.sockets.get(socket.0).and_then(Option::as_ref);
        let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        socket
            .and_then(|socket| socket.local_addr().ok())
            .unwrap_or(unknown)
    }

    fn send(
        &mut self,
        handle: Handle,
        to: SocketAddr,
        ttl: Option<u8>,
        bytes: &[u8],
    ) -> Result<(), GroundError> {
        let Some(socket) = self.sockets.get(handle.0).and_then(Option::as_ref) else {
            return Ok(());
        };
        let set = |ttl: u8| {
            if to.is_ipv4() {
                sockopt::set_ip_ttl(socket, ttl.into())
            } else {
                sockopt::set_ipv6_unicast_hops(socket, Some(ttl))
            }
        };
        let send = || match socket.peer_addr() {
            Ok(_) => socket.send(bytes),
            Err(_) => socket.send_to(bytes, to),
        };
        let limited = ttl.map_or(Ok(()), set);
        limited.map_err(|errno| failed("limit the life of a packet", errno.into()))?;
        let mut sent = send();
        // What was said of an earlier packet comes in the place of this one's fate, and this one was not sent.
        if let Err(error) = &sent
            && let Some(said) = said(error)
        {
            self.told.push((handle, said));
            sent = send();
        }
        if ttl.is_some() {
            set(DEFAULT_TTL).map_err(|errno| failed("limit the life of a packet", errno.into()))?;
        }
        match sent {
            Ok(_) => Ok(()),
            Err(error) => match said(&error) {
                Some(said) => {
                    self.told.push((handle, said));
                    Ok(())
                }
                None => Err(failed(&format!("send to {to}"), error)),
            },
        }
    }

    fn receive(&mut self, until: Instant) -> Result<Option<News>, GroundError> {
        if let Some((socket, said)) = self.told.pop() {
            return Ok(Some(News::Told(socket, said)));
        }
        loop {
            let open = |(index, socket): (usize, &Option<UdpSocket>)| socket.as_ref().map(|_| index);
            let indices: Vec<usize> = self.sockets.iter().enumerate().filter_map(open).collect();
            let sockets = self.sockets.iter().flatten();
            let mut polled: Vec<PollFd<'_>> = sockets
                .map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
                .collect();
            match poll(&mut polled, Some(&left(until))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("wait for packets", errno.into())),
            }
            let ready = |(index, poll): (&usize, &PollFd<'_>)| (!poll.revents().is_empty()).then_some(*index);
            let ready: Vec<usize> = indices.iter().zip(&polled).filter_map(ready).collect();
            for index in ready {
                if let Some(news) = self.read(index)? {
                    return Ok(Some(news));
                }
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    fn reboot(&mut self) -> Result<(), GroundError> {
        let host = host_name(self.site, 0);
        match self.lab.reboot_nat(&host) {
            Ok(()) | Err(LabError::NoNat(_)) => Ok(()),
            Err(error) => Err(failed("reboot the NAT", std::io::Error::other(error))),
        }
    }

    fn tcp(&mut self) -> Result<Option<Tcp>, GroundError> {
        let name = host_name(self.site, 0);
        let server = |port| SocketAddr::new(super::SERVERS[0], port);
        let connects = |to: SocketAddr| {
            let host = self.lab.host(&name)?;
            host.run(|| TcpStream::connect_timeout(&to, CONNECTING).is_ok())
        };
        let places = [server(WEB), server(OTHER), PROXY];
        let results = std::thread::scope(|scope| {
            let threads = places.map(|to| scope.spawn(move || connects(to)));
            threads.map(|thread| thread.join().unwrap_or(Ok(false)))
        });
        let mut open = [false; 3];
        for (open, result) in open.iter_mut().zip(results) {
            *open = result.map_err(|error| failed("try TCP", std::io::Error::other(error)))?;
        }
        Ok(Some(match open {
            [true, true, true] => Tcp::Open,
            [true, false, false] => Tcp::WebOnly,
            [false, false, true] => Tcp::ProxyOnly,
            _ => Tcp::Other,
        }))
    }

    fn lacks(&self, _property: Property) -> Option<&'static str> {
        match self.world {
            World::Sim | World::Netns | World::Kernel => None,
        }
    }
}

/// What the network said, if that is what the error is.
fn said(error: &std::io::Error) -> Option<Said> {
    match error.kind() {
        ErrorKind::ConnectionRefused => Some(Said::Refused),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied => {
            Some(Said::Prohibited)
        }
        _ => None,
    }
}

fn left(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}

fn failed(what: &str, source: std::io::Error) -> GroundError {
    GroundError {
        what: what.to_owned(),
        source,
    }
}
