//! UDP sockets: how they are opened, and what quinn takes for one.
//!
//! Workers read the sockets; quinn gets from them, through a [`Port`], what is QUIC.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

use crate::inbox::Inbox;
use crate::udp::Udp;

/// Bytes asked of the kernel for each direction of a socket: 40 ms at 1 Gbit/s, the longest that the receiving thread
/// should be away. The kernel grants at most net.core.rmem_max and wmem_max; less means drops under bursts.
pub(crate) const BUFFER: usize = 5 * 1024 * 1024;

/// Bytes that the kernel granted to a socket, as it accounts them (Linux doubles what was asked for).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    pub(crate) receive: usize,
    pub(crate) send: usize,
}

/// Open a UDP socket for its own family alone (an IPv6 socket takes no IPv4), with large buffers.
///
/// # Errors
/// What the system says: in use, not permitted, no such address, no such family.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = unbound(addr)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Open further sockets at the address of this one, until there are `count` in all; the kernel spreads what arrives over
/// them by the addresses and ports of both ends. The first one was opened alone, so another program at the same address
/// has been noticed before.
///
/// # Errors
/// What the system says. Where a system does not spread, there is the first alone.
#[cfg(target_os = "linux")]
pub(crate) fn multiply(first: UdpSocket, count: usize) -> io::Result<Vec<UdpSocket>> {
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    if count > 1 {
        for first in &sockets {
            socket2::SockRef::from(first).set_reuse_port(true)?;
        }
    }
    while sockets.len() < count {
        let socket = unbound(addr)?;
        socket.set_reuse_port(true)?;
        socket.bind(&addr.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// See above: elsewhere the option lets sockets share an address, but all datagrams go to one of them.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub(crate) fn multiply(first: UdpSocket, _: usize) -> io::Result<Vec<UdpSocket>> {
    Ok(vec![first])
}

fn unbound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    for result in [
        socket.set_recv_buffer_size(BUFFER),
        socket.set_send_buffer_size(BUFFER),
    ] {
        if let Err(why) = result {
            debug!(%addr, %why, "socket buffer stays at its default");
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What the kernel granted.
pub(crate) fn buffers(socket: &UdpSocket) -> Buffers {
    let socket = socket2::SockRef::from(socket);
    Buffers {
        receive: socket.recv_buffer_size().unwrap_or(0),
        send: socket.send_buffer_size().unwrap_or(0),
    }
}

/// What workers read and everybody sends through, from a bound socket. Needs a runtime.
///
/// # Errors
/// Of the system.
pub(crate) fn wrap(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    Ok(Arc::new(Udp::new(socket)?))
}

/// What a QUIC endpoint sends through and receives from: it sends through the first socket of its address, and gets what
/// the workers of all of them took out as QUIC. So a node whose packets come to another of the sockets, because its NAT
/// gave it a new port, stays with the endpoint that knows its connection.
#[derive(Debug)]
pub(crate) struct Port {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Never contended: one task receives.
    inbox: Mutex<Inbox>,
}

impl Port {
    /// The port of an endpoint at this address.
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, inbox: Inbox) -> Self {
        Self {
            socket,
            inbox: Mutex::new(inbox),
        }
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()) {
            match inbox.poll(cx, buffer) {
                Poll::Ready(received) => *meta = received,
                Poll::Pending => break,
            }
            count += 1;
        }
        // Receiving never fails: without workers nothing comes any more, and the server notices that they ended.
        if count == 0 {
            Poll::Pending
        } else {
            Poll::Ready(Ok(count))
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
