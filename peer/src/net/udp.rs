//! A UDP socket under QUIC that does not take the refusal of one datagram for a want of the system.
//!
//! quinn-udp learns from errors what a system lacks: after an `EINVAL` it sends without marks (ECN), and after that or an
//! `EIO` no batches, for as long as the socket lives. But the system says the same of places that are none (port 0, an
//! address of many as source, on older kernels any source that is not this machine's) and of a batch that a single route
//! cannot carry. So one datagram could slow down everybody for good. What was learnt is examined here:
//!
//! * A single datagram that is refused says nothing of batches, nor of marks: quinn-udp has tried it without one. Forgotten.
//! * A batch that is refused is sent once more, one by one. If that is refused as well, see above. If not, it may be the
//!   batch; three such in a row, with none in between that left as it was, are believed, and asked again after a minute.
//!
//! Other errors (`EACCES`, `ENETUNREACH`, `EMSGSIZE` and so on) are always about one datagram, which is lost.
//!
//! The server's sockets have the same (`rendezvous/src/udp.rs`): what both programs share knows no sockets.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::UdpPoller;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Batches in a row, to whomever, that were refused and then left one by one, until it is believed. Each costs a call more;
/// fewer would let a single odd destination speak for all.
const REFUSED_MAX: u32 = 3;

/// How long it is believed then. The way out may be another one by then, and asking again costs three calls.
const BELIEVED: Duration = Duration::from_secs(60);

/// Between two times that something learnt is forgotten, at the least: it takes some ten calls, and whoever causes refusals
/// could cause them at any rate.
const FORGET_INTERVAL: Duration = Duration::from_millis(1);

/// One socket.
#[derive(Debug)]
pub(crate) struct Udp {
    io: UdpSocket,
    /// What quinn-udp has learnt. It can only be made anew.
    state: RwLock<UdpSocketState>,
    /// Datagrams of a batch, as the system had it at first.
    segments: usize,
    /// Batches refused in a row that left one by one.
    refused: AtomicU32,
    /// There is something to forget: the doubts are looked at only then.
    is_doubted: AtomicBool,
    doubts: Mutex<Doubts>,
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
            refused: AtomicU32::new(0),
            is_doubted: AtomicBool::new(false),
            doubts: Mutex::default(),
        })
    }

    pub(crate) fn io(&self) -> &UdpSocket {
        &self.io
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, UdpSocketState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Datagrams that a batch may have now.
    pub(crate) fn segments(&self) -> usize {
        self.forget_if_due();
        self.state().max_gso_segments()
    }

    /// Send, or find the socket full. What the system refuses is lost, as UDP may.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] alone.
    pub(crate) fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.forget_if_due();
        match self.attempt(transmit) {
            Ok(()) => {
                if is_batch(transmit) && self.refused.load(Ordering::Relaxed) > 0 {
                    self.refused.store(0, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Err(why),
            Err(why) => {
                tracing::trace!(%why, "the system does not send this");
                self.examine(transmit, &why);
                Ok(())
            }
        }
    }

    /// Receive into these buffers. Errors are those of datagrams that were sent; the next datagram is read.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let receive = || self.state().recv((&self.io).into(), buffers, metas);
            if let Ok(count) = self.io.try_io(Interest::READABLE, receive) {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn attempt(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state().try_send((&self.io).into(), transmit);
        self.io.try_io(Interest::WRITABLE, send)
    }

    /// This was refused: does it say anything of the socket?
    fn examine(&self, transmit: &Transmit<'_>, why: &io::Error) {
        let has_learnt =
            why.kind() == io::ErrorKind::InvalidInput || self.state().max_gso_segments() < self.segments;
        if !has_learnt {
            return;
        }
        let is_at_fault = is_batch(transmit)
            && self.leaves_singly(transmit)
            && self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSED_MAX;
        if is_at_fault {
            tracing::debug!(%why, "no batches for a while");
            self.refused.store(0, Ordering::Relaxed);
        }
        let pause = if is_at_fault { BELIEVED } else { Duration::ZERO };
        self.doubts().add(pause, Instant::now());
        self.is_doubted.store(true, Ordering::Release);
    }

    /// Send the datagrams of a batch one by one; what finds the socket full is lost.
    fn leaves_singly(&self, batch: &Transmit<'_>) -> bool {
        let size = batch.segment_size.unwrap_or(batch.contents.len());
        batch.contents.chunks(size.max(1)).all(|contents| {
            let single = Transmit {
                destination: batch.destination,
                ecn: batch.ecn,
                contents,
                segment_size: None,
                src_ip: batch.src_ip,
            };
            self.attempt(&single).is_ok()
        })
    }

    fn forget_if_due(&self) {
        if !self.is_doubted.load(Ordering::Acquire) {
            return;
        }
        let now = Instant::now();
        let mut doubts = self.doubts();
        if !doubts.are_due(now) {
            return;
        }
        match UdpSocketState::new((&self.io).into()) {
            // It has fewer where there was no descriptor left to ask the system with.
            Ok(fresh) if fresh.max_gso_segments() >= self.segments => {
                *self.state.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                doubts.settle(now);
                self.is_doubted.store(false, Ordering::Release);
            }
            _ => doubts.add(BELIEVED, now),
        }
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_batch(transmit: &Transmit<'_>) -> bool {
    transmit
        .segment_size
        .is_some_and(|size| size < transmit.contents.len())
}

/// When what was learnt is to be forgotten.
#[derive(Debug, Default)]
struct Doubts {
    due: Option<Instant>,
    settled: Option<Instant>,
}

impl Doubts {
    /// Not before this pause is over, nor before one that was there already.
    fn add(&mut self, pause: Duration, now: Instant) {
        let earliest = self.settled.map_or(now, |last| last + FORGET_INTERVAL);
        let due = earliest.max(now + pause);
        self.due = Some(self.due.map_or(due, |other| other.max(due)));
    }

    fn are_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn settle(&mut self, now: Instant) {
        self.due = None;
        self.settled = Some(now);
    }
}

/// Tells when a socket takes more.
pub(crate) struct Writable {
    socket: Arc<Udp>,
    waiting: Option<Waiting>,
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

impl Writable {
    pub(crate) fn new(socket: Arc<Udp>) -> Self {
        Self {
            socket,
            waiting: None,
        }
    }
}

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
        let waiting = this.waiting.get_or_insert_with(|| {
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use quinn::udp::EcnCodepoint;

    use super::*;

    /// More datagrams than any system takes at once.
    const TOO_MANY: usize = 150;

    /// A socket, and where another one hears it.
    fn pair() -> (Udp, Udp, SocketAddr) {
        let bind = || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            Udp::new(socket).unwrap()
        };
        let (sender, receiver) = (bind(), bind());
        let to = receiver.io().local_addr().unwrap();
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
    async fn send(socket: &Udp, transmit: &Transmit<'_>) {
        while socket.send(transmit).is_err() {
            socket.io().writable().await.unwrap();
        }
    }

    /// So many bytes, and how each buffer of them was marked.
    async fn receive(socket: &Udp, bytes: usize) -> Vec<Option<EcnCodepoint>> {
        let (mut got, mut marks) = (0, Vec::new());
        let mut buffer = vec![0; 65_535];
        while got < bytes {
            let mut meta = [RecvMeta::default()];
            let next = std::future::poll_fn(|cx| {
                socket.poll_receive(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta)
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
        let segments = sender.segments();
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
            for _ in 0..2 * REFUSED_MAX {
                send(&sender, &refused).await;
            }
            // The first is forgotten at once, what follows within a millisecond after that.
            tokio::time::sleep(2 * FORGET_INTERVAL).await;
            assert_eq!(sender.segments(), segments, "{refused:?}");
            let together = contents.len().min(1_000 * segments);
            send(&sender, &transmit(to, &contents[..together], 1_000)).await;
            let marks = receive(&receiver, together).await;
            assert!(
                marks.iter().all(|mark| *mark == Some(EcnCodepoint::Ect0)),
                "{marks:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_batch_that_is_refused_leaves_one_by_one_and_three_of_them_are_believed() {
        let (sender, receiver, to) = pair();
        let segments = sender.segments();
        if segments == 1 {
            return;
        }
        let contents = [7; TOO_MANY];
        let (refused, good) = (transmit(to, &contents, 1), transmit(to, &contents[..20], 10));
        for _ in 0..3 {
            // One that leaves as it is says that batches are possible.
            for refused in [&refused, &refused, &good] {
                send(&sender, refused).await;
                receive(&receiver, refused.contents.len()).await;
                tokio::time::sleep(2 * FORGET_INTERVAL).await;
                assert_eq!(sender.segments(), segments);
            }
        }
        for _ in 0..REFUSED_MAX {
            send(&sender, &refused).await;
            receive(&receiver, TOO_MANY).await;
            tokio::time::sleep(2 * FORGET_INTERVAL).await;
        }
        assert_eq!(sender.segments(), 1);
    }

    #[test]
    fn what_is_believed_is_asked_again_after_a_minute_and_nothing_is_forgotten_all_the_time() {
        let (mut doubts, now) = (Doubts::default(), Instant::now());
        doubts.add(BELIEVED, now);
        doubts.add(Duration::ZERO, now);
        let almost = BELIEVED - Duration::from_millis(1);
        assert!(!doubts.are_due(now + almost) && doubts.are_due(now + BELIEVED));
        doubts.settle(now);
        assert!(!doubts.are_due(now + BELIEVED));
        doubts.add(Duration::ZERO, now);
        assert!(!doubts.are_due(now) && doubts.are_due(now + FORGET_INTERVAL));
    }

    #[tokio::test]
    async fn whoever_waits_for_a_socket_is_told_when_it_takes_something() {
        let (sender, ..) = pair();
        let mut poller = Writable::new(Arc::new(sender));
        for _ in 0..2 {
            let writable = std::future::poll_fn(|cx| Pin::new(&mut poller).poll_writable(cx));
            let told = tokio::time::timeout(Duration::from_secs(10), writable).await;
            assert!(matches!(told, Ok(Ok(()))));
        }
    }
}
