//! What goes into a fingerprinting run and what comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::facts::{Allocation, Fact, Filtering, Fingerprint, Hairpin, Mapping};
use crate::path::SocketId;
use crate::transmit::Transmit;

/// What a run is told at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FingerprintConfig {
    /// The server's IPv4 address; `None` if it has none or this machine cannot ask it.
    pub server_v4: Option<SocketAddr>,
    /// The server's IPv6 address, likewise. For an IPv4 server behind a translator see [`FingerprintConfig::nat64`].
    pub server_v6: Option<SocketAddr>,
    /// `server_v4`'s address inside the network's NAT64 prefix (RFC 6052), for a machine without an IPv4 address.
    pub nat64: Option<SocketAddr>,
    /// Addresses of this machine's interfaces.
    pub local: Vec<IpAddr>,
    /// All places of the server, where they are known for sure. Then what its answers name is not heeded: STUN answers are not
    /// authenticated, and somebody on the way could have the questions sent anywhere.
    pub others: Option<Vec<SocketAddr>>,
}

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The socket of an [`Output::Open`] is there.
    Opened {
        /// Which.
        socket: SocketId,
        /// Its own address as the server's family would see it without any NAT: the source that the system would choose,
        /// and the socket's port.
        local: SocketAddr,
    },
    /// It could not be opened.
    NotOpened {
        /// Which.
        socket: SocketId,
    },
    /// A datagram arrived, from anyone.
    Datagram {
        /// The socket it came in on.
        socket: SocketId,
        /// Its source.
        from: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A router says that a packet of this time to live ended there (ICMP time exceeded).
    Hop {
        /// The time to live with which it was sent.
        ttl: u8,
        /// The router.
        router: IpAddr,
    },
    /// The deadline of the last [`Output::Wait`] has come.
    Timeout,
}

/// What is to be done, or what is known now.
#[derive(Debug)]
pub enum Output {
    /// Open a UDP socket on a port that the system chooses, and answer with [`Input::Opened`] or [`Input::NotOpened`].
    Open {
        /// Its number from now on.
        socket: SocketId,
        /// For which destination, whose family it must have.
        towards: SocketAddr,
    },
    /// Send this datagram.
    Transmit(Transmit),
    /// A fact that is known now and will be in the result.
    Learnt(Learnt),
    /// Everything that could be learnt; the sockets can be closed. Comes once, and nothing after it.
    Done(Box<Fingerprint>),
    /// Nothing more to do until an input comes, or until this moment (then feed [`Input::Timeout`]). `None` after the end.
    Wait(Option<Instant>),
}

/// A fact as soon as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// Where the server sees this machine; after one round trip.
    Address {
        /// The endpoint of this machine that asked.
        local: SocketAddr,
        /// Where the server saw it.
        reflexive: SocketAddr,
    },
    /// No answer within a second.
    UdpBlocked,
    /// IPv4: which destinations see the same endpoint.
    Mapping(Fact<Mapping>),
    /// IPv4, where one port is kept for all: does another port of an address that was sent to pass? As far as one question can tell;
    /// [`Learnt::Filtering`] follows. Said again if an answer comes late.
    OtherPort {
        /// It does.
        passes: bool,
    },
    /// IPv4: who may send to it.
    Filtering(Fact<Filtering>),
    /// IPv4: ports are counted, as far as one burst can tell; [`Learnt::Ports`] follows.
    Counted {
        /// Distance of two ports in a row.
        step: i32,
    },
    /// IPv4: how ports are chosen.
    Ports(Fact<Allocation>),
    /// IPv4: packets to the own external address.
    Hairpin(Fact<Hairpin>),
}
