//! A UDP socket under QUIC that does not take the refusal of one datagram for a want of the system.
//!
//! quinn-udp learns from refusals and never forgets; `knothole_proto::refusals` decides what of it is believed. To forget is to
//! begin with a fresh state on the same socket. The server has the same (`rendezvous/src/udp.rs`): what both
//! programs share knows no sockets.

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

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use quinn::udp::EcnCodepoint;

    use super::*;

    /// More datagrams than any kernel takes at once.
    const TOO_MANY: usize = 150;

    /// Longer than anything is learnt by heart without being believed.
    const PAUSE: Duration = Duration::from_millis(30);

    /// A socket, and where another one hears it.
    fn pair() -> (Arc<Udp>, Arc<Udp>, SocketAddr) {
        let bind = || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            Arc::new(Udp::new(socket).unwrap())
        };
        let (sender, receiver) = (bind(), bind());
        let to = receiver.local_addr().unwrap();
        (sender, receiver, to)
    }

    fn transmit(destination: SocketAddr, contents: &[u8], segment: usize) -> Transmit<'_> {
        Transmit {
            destination,
            ecn: Some(EcnCodepoint::Ect0),
            contents,
            segment_size: Some(segment),
            src_ip: None,
        }
    }

    /// The runtime may not know yet that a socket takes something.
    async fn send(socket: &Arc<Udp>, transmit: &Transmit<'_>) {
        while socket.try_send(transmit).is_err() {
            let mut poller = Arc::clone(socket).create_io_poller();
            std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx))
                .await
                .unwrap();
        }
    }

    /// So many bytes, and how each buffer of them was marked.
    async fn receive(socket: &Udp, bytes: usize) -> Vec<Option<EcnCodepoint>> {
        let (mut got, mut marks) = (0, Vec::new());
        let mut buffer = vec![0; 65_535];
        while got < bytes {
            let mut meta = [RecvMeta::default()];
            let next = std::future::poll_fn(|cx| {
                socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta)
            });
            let next = tokio::time::timeout(Duration::from_secs(10), next);
            next.await.expect("all of it arrives").unwrap();
            got += meta[0].len;
            marks.push(meta[0].ecn);
        }
        marks
    }

    #[tokio::test]
    async fn places_that_are_none_end_neither_batches_nor_marks() {
        let (sender, receiver, to) = pair();
        let segments = sender.max_transmit_segments();
        assert!(segments > 3, "the system segments");
        let contents = [7; 3_000];
        let nowhere = SocketAddr::new(to.ip(), 0);
        let from_many = Transmit {
            src_ip: Some(IpAddr::from([224, 0, 0, 1])),
            ..transmit(to, &contents, 1_000)
        };
        let refused = [
            transmit(nowhere, &contents[..10], 1_000),
            transmit(nowhere, &contents, 1_000),
            from_many,
        ];
        for refused in refused {
            send(&sender, &refused).await;
            assert_eq!(sender.state().max_gso_segments(), 1, "it is refused");
            for _ in 0..6 {
                send(&sender, &refused).await;
            }
            tokio::time::sleep(PAUSE).await;
            assert_eq!(sender.max_transmit_segments(), segments, "{refused:?}");
            send(&sender, &transmit(to, &contents, 1_000)).await;
            let marks = receive(&receiver, contents.len()).await;
            assert!(
                marks.iter().all(|mark| *mark == Some(EcnCodepoint::Ect0)),
                "{marks:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_refused_leaves_one_by_one_and_three_of_them_are_believed() {
        let (sender, receiver, to) = pair();
        let segments = sender.max_transmit_segments();
        let contents = [7; TOO_MANY];
        let (refused, good) = (transmit(to, &contents, 1), transmit(to, &contents[..20], 10));
        for _ in 0..3 {
            // One that leaves as it is says that batches are possible.
            for batch in [&refused, &refused, &good] {
                send(&sender, batch).await;
                receive(&receiver, batch.contents.len()).await;
                tokio::time::sleep(PAUSE).await;
                assert_eq!(sender.max_transmit_segments(), segments);
            }
        }
        for _ in 0..3 {
            send(&sender, &refused).await;
            receive(&receiver, TOO_MANY).await;
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(sender.max_transmit_segments(), 1);
    }
}
