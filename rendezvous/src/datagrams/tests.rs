//! What becomes of each datagram in a receive buffer, with sockets that only remember what was sent through them.

mod counting;

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use knothole_proto::id::{ChannelId, PeerId};
use knothole_proto::rendezvous::{ConnId, RelayConfig};
use knothole_proto::seed::Seed;
use knothole_proto::stun::{BindingRequest, Change, ServerSocket, StunConfig, StunPolicy, StunServer};
use knothole_proto::wire::relay::header;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::{Counters, Datagrams, Outbox, Place, Purpose, Relay, Site, Stun, Via, Wire};

const NODE_A: &str = "198.51.100.1:1000";
const NODE_B: &str = "198.51.100.2:2000";
const CHANNEL: ChannelId = ChannelId(77);
const OTHER_CHANNEL: ChannelId = ChannelId(78);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// One call of a socket's send.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    to: SocketAddr,
    bytes: Vec<u8>,
    segment: Option<usize>,
    ecn: Option<EcnCodepoint>,
    source: Option<IpAddr>,
}

#[derive(Debug)]
struct Memory {
    sent: Mutex<Vec<Sent>>,
    segments: usize,
    /// Batches that it takes before it is full.
    room: AtomicUsize,
}

/// Whoever waits for the socket finds it ready when there is room.
#[derive(Debug)]
struct Ready(Arc<Memory>);

impl UdpPoller for Ready {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.room.load(Ordering::Relaxed) > 0 {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncUdpSocket for Memory {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Ready(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let less = |room: usize| room.checked_sub(1);
        if self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_err()
        {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.sent.lock().unwrap().push(Sent {
            to: transmit.destination,
            bytes: transmit.contents.to_vec(),
            segment: transmit.segment_size,
            ecn: transmit.ecn,
            source: transmit.src_ip,
        });
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(addr("0.0.0.0:5668"))
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments
    }
}

/// A server of one main and one discovery socket, with nodes A and B and two channels between them.
struct World {
    datagrams: Arc<Datagrams>,
    sockets: [Arc<Memory>; 2],
    moved: mpsc::Receiver<[ConnId; 2]>,
    /// When everything arrives.
    now: Instant,
}

impl World {
    fn new(segments: usize) -> Self {
        Self::limited(segments, RelayConfig::new(1_000_000_000))
    }

    fn limited(segments: usize, limits: RelayConfig) -> Self {
        let now = Instant::now();
        let (moves, moved) = mpsc::channel(4);
        let relay = Relay::new(limits, moves, now);
        let source = Some("192.0.2.1".parse().unwrap());
        for (conn, at) in [(ConnId(1), addr(NODE_A)), (ConnId(2), addr(NODE_B))] {
            let via = Via {
                to: at,
                wire: 0,
                source,
            };
            relay.connect(conn, PeerId::from_spki(&conn.0.to_be_bytes()), via, now);
        }
        for channel in [CHANNEL, OTHER_CHANNEL] {
            let ends = [(ConnId(1), addr(NODE_A)), (ConnId(2), addr(NODE_B))];
            assert!(relay.open(channel, ends));
        }
        let socket = || {
            Arc::new(Memory {
                sent: Mutex::default(),
                segments,
                room: AtomicUsize::new(usize::MAX),
            })
        };
        let sockets = [socket(), socket()];
        let wire = |number: usize, purpose| Wire {
            sockets: vec![sockets[number].clone()],
            local: addr(["0.0.0.0:5668", "0.0.0.0:5669"][number]),
            purpose,
        };
        let roles = vec![(ServerSocket::Main, 0), (ServerSocket::AlternatePort, 1)];
        let config = StunConfig {
            policy: StunPolicy::Nodes,
            sockets: vec![
                (ServerSocket::Main, addr("0.0.0.0:5668")),
                (ServerSocket::AlternatePort, addr("0.0.0.0:5669")),
            ],
        };
        let site = Site {
            server: Mutex::new(StunServer::new(config, &Seed::from_number(1), now)),
            sockets: roles,
        };
        Self {
            datagrams: Arc::new(Datagrams {
                wires: vec![wire(0, Purpose::Main), wire(1, Purpose::Discovery)],
                relay,
                stun: Stun { sites: vec![site] },
                counters: Counters::new(1),
            }),
            sockets,
            moved,
            now,
        }
    }

    /// These datagrams arrive in one buffer; what is left for QUIC.
    fn receive(&self, socket: usize, from: &str, stride: usize, datagrams: &[Vec<u8>]) -> Vec<u8> {
        self.receive_at("192.0.2.9", socket, from, stride, datagrams)
    }

    /// The same at this address of the server.
    fn receive_at(
        &self,
        at: &str,
        socket: usize,
        from: &str,
        stride: usize,
        datagrams: &[Vec<u8>],
    ) -> Vec<u8> {
        let mut buffer = datagrams.concat();
        let len = buffer.len();
        buffer.resize(len + 100, 0xee);
        let mut meta = RecvMeta {
            addr: addr(from),
            len,
            stride,
            ecn: Some(EcnCodepoint::Ect0),
            dst_ip: Some(at.parse().unwrap()),
        };
        let mut outbox = Outbox::default();
        self.datagrams.sort(
            place(socket),
            &mut [&mut buffer[..]],
            std::slice::from_mut(&mut meta),
            &mut outbox,
            self.now,
        );
        buffer.truncate(meta.len);
        buffer
    }

    /// Each of these datagrams arrives in a buffer of its own, all in one turn.
    fn receive_singly(&self, from: &str, datagrams: &[Vec<u8>]) {
        let meta = |datagram: &Vec<u8>| RecvMeta {
            addr: addr(from),
            len: datagram.len(),
            stride: datagram.len(),
            ..RecvMeta::default()
        };
        let mut metas: Vec<RecvMeta> = datagrams.iter().map(meta).collect();
        let mut buffers = datagrams.to_vec();
        let mut buffers: Vec<&mut [u8]> = buffers.iter_mut().map(|b| &mut b[..]).collect();
        let mut outbox = Outbox::default();
        self.datagrams
            .sort(place(0), &mut buffers, &mut metas, &mut outbox, self.now);
        assert!(outbox.batch().is_none(), "nothing stays behind");
    }

    fn sent(&self, socket: usize) -> Vec<Sent> {
        std::mem::take(&mut self.sockets[socket].sent.lock().unwrap())
    }
}

fn place(wire: usize) -> Place {
    Place { wire, worker: 0 }
}

fn quic(fill: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![fill; len];
    bytes[0] = 0x40;
    bytes
}

fn frame(channel: ChannelId, fill: u8, len: usize) -> Vec<u8> {
    let mut bytes = header(channel).to_vec();
    bytes.resize(len, fill);
    bytes
}

fn stun(change: Change) -> Vec<u8> {
    let now = Instant::now();
    let mut rng = Seed::from_number(1).rng();
    let mut request = BindingRequest::new(addr("192.0.2.9:5668"), change, &mut rng, now);
    request.poll_transmit(now).unwrap()
}

#[test]
fn a_buffer_of_quic_reaches_quinn_untouched() {
    let world = World::new(64);
    let datagrams = [quic(1, 100), quic(2, 100), quic(3, 40)];
    assert_eq!(world.receive(0, NODE_A, 100, &datagrams), datagrams.concat());
    assert_eq!(world.sent(0), []);
}

#[test]
fn frames_of_one_channel_leave_as_one_batch_with_the_same_bytes() {
    let world = World::new(64);
    let datagrams: Vec<_> = (0..10)
        .map(|n| frame(CHANNEL, n, if n == 9 { 33 } else { 100 }))
        .collect();
    assert_eq!(world.receive(0, NODE_A, 100, &datagrams), b"");
    let batch = Sent {
        to: addr(NODE_B),
        bytes: datagrams.concat(),
        segment: Some(100),
        ecn: Some(EcnCodepoint::Ect0),
        source: Some("192.0.2.1".parse().unwrap()),
    };
    assert_eq!(world.sent(0), [batch]);
}

#[test]
fn frames_that_arrived_one_by_one_leave_together_as_far_as_they_go_together() {
    let world = World::new(64);
    let datagrams = [
        frame(CHANNEL, 1, 100),
        frame(OTHER_CHANNEL, 2, 100),
        frame(CHANNEL, 3, 60),
        frame(CHANNEL, 4, 100),
        frame(CHANNEL, 5, 100),
        frame(CHANNEL, 6, 101),
        frame(CHANNEL, 7, 20),
    ];
    world.receive_singly(NODE_A, &datagrams);
    let sent = world.sent(0);
    let batches: Vec<_> = sent
        .iter()
        .map(|sent| (sent.bytes.clone(), sent.segment))
        .collect();
    let expected = [
        (datagrams[..3].concat(), Some(100)),
        (datagrams[3..5].concat(), Some(100)),
        (datagrams[5..].concat(), Some(101)),
    ];
    assert_eq!(batches, expected);
    assert!(sent.iter().all(|sent| sent.to == addr(NODE_B)));
}

#[test]
fn no_batch_grows_beyond_what_a_socket_takes() {
    let world = World::new(64);
    let datagrams: Vec<_> = (0..100).map(|n| frame(CHANNEL, n, 1452)).collect();
    world.receive_singly(NODE_A, &datagrams);
    let sent = world.sent(0);
    assert!(sent.iter().all(|sent| sent.bytes.len() <= 65_507));
    assert_eq!(sent.len(), 3);
    let bytes: Vec<u8> = sent.into_iter().flat_map(|sent| sent.bytes).collect();
    assert_eq!(bytes, datagrams.concat());
}

#[test]
fn where_the_card_cannot_segment_frames_leave_one_by_one() {
    let world = World::new(1);
    let datagrams = [
        frame(CHANNEL, 1, 100),
        frame(CHANNEL, 2, 100),
        frame(CHANNEL, 3, 50),
    ];
    world.receive(0, NODE_B, 100, &datagrams);
    let sent = world.sent(0);
    assert_eq!(
        sent.iter().map(|sent| sent.bytes.clone()).collect::<Vec<_>>(),
        datagrams
    );
    assert!(
        sent.iter()
            .all(|sent| sent.segment.is_none() && sent.to == addr(NODE_A))
    );
}

#[test]
fn every_datagram_of_a_mixed_buffer_goes_its_own_way() {
    let world = World::new(64);
    let request = stun(Change::None);
    let len = request.len();
    let datagrams = [
        quic(1, len),
        frame(CHANNEL, 2, len),
        frame(CHANNEL, 3, len),
        request,
        quic(4, len),
        frame(OTHER_CHANNEL, 5, len),
        frame(CHANNEL, 6, len),
        vec![9; len],
        vec![4; len],
        quic(7, 30),
    ];
    let left = world.receive(0, NODE_A, len, &datagrams);
    assert_eq!(left, [quic(1, len), quic(4, len), quic(7, 30)].concat());
    let sent = world.sent(0);
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert_eq!(
        sent[0].bytes,
        [frame(CHANNEL, 2, len), frame(CHANNEL, 3, len)].concat()
    );
    assert_eq!(sent[1].to, addr(NODE_A));
    assert_eq!(
        sent[1].source,
        Some("192.0.2.9".parse().unwrap()),
        "answers from where it was asked"
    );
    assert_eq!(sent[2].bytes, frame(OTHER_CHANNEL, 5, len));
    assert_eq!(sent[3].bytes, frame(CHANNEL, 6, len));
    assert_eq!(
        world.datagrams.counters.read().unknown,
        2,
        "a probe is as unknown here as noise"
    );
}

#[test]
fn an_answer_leaves_through_the_socket_that_was_asked_for() {
    let world = World::new(64);
    let request = stun(Change::Port(5669));
    assert_eq!(world.receive(0, NODE_A, request.len(), &[request]), b"");
    assert_eq!((world.sent(0).len(), world.sent(1).len()), (0, 1));
}

#[test]
fn what_went_to_many_is_not_answered_and_does_not_reach_quic() {
    let world = World::new(usize::MAX);
    let request = stun(Change::None);
    let long = quic(1, request.len());
    for at in ["224.0.0.1", "255.255.255.255", "ff02::1"] {
        let datagrams = [request.clone(), long.clone()];
        let left = world.receive_at(at, 0, NODE_A, request.len(), &datagrams);
        assert!(left.is_empty(), "{at}");
    }
    assert!(world.sent(0).is_empty() && world.sent(1).is_empty());
    // One address answers as ever.
    world.receive(0, NODE_A, request.len(), &[request]);
    assert_eq!(world.sent(0).len(), 1);
}

#[test]
fn a_discovery_socket_takes_nothing_but_stun() {
    let world = World::new(64);
    let request = stun(Change::None);
    let len = request.len();
    let left = world.receive(1, NODE_A, len, &[quic(1, len), frame(CHANNEL, 1, len), request]);
    assert_eq!(left, b"");
    assert_eq!((world.sent(0).len(), world.sent(1).len()), (0, 1));
    assert_eq!(world.datagrams.counters.read().unknown, 2);
}

#[test]
fn what_has_no_port_to_answer_to_is_dropped_whole() {
    let world = World::new(64);
    let left = world.receive(0, "198.51.100.1:0", 100, &[quic(1, 100), frame(CHANNEL, 1, 100)]);
    assert_eq!((left, world.sent(0)), (vec![], vec![]));
}

#[test]
fn a_frame_from_a_wrong_source_asks_once_where_the_ends_are() {
    let mut world = World::new(64);
    for _ in 0..3 {
        world.receive(0, "203.0.113.5:5", 100, &[frame(CHANNEL, 1, 100)]);
    }
    assert_eq!(world.sent(0), []);
    assert_eq!(world.moved.try_recv().ok(), Some([ConnId(1), ConnId(2)]));
    assert!(world.moved.try_recv().is_err());
}

#[test]
fn malformed_and_oversized_frames_are_dropped_and_counted() {
    let world = World::new(64);
    let empty = header(CHANNEL).to_vec();
    let reserved = [&[5, 1][..], &frame(CHANNEL, 1, 50)[2..]].concat();
    for bad in [vec![5], empty, reserved, frame(CHANNEL, 1, 1453)] {
        assert_eq!(
            world.receive(0, NODE_A, bad.len(), std::slice::from_ref(&bad)),
            b""
        );
    }
    assert_eq!(world.sent(0), []);
    assert_eq!(world.datagrams.counters.read().relay_malformed, 4);
    world.receive(0, NODE_A, 1452, &[frame(CHANNEL, 1, 1452)]);
    assert_eq!(world.sent(0).len(), 1);
}

/// What the socket has got once it has got so much, while the task that lets out what waits runs.
async fn let_out(world: &World, bytes: usize) -> Vec<Sent> {
    let running = tokio::spawn(world.datagrams.clone().let_out());
    let got = || {
        let sent = world.sockets[0].sent.lock().unwrap();
        sent.iter().map(|sent| sent.bytes.len()).sum::<usize>()
    };
    let all = async {
        while got() < bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all)
        .await
        .unwrap_or_else(|_| panic!("{} of {bytes} bytes left", got()));
    running.abort();
    world.sent(0)
}

#[tokio::test]
async fn what_a_full_socket_does_not_take_waits_for_it_and_leaves_in_order() {
    let world = World::new(4);
    world.sockets[0].room.store(1, Ordering::Relaxed);
    let datagrams: Vec<_> = (0..10).map(|n| frame(CHANNEL, n, 100)).collect();
    world.receive(0, NODE_A, 100, &datagrams);
    assert_eq!(world.sent(0).len(), 1, "the first four frames");
    world.receive(0, NODE_A, 100, &[frame(CHANNEL, 10, 100)]);
    world.receive(0, NODE_B, 100, &[frame(CHANNEL, 11, 100)]);
    assert_eq!(world.sent(0), [], "nobody overtakes what waits");
    world.sockets[0].room.store(usize::MAX, Ordering::Relaxed);
    let sent = let_out(&world, 800).await;
    let to_b: Vec<u8> = sent
        .iter()
        .filter(|sent| sent.to == addr(NODE_B))
        .flat_map(|sent| sent.bytes.clone())
        .collect();
    assert_eq!(
        to_b,
        [&datagrams[4..].concat()[..], &frame(CHANNEL, 10, 100)].concat()
    );
    assert!(sent.iter().any(|sent| sent.to == addr(NODE_A)));
    world.receive(0, NODE_A, 100, &[frame(CHANNEL, 12, 100)]);
    assert_eq!(world.sent(0).len(), 1, "and then the way is free again");
    let stats = world.datagrams.relay_stats();
    assert_eq!((stats.forwarded_frames, stats.queue.held_bytes), (13, 0));
    assert_eq!(stats.queue.dropped_batches, 0);
}

#[tokio::test]
async fn what_a_socket_takes_in_parts_after_it_was_full_leaves_once() {
    let world = World::new(4);
    world.sockets[0].room.store(0, Ordering::Relaxed);
    let datagrams: Vec<_> = (0..10).map(|n| frame(CHANNEL, n, 100)).collect();
    world.receive(0, NODE_A, 100, &datagrams);
    let mut parts = Vec::new();
    for (room, bytes) in [(1, 400), (usize::MAX, 600)] {
        world.sockets[0].room.store(room, Ordering::Relaxed);
        let sent = let_out(&world, bytes).await;
        parts.push(sent.into_iter().flat_map(|sent| sent.bytes).collect::<Vec<u8>>());
    }
    assert_eq!(parts, [datagrams[..4].concat(), datagrams[4..].concat()]);
}

#[tokio::test]
async fn what_exceeds_the_limit_leaves_later_with_the_same_bytes() {
    // The burst is 256 KiB.
    let world = World::limited(64, RelayConfig::new(40_000_000));
    let batch: Vec<_> = (0..40).map(|n| frame(CHANNEL, n, 1_000)).collect();
    for _ in 0..9 {
        world.receive(0, NODE_A, 1_000, &batch);
    }
    let at_once = world.sent(0);
    assert_eq!(at_once.len(), 6, "the burst");
    let later = let_out(&world, 3 * 40_000).await;
    assert!(later.iter().all(|sent| sent.segment == Some(1_000)));
    let bytes: Vec<u8> = later.into_iter().flat_map(|sent| sent.bytes).collect();
    assert_eq!(bytes, batch.concat().repeat(3));
    let stats = world.datagrams.relay_stats();
    assert_eq!(stats.queue.delayed_bytes, 120_000);
    assert_eq!(stats.forwarded_bytes, 360_000);
}

#[tokio::test]
async fn below_a_low_limit_batches_leave_in_pieces_of_whole_frames() {
    let world = World::limited(64, RelayConfig::new(4_000_000));
    let batch: Vec<_> = (0..60).map(|n| frame(CHANNEL, n, 1_000)).collect();
    for _ in 0..5 {
        world.receive(0, NODE_A, 1_000, &batch);
    }
    world.sent(0);
    // 240,000 left at once, and of the last batch the 20,000 that the burst still paid for.
    let pieces = let_out(&world, 40_000).await;
    assert!(pieces.iter().all(|sent| sent.bytes.len() == 5_000), "10 ms each");
}

#[test]
fn a_stun_answer_that_finds_the_socket_full_is_dropped_and_counted() {
    let world = World::new(64);
    world.sockets[0].room.store(0, Ordering::Relaxed);
    let request = stun(Change::None);
    world.receive(0, NODE_A, request.len(), &[request]);
    assert_eq!(world.datagrams.counters.read().stun_full, 1);
}

#[test]
fn what_waits_in_a_channel_goes_with_it() {
    let world = World::new(64);
    world.sockets[0].room.store(0, Ordering::Relaxed);
    world.receive(0, NODE_A, 100, &[frame(CHANNEL, 1, 100)]);
    assert_eq!(world.datagrams.relay_stats().queue.lanes, 1);
    world.datagrams.relay.close(CHANNEL);
    let stats = world.datagrams.relay_stats();
    assert_eq!(
        (stats.channels, stats.queue.lanes, stats.queue.held_bytes),
        (1, 0, 0)
    );
}

#[test]
fn connecting_anew_gives_a_key_no_new_limit() {
    let limits = RelayConfig::new(1_000_000_000).with_per_key(1_000_000);
    let world = World::limited(64, limits);
    let relay = &world.datagrams.relay;
    let batch: Vec<_> = (0..40).map(|n| frame(CHANNEL, n, 1_000)).collect();
    for _ in 0..10 {
        world.receive(0, NODE_A, 1_000, &batch);
    }
    let at_once: usize = world.sent(0).iter().map(|sent| sent.bytes.len()).sum();
    assert_eq!(at_once, 262_000, "the burst");
    relay.close(CHANNEL);
    relay.forget(ConnId(1));
    let via = Via {
        to: addr(NODE_A),
        wire: 0,
        source: None,
    };
    relay.connect(ConnId(9), PeerId::from_spki(&1_u64.to_be_bytes()), via, world.now);
    assert!(relay.open(CHANNEL, [(ConnId(9), addr(NODE_A)), (ConnId(2), addr(NODE_B))]));
    world.receive(0, NODE_A, 1_000, &batch);
    assert_eq!(world.sent(0), []);
    world.receive(0, NODE_B, 1_000, &batch);
    assert_eq!(world.sent(0).len(), 1, "the other key has its own");
}

#[test]
fn a_newer_connection_at_an_address_outlives_the_older_one() {
    let world = World::new(64);
    let via = Via {
        to: addr(NODE_B),
        wire: 0,
        source: None,
    };
    let relay = &world.datagrams.relay;
    relay.connect(ConnId(3), PeerId::from_spki(b"3"), via, world.now);
    relay.forget(ConnId(2));
    world.receive(0, NODE_A, 100, &[frame(CHANNEL, 1, 100)]);
    assert_eq!(world.sent(0).len(), 1);
}
