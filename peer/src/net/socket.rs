//! The socket under QUIC: the only file that implements quinn's socket trait.
//!
//! Outbound, a virtual address is looked up in the path table and the batch goes straight to the peer, or into relay
//! frames to the server, or nowhere; of real addresses only the server's pass. Full batches for one place are joined
//! ([`super::bundle`]). Inbound, every datagram of a buffer is
//! looked at: QUIC of a known source gets its link's virtual address, relay frames from the server are unpacked,
//! STUN answers and probes are copied to the driver, and everything else is dropped without an answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use knothole_proto::addr::canonical;
use knothole_proto::id::ChannelId;
use knothole_proto::path::SocketId;
use knothole_proto::wire::{Kind, relay};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::{Notify, mpsc};

use super::bundle::{Batch, Bundle, To};
use super::counters::Counters;
use super::early::{Early, Kept};
use super::inbound::{Fate, Run, sort};
use super::landing::{self, Landing};
use super::paths::{LinkPath, PathTable, Route, Tables, link_of};
use super::sockets::{Bound, Sockets};
use super::to_driver::{Datagram, ToDriver};
use super::writable::AllWritable;

/// Room that the relay buffer of a thread begins with: one batch as quinn makes them (10 datagrams).
const RELAY_BUFFER_LEN: usize = 16 * 1024;

thread_local! {
    /// Where a batch gets its relay headers before it is sent; nothing survives in it between two calls.
    static RELAY_BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(RELAY_BUFFER_LEN));
}

/// One socket to quinn, several to the world.
#[derive(Debug)]
pub(crate) struct PathSocket {
    sockets: Arc<Sockets>,
    paths: Arc<PathTable>,
    driver: ToDriver,
    counters: Arc<Counters>,
    landing: Mutex<Landing>,
    stash: Mutex<VecDeque<Stashed>>,
    early: Mutex<Early>,
    /// Who waits for datagrams: woken when something comes out of `early`.
    reader: Mutex<Option<Waker>>,
    /// Batches that wait for more.
    bundle: Mutex<Bundle>,
    /// Something waits, and nobody may come to take it along.
    waiting: Arc<Notify>,
    /// Which socket is asked first; goes round so that a busy one does not starve the others.
    turn: AtomicUsize,
}

/// Datagrams that came in the buffer of others and wait for the next call.
#[derive(Debug)]
struct Stashed {
    run: Run,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

impl PathSocket {
    pub(crate) fn new(
        sockets: Arc<Sockets>,
        paths: Arc<PathTable>,
        driver: mpsc::Sender<Datagram>,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let socket = Arc::new(Self {
            sockets,
            paths,
            driver: ToDriver::new(driver, Arc::clone(&counters)),
            counters,
            landing: Mutex::default(),
            stash: Mutex::default(),
            early: Mutex::default(),
            reader: Mutex::default(),
            bundle: Mutex::default(),
            waiting: Arc::default(),
            turn: AtomicUsize::new(0),
        });
        let waiting = Arc::clone(&socket.waiting);
        tokio::spawn(send_rest(Arc::downgrade(&socket), waiting));
        socket
    }

    /// Open an extra socket; returns its port. It can be sent from at once.
    ///
    /// # Errors
    /// See [`Sockets::open`].
    pub(crate) fn open(&self, id: SocketId, v6: bool) -> io::Result<u16> {
        self.sockets.open(id, v6, &self.driver)
    }

    /// A path may come to use this socket: from now on QUIC hears it, and whoever waits for datagrams waits for its too.
    pub(crate) fn promote(&self, id: SocketId) {
        if self.sockets.promote(id) {
            self.wake_reader();
        }
    }

    /// The link behind this channel is in the path table now: deliver what came before it was.
    pub(crate) fn release_early(&self, channel: ChannelId) {
        let waiting = lock(&self.early).take(channel, Instant::now());
        let tables = self.paths.load();
        let Some(path) = tables.channel(channel).filter(|_| !waiting.is_empty()) else {
            return;
        };
        lock(&self.stash).extend(waiting.into_iter().map(|Kept { ecn, bytes }| Stashed {
            run: Run {
                from: path.virtual_addr(),
                stride: bytes.len(),
                len: bytes.len(),
            },
            ecn,
            bytes,
        }));
        self.wake_reader();
    }

    fn wake_reader(&self) {
        if let Some(reader) = lock(&self.reader).take() {
            reader.wake();
        }
    }

    fn send_virtual(&self, tables: &Tables, transmit: &Transmit<'_>) -> io::Result<()> {
        let route = link_of(transmit.destination).and_then(|link| tables.route(link));
        match route {
            Some((path, Route::Direct { socket, remote })) => {
                path.note_sent();
                self.send_joined(self.sockets.get(socket).as_deref(), remote, &[], transmit)
            }
            Some((_, Route::Relay(channel))) if tables.relay().is_some() => {
                let server = tables.relay().unwrap_or(transmit.destination);
                let header = relay::header(channel);
                self.send_joined(self.sockets.for_family(server.ip()), server, &header, transmit)
            }
            _ => {
                Counters::count(&self.counters.no_path);
                Ok(())
            }
        }
    }

    fn send_on(&self, bound: Option<&Bound>, transmit: &Transmit<'_>) -> io::Result<()> {
        match bound {
            Some(bound) => bound.io().try_send(transmit),
            None => {
                Counters::count(&self.counters.no_path);
                Ok(())
            }
        }
    }

    /// Send a batch, each datagram behind this header, together with what waits before it; or let it wait for more.
    fn send_joined(
        &self,
        bound: Option<&Bound>,
        remote: SocketAddr,
        header: &[u8],
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let batch = Batch {
            header,
            contents: transmit.contents,
            segment,
        };
        let mut bundle = lock(&self.bundle);
        // Without offload a batch is a single datagram, which is never full.
        let may_wait = batch.is_full() && bound.is_some();
        let to = bound.map(|bound| To {
            socket: bound.id(),
            remote,
            segment: segment + header.len(),
            ecn: transmit.ecn,
        });
        let is_first = bundle.additions().is_none();
        if let Some(to) = to.filter(|to| (may_wait || !is_first) && bundle.takes(to, &batch)) {
            bundle.add(to, &batch);
            if may_wait && bundle.has_room(&batch) {
                if is_first {
                    self.waiting.notify_one();
                }
                return Ok(());
            }
            return match self.send_bundle(&mut bundle) {
                // It waits until the socket takes it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.notify_one();
                    Ok(())
                }
                sent => sent,
            };
        }
        self.send_bundle(&mut bundle)?;
        drop(bundle);
        if header.is_empty() {
            return self.send_on(bound, &with_destination(transmit, remote));
        }
        RELAY_BUFFER.with_borrow_mut(|buffer| self.send_on(bound, &frame(transmit, header, remote, buffer)))
    }

    /// Send what waits. After [`io::ErrorKind::WouldBlock`] it still waits.
    fn send_bundle(&self, bundle: &mut Bundle) -> io::Result<()> {
        let Some((socket, transmit)) = bundle.transmit() else {
            return Ok(());
        };
        let sent = self.send_on(self.sockets.get(socket).as_deref(), &transmit);
        if !matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            bundle.clear();
        }
        sent
    }

    /// What becomes of a datagram that came from `from` on `socket`.
    fn judge(&self, tables: &Tables, origin: &Origin<'_>, datagram: &[u8]) -> Fate {
        match Kind::of(datagram) {
            Kind::Quic => match origin.quic_as {
                Some(from) => Fate::Pass { from, skip: 0 },
                None => {
                    Counters::count(&self.counters.strangers);
                    Fate::Drop
                }
            },
            Kind::Relay => self.judge_frame(tables, origin, datagram),
            Kind::Stun | Kind::Probe => {
                self.driver.offer(origin.socket, origin.from, datagram);
                Fate::Drop
            }
            Kind::Unknown => {
                self.driver.refuse();
                Fate::Drop
            }
        }
    }

    fn judge_frame(&self, tables: &Tables, origin: &Origin<'_>, frame: &[u8]) -> Fate {
        let quic = relay::split(frame).filter(|(_, datagram)| Kind::of(datagram) == Kind::Quic);
        let Some((channel, datagram)) = quic.filter(|_| origin.relay) else {
            Counters::count(&self.counters.relay_refused);
            return Fate::Drop;
        };
        match tables.channel(channel) {
            Some(path) => {
                path.note_relayed();
                Fate::Pass {
                    from: path.virtual_addr(),
                    skip: relay::HEADER_LEN,
                }
            }
            None => {
                Counters::count(&self.counters.relay_early);
                lock(&self.early).keep(channel, datagram, origin.ecn, Instant::now());
                Fate::Drop
            }
        }
    }

    /// Sort what one socket received into what quinn gets now and what it gets in the next call.
    fn sort_all(&self, socket: SocketId, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        let tables = self.paths.load();
        let mut stash = lock(&self.stash);
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let ecn = meta.ecn;
            let origin = Origin::new(&tables, socket, canonical(meta.addr), ecn);
            let sorted = sort(&mut buf[..meta.len], meta.stride, |datagram| {
                self.judge(&tables, &origin, datagram)
            });
            let in_use = origin.link.filter(|_| origin.in_use);
            if let Some(path) = in_use.filter(|_| sorted.head.is_some()) {
                path.note_received();
            }
            // Nothing may overtake what came before it in the same link and has to wait.
            let is_behind = |run: Run| stash.iter().any(|earlier| earlier.run.from == run.from);
            let waits = sorted.head.is_some_and(is_behind);
            match sorted.head {
                Some(run) if waits => {
                    let bytes = buf[..run.len].to_vec();
                    stash.push_back(Stashed { run, ecn, bytes });
                    meta.len = 0;
                }
                Some(run) => describe(meta, run),
                None => meta.len = 0,
            }
            let rest = sorted.rest.into_iter();
            stash.extend(rest.map(|(run, bytes)| Stashed { run, ecn, bytes }));
        }
    }

    /// Before the stash is looked at, so that nothing can be put there unnoticed.
    fn remember_reader(&self, waker: &Waker) {
        let mut reader = lock(&self.reader);
        if !reader.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }

    /// Hand over what was left from the call before; empty unless a buffer held datagrams of several links.
    fn take_stash(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut stash = lock(&self.stash);
        let mut filled = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some(next) = stash.pop_front() else { break };
            if let Some(room) = buf.get_mut(..next.bytes.len()) {
                room.copy_from_slice(&next.bytes);
                *meta = RecvMeta {
                    ecn: next.ecn,
                    ..RecvMeta::default()
                };
                describe(meta, next.run);
                filled += 1;
            }
        }
        filled
    }
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AllWritable::new(Arc::clone(&self.sockets)))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let tables = self.paths.load();
        let destination = canonical(transmit.destination);
        if link_of(destination).is_some() {
            return self.send_virtual(&tables, transmit);
        }
        if !tables.is_server(destination) {
            Counters::count(&self.counters.no_path);
            return Ok(());
        }
        self.send_on(
            self.sockets.for_family(destination.ip()),
            &with_destination(transmit, destination),
        )
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.remember_reader(cx.waker());
        let filled = self.take_stash(bufs, metas);
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        let promoted = self.sockets.promoted();
        let promoted = || promoted.iter().flat_map(|all| all.iter().map(AsRef::as_ref));
        let sockets = || self.sockets.main().chain(promoted());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % sockets().count().max(1);
        for bound in sockets().skip(turn).chain(sockets().take(turn)) {
            let landed = lock(&self.landing).poll_recv(bound.io().as_ref(), cx, bufs, metas);
            if let Poll::Ready(received) = landed {
                let received = received?;
                self.sort_all(bound.id(), &mut bufs[..received], &mut metas[..received]);
                return Poll::Ready(Ok(received));
            }
        }
        Poll::Pending
    }

    /// Says IPv6 so that quinn puts every address into IPv6 form; virtual addresses are IPv6 on any machine.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        let port = self.sockets.main().next().map_or(0, |bound| bound.local().port());
        Ok(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::UNSPECIFIED,
            port,
            0,
            0,
        )))
    }

    /// The least of all: which socket a batch leaves through is known only when it is sent, and one that found out that it
    /// cannot segment loses every batch.
    fn max_transmit_segments(&self) -> usize {
        let promoted = self.sockets.promoted();
        let promoted = promoted.iter().flat_map(|all| all.iter().map(AsRef::as_ref));
        let sockets = self.sockets.main().chain(promoted);
        let each = sockets.map(|bound| bound.io().max_transmit_segments());
        each.min().unwrap_or(1)
    }

    fn max_receive_segments(&self) -> usize {
        let each = self.sockets.main().map(|bound| bound.io().max_receive_segments());
        landing::segments(each.max().unwrap_or(1))
    }

    fn may_fragment(&self) -> bool {
        self.sockets.main().any(|bound| bound.io().may_fragment())
    }
}

impl Drop for PathSocket {
    fn drop(&mut self) {
        self.waiting.notify_one();
    }
}

/// Send what waits as soon as nothing more is added to it, until the socket is gone.
async fn send_rest(socket: Weak<PathSocket>, waiting: Arc<Notify>) {
    loop {
        waiting.notified().await;
        let Some(socket) = socket.upgrade() else { return };
        let mut seen = None;
        loop {
            let additions = lock(&socket.bundle).additions();
            if additions.is_none() {
                break;
            }
            if additions != seen {
                seen = additions;
                // Comes back when this thread has nothing else to do.
                tokio::task::yield_now().await;
                continue;
            }
            let sent = socket.send_bundle(&mut lock(&socket.bundle));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut poller = Arc::clone(&socket).create_io_poller();
                    // An error shows again with the next attempt.
                    let _ = std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await;
                }
                Err(error) => tracing::debug!(%error, "a batch was not sent"),
                Ok(()) => {}
            }
        }
    }
}

/// Where a buffer came from, looked up once for all datagrams in it.
struct Origin<'a> {
    socket: SocketId,
    from: SocketAddr,
    /// What routers said on the way.
    ecn: Option<EcnCodepoint>,
    /// The link that its source belongs to.
    link: Option<&'a LinkPath>,
    /// Is its source where that link's own datagrams go? What comes from elsewhere says nothing about that path.
    in_use: bool,
    /// The address under which quinn gets its QUIC; `None` for strangers.
    quic_as: Option<SocketAddr>,
    /// Is it the server's end of the relay?
    relay: bool,
}

impl<'a> Origin<'a> {
    fn new(tables: &'a Tables, socket: SocketId, from: SocketAddr, ecn: Option<EcnCodepoint>) -> Self {
        let link = tables.source(socket, from);
        let server = tables.is_server(from).then(|| ipv6_form(from));
        Self {
            socket,
            from,
            ecn,
            link,
            in_use: link.is_some_and(|path| tables.is_used(path, socket, from)),
            quic_as: link.map(LinkPath::virtual_addr).or(server),
            relay: tables.relay() == Some(from),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same batch to another place, from whatever address of this machine the route takes.
fn with_destination<'a>(transmit: &Transmit<'a>, destination: SocketAddr) -> Transmit<'a> {
    Transmit {
        destination,
        ecn: transmit.ecn,
        contents: transmit.contents,
        segment_size: transmit.segment_size,
        src_ip: None,
    }
}

/// Put a relay header in front of each datagram of a batch, which stays one batch.
fn frame<'a>(
    transmit: &Transmit<'_>,
    header: &[u8],
    server: SocketAddr,
    buffer: &'a mut Vec<u8>,
) -> Transmit<'a> {
    buffer.clear();
    let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
    for datagram in transmit.contents.chunks(segment) {
        buffer.extend_from_slice(header);
        buffer.extend_from_slice(datagram);
    }
    Transmit {
        destination: server,
        ecn: transmit.ecn,
        contents: buffer,
        segment_size: transmit.segment_size.map(|size| size + header.len()),
        src_ip: None,
    }
}

fn describe(meta: &mut RecvMeta, run: Run) {
    meta.addr = run.from;
    meta.len = run.len;
    meta.stride = run.stride;
    // quinn would pin its answers to this address; which one is right changes with the path.
    meta.dst_ip = None;
}

fn ipv6_form(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => SocketAddr::V6(SocketAddrV6::new(ip.to_ipv6_mapped(), addr.port(), 0, 0)),
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests;
