//! What a machine hands to its driver to be put on the network.

use std::net::SocketAddr;

use crate::path::SocketId;

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The socket to send it from.
    pub socket: SocketId,
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Time to live (hop limit); `None`: the socket's own.
    pub ttl: Option<u8>,
}
