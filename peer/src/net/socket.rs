//! The socket under QUIC: the only file that implements quinn's socket trait.
//!
//! Outbound, a virtual address is looked up in the path table and the batch goes straight to the peer, or into relay
//! frames to the server, or nowhere; of real addresses only the server's pass. Inbound, every datagram of a buffer is
//! looked at: QUIC of a known source gets its link's virtual address, relay frames from the server are unpacked,
//! STUN answers and probes are copied to the driver, and everything else is dropped without an answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use knothole_proto::addr::canonical;
use knothole_proto::id::ChannelId;
use knothole_proto::path::SocketId;
use knothole_proto::wire::{Kind, relay};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::counters::Counters;
use super::early::Early;
use super::inbound::{Fate, Run, sort};
use super::paths::{LinkPath, PathTable, Route, Tables, link_of};
use super::sockets::{Bound, Sockets};

/// Longest datagram that is handed to the driver, in bytes: STUN answers and probes are far shorter.
const DRIVER_DATAGRAM_MAX: usize = 1500;

/// Room that the relay buffer of a thread begins with: one batch as quinn makes them (10 datagrams).
const RELAY_BUFFER_LEN: usize = 16 * 1024;

thread_local! {
    /// Where a batch gets its relay headers before it is sent; nothing survives in it between two calls.
    static RELAY_BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(RELAY_BUFFER_LEN));
}

/// A datagram for the driver: STUN or a probe, from anyone.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) socket: SocketId,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// One socket to quinn, two to the world.
#[derive(Debug)]
pub(crate) struct PathSocket {
    sockets: Arc<Sockets>,
    paths: Arc<PathTable>,
    driver: mpsc::Sender<Datagram>,
    counters: Arc<Counters>,
    stash: Mutex<VecDeque<Stashed>>,
    early: Mutex<Early>,
    /// Who waits for datagrams: woken when something comes out of `early`.
    reader: Mutex<Option<Waker>>,
    /// Which socket is asked first; alternates so that a busy one does not starve the other.
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
    ) -> Self {
        Self {
            sockets,
            paths,
            driver,
            counters,
            stash: Mutex::default(),
            early: Mutex::default(),
            reader: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The link behind this channel is in the path table now: deliver what came before it was.
    pub(crate) fn release_early(&self, channel: ChannelId) {
        let waiting = lock(&self.early).take(channel, Instant::now());
        let tables = self.paths.load();
        let Some(path) = tables.channel(channel).filter(|_| !waiting.is_empty()) else {
            return;
        };
        lock(&self.stash).extend(waiting.into_iter().map(|bytes| Stashed {
            run: Run {
                from: path.virtual_addr(),
                stride: bytes.len(),
                len: bytes.len(),
            },
            ecn: None,
            bytes,
        }));
        if let Some(reader) = lock(&self.reader).take() {
            reader.wake();
        }
    }

    fn send_virtual(&self, tables: &Tables, transmit: &Transmit<'_>) -> io::Result<()> {
        let route = link_of(transmit.destination).and_then(|link| tables.route(link));
        match route {
            Some((path, Route::Direct { socket, remote })) => {
                path.note_sent();
                self.send_on(self.sockets.get(socket), &with_destination(transmit, remote))
            }
            Some((_, Route::Relay(channel))) if tables.relay().is_some() => {
                let server = tables.relay().unwrap_or(transmit.destination);
                RELAY_BUFFER.with_borrow_mut(|buffer| {
                    let header = relay::header(channel);
                    let framed = frame(transmit, header, server, buffer);
                    self.send_on(self.sockets.for_family(server.ip()), &framed)
                })
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
            Kind::Stun | Kind::Probe if datagram.len() <= DRIVER_DATAGRAM_MAX => {
                let copy = Datagram {
                    socket: origin.socket,
                    from: origin.from,
                    bytes: datagram.to_vec(),
                };
                if self.driver.try_send(copy).is_err() {
                    Counters::count(&self.counters.driver_full);
                }
                Fate::Drop
            }
            _ => {
                Counters::count(&self.counters.unknown);
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
            Some(path) => Fate::Pass {
                from: path.virtual_addr(),
                skip: relay::HEADER_LEN,
            },
            None => {
                Counters::count(&self.counters.relay_early);
                lock(&self.early).keep(channel, datagram, Instant::now());
                Fate::Drop
            }
        }
    }

    /// Sort what one socket received into what quinn gets.
    fn sort_all(&self, socket: SocketId, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) {
        let tables = self.paths.load();
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let origin = Origin::new(&tables, socket, canonical(meta.addr));
            let sorted = sort(&mut buf[..meta.len], meta.stride, |datagram| {
                self.judge(&tables, &origin, datagram)
            });
            match sorted.head {
                Some(run) => {
                    if let Some(path) = origin.link.filter(|_| origin.in_use) {
                        path.note_received();
                    }
                    describe(meta, run);
                }
                None => meta.len = 0,
            }
            if !sorted.rest.is_empty() {
                lock(&self.stash).extend(sorted.rest.into_iter().map(|(run, bytes)| Stashed {
                    run,
                    ecn: meta.ecn,
                    bytes,
                }));
            }
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
        let pollers = self
            .sockets
            .all()
            .map(|bound| Arc::clone(bound.io()).create_io_poller())
            .collect();
        Box::pin(AllWritable(pollers))
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
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % 2;
        let sockets = || self.sockets.all();
        for bound in sockets().skip(turn).chain(sockets().take(turn)) {
            if let Poll::Ready(received) = bound.io().poll_recv(cx, bufs, metas) {
                let received = received?;
                self.sort_all(bound.id(), &mut bufs[..received], &mut metas[..received]);
                return Poll::Ready(Ok(received));
            }
        }
        Poll::Pending
    }

    /// Says IPv6 so that quinn puts every address into IPv6 form; virtual addresses are IPv6 on any machine.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        let port = self.sockets.all().next().map_or(0, |bound| bound.local().port());
        Ok(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::UNSPECIFIED,
            port,
            0,
            0,
        )))
    }

    fn max_transmit_segments(&self) -> usize {
        let each = self.sockets.all().map(|bound| bound.io().max_transmit_segments());
        each.min().unwrap_or(1)
    }

    fn max_receive_segments(&self) -> usize {
        let each = self.sockets.all().map(|bound| bound.io().max_receive_segments());
        each.max().unwrap_or(1)
    }

    fn may_fragment(&self) -> bool {
        self.sockets.all().any(|bound| bound.io().may_fragment())
    }
}

/// Where a buffer came from, looked up once for all datagrams in it.
struct Origin<'a> {
    socket: SocketId,
    from: SocketAddr,
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
    fn new(tables: &'a Tables, socket: SocketId, from: SocketAddr) -> Self {
        let link = tables.source(socket, from);
        let server = tables.is_server(from).then(|| ipv6_form(from));
        Self {
            socket,
            from,
            link,
            in_use: link.is_some_and(|path| tables.is_used(path, socket, from)),
            quic_as: link.map(LinkPath::virtual_addr).or(server),
            relay: tables.relay() == Some(from),
        }
    }
}

/// Ready when all sockets are: a batch that would block on one is not known to the poller.
#[derive(Debug)]
struct AllWritable(Vec<Pin<Box<dyn UdpPoller>>>);

impl UdpPoller for AllWritable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pending = false;
        for poller in &mut self.0 {
            match poller.as_mut().poll_writable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => pending = true,
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
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
    header: [u8; relay::HEADER_LEN],
    server: SocketAddr,
    buffer: &'a mut Vec<u8>,
) -> Transmit<'a> {
    buffer.clear();
    let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
    for datagram in transmit.contents.chunks(segment) {
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(datagram);
    }
    Transmit {
        destination: server,
        ecn: transmit.ecn,
        contents: buffer,
        segment_size: transmit.segment_size.map(|size| size + relay::HEADER_LEN),
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
mod tests {
    use std::future::poll_fn;
    use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
    use std::time::Duration;

    use knothole_proto::connector::LinkId;
    use tokio::time::timeout;

    use super::*;
    use crate::net::Bind;

    const LINK: LinkId = LinkId(3);
    const CHANNEL: ChannelId = ChannelId(0xabcd);

    struct Lab {
        socket: Arc<PathSocket>,
        paths: Arc<PathTable>,
        counters: Arc<Counters>,
        driver: mpsc::Receiver<Datagram>,
        addr: SocketAddr,
    }

    /// A path socket on loopback with one link.
    fn lab() -> Lab {
        let bind = Bind {
            v4: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
            v6: None,
        };
        let sockets = Arc::new(Sockets::bind(bind).unwrap());
        let addr = sockets.get(SocketId::V4).unwrap().local();
        let (paths, counters) = (Arc::<PathTable>::default(), Arc::<Counters>::default());
        let (to_driver, driver) = mpsc::channel(4);
        let socket = PathSocket::new(sockets, Arc::clone(&paths), to_driver, Arc::clone(&counters));
        paths.add_link(Arc::new(LinkPath::new(LINK)));
        Lab {
            socket: Arc::new(socket),
            paths,
            counters,
            driver,
            addr,
        }
    }

    fn outside() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let addr = socket.local_addr().unwrap();
        (socket, addr)
    }

    fn batch(to: SocketAddr, contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        }
    }

    async fn send(lab: &Lab, transmit: Transmit<'_>) {
        let mut poller = Arc::clone(&lab.socket).create_io_poller();
        poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        lab.socket.try_send(&transmit).unwrap();
    }

    fn receive(socket: &UdpSocket) -> Vec<u8> {
        let mut buf = [0; 2000];
        let len = socket.recv(&mut buf).unwrap();
        buf[..len].to_vec()
    }

    /// What QUIC gets: (source, datagram), until it was `count` of them.
    async fn delivered(lab: &Lab, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let mut room = [vec![0; 65_536], vec![0; 65_536]];
            let mut metas = [RecvMeta::default(); 2];
            let received = poll_fn(|cx| {
                let mut bufs: Vec<_> = room.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
                lab.socket.poll_recv(cx, &mut bufs, &mut metas)
            });
            let received = timeout(Duration::from_secs(2), received).await.unwrap().unwrap();
            for (buf, meta) in room.iter().zip(&metas).take(received) {
                let datagrams = buf[..meta.len].chunks(meta.stride.max(1));
                seen.extend(datagrams.map(|datagram| (meta.addr, datagram.to_vec())));
            }
        }
        seen
    }

    #[tokio::test]
    async fn a_batch_for_a_link_goes_where_its_route_says() {
        let lab = lab();
        let virtual_addr = super::super::paths::virtual_addr(LINK);
        let ((peer, peer_addr), (server, server_addr)) = (outside(), outside());
        let contents = [[0x40; 6].as_slice(), &[0x41; 6], &[0x42; 3]].concat();
        lab.paths.set_relay(Some(server_addr));
        lab.paths.set_route(
            LINK,
            Route::Direct {
                socket: SocketId::V4,
                remote: peer_addr,
            },
        );
        send(&lab, batch(virtual_addr, &contents, Some(6))).await;
        assert_eq!(receive(&peer), [0x40; 6]);
        assert_eq!(receive(&peer), [0x41; 6]);
        assert_eq!(receive(&peer), [0x42; 3]);
        lab.paths.set_route(LINK, Route::Relay(CHANNEL));
        send(&lab, batch(virtual_addr, &contents, Some(6))).await;
        let header = relay::header(CHANNEL);
        for datagram in contents.chunks(6) {
            assert_eq!(receive(&server), [header.as_slice(), datagram].concat());
        }
    }

    #[tokio::test]
    async fn nothing_leaves_without_a_path_or_to_an_address_that_is_not_the_servers() {
        let lab = lab();
        let (stranger, stranger_addr) = outside();
        stranger
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        send(&lab, batch(stranger_addr, &[0x40; 6], None)).await;
        let virtual_addr = super::super::paths::virtual_addr(LINK);
        send(&lab, batch(virtual_addr, &[0x40; 6], None)).await;
        assert!(stranger.recv(&mut [0; 10]).is_err());
        assert_eq!(lab.counters.no_path.load(Ordering::Relaxed), 2);
        lab.paths.set_servers(vec![stranger_addr]);
        send(&lab, batch(ipv6_form(stranger_addr), &[0x40; 6], None)).await;
        assert_eq!(
            receive(&stranger),
            [0x40; 6],
            "the server's address passes, in IPv6 form too"
        );
    }

    #[tokio::test]
    async fn quic_is_taken_from_known_sources_and_from_relay_frames_of_the_server_only() {
        let mut lab = lab();
        let virtual_addr = super::super::paths::virtual_addr(LINK);
        let ((peer, peer_addr), (server, server_addr), (stranger, _)) = (outside(), outside(), outside());
        lab.paths.add_source(LINK, SocketId::V4, peer_addr);
        lab.paths.set_servers(vec![server_addr]);
        lab.paths.set_relay(Some(server_addr));
        lab.paths.set_channel(LINK, Some(CHANNEL));
        let frame = |channel, datagram: &[u8]| [relay::header(channel).as_slice(), datagram].concat();
        for bytes in [&[0x40; 9][..], &frame(CHANNEL, &[0x41; 9]), &[0x20; 9]] {
            stranger.send_to(bytes, lab.addr).unwrap();
        }
        for bytes in [
            frame(ChannelId(1), &[0x42; 9]),
            frame(CHANNEL, &[4; 9]),
            frame(CHANNEL, &[]),
        ] {
            server.send_to(&bytes, lab.addr).unwrap();
        }
        peer.send_to(&frame(CHANNEL, &[0x43; 9]), lab.addr).unwrap();
        peer.send_to(&[4, 1, 2, 3], lab.addr).unwrap();
        peer.send_to(&[0x44; 9], lab.addr).unwrap();
        server.send_to(&[0x45; 9], lab.addr).unwrap();
        server.send_to(&frame(CHANNEL, &[0x46; 9]), lab.addr).unwrap();
        let seen = delivered(&lab, 3).await;
        let expected = [
            (virtual_addr, vec![0x44; 9]),
            (ipv6_form(server_addr), vec![0x45; 9]),
            (virtual_addr, vec![0x46; 9]),
        ];
        assert_eq!(seen, expected);
        let probe = lab.driver.try_recv().unwrap();
        assert_eq!(
            (probe.from, probe.bytes.as_slice()),
            (peer_addr, &[4, 1, 2, 3][..])
        );
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(read(&lab.counters.strangers), 1);
        assert_eq!(read(&lab.counters.relay_refused), 4);
        assert_eq!(read(&lab.counters.relay_early), 1);
        assert_eq!(read(&lab.counters.unknown), 1);
    }

    #[tokio::test]
    async fn a_frame_that_comes_before_its_introduction_is_delivered_after_it() {
        let lab = lab();
        let (server, server_addr) = outside();
        lab.paths.set_relay(Some(server_addr));
        let frame = [relay::header(CHANNEL).as_slice(), &[0x40; 9]].concat();
        server.send_to(&frame, lab.addr).unwrap();
        let introduce = async {
            while lab.counters.relay_early.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            lab.paths.set_channel(LINK, Some(CHANNEL));
            lab.socket.release_early(CHANNEL);
        };
        let (seen, ()) = tokio::join!(delivered(&lab, 1), introduce);
        assert_eq!(seen, [(super::super::paths::virtual_addr(LINK), vec![0x40; 9])]);
    }

    #[tokio::test]
    async fn a_driver_that_is_slow_loses_probes_and_nothing_waits_for_it() {
        let lab = lab();
        let (peer, peer_addr) = outside();
        lab.paths.add_source(LINK, SocketId::V4, peer_addr);
        for _ in 0..7 {
            peer.send_to(&[4, 9, 9], lab.addr).unwrap();
        }
        peer.send_to(&[0x40; 9], lab.addr).unwrap();
        assert_eq!(delivered(&lab, 1).await.len(), 1);
        assert_eq!(lab.counters.driver_full.load(Ordering::Relaxed), 3);
    }
}
