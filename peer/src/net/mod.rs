//! Sockets, and what lies between them and QUIC: which datagram is whose, and where each goes out.
//!
//! Nothing is decided here. The driver writes into the path table what the connector decided; the socket obeys it.

mod bind;
mod bundle;
mod clock;
mod counters;
mod early;
mod inbound;
mod interfaces;
mod landing;
mod light;
mod limits;
mod outbound;
mod paths;
mod raw;
mod socket;
mod sockets;
mod to_driver;
mod udp;
mod writable;

pub use bind::Bind;
pub(crate) use clock::SuspendWatch;
pub(crate) use counters::Counters;
pub(crate) use interfaces::{default_gateway, host_candidates, own_addresses};
pub(crate) use landing::PAYLOAD_MAX;
pub(crate) use limits::sockets_max;
pub(crate) use outbound::{OutboundWatch, source};
pub(crate) use paths::{LinkPath, PathTable, Route, link_of};
pub(crate) use raw::bulk_socket;
pub(crate) use socket::PathSocket;
pub(crate) use sockets::Sockets;
pub(crate) use to_driver::Datagram;
