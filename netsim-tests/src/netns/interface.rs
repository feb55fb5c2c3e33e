//! Addresses, routes and settings inside the namespace of the calling thread, by netlink and `/proc/sys`: no program
//! is needed.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::LabError;

/// How long an IPv6 address may take until it receives, and how often to look. It is some milliseconds as a rule, and
/// more on a machine under load.
const SETTLING: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// One interface of a host or router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterfaceSpec<'a> {
    /// An existing device.
    pub(crate) name: &'a str,
    /// Addresses with their prefix lengths; the first of a family is the source of what the host sends.
    pub(crate) addresses: &'a [(IpAddr, u8)],
    /// What is routed through it.
    pub(crate) reach: Reach<'a>,
    /// Bytes of IP packet.
    pub(crate) mtu: u32,
    /// Packets that the device queues for its reader.
    pub(crate) queue: u32,
}

/// What an interface leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach<'a> {
    /// All destinations of the families that its addresses have.
    Everything,
    /// All IPv4 destinations, and the IPv6 ones too whatever its addresses.
    Both,
    /// These addresses.
    Only(&'a [IpAddr]),
}

impl Reach<'_> {
    /// The routes to make: destinations and the lengths of their prefixes.
    fn routes(self, addresses: &[(IpAddr, u8)]) -> Vec<(IpAddr, u8)> {
        let all_v4 = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let all_v6 = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
        let any = |is: fn(&IpAddr) -> bool| addresses.iter().any(|(ip, _)| is(ip));
        match self {
            Self::Everything => [(any(IpAddr::is_ipv4), all_v4), (any(IpAddr::is_ipv6), all_v6)]
                .into_iter()
                .filter_map(|(has, route)| has.then_some(route))
                .collect(),
            Self::Both => vec![all_v4, all_v6],
            Self::Only(ips) => ips.iter().map(|ip| (*ip, full_len(*ip))).collect(),
        }
    }
}

/// Prefix length of a single address.
pub(crate) fn full_len(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Brings up loopback and the interface, and routes through it what it leads to.
pub(crate) fn configure(spec: &InterfaceSpec<'_>) -> Result<(), LabError> {
    let routes = spec.reach.routes(spec.addresses);
    let has_v6 = spec.addresses.iter().chain(&routes).any(|(ip, _)| ip.is_ipv6());
    settings(spec.name, has_v6)?;
    let mut netlink = Netlink::open_here()?;
    let loopback = index_of("lo")?;
    let device = index_of(spec.name)?;
    netlink.ask("lo up", up(loopback, &[]))?;
    let attributes = [
        LinkAttribute::Mtu(spec.mtu),
        LinkAttribute::TxQueueLen(spec.queue),
    ];
    netlink.ask("interface up", up(device, &attributes))?;
    for (ip, prefix) in spec.addresses {
        netlink.ask("address", address(device, *ip, *prefix))?;
    }
    spec.addresses.iter().try_for_each(|(ip, _)| settled(*ip))?;
    // IPv4 prefers the first address anyway; IPv6 would take the one that looks most like the destination. The kernel
    // forgets the preference when the address is removed.
    let first_v6 = spec.addresses.iter().map(|(ip, _)| *ip).find(IpAddr::is_ipv6);
    for (ip, prefix) in routes {
        let preferred = first_v6.filter(|_| ip.is_ipv6() && prefix == 0);
        netlink.ask("route", route(device, ip, prefix, preferred))?;
    }
    Ok(())
}

/// Waits until the namespace takes packets to this address. Linux adds an IPv6 address at once and lets it receive some
/// moments later, from a work queue, even without duplicate address detection (seen on 6.18).
#[allow(
    clippy::disallowed_methods,
    reason = "the thread is the lab's own, and the kernel tells nobody"
)]
fn settled(ip: IpAddr) -> Result<(), LabError> {
    let IpAddr::V6(ip) = ip else {
        return Ok(());
    };
    // A route to the single address, in the form of that file.
    let route = format!("{:032x} 80 ", ip.to_bits());
    let deadline = Instant::now() + SETTLING;
    while Instant::now() < deadline {
        let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route");
        let routes = routes.map_err(|source| failure("ipv6_route", source))?;
        if routes.lines().any(|line| line.starts_with(&route)) {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
    Err(failure("address", io::ErrorKind::TimedOut.into()))
}

/// Gives the interface one more address, which receives when this returns. Routes through the interface that went with its
/// last address come back.
pub(crate) fn add_address(name: &str, ip: IpAddr, prefix: u8) -> Result<(), LabError> {
    let mut netlink = Netlink::open_here()?;
    let device = index_of(name)?;
    netlink.ask("address", address(device, ip, prefix))?;
    settled(ip)
}

/// Takes an address away from the interface.
pub(crate) fn remove_address(name: &str, ip: IpAddr, prefix: u8) -> Result<(), LabError> {
    let mut netlink = Netlink::open_here()?;
    let message = match address(index_of(name)?, ip, prefix) {
        RouteNetlinkMessage::NewAddress(message) => RouteNetlinkMessage::DelAddress(message),
        other => other,
    };
    netlink.ask("address", message)
}

/// Kernel settings of the namespace. IPv6 addresses must work at once (no duplicate address detection), and no address
/// must appear that the lab did not give.
fn settings(name: &str, has_v6: bool) -> Result<(), LabError> {
    if !fs::exists("/proc/sys/net/ipv6").unwrap_or(false) {
        return Ok(());
    }
    let conf = format!("net/ipv6/conf/{name}");
    sysctl(&format!("{conf}/disable_ipv6"), if has_v6 { "0" } else { "1" })?;
    sysctl(&format!("{conf}/accept_dad"), "0")?;
    sysctl(&format!("{conf}/accept_ra"), "0")?;
    sysctl(&format!("{conf}/addr_gen_mode"), "1")
}

/// `/proc/sys/net` shows the namespace of the thread that opens it.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<(), LabError> {
    fs::write(format!("/proc/sys/{name}"), value).map_err(|source| failure(name, source))
}

fn index_of(name: &str) -> Result<u32, LabError> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    );
    let index = socket.and_then(|socket| rustix::net::netdevice::name_to_index(socket, name));
    index.map_err(|source| failure(name, source.into()))
}

fn up(index: u32, attributes: &[LinkAttribute]) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes.to_vec();
    RouteNetlinkMessage::SetLink(message)
}

fn address(index: u32, ip: IpAddr, prefix: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    RouteNetlinkMessage::NewAddress(message)
}

fn route(index: u32, ip: IpAddr, prefix: u8, preferred: Option<IpAddr>) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    if prefix > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(ip)));
    }
    let source = preferred.map(|ip| RouteAttribute::PrefSource(route_address(ip)));
    message.attributes.extend(source);
    RouteNetlinkMessage::NewRoute(message)
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn failure(what: &str, source: io::Error) -> LabError {
    LabError::Configure {
        what: what.to_owned(),
        source,
    }
}

/// One request at a time, each with its acknowledgement.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// In the namespace of the calling thread.
    pub(super) fn open_here() -> Result<Self, LabError> {
        Self::open().map_err(|source| failure("netlink", source))
    }

    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(super) fn ask(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<(), LabError> {
        self.exchange(message).map_err(|source| failure(what, source))
    }

    fn exchange(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = match message {
            // The flags of creation mean other things in a deletion.
            RouteNetlinkMessage::SetLink(_) | RouteNetlinkMessage::DelAddress(_) => NLM_F_REQUEST | NLM_F_ACK,
            _ => NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        };
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (reply, _) = self.socket.recv_from_full()?;
        let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match reply.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            NetlinkPayload::Error(_) => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
