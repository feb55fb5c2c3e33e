//! Addresses, routes and settings inside the namespace of the calling thread, by netlink and `/proc/sys`: no program
//! is needed.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    let mut netlink = Netlink::open().map_err(|source| failure("netlink", source))?;
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
    for (ip, prefix) in routes {
        netlink.ask("route", route(device, ip, prefix))?;
    }
    Ok(())
}

/// Takes an address away from the interface.
pub(crate) fn remove_address(name: &str, ip: IpAddr, prefix: u8) -> Result<(), LabError> {
    let mut netlink = Netlink::open().map_err(|source| failure("netlink", source))?;
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

fn route(index: u32, ip: IpAddr, prefix: u8) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Oif(index)];
    if prefix > 0 {
        let destination = match ip {
            IpAddr::V4(ip) => RouteAddress::Inet(ip),
            IpAddr::V6(ip) => RouteAddress::Inet6(ip),
        };
        message.attributes.push(RouteAttribute::Destination(destination));
    }
    RouteNetlinkMessage::NewRoute(message)
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
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn ask(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<(), LabError> {
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
