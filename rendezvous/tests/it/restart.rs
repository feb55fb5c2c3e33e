//! What survives a restart, and what keeps a server from starting.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use knothole_proto::wire::{FromServer, Refusal, ToServer};
use knothole_rendezvous::{Config, DataError, Server, StartError, StoreError};

use super::node::{Key, Node};
use super::server_with;

async fn start(data: &Path) -> Server {
    server_with(|config| config.data = Some(data.to_owned())).await
}

async fn try_start(data: &Path) -> Result<Server, StartError> {
    Server::start(Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        data: Some(data.to_owned()),
        ..Config::default()
    })
    .await
}

#[tokio::test]
async fn a_restart_keeps_the_key_the_token_and_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<Key> = (0..20).map(|_| Key::new()).collect();
    let server = start(dir.path()).await;
    let before = server.ready().clone();
    for (number, key) in keys.iter().enumerate() {
        let mut node = Node::connect_as(&before.server_url, key).await.unwrap();
        let answer = node.hello(Some(&format!("node-{number}"))).await;
        assert!(matches!(answer, FromServer::Welcome(_)), "{answer:?}");
    }
    server.shutdown().await;

    let server = start(dir.path()).await;
    let after = server.ready().clone();
    assert_eq!((after.key, &after.token), (before.key, &before.token));
    let mut thief = Node::connect(&after.server_url).await;
    let hello = thief.hello_message(Some("node-7"));
    thief.say(&ToServer::Hello(hello)).await;
    assert_eq!(thief.refused().await, Refusal::NameTaken);
    // A key that was admitted once needs no token again.
    for (number, key) in keys.iter().enumerate() {
        let mut node = Node::connect_as(&after.server_url, key).await.unwrap();
        node.target.token = None;
        let answer = node.hello(Some(&format!("node-{number}"))).await;
        assert!(matches!(answer, FromServer::Welcome(_)), "{answer:?}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_that_was_dropped_without_goodbye_has_lost_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let mut node = Node::connect(&server.ready().server_url).await;
    assert!(matches!(node.hello(Some("nas")).await, FromServer::Welcome(_)));
    drop(server);
    let server = loop {
        // The store's file is closed by a task of the runtime.
        match try_start(dir.path()).await {
            Ok(server) => break server,
            Err(StartError::Data(DataError::Store(StoreError::InUse { .. }))) => {
                tokio::task::yield_now().await
            }
            Err(why) => panic!("{why}"),
        }
    };
    assert_eq!(server.stats().await.registry.names, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn a_damaged_or_missing_database_keeps_the_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.shutdown().await;
    let database = dir.path().join("names.redb");
    let whole = fs::read(&database).unwrap();

    fs::write(&database, b"not what was there").unwrap();
    let refused = try_start(dir.path()).await;
    assert!(matches!(
        refused,
        Err(StartError::Data(DataError::Store(StoreError::Damaged { .. })))
    ));
    assert_eq!(fs::read(&database).unwrap(), b"not what was there");

    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let refused = try_start(dir.path()).await;
    assert!(matches!(
        refused,
        Err(StartError::Data(DataError::Store(StoreError::Damaged { .. })))
    ));

    fs::remove_file(&database).unwrap();
    let refused = try_start(dir.path()).await;
    assert!(matches!(
        refused,
        Err(StartError::Data(DataError::Store(StoreError::Missing { .. })))
    ));

    fs::write(&database, &whole).unwrap();
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
    try_start(dir.path()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    start(dir.path()).await.shutdown().await;
    let key = dir.path().join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let Err(why) = try_start(dir.path()).await else {
        panic!("started")
    };
    assert!(why.to_string().contains("chmod 600"), "{why}");
}
