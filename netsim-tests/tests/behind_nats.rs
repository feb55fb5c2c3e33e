//! The node's library on hosts of the lab: real sockets and real NATs between them, without the command line.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)] // a test that panics has failed, and says so

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use knothole::{
    ConnectOptions, Connection, Identity, Node, NodeConfig, NodeEvent, PairSecret, Path, PathPolicy, Peer,
    PeerId, ServerUrl, Why,
};
use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::{UdpPolicy, kind};
use knothole_rendezvous::{Config, Server};

/// The server's address in the lab.
const SERVER: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 1);

/// Longest wait for anything; generous, because tests share two cores.
const SOON: Duration = Duration::from_secs(30);

/// The kind of a host that is in two networks, with a public address in each.
const TWO_NETWORKS: &str = "two networks";

/// Its addresses; the first is the one it uses.
const NETWORKS: [Ipv4Addr; 2] = [Ipv4Addr::new(7, 7, 7, 7), Ipv4Addr::new(7, 7, 8, 8)];

/// A lab with a server and two hosts behind NATs of these kinds; `None` where namespaces cannot be made.
fn lab(a: &str, b: &str) -> Option<Lab> {
    let behind = |name: &str, lan: [u8; 4]| {
        if name == TWO_NETWORKS {
            return HostSpec::public(NETWORKS);
        }
        HostSpec::behind(
            kind(name).expect("a known kind").chain(&[IpAddr::V4(SERVER)]),
            IpAddr::from(lan),
        )
    };
    let link = LinkSpec {
        delay: Duration::from_millis(5),
        ..LinkSpec::default()
    };
    let lab = Lab::builder()
        .host("server", HostSpec::public([SERVER]))
        .host("a", behind(a, [192, 168, 1, 10]))
        .host("b", behind(b, [192, 168, 2, 20]))
        .link("a", link)
        .link("b", link)
        .build();
    match lab {
        Ok(lab) => Some(lab),
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI must be able to build the lab: {error}"
            );
            println!("skipped: {error}");
            None
        }
    }
}

/// Run async work in a host, on a runtime whose threads are all inside.
fn inside<R: Send>(lab: &Lab, host: &str, work: impl AsyncFnOnce() -> R + Send) -> R {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let result = runtime.block_on(work());
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    };
    lab.host(host).expect("a host").run(run).expect("inside")
}

fn config(identity: Identity, server: ServerUrl, name: &str, other: PeerId) -> NodeConfig {
    let peer = Peer {
        id: other,
        secret: PairSecret::from_bytes([7; 32]),
    };
    NodeConfig {
        name: Some(name.parse().expect("a name")),
        peers: vec![peer],
        ..NodeConfig::new(identity, server)
    }
}

/// Connect a to b, let `talk` use the connection at a; b echoes.
fn meet<R: Send>(lab: &Lab, policy: PathPolicy, talk: impl AsyncFnOnce(Connection) -> R + Send) -> R {
    let (a, b) = (
        Identity::generate().expect("a key"),
        Identity::generate().expect("a key"),
    );
    let (a_id, b_id) = (a.peer_id(), b.peer_id());
    let (url_out, url_in) = mpsc::channel();
    let (ready_out, ready_in) = mpsc::channel();
    let (end_server, server_ends) = tokio::sync::oneshot::channel::<()>();
    let (end_b, b_ends) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            inside(lab, "server", async move || {
                let config = Config {
                    listen: vec![SocketAddr::from((SERVER, 5668))],
                    open: true,
                    ..Config::default()
                };
                let server = Server::start(config).await.expect("a server");
                url_out
                    .send(server.ready().server_url.clone())
                    .expect("somebody waits");
                let _ended = server_ends.await;
                server.shutdown().await;
            });
        });
        let url: ServerUrl = url_in
            .recv_timeout(SOON)
            .expect("a server")
            .parse()
            .expect("an address");
        let b_config = config(b, url.clone(), "b", a_id);
        scope.spawn(move || {
            inside(lab, "b", async move || {
                let node = Node::start(b_config).await.expect("b registers");
                ready_out.send(()).expect("somebody waits");
                let echo = async {
                    while let Some(connection) = node.accept().await {
                        tokio::spawn(async move {
                            while let Ok((_, mut send, mut recv)) = connection.accept().await {
                                tokio::spawn(async move {
                                    let _ended = tokio::io::copy(&mut recv, &mut send).await;
                                    let _ended = send.finish();
                                });
                            }
                        });
                    }
                };
                tokio::select! { () = echo => {}, _ = b_ends => {} }
                node.shutdown().await;
            });
        });
        ready_in.recv_timeout(SOON).expect("b registers");
        let result = inside(lab, "a", async move || {
            let node = Node::start(config(a, url, "a", b_id)).await.expect("a registers");
            let options = ConnectOptions {
                policy,
                ..ConnectOptions::default()
            };
            let connection = node.connect(b_id, options).await.expect("a connection");
            let result = talk(connection).await;
            node.shutdown().await;
            result
        });
        let _gone = end_b.send(());
        let _gone = end_server.send(());
        result
    })
}

async fn echo(connection: &Connection, data: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = connection.open("echo").await.expect("a stream");
    let (sent, back) = tokio::join!(
        async {
            send.write_all(data).await.expect("sends");
            send.finish().expect("ends");
        },
        recv.read_to_end(data.len())
    );
    let () = sent;
    back.expect("comes back")
}

async fn until_direct(connection: &Connection) -> Duration {
    let begun = Instant::now();
    let mut path = connection.path();
    let direct = tokio::time::timeout(SOON, path.wait_for(|state| state.path.is_direct())).await;
    assert!(direct.is_ok(), "still {:?}", connection.path().borrow().path);
    begun.elapsed()
}

#[test]
fn two_port_restricted_nats_are_punched_and_a_stream_survives_the_move() {
    let Some(lab) = lab("port-restricted", "port-restricted") else {
        return;
    };
    meet(&lab, PathPolicy::Auto, async |connection| {
        let data: Vec<u8> = (0..1_u32 << 20)
            .map(|n| n.to_le_bytes()[(n % 3) as usize])
            .collect();
        assert!(echo(&connection, &data).await == data);
        println!("direct after {:?}", until_direct(&connection).await);
        assert!(echo(&connection, &data).await == data);
    });
}

#[test]
fn with_udp_only_to_the_server_the_relay_carries_and_the_reason_is_told() {
    let Some(lab) = lab("udp-server-only", "port-restricted") else {
        return;
    };
    meet(&lab, PathPolicy::Auto, async |connection| {
        let mut path = connection.path();
        let told = path.wait_for(|state| state.path == Path::Relay(Why::Silence));
        assert!(
            tokio::time::timeout(SOON, told).await.is_ok(),
            "still {:?}",
            connection.path().borrow().path
        );
        assert_eq!(
            echo(&connection, b"through the server").await,
            b"through the server"
        );
    });
}

/// Send a small message every 20 ms and wait for its echo, beside a bulk stream that never ends, while `events` happen
/// in the lab; the longest time between two echoes from then on.
async fn longest_stall(connection: &Connection, events: impl AsyncFnOnce()) -> Duration {
    let bulk = connection.clone();
    let load = tokio::spawn(async move {
        let (mut send, mut recv) = bulk.open("echo").await.expect("a stream");
        let mut sink = vec![0; 64 * 1024];
        let chunk = vec![9; 16 * 1024];
        loop {
            let both = async {
                let (sent, back) = tokio::join!(send.write_all(&chunk), recv.read(&mut sink));
                sent.expect("the bulk stream lives");
                back.expect("the bulk stream lives");
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            both.await;
        }
    });
    let (mut send, mut recv) = connection.open("echo").await.expect("a stream");
    let (mut longest, mut count) = (Duration::ZERO, 0);
    let pings = async {
        loop {
            let begun = Instant::now();
            send.write_all(b"ping").await.expect("the stream lives");
            recv.read_exact(&mut [0; 4]).await.expect("the stream lives");
            longest = longest.max(begun.elapsed());
            count += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! { () = pings => {}, () = events() => {} }
    assert!(!load.is_finished(), "the bulk stream broke");
    assert!(count > 20, "only {count} pings came back");
    load.abort();
    longest
}

async fn until(connection: &Connection, what: &str, fits: impl Fn(&Path) -> bool) -> Duration {
    let begun = Instant::now();
    let mut path = connection.path();
    let there = tokio::time::timeout(SOON, path.wait_for(|state| fits(&state.path))).await;
    assert!(
        there.is_ok(),
        "{what}: still {:?}",
        connection.path().borrow().path
    );
    begun.elapsed()
}

#[test]
fn a_direct_path_that_dies_is_replaced_by_the_relay_and_comes_back_without_a_stream_error() {
    let Some(lab) = lab("port-restricted", "port-restricted") else {
        return;
    };
    meet(&lab, PathPolicy::Auto, async |connection| {
        until_direct(&connection).await;
        let stall = longest_stall(&connection, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            lab.set_udp_policy("b", UdpPolicy::OnlyTo([IpAddr::V4(SERVER)].into()))
                .expect("a NAT");
            let lost = until(&connection, "lost", |path| matches!(path, Path::Relay(_))).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            lab.set_udp_policy("b", UdpPolicy::Open).expect("a NAT");
            let back = until(&connection, "back", Path::is_direct).await;
            println!("on the relay after {lost:?}, direct again {back:?} after the way was free");
            tokio::time::sleep(Duration::from_secs(1)).await;
        })
        .await;
        println!("longest stall {stall:?}");
        // The path is given up after 2.3 s.
        assert!(stall < Duration::from_secs(4), "{stall:?}");
    });
}

#[test]
fn a_router_that_restarts_interrupts_either_side_for_a_moment() {
    // Behind the symmetric NAT a restart also means another port: its peer hears from an unknown address.
    for (side, kinds) in [
        ("a", ["port-restricted", "port-restricted"]),
        ("b", ["port-restricted", "port-restricted"]),
        ("a", ["symmetric", "full-cone"]),
        ("b", ["full-cone", "symmetric"]),
    ] {
        let Some(lab) = lab(kinds[0], kinds[1]) else {
            return;
        };
        meet(&lab, PathPolicy::Auto, async |connection| {
            until_direct(&connection).await;
            let stall = longest_stall(&connection, async || {
                tokio::time::sleep(Duration::from_secs(1)).await;
                lab.reboot_nat(side).expect("a NAT");
                tokio::time::sleep(Duration::from_secs(8)).await;
                until_direct(&connection).await;
            })
            .await;
            println!("router of {side} of {kinds:?} restarted: longest stall {stall:?}");
            assert!(stall < Duration::from_secs(4), "{side} of {kinds:?}: {stall:?}");
        });
    }
}

#[test]
fn a_server_that_falls_silent_is_missed_within_35_seconds_and_found_again() {
    let Some(lab) = lab("port-restricted", "open") else {
        return;
    };
    let (url_out, url_in) = mpsc::channel();
    let (end_server, server_ends) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let lab = &lab;
        scope.spawn(move || {
            inside(lab, "server", async move || {
                let config = Config {
                    listen: vec![SocketAddr::from((SERVER, 5668))],
                    open: true,
                    ..Config::default()
                };
                let server = Server::start(config).await.expect("a server");
                let url = server.ready().server_url.clone();
                url_out.send(url).expect("somebody waits");
                let _ended = server_ends.await;
                server.shutdown().await;
            });
        });
        let url: ServerUrl = url_in
            .recv_timeout(SOON)
            .expect("a server")
            .parse()
            .expect("an address");
        inside(lab, "a", async move || {
            let identity = Identity::generate().expect("a key");
            let nobody = PeerId::from_bytes([1; 32]);
            let node = Node::start(config(identity, url, "a", nobody))
                .await
                .expect("a registers");
            let mut events = node.events();
            lab.set_udp_policy("a", UdpPolicy::Blocked(None)).expect("a NAT");
            let begun = Instant::now();
            let lost = async { while events.recv().await.expect("an event") != NodeEvent::ServerLost {} };
            let lost = tokio::time::timeout(Duration::from_secs(35), lost).await;
            lost.expect("the loss is noticed");
            println!("lost after {:?}", begun.elapsed());
            lab.set_udp_policy("a", UdpPolicy::Open).expect("a NAT");
            let back = async {
                while !matches!(events.recv().await.expect("an event"), NodeEvent::Registered(_)) {}
            };
            tokio::time::timeout(SOON, back).await.expect("found again");
            node.shutdown().await;
        });
        let _gone = end_server.send(());
    });
}

#[test]
fn either_side_may_leave_its_network_for_another_and_talks_on_within_seconds() {
    for (side, kinds) in [
        ("a", [TWO_NETWORKS, "port-restricted"]),
        ("b", ["port-restricted", TWO_NETWORKS]),
    ] {
        for policy in [PathPolicy::Auto, PathPolicy::RelayOnly] {
            let Some(lab) = lab(kinds[0], kinds[1]) else {
                return;
            };
            meet(&lab, policy, async |connection| {
                if policy == PathPolicy::Auto {
                    until_direct(&connection).await;
                }
                let stall = longest_stall(&connection, async || {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let host = lab.host(side).expect("a host");
                    host.remove_address(NETWORKS[0].into()).expect("its address");
                    tokio::time::sleep(Duration::from_secs(5)).await;
                })
                .await;
                println!("{side} left its network, {policy:?}: longest stall {stall:?}");
                assert!(stall < Duration::from_secs(3), "{side}, {policy:?}: {stall:?}");
                let direct = connection.path().borrow().path.is_direct();
                assert_eq!(direct, policy == PathPolicy::Auto);
            });
        }
    }
}

/// A path that only an extra socket can have carries a stream, whatever the ports of the other side do.
fn over_extra_sockets(a: &str, b: &str) {
    let Some(lab) = lab(a, b) else {
        return;
    };
    meet(&lab, PathPolicy::Auto, async |connection| {
        let data: Vec<u8> = (0..8_u32 << 20)
            .map(|n| n.to_le_bytes()[(n % 3) as usize])
            .collect();
        println!("{a} x {b}: direct after {:?}", until_direct(&connection).await);
        let state = *connection.path().borrow();
        println!("{a} x {b}: {state:?}");
        let begun = Instant::now();
        assert!(echo(&connection, &data).await == data);
        println!("{a} x {b}: 8 MiB there and back in {:?}", begun.elapsed());
        assert!(connection.path().borrow().path.is_direct(), "and stays direct");
    });
}

#[test]
fn ports_are_guessed_over_extra_sockets() {
    over_extra_sockets("port-restricted", "symmetric");
    over_extra_sockets("symmetric", "port-restricted");
}

#[test]
fn ports_are_counted_over_extra_sockets() {
    over_extra_sockets("port-restricted", "symmetric-counter");
    over_extra_sockets("symmetric-counter", "symmetric-counter");
}
