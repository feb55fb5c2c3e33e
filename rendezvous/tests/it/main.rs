//! The server as nodes, strangers and operators meet it: over loopback, with real sockets, QUIC and files.
#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers too, a failure is the test's failure

mod binary;
mod control;
mod hostile;
mod node;
mod relay;
mod restart;
mod stun;

use knothole_rendezvous::{Config, Server};

/// A server that keeps nothing and listens on loopback.
async fn server() -> Server {
    server_with(|_| {}).await
}

/// The same with something changed.
async fn server_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        allow_loopback: true,
        ..Config::default()
    };
    change(&mut config);
    Server::start(config).await.expect("the server starts")
}
