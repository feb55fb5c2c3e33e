//! The way of datagrams that are not QUIC from a socket to the driver.

use std::net::SocketAddr;
use std::sync::Arc;

use knothole_proto::path::SocketId;
use tokio::sync::mpsc;

use super::counters::Counters;

/// Longest datagram that is handed to the driver, in bytes: STUN answers and probes are far shorter.
const DATAGRAM_MAX: usize = 1500;

/// A datagram for the driver: STUN or a probe, from anyone.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) socket: SocketId,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// Hands datagrams over, and counts those that could not be. Nothing waits for the driver.
#[derive(Clone, Debug)]
pub(crate) struct ToDriver {
    channel: mpsc::Sender<Datagram>,
    counters: Arc<Counters>,
}

impl ToDriver {
    pub(crate) fn new(channel: mpsc::Sender<Datagram>, counters: Arc<Counters>) -> Self {
        Self { channel, counters }
    }

    /// A datagram of the right kind came; it is copied.
    pub(crate) fn offer(&self, socket: SocketId, from: SocketAddr, datagram: &[u8]) {
        if datagram.len() > DATAGRAM_MAX {
            return self.refuse();
        }
        let copy = Datagram {
            socket,
            from,
            bytes: datagram.to_vec(),
        };
        if self.channel.try_send(copy).is_err() {
            Counters::count(&self.counters.driver_full);
        }
    }

    /// A datagram came that nobody here can use.
    pub(crate) fn refuse(&self) {
        Counters::count(&self.counters.unknown);
    }
}
