//! The fresh sockets of a run. Each has a task that puts what arrives into one queue; all end with this value.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use knothole_proto::path::SocketId;
use knothole_proto::transmit::Transmit;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::hops;

/// Longest datagram that is looked at, in bytes: a STUN message fits into one packet.
const DATAGRAM_MAX: usize = 1500;

/// Datagrams that may wait; the whole run expects fewer than 200 answers. More is somebody else's noise, and is lost.
const WAITING_MAX: usize = 256;

/// What came.
#[derive(Debug)]
pub(super) enum Arrived {
    /// A datagram.
    Datagram {
        socket: SocketId,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// The word of a router that a packet with this time to live ended at it.
    Hop { ttl: u8, router: IpAddr },
}

/// One of them.
#[derive(Debug)]
struct Open {
    io: UdpSocket,
    /// The time to live of what was last sent with one; 0: nothing was. A run uses one and the same for all that a socket
    /// sends with any.
    ttl: AtomicU8,
}

/// All sockets of a run.
#[derive(Debug)]
pub(super) struct Sockets {
    open: BTreeMap<SocketId, Arc<Open>>,
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
        let local = SocketAddr::new(source, socket.local_addr()?.port());
        let socket = Arc::new(Open {
            io: UdpSocket::from_std(socket)?,
            ttl: AtomicU8::new(0),
        });
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
            None => send(&socket.io, transmit).await,
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

/// What routers said of an earlier packet fails the next call, which then has not sent anything.
async fn send(socket: &UdpSocket, transmit: &Transmit) -> io::Result<()> {
    match socket.send_to(&transmit.bytes, transmit.to).await {
        Ok(_) => Ok(()),
        Err(_) => socket.send_to(&transmit.bytes, transmit.to).await.map(drop),
    }
}

/// Send one datagram with its own time to live, and hear where it ends. These sockets have one user, so nothing else leaves
/// with it.
async fn send_with(socket: &Open, transmit: &Transmit, ttl: u8) -> io::Result<()> {
    let handle = SockRef::from(&socket.io);
    if transmit.to.is_ipv4() {
        if socket.ttl.swap(ttl, Ordering::Relaxed) == 0 {
            hops::listen(&socket.io);
        }
        let before = handle.ttl_v4()?;
        handle.set_ttl_v4(ttl.into())?;
        let sent = send(&socket.io, transmit).await;
        handle.set_ttl_v4(before)?;
        sent
    } else {
        let before = handle.unicast_hops_v6()?;
        handle.set_unicast_hops_v6(ttl.into())?;
        let sent = send(&socket.io, transmit).await;
        handle.set_unicast_hops_v6(before)?;
        sent
    }
}

async fn read(number: SocketId, socket: Arc<Open>, queue: mpsc::Sender<Arrived>) {
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        let arrived = tokio::select! {
            received = socket.io.recv_from(&mut buffer) => received.ok().map(|(length, from)| Arrived::Datagram {
                socket: number,
                from,
                bytes: buffer.get(..length).unwrap_or_default().to_vec(),
            }),
            said = socket.io.async_io(Interest::ERROR, || hops::take(&socket.io)) => said.ok().flatten().map(|router| {
                Arrived::Hop { ttl: socket.ttl.load(Ordering::Relaxed), router }
            }),
        };
        // An error is that of one datagram: an earlier one was refused on its way.
        if let Some(arrived) = arrived {
            let _ = queue.try_send(arrived);
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
