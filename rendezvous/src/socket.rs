//! UDP sockets: how they are opened, and the one that quinn receives from.
//!
//! A [`Port`] stands between quinn and its socket. Datagrams that are not QUIC are taken out on the way and handled
//! at once by [`Datagrams`]; quinn sees the rest. Receiving never fails: an error of one datagram must not end a
//! server, so errors are counted and the next datagram is read.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

use crate::datagrams::{Datagrams, Outbox};

/// Bytes asked of the kernel for each direction of a socket: 40 ms at 1 Gbit/s, the longest that the receiving thread
/// should be away. The kernel grants at most net.core.rmem_max and wmem_max; less means drops under bursts.
pub(crate) const BUFFER: usize = 5 * 1024 * 1024;

/// Receive errors in a row before the socket waits to be polled anew, so that an error that stays cannot spin.
const ERRORS_IN_A_ROW: usize = 16;

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
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// What the kernel granted.
pub(crate) fn buffers(socket: &UdpSocket) -> Buffers {
    let socket = socket2::SockRef::from(socket);
    Buffers {
        receive: socket.recv_buffer_size().unwrap_or(0),
        send: socket.send_buffer_size().unwrap_or(0),
    }
}

/// The socket of one QUIC endpoint.
#[derive(Debug)]
pub(crate) struct Port {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Its number in [`Datagrams`].
    number: usize,
    datagrams: Arc<Datagrams>,
    /// Never contended: one task receives.
    outbox: Mutex<Outbox>,
}

impl Port {
    /// Socket `number` of `datagrams`.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, number: usize, datagrams: Arc<Datagrams>) -> Self {
        Self {
            inner,
            number,
            datagrams,
            outbox: Mutex::default(),
        }
    }

    /// Receive and answer until the socket has nothing more, for a socket that speaks no QUIC. Never ends.
    pub(crate) async fn serve_alone(self) {
        let mut storage: Vec<Vec<u8>> = (0..ALONE_BUFFERS).map(|_| vec![0; ALONE_BUFFER_LEN]).collect();
        loop {
            let mut buffers: Vec<IoSliceMut<'_>> = storage.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            let mut metas = [RecvMeta::default(); ALONE_BUFFERS];
            // QUIC is not spoken here, so whatever is left in the buffers is dropped with them.
            let received = std::future::poll_fn(|cx| self.poll_recv(cx, &mut buffers, &mut metas)).await;
            if received.is_err() {
                self.datagrams.counters.receive_errors.add(1);
            }
            tokio::task::consume_budget().await;
        }
    }
}

/// Buffers of a socket without QUIC. It gets a few questions at a time.
const ALONE_BUFFERS: usize = 4;
/// Bytes of each: the largest batch that the kernel coalesces.
const ALONE_BUFFER_LEN: usize = 65_535;

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..ERRORS_IN_A_ROW {
            match self.inner.poll_recv(cx, buffers, metas) {
                Poll::Ready(Ok(count)) => {
                    let (buffers, metas) = (buffers.get_mut(..count), metas.get_mut(..count));
                    let mut outbox = self.outbox.lock().unwrap_or_else(PoisonError::into_inner);
                    // Sets each `meta.len` to what is left for QUIC. With 0 quinn goes on to the next one, and its own
                    // limit on work per turn holds for all kinds of datagrams.
                    self.datagrams.sort(
                        self.number,
                        buffers.unwrap_or_default(),
                        metas.unwrap_or_default(),
                        &mut outbox,
                    );
                    return Poll::Ready(Ok(count));
                }
                Poll::Ready(Err(why)) => {
                    self.datagrams.counters.receive_errors.add(1);
                    debug!(%why, "receiving failed; going on");
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
