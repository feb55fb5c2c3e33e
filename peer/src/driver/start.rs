//! Putting a node together, and waiting until the server has admitted it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use knothole_proto::addr::Candidate;
use knothole_proto::connector::{Command, Connector, ConnectorConfig, Input};
use knothole_proto::id::Instance;
use knothole_proto::punch::PunchConfig;
use knothole_proto::seed::Seed;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::control::{self, ControlHandle};
use super::dial::Dialer;
use super::request::REQUESTS_MAX;
use super::run::{Driver, Ports};
use crate::net::{Counters, PathSocket, PathTable, Sockets, host_candidates, sockets_max};
use crate::node::{Node, NodeConfig, Parts, StartError, event_channel};
use crate::session::{Quic, Traces};

/// Datagrams for the driver that may wait: a probe with both its repetitions to each of the 512 sockets that a plan may have
/// open, and as much of anything else. Memory is taken as they come, and strangers can make it 3 MB at most.
const DATAGRAMS_MAX: usize = 2048;

/// Messages of the control task that may wait.
const CONTROL_EVENTS_MAX: usize = 64;

/// Connections of peers that the application has not taken yet; beyond it new ones are closed.
const ACCEPTED_MAX: usize = 64;

/// A node that is registered waits so long for what is known of its network, a small file. Whoever asks for a peer without it
/// gets a first round that goes by too little, which takes longer than this and more packets. A disk that takes longer
/// is not waited for.
const RECALL_WAIT: Duration = Duration::from_millis(50);

/// Start a node; returns when it is registered, and knows of its network what it knew before.
pub(crate) async fn start(config: NodeConfig) -> Result<Node, StartError> {
    let (id, server) = (config.identity.peer_id(), config.server.clone());
    let seed = seed()?;
    let sockets = Arc::new(Sockets::bind(config.bind).map_err(StartError::Bind)?);
    let (paths, counters) = (Arc::<PathTable>::default(), Arc::<Counters>::default());
    let (to_driver, datagrams) = mpsc::channel(DATAGRAMS_MAX);
    let socket = PathSocket::new(
        Arc::clone(&sockets),
        Arc::clone(&paths),
        to_driver,
        Arc::clone(&counters),
    );
    let traces = Traces::into(config.qlog.as_deref()).map_err(StartError::Traces)?;
    let quic =
        Quic::new(config.identity.clone(), Arc::clone(&socket), traces).map_err(|_| StartError::Crypto)?;
    let offered = offered(config.allow_loopback, Arc::clone(&sockets)).await;
    let connector = connector(&config, &seed, offered.clone());

    let handle = Arc::<ControlHandle>::default();
    let (control_events, control) = mpsc::channel(CONTROL_EVENTS_MAX);
    let dialer = Dialer {
        url: server,
        quic: quic.clone(),
        sockets: Arc::clone(&sockets),
        paths: Arc::clone(&paths),
    };
    tokio::spawn(control::run(
        dialer,
        Arc::clone(&handle),
        control_events,
        seed.child("control", 0).rng(),
    ));

    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let (accepted, incoming) = mpsc::channel(ACCEPTED_MAX);
    let (started, admitted) = oneshot::channel();
    let (recalled, looked_up) = oneshot::channel();
    let (registered, registered_now) = watch::channel(None);
    let events = event_channel();
    let driver = Driver::new(
        connector,
        config,
        Ports {
            quic: quic.clone(),
            socket,
            sockets,
            paths,
            counters,
            handle,
            events: events.clone(),
            accepted,
            registered,
            started: Some(started),
            recalled: Some(recalled),
            unused: Arc::<Notify>::default(),
        },
        offered,
    );
    tokio::spawn(driver.run(asked, datagrams, control));

    let first = admitted.await.map_err(|_| StartError::ServerLost)??;
    // Whether it was in time makes no difference here: the survey finds it out as well.
    let _ = timeout(RECALL_WAIT, looked_up).await;
    Ok(Node::assemble(Parts {
        id,
        requests,
        events,
        first,
        registered: registered_now,
        incoming,
        quic,
    }))
}

/// The host candidates of this moment.
pub(crate) async fn offered(allow_loopback: bool, sockets: Arc<Sockets>) -> Vec<Candidate> {
    let reading = tokio::task::spawn_blocking(move || host_candidates(&sockets, allow_loopback));
    reading.await.unwrap_or_default()
}

fn connector(config: &NodeConfig, seed: &Seed, candidates: Vec<Candidate>) -> Connector {
    let now = Instant::now();
    let facts = ConnectorConfig {
        own: config.identity.peer_id(),
        instance: Instance(seed.child("instance", 0).rng().u64()),
        name: config.name.clone(),
        token: config.server.token.clone(),
        accepting: config.accepting,
        agent: concat!("knothole ", env!("CARGO_PKG_VERSION")).to_owned(),
        punch: PunchConfig {
            allow_loopback: config.allow_loopback,
            ..PunchConfig::default()
        },
        fingerprint: config.fingerprint,
        guesses: config.guesses,
        sockets_max: sockets_max(),
        allow_loopback: config.allow_loopback,
    };
    let mut connector = Connector::new(facts, &seed.child("connector", 0), now);
    let peers = config
        .peers
        .iter()
        .map(|peer| (peer.id, peer.secret.clone()))
        .collect();
    connector.handle_input(Input::Command(Command::SetPeers(peers)), now);
    connector.handle_input(Input::LocalCandidates(candidates), now);
    connector
}

fn seed() -> Result<Seed, StartError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| StartError::Crypto)?;
    Ok(Seed::from_bytes(bytes))
}
