//! Frames between two registered nodes, and from strangers.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use knothole_proto::id::{ChannelId, PairTag};
use knothole_proto::wire::relay::header;
use knothole_proto::wire::{FromServer, Kind, ToServer};
use knothole_rendezvous::{Config, Server, StartError};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::time::timeout;

use super::node::{Node, PATIENCE, Siphon};
use super::{server, server_with};

/// Long enough for a datagram on loopback to arrive, if it comes at all.
const SILENCE: Duration = Duration::from_millis(200);

/// Something to say.
const TIME: ToServer = ToServer::Time {
    sent_us: 7,
    rtt_us: 0,
};

/// Between two copies of a frame that may have come too early.
const AGAIN: Duration = Duration::from_millis(10);

async fn pair(server: &Server) -> (Node, Node, ChannelId) {
    let url = &server.ready().server_url;
    let tag = PairTag([7; 16]);
    let mut one = Node::registered(url, "one", PairTag([1; 16])).await;
    let mut other = Node::registered(url, "other", tag).await;
    let introduction = one.introduced_to(other.peer, tag).await;
    other.introduction().await;
    (one, other, introduction.channel.expect("a channel"))
}

fn frame(channel: ChannelId, fill: u8, len: usize) -> Vec<u8> {
    let mut frame = header(channel).to_vec();
    frame.resize(len, fill);
    frame
}

impl Node {
    async fn other(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.others.recv())
            .await
            .expect("a datagram in time")
            .expect("a datagram")
    }

    /// Send this until the other node has it: the relay follows a move when the new address is proven.
    async fn reaches(&self, other: &mut Self, frame: &[u8]) {
        let arrives = async {
            loop {
                self.raw.send_to(frame, self.target.addr).unwrap();
                let next = timeout(AGAIN, other.others.recv()).await;
                if next.is_ok_and(|got| got.as_deref() == Some(frame)) {
                    return;
                }
            }
        };
        timeout(PATIENCE, arrives).await.expect("the relay follows");
    }
}

/// Sends from another place than it receives at: to the server, a forged source.
#[derive(Debug)]
struct Forger {
    place: Arc<dyn AsyncUdpSocket>,
    home: Arc<Siphon>,
}

impl AsyncUdpSocket for Forger {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.place.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.place.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.home.poll_recv(cx, buffers, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.home.local_addr()
    }
}

/// What has arrived at a socket that does not block.
fn arrived(socket: &UdpSocket) -> Vec<Kind> {
    let mut buffer = [0; 65_535];
    let next = || {
        let len = socket.recv(&mut buffer).ok()?;
        Some(Kind::of(&buffer[..len]))
    };
    std::iter::from_fn(next).collect()
}

#[tokio::test]
async fn frames_pass_both_ways_unchanged() {
    let server = server().await;
    let (mut one, mut other, channel) = pair(&server).await;
    let there = frame(channel, 1, 1200);
    one.raw.send_to(&there, one.target.addr).unwrap();
    assert_eq!(other.other().await, there);
    let back = frame(channel, 2, 11);
    other.raw.send_to(&back, other.target.addr).unwrap();
    assert_eq!(one.other().await, back);
    server.shutdown().await;
}

#[tokio::test]
async fn a_batch_that_the_kernel_coalesced_arrives_as_the_same_datagrams() {
    let server = server_with(|config| config.relay_total_bits = 10_000_000_000).await;
    let (one, mut other, channel) = pair(&server).await;
    let frames: Vec<Vec<u8>> = (0..20)
        .map(|n| frame(channel, n, if n == 19 { 500 } else { 1400 }))
        .collect();
    let socket = TokioRuntime
        .wrap_udp_socket(one.raw.try_clone().unwrap())
        .unwrap();
    let batch = frames.concat();
    let transmit = Transmit {
        destination: one.target.addr,
        ecn: None,
        contents: &batch,
        segment_size: Some(1400),
        src_ip: None,
    };
    // Until the runtime has learnt that the new socket is writable.
    while socket.try_send(&transmit).is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for expected in frames {
        assert_eq!(other.other().await, expected);
    }
    let stats = server.stats().await;
    assert_eq!(stats.relay.forwarded_bytes, batch.len() as u64);
    server.shutdown().await;
}

#[tokio::test]
async fn frames_from_any_other_source_go_nowhere() {
    let server = server().await;
    let (mut one, mut other, channel) = pair(&server).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger
        .send_to(&frame(channel, 3, 100), one.target.addr)
        .unwrap();
    one.raw
        .send_to(&frame(ChannelId(channel.0 ^ 1), 3, 100), one.target.addr)
        .unwrap();
    one.raw
        .send_to(&frame(channel, 3, 1453), one.target.addr)
        .unwrap();
    assert!(timeout(SILENCE, other.others.recv()).await.is_err());
    assert!(timeout(SILENCE, one.others.recv()).await.is_err());
    let stats = server.stats().await;
    assert_eq!((stats.relay.wrong_source, stats.relay.unknown_channel), (1, 1));
    assert_eq!(
        (stats.datagrams.relay_malformed, stats.relay.forwarded_bytes),
        (1, 0)
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_on_ipv4_and_one_on_ipv6_reach_each_other() {
    let server = server_with(|config| config.listen.extend("[::1]:0".parse::<SocketAddr>())).await;
    let ready = server.ready();
    assert_eq!(ready.alternate[0].port(), ready.alternate[1].port());
    let over_v6 = ready
        .server_url
        .replace(&ready.listen[0].to_string(), &ready.listen[1].to_string());
    let tag = PairTag([7; 16]);
    let mut one = Node::registered(&ready.server_url, "one", PairTag([1; 16])).await;
    let mut other = Node::registered(&over_v6, "other", tag).await;
    let channel = one.introduced_to(other.peer, tag).await.channel.unwrap();
    other.introduction().await;
    let there = frame(channel, 1, 1200);
    one.raw.send_to(&there, one.target.addr).unwrap();
    assert_eq!(other.other().await, there);
    let back = frame(channel, 2, 500);
    other.raw.send_to(&back, other.target.addr).unwrap();
    assert_eq!(one.other().await, back);
    server.shutdown().await;
}

#[tokio::test]
async fn a_channel_ends_with_the_connection_of_either_side() {
    let server = server().await;
    let (one, mut other, channel) = pair(&server).await;
    one.connection.close(0u32.into(), b"");
    other.hear().await;
    other
        .raw
        .send_to(&frame(channel, 1, 100), other.target.addr)
        .unwrap();
    one.raw.send_to(&frame(channel, 1, 100), one.target.addr).unwrap();
    assert!(timeout(SILENCE, other.others.recv()).await.is_err());
    assert_eq!(server.stats().await.relay.channels, 0);
    server.shutdown().await;
}

#[tokio::test]
async fn the_relay_follows_a_node_whose_address_changes() {
    let server = server().await;
    let (mut one, mut other, channel) = pair(&server).await;
    // What a new mapping of a NAT looks like: the same QUIC connection from another port.
    let moved = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.raw = moved.try_clone().unwrap();
    one.endpoint.rebind(moved).unwrap();
    one.say(&TIME).await;
    let told = loop {
        if let FromServer::Observed { reflexive } = one.hear().await {
            break reflexive;
        }
    };
    assert_eq!(told, one.raw.local_addr().unwrap());
    one.reaches(&mut other, &frame(channel, 1, 100)).await;
    server.shutdown().await;
}

#[tokio::test]
async fn nothing_of_the_relay_goes_to_an_address_that_a_node_only_pretends_to_have() {
    let server = server().await;
    let (mut one, mut other, channel) = pair(&server).await;
    let victim = UdpSocket::bind("127.0.0.1:0").unwrap();
    let place = TokioRuntime.wrap_udp_socket(victim.try_clone().unwrap()).unwrap();
    let home = one.siphon.clone();
    one.endpoint
        .rebind_abstract(Arc::new(Forger { place, home }))
        .unwrap();
    // QUIC turns there, and finds nobody who answers.
    let turned = async {
        while arrived(&victim).is_empty() {
            tokio::time::sleep(AGAIN).await;
        }
    };
    timeout(PATIENCE, turned).await.expect("QUIC follows at once");
    for round in 0..30 {
        // Each of these makes the server look where the node is: a message, and a frame from there.
        if round % 10 == 0 {
            one.say(&TIME).await;
        }
        victim.send_to(&frame(channel, 3, 100), one.target.addr).unwrap();
        other
            .raw
            .send_to(&frame(channel, 4, 1200), other.target.addr)
            .unwrap();
        tokio::time::sleep(AGAIN).await;
        let to_victim = arrived(&victim);
        assert!(
            !to_victim.contains(&Kind::Relay),
            "{to_victim:?} in round {round}"
        );
    }
    // It goes where the node is; and what is said to come from elsewhere goes nowhere.
    assert_eq!(one.other().await, frame(channel, 4, 1200));
    assert!(other.others.try_recv().is_err());
    server.shutdown().await;
}

#[tokio::test]
async fn the_total_cap_holds() {
    let server = server_with(|config| config.relay_total_bits = 1_000_000).await;
    let (one, mut other, channel) = pair(&server).await;
    let started = std::time::Instant::now();
    for _ in 0..1000 {
        one.raw
            .send_to(&frame(channel, 1, 1400), one.target.addr)
            .unwrap();
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(SILENCE).await;
    let stats = server.stats().await.relay;
    let allowed = 256.0 * 1024.0 + 1_000_000.0 / 8.0 * started.elapsed().as_secs_f64();
    assert!(stats.forwarded_bytes as f64 <= allowed, "{stats:?}");
    assert!(stats.queue.overflow_bytes > 500_000, "{stats:?}");
    let mut arrived = 0;
    while let Ok(datagram) = other.others.try_recv() {
        arrived += datagram.len() as u64;
    }
    assert!(arrived >= 256 * 1024 - 1400, "{arrived}");
    // What waits goes on at the pace of the limit.
    let later = other.other().await;
    assert_eq!(later, frame(channel, 1, 1400));
    assert!(server.stats().await.relay.queue.delayed_bytes > 0);
    server.shutdown().await;
}

#[tokio::test]
async fn several_workers_forward_for_many_pairs_and_serve_their_control_connections() {
    let server = server_with(|config| config.workers = NonZeroUsize::new(4)).await;
    let mut pairs = Vec::new();
    for number in 0..12 {
        let url = &server.ready().server_url;
        let tag = PairTag([7; 16]);
        let mut one = Node::registered(url, &format!("one-{number}"), PairTag([1; 16])).await;
        let mut other = Node::registered(url, &format!("other-{number}"), tag).await;
        let channel = one.introduced_to(other.peer, tag).await.channel.unwrap();
        other.introduction().await;
        pairs.push((one, other, channel));
    }
    for (one, other, channel) in &mut pairs {
        let there = frame(*channel, 1, 1200);
        one.raw.send_to(&there, one.target.addr).unwrap();
        assert_eq!(other.other().await, there);
        assert_eq!(one.tally.bytes.load(Ordering::Relaxed), 0);
    }
    let stats = server.stats().await;
    assert_eq!(stats.workers.len(), 4);
    let forwarded: Vec<u64> = stats
        .workers
        .iter()
        .map(|worker| worker.forwarded_frames)
        .collect();
    assert_eq!(forwarded.iter().sum::<u64>(), 12);
    if cfg!(target_os = "linux") {
        // One in four million, for a kernel that spreads over four.
        assert!(
            forwarded.iter().filter(|count| **count > 0).count() > 1,
            "{forwarded:?}"
        );
    }
    // A new mapping of a NAT may lead to the socket of another worker; the connection lives on all the same.
    let (one, other, channel) = &mut pairs[0];
    for move_number in 0..8 {
        let moved = UdpSocket::bind("127.0.0.1:0").unwrap();
        one.raw = moved.try_clone().unwrap();
        one.endpoint.rebind(moved).unwrap();
        one.ask_the_time().await;
        one.reaches(other, &frame(*channel, 2 + move_number, 100)).await;
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_port_with_several_sockets_is_taken_for_everybody_else() {
    let first = server_with(|config| config.workers = NonZeroUsize::new(3)).await;
    let addr = first.ready().listen[0];
    let config = Config {
        listen: vec![addr],
        workers: NonZeroUsize::new(3),
        ..Config::default()
    };
    let second = Server::start(config).await;
    assert!(matches!(second, Err(StartError::PortInUse { addr: taken }) if taken == addr));
    first.shutdown().await;
}

#[tokio::test]
async fn without_a_relay_there_is_no_channel() {
    let server = server_with(|config| config.relay_total_bits = 0).await;
    let url = &server.ready().server_url;
    let tag = PairTag([7; 16]);
    let mut one = Node::registered(url, "one", PairTag([1; 16])).await;
    let other = Node::registered(url, "other", tag).await;
    assert_eq!(one.introduced_to(other.peer, tag).await.channel, None);
    server.shutdown().await;
}
