//! Datagrams and messages that nobody sends in good faith. Whatever comes, the server goes on serving the others.

use std::net::UdpSocket;
use std::time::Duration;

use knothole_proto::seed::{Rng, Seed};
use knothole_proto::wire::{FromServer, Refusal, ToServer};
use knothole_rendezvous::Server;

use super::node::Node;
use super::{server, server_with};

/// Datagrams for each port of the server.
const DATAGRAMS: u32 = 100_000;

/// A registered node that was there before, to be asked whether the server still works.
async fn witness(server: &Server) -> Node {
    let mut node = Node::connect(&server.ready().server_url).await;
    assert!(matches!(
        node.hello(Some("witness")).await,
        FromServer::Welcome(_)
    ));
    node
}

/// A datagram that begins like one of the kinds, or like nothing.
fn garbage(rng: &mut Rng) -> Vec<u8> {
    let len = usize::try_from(rng.below(1400)).unwrap();
    let mut bytes: Vec<u8> = (0..len.div_ceil(8))
        .flat_map(|_| rng.u64().to_le_bytes())
        .collect();
    bytes.truncate(len);
    match rng.below(6) {
        // STUN: a request's type and the magic cookie.
        0 if len > 20 => bytes[..8].copy_from_slice(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42]),
        1 if len > 20 => {
            let body = u16::try_from(len - 20).unwrap().to_be_bytes();
            bytes[..8].copy_from_slice(&[0, 1, body[0], body[1], 0x21, 0x12, 0xa4, 0x42]);
        }
        // A relay frame.
        2 if len > 10 => bytes[..2].copy_from_slice(&[5, 0]),
        // QUIC version 1: an Initial, and a short header.
        3 if len > 20 => bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]),
        4 if len > 0 => bytes[0] = 0x40 | (bytes[0] & 0x3f),
        _ => {}
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_leaves_the_server_serving_and_is_hardly_answered() {
    let server = server().await;
    let mut witness = witness(&server).await;
    let ready = server.ready().clone();
    for (number, port) in ready.listen.iter().chain(&ready.alternate).copied().enumerate() {
        let (sent, received) = tokio::task::spawn_blocking(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut rng = Seed::from_number(number as u64).rng();
            let mut sent = 0;
            for count in 0..DATAGRAMS {
                sent += socket.send_to(&garbage(&mut rng), port).unwrap();
                if count % 50 == 0 {
                    // The receiver is to see most of it.
                    std::thread::yield_now();
                }
            }
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut buffer = [0; 2048];
            let mut received = 0;
            while let Ok(len) = socket.recv(&mut buffer) {
                received += len;
            }
            (sent, received)
        })
        .await
        .unwrap();
        assert!(received <= sent / 100, "{received} bytes in answer to {sent}");
        witness.ask_the_time().await;
    }
    let mut newcomer = Node::connect(&ready.server_url).await;
    assert!(matches!(
        newcomer.hello(Some("newcomer")).await,
        FromServer::Welcome(_)
    ));
    let stats = server.stats().await;
    assert!(stats.datagrams.unknown > 1000, "{stats:?}");
    assert!(stats.relay.unknown_channel > 1000, "{stats:?}");
    assert_eq!(stats.stun.answered, 0, "{stats:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn bytes_that_are_no_message_end_that_connection_alone() {
    let server = server().await;
    let mut witness = witness(&server).await;
    let url = server.ready().server_url.clone();
    let oversized = (16 * 1024 + 1_u32).to_be_bytes();
    for bytes in [
        &[0xff; 64][..],
        &oversized[..],
        &[0, 0, 0, 0],
        &[0, 0, 0, 3, 1, 1, 200],
        &[0, 0, 0, 3, 9, 1, 0],
        &[0, 0, 0, 3, 1, 9, 0],
    ] {
        let mut node = Node::connect(&url).await;
        node.send.write_all(bytes).await.unwrap();
        assert_eq!(node.refused().await, Refusal::Protocol, "{bytes:?}");
    }
    // Cut off in the middle of a message.
    let mut node = Node::connect(&url).await;
    node.send.write_all(&[0, 0, 0, 9, 1, 1]).await.unwrap();
    node.send.finish().unwrap();
    assert_eq!(node.refused().await, Refusal::Protocol);
    witness.ask_the_time().await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_message_before_hello_is_against_the_protocol() {
    let server = server().await;
    let mut node = Node::connect(&server.ready().server_url).await;
    node.say(&ToServer::PairOpen).await;
    assert_eq!(node.refused().await, Refusal::Protocol);
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_that_floods_messages_loses_its_connection_and_nobody_else_does() {
    let server = server().await;
    let mut witness = witness(&server).await;
    let mut node = Node::connect(&server.ready().server_url).await;
    assert!(matches!(node.hello(None).await, FromServer::Welcome(_)));
    let bytes = knothole_proto::wire::codec::encode_framed(&ToServer::Time {
        sent_us: 1,
        rtt_us: 0,
    })
    .unwrap();
    while node.send.write_all(&bytes).await.is_ok() {}
    tokio::time::timeout(super::node::PATIENCE, node.connection.closed())
        .await
        .unwrap();
    witness.ask_the_time().await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_second_stream_is_not_to_be_had() {
    let server = server_with(|config| config.open = true).await;
    let mut node = Node::connect(&server.ready().server_url).await;
    assert!(matches!(node.hello(None).await, FromServer::Welcome(_)));
    let second = tokio::time::timeout(Duration::from_millis(300), node.connection.open_bi()).await;
    assert!(second.is_err());
    let one_way = tokio::time::timeout(Duration::from_millis(300), node.connection.open_uni()).await;
    assert!(one_way.is_err());
    assert_eq!(node.connection.max_datagram_size(), None);
    node.ask_the_time().await;
    server.shutdown().await;
}
