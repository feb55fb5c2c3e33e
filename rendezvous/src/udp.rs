//! A UDP socket under QUIC that does not take the refusal of one datagram for a want of the system.
//!
//! quinn-udp learns from refusals and never forgets; `knothole_proto::refusals` decides what of it is believed. To forget is to
//! begin with a fresh state on the same socket. A node has the same (`peer/src/net/udp.rs`, with the tests):
//! what both programs share knows no sockets.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use knothole_proto::refusals::Refusals;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// One socket.
#[derive(Debug)]
pub(crate) struct Udp {
    io: UdpSocket,
    state: RwLock<UdpSocketState>,
    /// Datagrams of a batch, as the system had it at first.
    segments: usize,
    refusals: Mutex<Refusals>,
    /// The refusals are looked at only then.
    is_doubted: AtomicBool,
}

impl Udp {
    /// A socket that is bound and does not block. Needs a runtime.
    ///
    /// # Errors
    /// Of the system.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            segments: state.max_gso_segments(),
            state: RwLock::new(state),
            refusals: Mutex::default(),
            is_doubted: AtomicBool::new(false),
        })
    }

    fn state(&self) -> RwLockReadGuard<'_, UdpSocketState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state().try_send((&self.io).into(), transmit);
        self.io.try_io(Interest::WRITABLE, send)
    }

    /// This was refused: does it say anything of the socket?
    fn examine(&self, transmit: &Transmit<'_>, why: &io::Error) {
        let has_learnt =
            why.kind() == io::ErrorKind::InvalidInput || self.state().max_gso_segments() < self.segments;
        if has_learnt {
            let left_singly = is_batch(transmit) && self.leaves_singly(transmit);
            self.judge(|refusals| refusals.handle_refusal(left_singly, Instant::now()));
        }
    }

    /// Send the datagrams of a batch one by one; what finds the socket full is lost.
    fn leaves_singly(&self, batch: &Transmit<'_>) -> bool {
        let size = batch.segment_size.unwrap_or(batch.contents.len());
        let mut some_left = false;
        for contents in batch.contents.chunks(size.max(1)) {
            let single = Transmit {
                destination: batch.destination,
                ecn: batch.ecn,
                contents,
                segment_size: None,
                src_ip: batch.src_ip,
            };
            match self.attempt(&single) {
                Ok(()) => some_left = true,
                // Full is not refused.
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        some_left
    }

    fn forget_if_due(&self) {
        let now = Instant::now();
        if !self.judge(|refusals| refusals.is_due(now)) {
            return;
        }
        match UdpSocketState::new((&self.io).into()) {
            // It has fewer where there was no descriptor left to ask the system with.
            Ok(fresh) if fresh.max_gso_segments() >= self.segments => {
                *self.state.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                self.judge(|refusals| refusals.handle_forgotten(now));
            }
            _ => self.judge(|refusals| refusals.handle_failure(now)),
        }
    }

    fn judge<T>(&self, decide: impl FnOnce(&mut Refusals) -> T) -> T {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let decided = decide(&mut refusals);
        self.is_doubted.store(!refusals.is_at_rest(), Ordering::Release);
        decided
    }
}

impl AsyncUdpSocket for Udp {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self,
            waiting: None,
        })
    }

    /// Send, or find the socket full. What the system refuses is lost, as UDP may.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let is_doubted = self.is_doubted.load(Ordering::Acquire);
        if is_doubted {
            self.forget_if_due();
        }
        match self.attempt(transmit) {
            Ok(()) if is_doubted && is_batch(transmit) => self.judge(Refusals::handle_batch),
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Err(why),
            Err(why) => {
                tracing::trace!(%why, "the system does not send this");
                self.examine(transmit, &why);
            }
        }
        Ok(())
    }

    /// Errors are those of datagrams that were sent; the next datagram is read.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let receive = || self.state().recv((&self.io).into(), bufs, metas);
            if let Ok(count) = self.io.try_io(Interest::READABLE, receive) {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        if self.is_doubted.load(Ordering::Acquire) {
            self.forget_if_due();
        }
        self.state().max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state().gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state().may_fragment()
    }
}

fn is_batch(transmit: &Transmit<'_>) -> bool {
    transmit
        .segment_size
        .is_some_and(|size| size < transmit.contents.len())
}

/// Tells when a socket takes more.
struct Writable {
    socket: Arc<Udp>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl std::fmt::Debug for Writable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nearly always; it costs no memory.
        if self.waiting.is_none() && self.socket.io.try_io(Interest::WRITABLE, || Ok(())).is_ok() {
            return Poll::Ready(Ok(()));
        }
        let this = &mut *self;
        let socket = &this.socket;
        let waiting = this.waiting.get_or_insert_with(|| -> Waiting {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.io.writable().await })
        });
        let result = waiting.as_mut().poll(cx);
        if result.is_ready() {
            this.waiting = None;
        }
        result
    }
}
