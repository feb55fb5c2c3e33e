//! Nodes and a server on loopback: the whole product in one process, on real sockets.
#![allow(clippy::unwrap_used)] // also in the helpers, which clippy does not take for tests

#[path = "node/limits.rs"]
mod limits;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::PathBuf;
use std::time::Duration;

use knothole::{
    Bind, ConnectError, ConnectOptions, Connection, Identity, LookupError, Node, NodeConfig, NodeEvent,
    PairSecret, Path, PathPolicy, Peer, PeerId, Refusal, ServerUrl, StartError, Why,
};
use knothole_rendezvous::{Config, Server};
use tokio::time::{sleep, timeout};

/// Everything on loopback is done in milliseconds; what takes longer is broken. Generous, because tests share two cores.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn two_paired_nodes_find_each_other_by_name_and_talk_directly() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    let found = alice.lookup("bob".parse().unwrap()).await.unwrap();
    assert_eq!(found, Some(bob.id()));
    assert_eq!(alice.lookup("nobody".parse().unwrap()).await.unwrap(), None);
    serve(bob);
    let connection = connect(&alice, found.unwrap(), PathPolicy::Auto).await;
    assert_eq!(
        connection.peer_name().map(ToString::to_string),
        Some("bob".to_owned())
    );
    assert_eq!(
        echo(&connection, b"over whatever path").await,
        b"over whatever path"
    );
    until_direct(&connection).await;
    assert_eq!(echo(&connection, &pattern(1 << 20)).await, pattern(1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_counted_once_and_any_node_is_told_until_the_server_is_gone() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    assert_eq!(alice.odds().await.unwrap(), []);
    let bobs_id = bob.id();
    let bob = std::sync::Arc::new(bob);
    let accepting = std::sync::Arc::clone(&bob);
    let accepted = tokio::spawn(async move { accepting.accept().await });
    let connection = connect(&alice, bobs_id, PathPolicy::Auto).await;
    until_direct(&connection).await;
    let counted = async {
        loop {
            let rows = bob.odds().await.unwrap();
            if !rows.is_empty() {
                return rows;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let rows = timeout(SOON, counted).await.unwrap();
    assert_eq!(
        rows.iter()
            .map(|row| (row.attempts, row.direct))
            .collect::<Vec<_>>(),
        [(1, 1)]
    );
    assert_eq!(rows, world.server.stats().await.registry.outcomes.odds());
    drop((connection, accepted.await));
    let mut events = alice.events();
    world.server.shutdown().await;
    let lost = async { while events.recv().await.unwrap() != NodeEvent::ServerLost {} };
    timeout(SOON, lost).await.unwrap();
    assert_eq!(alice.odds().await, Err(LookupError::ServerLost));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_the_switch_from_relay_to_direct_under_load() {
    // Both paths stand within milliseconds here; on a busy machine the direct one may be faster.
    let mut relayed = None;
    for _ in 0..10 {
        let world = World::start().await;
        let (alice, bob) = world.pair().await;
        serve(bob);
        let connection = connect(&alice, world.bob, PathPolicy::Auto).await;
        if matches!(connection.path().borrow().path, Path::Relay(_)) {
            relayed = Some((world, alice, connection));
            break;
        }
    }
    let (_world, _alice, connection) = relayed.unwrap();
    let (data, reader) = (pattern(1 << 20), connection.clone());
    let load = tokio::spawn(async move {
        for _ in 0..40 {
            assert!(
                echo(&reader, &data).await == data,
                "what came back is not what was sent"
            );
        }
    });
    until_direct(&connection).await;
    timeout(SOON, load).await.unwrap().unwrap();
    assert!(connection.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_relay_only_the_path_stays_relayed() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    serve(bob);
    let connection = connect(&alice, world.bob, PathPolicy::RelayOnly).await;
    for _ in 0..5 {
        assert_eq!(echo(&connection, &pattern(100_000)).await, pattern(100_000));
        assert_eq!(connection.path().borrow().path, Path::Relay(Why::Policy));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(
        world.server.stats().await.relay.forwarded_bytes > 1_000_000,
        "ten times 100 kB"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_relay_a_connection_waits_for_the_direct_path() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    serve(bob);
    let connection = connect(&alice, world.bob, PathPolicy::DirectOnly).await;
    assert!(connection.path().borrow().path.is_direct());
    assert_eq!(echo(&connection, b"hello").await, b"hello");
    assert_eq!(world.server.stats().await.relay.forwarded_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_stream_outlives_the_server() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    let mut events = alice.events();
    serve(bob);
    let connection = connect(&alice, world.bob, PathPolicy::Auto).await;
    until_direct(&connection).await;
    let (mut send, mut recv) = connection.open("echo").await.unwrap();
    world.server.shutdown().await;
    let lost = async { while events.recv().await.unwrap() != NodeEvent::ServerLost {} };
    timeout(SOON, lost).await.unwrap();
    for _ in 0..10 {
        send.write_all(b"still here").await.unwrap();
        let mut back = [0; 10];
        timeout(SOON, recv.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(&back, b"still here");
        sleep(Duration::from_millis(100)).await;
    }
    let refused = alice
        .connect(PeerId::from_bytes([1; 32]), ConnectOptions::default())
        .await;
    assert!(matches!(refused, Err(ConnectError::NotPaired)), "{refused:?}");
    let again = connect(&alice, world.bob, PathPolicy::Auto).await;
    assert_eq!(
        echo(&again, b"second connection, no server").await,
        b"second connection, no server"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_back_to_a_restarted_server_and_connect_anew() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    let mut events = alice.events();
    let mut bobs_events = bob.events();
    serve(bob);
    let World {
        server,
        config,
        data,
        bob,
        ..
    } = world;
    let config = Config {
        listen: server.ready().listen.clone(),
        ..config
    };
    server.shutdown().await;
    let _server = restart(&config).await;
    for events in [&mut events, &mut bobs_events] {
        let back = async { while !matches!(events.recv().await.unwrap(), NodeEvent::Registered(_)) {} };
        timeout(SOON, back).await.unwrap();
    }
    let connection = connect(&alice, bob, PathPolicy::Auto).await;
    assert_eq!(
        echo(&connection, b"after the restart").await,
        b"after the restart"
    );
    drop(data);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_alone_is_enough_and_both_families_together_work() {
    let localhost = Some(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0));
    let both = Bind {
        v4: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
        v6: localhost,
    };
    for bind in [
        Bind {
            v4: None,
            v6: localhost,
        },
        both,
    ] {
        let world = World::at(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).await;
        let identity = Identity::generate().unwrap();
        let bob = NodeConfig {
            bind,
            identity: world.bob_identity.clone(),
            ..world.config_of("bob", world.url(), vec![peer(identity.peer_id(), 1)])
        };
        let alice = NodeConfig {
            bind,
            identity,
            ..world.config_of("alice", world.url(), vec![peer(world.bob, 1)])
        };
        let (alice, bob) = (Node::start(alice).await.unwrap(), Node::start(bob).await.unwrap());
        serve(bob);
        let connection = connect(&alice, world.bob, PathPolicy::Auto).await;
        assert_eq!(echo(&connection, b"over IPv6").await, b"over IPv6");
        until_direct(&connection).await;
        assert_eq!(echo(&connection, b"directly").await, b"directly");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_may_call_at_once() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    let (ours, theirs) = tokio::join!(
        alice.connect(bob.id(), ConnectOptions::default()),
        bob.connect(alice.id(), ConnectOptions::default())
    );
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    let (at_bob, at_alice) = (bob.accept().await.unwrap(), alice.accept().await.unwrap());
    assert_eq!((at_bob.peer(), at_alice.peer()), (alice.id(), bob.id()));
    tokio::spawn(serve_connection(at_bob));
    tokio::spawn(serve_connection(at_alice));
    assert_eq!(echo(&ours, b"a to b").await, b"a to b");
    assert_eq!(echo(&theirs, b"b to a").await, b"b to a");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_is_told_why() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    let call = async |node: &Node, peer| node.connect(peer, ConnectOptions::default()).await;
    assert!(matches!(
        call(&alice, alice.id()).await,
        Err(ConnectError::Yourself)
    ));
    assert!(matches!(
        call(&alice, PeerId::from_bytes([7; 32])).await,
        Err(ConnectError::NotPaired)
    ));
    let stranger = peer(PeerId::from_bytes([7; 32]), 9);
    alice.set_peers(vec![stranger, peer(bob.id(), 8)]).await;
    assert!(matches!(
        call(&alice, PeerId::from_bytes([7; 32])).await,
        Err(ConnectError::Unknown)
    ));
    let wrong_secret = call(&alice, bob.id()).await;
    assert!(
        matches!(wrong_secret, Err(ConnectError::Offline)),
        "{wrong_secret:?}"
    );
    let gone = bob.id();
    bob.shutdown().await;
    alice.set_peers(vec![peer(gone, 1)]).await;
    assert!(matches!(call(&alice, gone).await, Err(ConnectError::Offline)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_key_and_a_wrong_token_are_told_apart_from_silence() {
    let world = World::start().await;
    let start = async |url: ServerUrl| Node::start(world.config_of("carol", url, Vec::new())).await;
    let other_key = ServerUrl {
        key: PeerId::from_bytes([3; 32]),
        ..world.url()
    };
    assert!(matches!(start(other_key).await, Err(StartError::WrongServerKey)));
    let wrong_token = ServerUrl {
        token: Some("wrong".parse().unwrap()),
        ..world.url()
    };
    let refused = start(wrong_token).await;
    assert!(
        matches!(refused, Err(StartError::Refused(Refusal::TokenWrong))),
        "{refused:?}"
    );
    let no_token = ServerUrl {
        token: None,
        ..world.url()
    };
    assert!(matches!(
        start(no_token).await,
        Err(StartError::Refused(Refusal::TokenMissing))
    ));
    let no_name = ServerUrl {
        host: "nowhere.invalid".to_owned(),
        ..world.url()
    };
    assert!(matches!(start(no_name).await, Err(StartError::Resolve { .. })));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silence = ServerUrl {
        port: silent.local_addr().unwrap().port(),
        ..world.url()
    };
    assert!(matches!(
        start(silence).await,
        Err(StartError::Unreachable { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_strangers_pair_by_a_code_and_connect() {
    let world = World::start().await;
    let alice = Node::start(world.config_of("alice", world.url(), Vec::new()))
        .await
        .unwrap();
    let bob = Node::start(world.config_of("bob", world.url(), Vec::new()))
        .await
        .unwrap();
    let pairing = alice.pair_open().await.unwrap();
    let code = pairing.code().clone();
    let (at_alice, at_bob) = tokio::join!(pairing.finish(), bob.pair_join(code));
    let (at_alice, at_bob) = (at_alice.unwrap(), at_bob.unwrap());
    assert_eq!((at_alice.peer, at_bob.peer), (bob.id(), alice.id()));
    assert!(at_alice.secret == at_bob.secret);
    alice.set_peers(vec![at_alice.to_peer()]).await;
    bob.set_peers(vec![at_bob.to_peer()]).await;
    // The server learns of the new peers through another message than the question; it keeps their order per node only.
    let peer = bob.id();
    sleep(Duration::from_millis(300)).await;
    serve(bob);
    let connection = connect(&alice, peer, PathPolicy::Auto).await;
    assert_eq!(echo(&connection, b"paired").await, b"paired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_code_pairs_nobody() {
    let world = World::start().await;
    let alice = Node::start(world.config_of("alice", world.url(), Vec::new()))
        .await
        .unwrap();
    let bob = Node::start(world.config_of("bob", world.url(), Vec::new()))
        .await
        .unwrap();
    let pairing = alice.pair_open().await.unwrap();
    let wrong = format!("{}-wrong-words", pairing.code().nameplate().0)
        .parse()
        .unwrap();
    let (at_alice, at_bob) = tokio::join!(pairing.finish(), bob.pair_join(wrong));
    assert!(at_alice.is_err(), "{at_alice:?}");
    assert!(at_bob.is_err(), "{at_bob:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_offers_is_a_reset_stream_on_a_living_connection() {
    let world = World::start().await;
    let (alice, bob) = world.pair().await;
    serve(bob);
    let connection = connect(&alice, world.bob, PathPolicy::Auto).await;
    let (_send, mut recv) = connection.open("no-such-service").await.unwrap();
    let answer = timeout(SOON, recv.read_to_end(10)).await.unwrap();
    assert!(matches!(answer, Err(quinn_error) if quinn_error.to_string().contains("reset")));
    assert_eq!(echo(&connection, b"alive").await, b"alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_dials_works_beside_one_that_accepts_with_the_same_key() {
    let world = World::start().await;
    let (identity, bob_identity) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let (alice, bob) = (identity.peer_id(), bob_identity.peer_id());
    let config = |identity: &Identity, name: &str, other, accepting| NodeConfig {
        identity: identity.clone(),
        accepting,
        name: accepting.then(|| name.parse().unwrap()),
        ..world.config_of(name, world.url(), vec![peer(other, 1)])
    };
    let resident = Node::start(config(&identity, "alice", bob, true)).await.unwrap();
    let dialler = Node::start(config(&identity, "alice", bob, false)).await.unwrap();
    let other = Node::start(config(&bob_identity, "bob", alice, true))
        .await
        .unwrap();
    let connection = connect(&other, alice, PathPolicy::Auto).await;
    let accepted = timeout(SOON, resident.accept()).await.unwrap().unwrap();
    assert_eq!((accepted.peer(), connection.peer()), (bob, alice));
    serve(other);
    let connection = connect(&dialler, bob, PathPolicy::Auto).await;
    assert_eq!(echo(&connection, b"dialled").await, b"dialled");
    connection.close();
    dialler.shutdown().await;
}

/// A server on loopback, and who is to be paired.
struct World {
    server: Server,
    config: Config,
    data: tempfile::TempDir,
    bob: PeerId,
    bob_identity: Identity,
}

impl World {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn at(listen: SocketAddr) -> Self {
        Self::start_with(|config| config.listen = vec![listen]).await
    }

    /// With something changed at the server.
    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            data: Some(PathBuf::from(data.path())),
            relay_total_bits: 20_000_000_000,
            allow_loopback: true,
            ..Config::default()
        };
        change(&mut config);
        let server = Server::start(config.clone()).await.unwrap();
        let bob_identity = Identity::generate().unwrap();
        Self {
            server,
            config,
            data,
            bob: bob_identity.peer_id(),
            bob_identity,
        }
    }

    fn url(&self) -> ServerUrl {
        self.server.ready().server_url.parse().unwrap()
    }

    fn config_of(&self, name: &str, url: ServerUrl, peers: Vec<Peer>) -> NodeConfig {
        NodeConfig {
            name: Some(name.parse().unwrap()),
            peers,
            bind: Bind {
                v4: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
                v6: None,
            },
            allow_loopback: true,
            ..NodeConfig::new(Identity::generate().unwrap(), url)
        }
    }

    /// Alice and Bob, paired with each other and registered.
    async fn pair(&self) -> (Node, Node) {
        let mut alice = self.config_of("alice", self.url(), vec![peer(self.bob, 1)]);
        alice.identity = Identity::generate().unwrap();
        let mut bob = self.config_of("bob", self.url(), vec![peer(alice.identity.peer_id(), 1)]);
        bob.identity = self.bob_identity.clone();
        (Node::start(alice).await.unwrap(), Node::start(bob).await.unwrap())
    }
}

/// Start a server where one has just stopped; the system may take a moment to give its port back.
async fn restart(config: &Config) -> Server {
    for _ in 0..50 {
        if let Ok(server) = Server::start(config.clone()).await {
            return server;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the port of the stopped server stays in use");
}

fn peer(id: PeerId, secret: u8) -> Peer {
    Peer {
        id,
        secret: PairSecret::from_bytes([secret; 32]),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at / 7 + at) % 251).unwrap())
        .collect()
}

async fn connect(node: &Node, peer: PeerId, policy: PathPolicy) -> Connection {
    let options = ConnectOptions {
        policy,
        timeout: SOON,
    };
    node.connect(peer, options).await.unwrap()
}

async fn until_direct(connection: &Connection) {
    let mut path = connection.path();
    let direct = path.wait_for(|state| state.path.is_direct());
    timeout(SOON, direct).await.unwrap().unwrap();
}

/// Send something to the echo service of the other side and return what comes back.
async fn echo(connection: &Connection, data: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open("echo").await.unwrap();
    let there = async {
        send.write_all(data).await.unwrap();
        send.finish().unwrap();
    };
    let (back, ()) = timeout(SOON, async { tokio::join!(recv.read_to_end(data.len()), there) })
        .await
        .unwrap();
    back.unwrap()
}

/// Serve every connection that comes, until the node is gone.
fn serve(node: Node) {
    tokio::spawn(async move {
        while let Some(connection) = node.accept().await {
            tokio::spawn(serve_connection(connection));
        }
    });
}

async fn serve_connection(connection: Connection) {
    while let Ok((service, mut send, mut recv)) = connection.accept().await {
        if service != "echo" {
            knothole::refuse(send, recv);
            continue;
        }
        tokio::spawn(async move {
            let mut buf = vec![0; 64 * 1024];
            while let Ok(Some(len)) = recv.read(&mut buf).await {
                if send.write_all(&buf[..len]).await.is_err() {
                    return;
                }
            }
            // Fails only if the other side has gone.
            let _ = send.finish();
        });
    }
}
