//! The socket under QUIC over loopback, with a path table that the tests write.

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
    sockets: Arc<Sockets>,
    addr: SocketAddr,
}

/// A path socket on loopback with one link, and a driver that takes four datagrams.
fn lab() -> Lab {
    lab_with_room(4)
}

fn lab_with_room(datagrams: usize) -> Lab {
    let bind = Bind {
        v4: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
        v6: None,
    };
    let sockets = Arc::new(Sockets::bind(bind).unwrap());
    let addr = sockets.get(SocketId::V4).unwrap().local();
    let (paths, counters) = (Arc::<PathTable>::default(), Arc::<Counters>::default());
    let (to_driver, driver) = mpsc::channel(datagrams);
    let socket = PathSocket::new(
        Arc::clone(&sockets),
        Arc::clone(&paths),
        to_driver,
        Arc::clone(&counters),
    );
    paths.add_link(Arc::new(LinkPath::new(LINK)));
    Lab {
        socket,
        paths,
        counters,
        driver,
        sockets,
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
        seen.extend(datagrams_in(&room, &metas[..received]));
    }
    seen
}

/// What QUIC finds in buffers: (source, datagram).
fn datagrams_in(room: &[Vec<u8>], metas: &[RecvMeta]) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut found = Vec::new();
    for (buf, meta) in room.iter().zip(metas) {
        let datagrams = buf[..meta.len].chunks(meta.stride.max(1));
        found.extend(datagrams.map(|datagram| (meta.addr, datagram.to_vec())));
    }
    found
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
async fn datagrams_of_a_link_keep_their_order_over_all_buffers_of_a_call() {
    const OTHER_LINK: LinkId = LinkId(4);
    const OTHER_CHANNEL: ChannelId = ChannelId(0xabce);
    let lab = lab();
    let server_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 5668));
    lab.paths.set_relay(Some(server_addr));
    lab.paths.add_link(Arc::new(LinkPath::new(OTHER_LINK)));
    lab.paths.set_channel(LINK, Some(CHANNEL));
    lab.paths.set_channel(OTHER_LINK, Some(OTHER_CHANNEL));
    let frame = |channel, serial: u8| [relay::header(channel).as_slice(), &[0x40, serial]].concat();
    // Each buffer begins with a link of which something waits from the buffer before.
    let mut room = [
        [frame(CHANNEL, 1), frame(OTHER_CHANNEL, 2)].concat(),
        [frame(OTHER_CHANNEL, 3), frame(CHANNEL, 4)].concat(),
        frame(CHANNEL, 5),
    ];
    let mut metas = [RecvMeta::default(); 3];
    for (meta, buf) in metas.iter_mut().zip(&room) {
        meta.addr = server_addr;
        meta.len = buf.len();
        meta.stride = frame(CHANNEL, 1).len();
    }
    {
        let mut bufs: Vec<_> = room.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
        lab.socket.sort_all(SocketId::V4, &mut bufs, &mut metas);
    }
    let mut seen = datagrams_in(&room, &metas);
    let later = delivered(&lab, 5 - seen.len()).await;
    seen.extend(later);
    let serials = |link| {
        let from = super::super::paths::virtual_addr(link);
        let of_link = seen.iter().filter(|(of, _)| *of == from);
        of_link.map(|(_, bytes)| bytes[1]).collect::<Vec<u8>>()
    };
    assert_eq!((serials(LINK), serials(OTHER_LINK)), (vec![1, 4, 5], vec![2, 3]));
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
async fn what_a_router_marked_stays_marked_while_it_waits_for_its_introduction() {
    let lab = lab();
    let server_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 5668));
    lab.paths.set_relay(Some(server_addr));
    let mut frame = [relay::header(CHANNEL).as_slice(), &[0x40; 9]].concat();
    let mut meta = RecvMeta::default();
    (meta.addr, meta.len, meta.stride) = (server_addr, frame.len(), frame.len());
    meta.ecn = Some(EcnCodepoint::Ce);
    let mut bufs = [IoSliceMut::new(&mut frame)];
    lab.socket.sort_all(SocketId::V4, &mut bufs, &mut [meta]);
    lab.paths.set_channel(LINK, Some(CHANNEL));
    lab.socket.release_early(CHANNEL);
    let stash = lab.socket.stash.lock().unwrap();
    let marks: Vec<_> = stash.iter().map(|waiting| waiting.ecn).collect();
    assert_eq!(marks, [Some(EcnCodepoint::Ce)]);
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

/// An extra socket; its address.
fn extra(lab: &Lab, id: SocketId) -> SocketAddr {
    let port = lab.socket.open(id, false).unwrap();
    SocketAddr::new(lab.addr.ip(), port)
}

fn promoted(lab: &Lab, id: SocketId) -> SocketAddr {
    let addr = extra(lab, id);
    lab.socket.promote(id);
    addr
}

const EXTRA: SocketId = SocketId(2);

#[tokio::test]
async fn an_extra_socket_sends_at_once_and_hears_probes_and_answers_only() {
    let mut lab = lab();
    let (peer, peer_addr) = outside();
    let addr = extra(&lab, EXTRA);
    lab.sockets.send(EXTRA, peer_addr, &[4, 1], None).unwrap();
    let mut room = [0; 9];
    assert_eq!(peer.recv_from(&mut room).unwrap(), (2, addr));
    for bytes in [&[0x40; 9][..], &[0x20; 9], &[4; 1501], &[4, 7, 7]] {
        peer.send_to(bytes, addr).unwrap();
    }
    let heard = timeout(Duration::from_secs(2), lab.driver.recv()).await;
    let heard = heard.unwrap().unwrap();
    assert_eq!(
        (heard.socket, heard.from, heard.bytes.as_slice()),
        (EXTRA, peer_addr, &[4, 7, 7][..])
    );
    assert_eq!(lab.counters.unknown.load(Ordering::Relaxed), 3);
    assert!(lab.driver.try_recv().is_err());
}

#[tokio::test]
async fn a_number_is_free_again_and_a_port_is_closed_when_close_returns() {
    let lab = lab();
    let addr = extra(&lab, EXTRA);
    assert!(lab.socket.open(EXTRA, false).is_err(), "in use");
    assert!(lab.socket.open(SocketId::V4, false).is_err(), "a main one");
    assert!(lab.socket.open(SocketId(3), true).is_err(), "no IPv6 here");
    lab.sockets.close(EXTRA);
    drop(UdpSocket::bind(addr).unwrap());
    assert!(lab.sockets.send(EXTRA, lab.addr, &[4], None).is_err());
    promoted(&lab, EXTRA);
    lab.sockets.close(EXTRA);
    lab.sockets.close(EXTRA);
    lab.sockets.close(SocketId::V4);
    assert!(lab.sockets.get(SocketId::V4).is_some(), "main ones stay");
    extra(&lab, EXTRA);
}

#[tokio::test]
async fn answers_to_hundreds_of_sockets_at_once_all_reach_a_driver_that_is_busy() {
    const SOCKETS: u16 = 300;
    let mut lab = lab_with_room(usize::from(SOCKETS) * 3);
    let (peer, _) = outside();
    let addrs: Vec<SocketAddr> = (0..SOCKETS).map(|id| extra(&lab, SocketId(id + 2))).collect();
    for serial in 0..3 {
        for addr in &addrs {
            peer.send_to(&[4, serial], addr).unwrap();
        }
    }
    let mut heard = std::collections::BTreeMap::new();
    for _ in 0..SOCKETS * 3 {
        let next = timeout(Duration::from_secs(5), lab.driver.recv()).await;
        let datagram = next.unwrap().unwrap();
        let serials: &mut Vec<u8> = heard.entry(datagram.socket).or_default();
        serials.push(datagram.bytes[1]);
    }
    assert_eq!(heard.len(), usize::from(SOCKETS));
    assert!(
        heard.values().all(|serials| *serials == [0, 1, 2]),
        "in order and once each"
    );
    assert_eq!(lab.counters.driver_full.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_socket_that_is_promoted_while_quic_waits_is_read_by_quic() {
    let lab = lab();
    let (peer, peer_addr) = outside();
    let addr = extra(&lab, EXTRA);
    lab.paths.add_source(LINK, EXTRA, peer_addr);
    let promote = async {
        // The reader has found nothing and waits.
        tokio::task::yield_now().await;
        lab.socket.promote(EXTRA);
        peer.send_to(&[0x40; 9], addr).unwrap();
    };
    let (seen, ()) = tokio::join!(delivered(&lab, 1), promote);
    assert_eq!(seen, [(super::super::paths::virtual_addr(LINK), vec![0x40; 9])]);
}

#[tokio::test]
async fn a_batch_goes_out_through_a_promoted_socket_whole() {
    let lab = lab();
    let virtual_addr = super::super::paths::virtual_addr(LINK);
    let (peer, peer_addr) = outside();
    let route = |socket| Route::Direct {
        socket,
        remote: peer_addr,
    };
    let contents = [[0x40; 1200].as_slice(), &[0x41; 1200], &[0x42; 1200], &[0x43; 7]].concat();
    let before = lab.socket.max_transmit_segments();
    let addr = promoted(&lab, EXTRA);
    assert_eq!(lab.socket.max_transmit_segments(), before);
    lab.paths.set_route(LINK, route(EXTRA));
    send(&lab, batch(virtual_addr, &contents, Some(1200))).await;
    let mut room = [0; 2000];
    for datagram in contents.chunks(1200) {
        let (len, from) = peer.recv_from(&mut room).unwrap();
        assert_eq!((&room[..len], from), (datagram, addr));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn batches_are_single_datagrams_while_a_promoted_socket_cannot_segment() {
    // More datagrams than any kernel cuts one batch into: it refuses them, as it does where the card cannot segment.
    const REFUSED: usize = 2000;
    let lab = lab();
    let (_peer, remote) = outside();
    let before = lab.socket.max_transmit_segments();
    assert!(before > 1, "the system segments");
    promoted(&lab, EXTRA);
    let route = Route::Direct {
        socket: EXTRA,
        remote,
    };
    lab.paths.set_route(LINK, route);
    let to = super::super::paths::virtual_addr(LINK);
    for _ in 0..3 {
        assert_eq!(lab.socket.max_transmit_segments(), before, "not believed yet");
        send(&lab, batch(to, &[0x40; REFUSED], Some(1))).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(lab.socket.max_transmit_segments(), 1);
    lab.sockets.close(EXTRA);
    assert_eq!(lab.socket.max_transmit_segments(), before, "the others still can");
}

#[tokio::test]
async fn who_waited_before_a_socket_was_promoted_waits_for_it_too() {
    let lab = lab();
    let (peer, peer_addr) = outside();
    let virtual_addr = super::super::paths::virtual_addr(LINK);
    let mut poller = Arc::clone(&lab.socket).create_io_poller();
    poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
    promoted(&lab, EXTRA);
    lab.paths.set_route(
        LINK,
        Route::Direct {
            socket: EXTRA,
            remote: peer_addr,
        },
    );
    // The runtime has not heard yet that the new socket can be written to.
    let early = lab.socket.try_send(&batch(virtual_addr, &[0x40; 9], None));
    assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let writable = poll_fn(|cx| poller.as_mut().poll_writable(cx));
    timeout(Duration::from_secs(2), writable).await.unwrap().unwrap();
    lab.socket
        .try_send(&batch(virtual_addr, &[0x40; 9], None))
        .unwrap();
    assert_eq!(receive(&peer), [0x40; 9]);
}

#[tokio::test]
async fn what_is_routed_over_a_socket_that_is_gone_is_dropped_and_counted() {
    let lab = lab();
    let (_, peer_addr) = outside();
    let virtual_addr = super::super::paths::virtual_addr(LINK);
    let mut poller = Arc::clone(&lab.socket).create_io_poller();
    promoted(&lab, EXTRA);
    lab.paths.set_route(
        LINK,
        Route::Direct {
            socket: EXTRA,
            remote: peer_addr,
        },
    );
    poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
    let addr = lab.sockets.get(EXTRA).unwrap().local();
    lab.sockets.close(EXTRA);
    assert!(UdpSocket::bind(addr).is_ok(), "no poller keeps it open");
    poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
    lab.socket
        .try_send(&batch(virtual_addr, &[0x40; 9], None))
        .unwrap();
    assert_eq!(lab.counters.no_path.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_busy_socket_does_not_starve_the_others() {
    let lab = lab();
    let (peer, peer_addr) = outside();
    lab.paths.add_source(LINK, SocketId::V4, peer_addr);
    let extras: Vec<SocketAddr> = (2..5).map(|id| promoted(&lab, SocketId(id))).collect();
    for id in 2..5 {
        lab.paths.add_source(LINK, SocketId(id), peer_addr);
    }
    // Sizes differ, so that no offload makes one buffer of them.
    for len in 10..200 {
        peer.send_to(&vec![0x40; len], lab.addr).unwrap();
    }
    for addr in &extras {
        peer.send_to(&[0x41; 9], addr).unwrap();
    }
    // Let the runtime hear that all of them can be read.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut calls = 0;
    let mut served = 0;
    while served < extras.len() {
        calls += 1;
        let seen = delivered(&lab, 1).await;
        served += seen.iter().filter(|(_, bytes)| bytes[0] == 0x41).count();
    }
    assert!(calls <= 8, "{calls} calls for 4 sockets, twice round");
}

/// Full batches of ten datagrams of 100 bytes.
fn full(fill: u8) -> Vec<u8> {
    [[0x40; 1].as_slice(), &[fill; 99]].concat().repeat(10)
}

/// A link with a direct route to a socket outside, and under which address it is sent to.
fn direct_lab() -> (Lab, UdpSocket, SocketAddr) {
    let lab = lab();
    let (peer, remote) = outside();
    let route = Route::Direct {
        socket: SocketId::V4,
        remote,
    };
    lab.paths.set_route(LINK, route);
    (lab, peer, super::super::paths::virtual_addr(LINK))
}

#[tokio::test]
async fn full_batches_wait_for_each_other_and_none_stays_behind() {
    let (lab, peer, to) = direct_lab();
    let (first, second) = (full(1), full(2));
    send(&lab, batch(to, &first, Some(100))).await;
    send(&lab, batch(to, &second, Some(100))).await;
    assert!(lock(&lab.socket.bundle).additions().is_some(), "both wait");
    // Nothing else to do: they go.
    for datagram in [&first[..], &second[..]].concat().chunks(100) {
        let peer = peer.try_clone().unwrap();
        let got = tokio::task::spawn_blocking(move || receive(&peer)).await.unwrap();
        assert_eq!(got, datagram);
    }
    assert!(lock(&lab.socket.bundle).additions().is_none());
}

#[tokio::test]
async fn less_than_a_full_batch_takes_along_what_waits_and_the_order_stays() {
    let (lab, peer, to) = direct_lab();
    let first = full(1);
    send(&lab, batch(to, &first, Some(100))).await;
    send(&lab, batch(to, &[0x40; 60], None)).await;
    assert!(lock(&lab.socket.bundle).additions().is_none(), "sent at once");
    send(&lab, batch(to, &first, Some(100))).await;
    // Longer than the datagrams that wait: it cannot be part of their batch.
    send(&lab, batch(to, &[0x41; 200], None)).await;
    let lengths: Vec<_> = (0..22).map(|_| receive(&peer).len()).collect();
    let expected = [&[100; 10][..], &[60], &[100; 10], &[200]].concat();
    assert_eq!(lengths, expected);
}
