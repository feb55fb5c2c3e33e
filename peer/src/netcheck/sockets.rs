//! The fresh sockets of a run. Each has a task that puts what arrives into one queue; all end with this value.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use knothole_proto::path::SocketId;
use knothole_proto::transmit::Transmit;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longest datagram that is looked at, in bytes: a STUN message fits into one packet.
const DATAGRAM_MAX: usize = 1500;

/// Datagrams that may wait; the whole run expects fewer than 200 answers. More is somebody else's noise, and is lost.
const WAITING_MAX: usize = 256;

/// A datagram that arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) socket: SocketId,
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// All sockets of a run.
#[derive(Debug)]
pub(super) struct Sockets {
    open: BTreeMap<SocketId, Arc<UdpSocket>>,
    readers: JoinSet<()>,
    queue: mpsc::Sender<Arrived>,
    arrived: mpsc::Receiver<Arrived>,
}

impl Sockets {
    pub(super) fn new() -> Self {
        let (queue, arrived) = mpsc::channel(WAITING_MAX);
        Self {
            open: BTreeMap::new(),
            readers: JoinSet::new(),
            queue,
            arrived,
        }
    }

    /// A socket on a port of the system's choice; its own endpoint as a server at that address would see it without a NAT.
    pub(super) fn open(&mut self, number: SocketId, towards: SocketAddr) -> io::Result<SocketAddr> {
        let source = source_towards(towards)?;
        let socket = std::net::UdpSocket::bind(SocketAddr::new(unspecified(towards), 0))?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let local = SocketAddr::new(source, socket.local_addr()?.port());
        self.readers
            .spawn(read(number, Arc::clone(&socket), self.queue.clone()));
        self.open.insert(number, socket);
        Ok(local)
    }

    /// Send a datagram. What cannot be sent is lost, as UDP may.
    pub(super) async fn send(&self, transmit: &Transmit) {
        let Some(socket) = self.open.get(&transmit.socket) else {
            return;
        };
        let sent = match transmit.ttl {
            None => socket.send_to(&transmit.bytes, transmit.to).await.map(drop),
            Some(ttl) => send_with(socket, transmit, ttl).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a datagram could not be sent");
        }
    }

    /// The next datagram.
    pub(super) async fn next(&mut self) -> Option<Arrived> {
        self.arrived.recv().await
    }
}

/// Send one datagram with its own time to live. These sockets have one user, so nothing else leaves with it.
async fn send_with(socket: &UdpSocket, transmit: &Transmit, ttl: u8) -> io::Result<()> {
    let handle = SockRef::from(socket);
    if transmit.to.is_ipv4() {
        let before = handle.ttl_v4()?;
        handle.set_ttl_v4(ttl.into())?;
        let sent = socket.send_to(&transmit.bytes, transmit.to).await;
        handle.set_ttl_v4(before)?;
        sent.map(drop)
    } else {
        let before = handle.unicast_hops_v6()?;
        handle.set_unicast_hops_v6(ttl.into())?;
        let sent = socket.send_to(&transmit.bytes, transmit.to).await;
        handle.set_unicast_hops_v6(before)?;
        sent.map(drop)
    }
}

async fn read(number: SocketId, socket: Arc<UdpSocket>, queue: mpsc::Sender<Arrived>) {
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        // An error is that of one datagram: an earlier one was refused on its way.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            let _ = queue.try_send(Arrived {
                socket: number,
                from,
                bytes,
            });
        }
        tokio::task::consume_budget().await;
    }
}

/// Which address of this machine the system would send from to that one. Nothing is sent to find out.
pub(super) fn source_towards(to: SocketAddr) -> io::Result<IpAddr> {
    let probe = std::net::UdpSocket::bind(SocketAddr::new(unspecified(to), 0))?;
    probe.connect(to)?;
    Ok(probe.local_addr()?.ip())
}

fn unspecified(family_of: SocketAddr) -> IpAddr {
    if family_of.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}
