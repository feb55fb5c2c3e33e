//! A pair of Ethernet devices between two namespaces: the plain cable of the kernel, which no lab model sees.

use std::os::fd::AsRawFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};

use super::error::LabError;
use super::interface::Netlink;
use super::namespace::Namespace;

/// Makes a device called `name` in each of the two namespaces; what goes into one comes out of the other. They are
/// down and have no addresses.
pub(crate) fn connect(a: &Namespace, b: &Namespace, name: &str) -> Result<(), LabError> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::NetNsFd(b.fd().as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    a.run(|| Netlink::open_here()?.ask("veth pair", RouteNetlinkMessage::NewLink(message)))?
}
