//! Registering, being refused, and being introduced.

use knothole_proto::id::PairTag;
use knothole_proto::wire::{FromServer, Refusal, ToServer};
use rcgen::KeyPair;

use super::node::{Key, Node, Target};
use super::{server, server_with};

#[tokio::test]
async fn a_node_with_the_token_registers_and_learns_its_address() {
    let server = server().await;
    let mut node = Node::connect(&server.ready().server_url).await;
    let FromServer::Welcome(welcome) = node.hello(Some("nas")).await else {
        panic!("not welcome")
    };
    assert_eq!(welcome.name.map(|name| name.to_string()), Some("nas".to_owned()));
    assert_eq!(welcome.reflexive, node.raw.local_addr().unwrap());
    assert_eq!(welcome.alternate_port, server.ready().alternate[0].port());
    assert!(welcome.relay);
    node.ask_the_time().await;
    let stats = server.stats().await;
    assert_eq!(
        (stats.registry.connected, stats.registry.names, stats.connections),
        (1, 1, 1)
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_node_without_the_right_token_is_told_so_and_disconnected() {
    let server = server().await;
    let url = &server.ready().server_url;
    let mut node = Node::connect(url).await;
    node.target.token = None;
    let hello = node.hello_message(None);
    node.say(&ToServer::Hello(hello)).await;
    assert_eq!(node.refused().await, Refusal::TokenMissing);

    let mut node = Node::connect(url).await;
    node.target.token = Some("guess".parse().unwrap());
    let hello = node.hello_message(None);
    node.say(&ToServer::Hello(hello)).await;
    assert_eq!(node.refused().await, Refusal::TokenWrong);
    server.shutdown().await;
}

#[tokio::test]
async fn an_open_server_needs_no_token_and_shows_none() {
    let server = server_with(|config| config.open = true).await;
    assert!(Target::of(&server.ready().server_url).token.is_none());
    let mut node = Node::connect(&server.ready().server_url).await;
    assert!(matches!(node.hello(None).await, FromServer::Welcome(_)));
    server.shutdown().await;
}

#[tokio::test]
async fn a_name_belongs_to_the_key_that_claimed_it_first() {
    let server = server().await;
    let url = &server.ready().server_url;
    let key = Key::new();
    let mut first = Node::connect_as(url, &key).await.unwrap();
    assert!(matches!(first.hello(Some("nas")).await, FromServer::Welcome(_)));
    let mut thief = Node::connect(url).await;
    let hello = thief.hello_message(Some("nas"));
    thief.say(&ToServer::Hello(hello)).await;
    assert_eq!(thief.refused().await, Refusal::NameTaken);
    let mut again = Node::connect_as(url, &key).await.unwrap();
    again.target.token = None;
    assert!(matches!(again.hello(Some("nas")).await, FromServer::Welcome(_)));
    server.shutdown().await;
}

#[tokio::test]
async fn a_certificate_is_nothing_without_its_private_key() {
    let server = server().await;
    let url = &server.ready().server_url;
    let pretender = Key::new().with_private_key_of(&Key::new());
    // In TLS 1.3 the client's handshake is over before the server has judged it, so the end may come a little later.
    if let Ok(node) = Node::connect_as(url, &pretender).await {
        let end = tokio::time::timeout(super::node::PATIENCE, node.connection.closed()).await;
        assert!(
            matches!(end, Ok(quinn::ConnectionError::ConnectionClosed(_))),
            "{end:?}"
        );
    }
    let other_kind = Key::of_kind(&KeyPair::generate().unwrap());
    if let Ok(node) = Node::connect_as(url, &other_kind).await {
        let end = tokio::time::timeout(super::node::PATIENCE, node.connection.closed()).await;
        assert!(
            matches!(end, Ok(quinn::ConnectionError::ConnectionClosed(_))),
            "{end:?}"
        );
    }
    assert_eq!(server.stats().await.registry.connections, 0);
    server.shutdown().await;
}

#[tokio::test]
async fn two_nodes_are_introduced_with_the_same_session_and_start() {
    let server = server().await;
    let url = &server.ready().server_url;
    let tag = PairTag([7; 16]);
    let mut caller = Node::registered(url, "caller", PairTag([1; 16])).await;
    let mut callee = Node::registered(url, "callee", tag).await;
    let one = caller.introduced_to(callee.peer, tag).await;
    let other = callee.introduction().await;
    assert_eq!(
        (one.session, one.channel, one.start),
        (other.session, other.channel, other.start)
    );
    assert!(one.channel.is_some());
    assert_eq!(other.peer, caller.peer);
    let offered = one.candidates.iter().map(|offered| offered.candidate.addr);
    assert!(
        offered
            .into_iter()
            .any(|addr| addr == callee.raw.local_addr().unwrap())
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_stopping_server_tells_its_nodes_when_to_come_back() {
    let server = server().await;
    let mut node = Node::connect(&server.ready().server_url).await;
    node.hello(None).await;
    let started = std::time::Instant::now();
    let stopping = tokio::spawn(server.shutdown());
    let FromServer::Draining { retry_after_ms } = node.hear().await else {
        panic!("no goodbye")
    };
    assert!(retry_after_ms > 0);
    stopping.await.unwrap();
    assert!(
        started.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(matches!(
        node.connection.closed().await,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
}
