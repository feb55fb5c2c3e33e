//! STUN on the server's ports.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use knothole_proto::seed::Seed;
use knothole_proto::stun::{BindingAnswer, BindingRequest, Change};
use knothole_rendezvous::{Server, StunPolicy};

use super::{server, server_with};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

/// Ask once; the answer, where it came from, and the two lengths.
fn ask(
    socket: &UdpSocket,
    server: SocketAddr,
    change: Change,
) -> Option<(BindingAnswer, SocketAddr, usize, usize)> {
    let mut rng = Seed::from_number(u64::from(server.port())).rng();
    let now = Instant::now();
    let mut request = BindingRequest::new(server, change, &mut rng, now);
    let bytes = request.poll_transmit(now)?;
    socket.send_to(&bytes, server).unwrap();
    let mut answer = [0; 2048];
    let (len, from) = socket.recv_from(&mut answer).ok()?;
    let parsed = request.handle_datagram(from, &answer[..len], Instant::now())?;
    Some((parsed, from, bytes.len(), len))
}

async fn asked(server: &Server, to: SocketAddr, change: Change) -> Option<(BindingAnswer, SocketAddr)> {
    let socket = socket();
    let local = socket.local_addr().unwrap();
    let answer = tokio::task::spawn_blocking(move || ask(&socket, to, change))
        .await
        .unwrap();
    let _ = server;
    answer.map(|(answer, from, sent, received)| {
        assert!(received <= sent, "{received} bytes for {sent}");
        assert_eq!(answer.mapped, local);
        (answer, from)
    })
}

#[tokio::test]
async fn both_ports_answer_with_no_more_bytes_than_they_got() {
    let server = server().await;
    let (main, alternate) = (server.ready().listen[0], server.ready().alternate[0]);
    let (answer, from) = asked(&server, main, Change::None).await.unwrap();
    assert_eq!(
        (from, answer.origin, answer.other),
        (main, Some(main), Some(alternate))
    );
    let (answer, from) = asked(&server, alternate, Change::None).await.unwrap();
    assert_eq!((from, answer.other), (alternate, Some(main)));
    let stats = server.stats().await.stun;
    assert_eq!(stats.answered, 2);
    assert!(stats.bytes_out <= stats.bytes_in, "{stats:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn an_answer_comes_from_the_other_port_or_address_on_request() {
    let server = server_with(|config| config.alternate = Some("127.0.0.2:0".parse().unwrap())).await;
    let main = server.ready().listen[0];
    let [port, address, both] = server.ready().alternate[..] else {
        panic!("{:?}", server.ready())
    };
    assert_eq!(
        (port.ip(), address.port(), both.port()),
        (main.ip(), main.port(), port.port())
    );
    let (_, from) = asked(&server, main, Change::Port(port.port())).await.unwrap();
    assert_eq!(from, port);
    let (_, from) = asked(&server, main, Change::AddressAndPort(both)).await.unwrap();
    assert_eq!(from, both);
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_on_all_addresses_answers_from_the_one_that_was_asked() {
    let server = server_with(|config| config.listen = vec!["0.0.0.0:0".parse().unwrap()]).await;
    let port = server.ready().listen[0].port();
    for ip in [[127, 0, 0, 1], [127, 0, 0, 3]] {
        let asked_at = SocketAddr::from((ip, port));
        let other = SocketAddr::new(asked_at.ip(), server.ready().alternate[0].port());
        let (answer, from) = asked(&server, asked_at, Change::None).await.unwrap();
        assert_eq!(from, asked_at);
        assert_eq!((answer.origin, answer.other), (Some(asked_at), Some(other)));
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_behind_a_translator_names_the_address_that_it_was_told() {
    let server = server_with(|config| config.public_host = Some("203.0.113.5".parse().unwrap())).await;
    let main = server.ready().listen[0];
    let public = |port| Some(SocketAddr::from(([203, 0, 113, 5], port)));
    let (answer, _) = asked(&server, main, Change::None).await.unwrap();
    let alternate = server.ready().alternate[0].port();
    assert_eq!(
        (answer.origin, answer.other),
        (public(main.port()), public(alternate))
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_told_to_keep_silent_does() {
    let server = server_with(|config| config.stun = StunPolicy::Off).await;
    assert!(
        asked(&server, server.ready().listen[0], Change::None)
            .await
            .is_none()
    );
    server.shutdown().await;
}
