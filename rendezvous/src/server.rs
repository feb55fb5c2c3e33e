//! A running server: its sockets, its tasks, and its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use knothole_proto::id::{PeerId, Token};
use knothole_proto::rendezvous::{Registry, RegistryConfig, RelayConfig, RelayStats, Stats as RegistryStats};
use knothole_proto::seed::Seed;
use knothole_proto::server_url::ServerUrl;
use knothole_proto::stun::{ServerSocket, StunConfig, StunServer, StunStats};
use quinn::{Endpoint, TokioRuntime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config::{Config, StartError};
use crate::control::{Acceptor, Gate, Hub, ToHub, codes};
use crate::data::{Data, DataError, Inspected};
use crate::datagrams::{
    Counters, DatagramStats, Datagrams, Place, Purpose, Relay, Site, Stun, Wire, WorkerStats,
};
use crate::inbox::inbox;
use crate::listening::Listening;
use crate::public_host::{self, PublicHost};
use crate::socket::{self, Port};
use crate::worker::Worker;
use crate::{control, store, tls};

/// How long connections may take to end after the server said goodbye. Nodes read two messages; a minute-long drain
/// would only delay the restart that they wait for.
const DRAIN: Duration = Duration::from_secs(5);

/// How long QUIC may take to send its last packets after that.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// Questions about moved ends that may wait. One is enough to learn the truth, the rest repeats it.
const MOVED: usize = 16;

/// What a node needs to find this server, and where it listens.
#[derive(Clone, Debug)]
pub struct Ready {
    /// `knot://HOST:PORT/KEY?token=TOKEN`; without a token if the server is open.
    pub server_url: String,
    /// The server's key.
    pub key: PeerId,
    /// The token that admits new nodes; `None` if the server is open.
    pub token: Option<Token>,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where it answers discovery only: the second port of each address, and a second address if it has one.
    pub alternate: Vec<SocketAddr>,
}

/// How things stand.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Of the registry.
    pub registry: RegistryStats,
    /// Of the relay.
    pub relay: RelayStats,
    /// Of the STUN servers together.
    pub stun: StunStats,
    /// Dropped datagrams.
    pub datagrams: DatagramStats,
    /// What each worker did.
    pub workers: Vec<WorkerStats>,
    /// Control connections, whatever their state.
    pub connections: usize,
    /// Connection attempts left without an answer because a limit was reached.
    pub attempts_ignored: u64,
    /// Connection attempts that had to prove their address first.
    pub attempts_challenged: u64,
}

/// What [`Server::inspect`] found.
#[derive(Debug)]
pub struct Inspection {
    /// The data directory.
    pub data: Result<Inspected, DataError>,
    /// The sockets that could be opened.
    pub sockets: Result<Vec<SocketAddr>, StartError>,
    /// Under which name nodes will be told to look; `None` if there is nothing to guess from.
    pub host: Option<PublicHost>,
}

/// A running server. Dropping it stops it at once; [`Server::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct Server {
    ready: Ready,
    hub: mpsc::Sender<ToHub>,
    closing: watch::Sender<bool>,
    endpoints: Vec<Endpoint>,
    datagrams: Arc<Datagrams>,
    gate: Arc<Gate>,
    /// End when all connections are over, if told to close.
    acceptors: JoinSet<&'static str>,
    /// Never end while the server runs.
    others: JoinSet<&'static str>,
    /// Ends when the hub has ended and everything is written.
    store: JoinSet<&'static str>,
}

impl Server {
    /// Open data and sockets and start to serve, on the current tokio runtime.
    ///
    /// # Errors
    /// Any [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|why| StartError::Entropy(why.to_string()))?;
        let seed = Seed::from_bytes(entropy);
        let listening = Listening::open(&config)?;
        let data = open_data(&config, &seed).await?;
        Self::assemble(&config, &seed, listening, data)
    }

    /// Would [`Server::start`] work? Looks at everything it needs, in that order, and starts nothing. Needs no runtime.
    pub fn inspect(config: &Config) -> Inspection {
        let data = match &config.data {
            Some(dir) => Data::inspect(dir),
            None => Ok(Inspected::New),
        };
        let sockets = Listening::open(config).map(|listening| {
            let locals = listening.sockets.iter().map(|bound| bound.local);
            locals.collect::<Vec<_>>()
        });
        let host = config.public_host.clone().or_else(|| {
            let listen = sockets.as_ref().ok()?;
            Some(PublicHost::from_ip(public_host::guess(listen)))
        });
        Inspection { data, sockets, host }
    }

    /// What a node needs.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// How things stand; defaults for what belongs to a hub that is gone.
    pub async fn stats(&self) -> Stats {
        let (ask, answer) = oneshot::channel();
        let asked = self.hub.send(ToHub::Report(ask)).await;
        let report = match asked {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        let (registry, connections) = report
            .map(|report| (report.registry, report.links))
            .unwrap_or_default();
        let (attempts_ignored, attempts_challenged) = self.gate.counts();
        Stats {
            registry,
            connections,
            relay: self.datagrams.relay_stats(),
            stun: self.datagrams.stun.stats(),
            datagrams: self.datagrams.counters.read(),
            workers: self.datagrams.counters.workers(),
            attempts_ignored,
            attempts_challenged,
        }
    }

    /// Wait for a part of the server to fail; the answer names it. A server that lost a part only looks alive: stop it.
    pub async fn failed(&mut self) -> &'static str {
        let part = tokio::select! {
            Some(ended) = self.acceptors.join_next() => ended.unwrap_or("accepting connections"),
            Some(ended) = self.others.join_next() => ended.unwrap_or("registry or discovery"),
            Some(ended) = self.store.join_next() => ended.unwrap_or("store"),
        };
        warn!(part, "a part of the server failed");
        part
    }

    /// Tell every node to come back in a moment, finish what is under way, and end. Takes at most some six seconds.
    pub async fn shutdown(mut self) {
        self.closing.send_replace(true);
        // The hub may be gone; then there is nobody to tell.
        let _ = self.hub.send(ToHub::Shutdown).await;
        let all_gone = async { while self.acceptors.join_next().await.is_some() {} };
        if timeout(DRAIN, all_gone).await.is_err() {
            warn!("some connections did not end in time");
        }
        for endpoint in &self.endpoints {
            endpoint.close(codes::STOPPED, b"");
        }
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.wait_idle().await;
            }
        };
        let _ = timeout(LAST_PACKETS, idle).await;
        self.acceptors.shutdown().await;
        // Ends the hub, and with it the queue to the store, which writes what it has got and closes its file.
        let _ = self.hub.send(ToHub::Stop).await;
        let _ = timeout(DRAIN, self.store.join_next()).await;
        self.others.shutdown().await;
        info!("stopped");
    }

    fn assemble(config: &Config, seed: &Seed, listening: Listening, data: Data) -> Result<Self, StartError> {
        let now = Instant::now();
        let server_config = tls::server_config(&data.identity)?;
        let endpoint_config = tls::endpoint_config(&data.identity);
        let ready = ready(config, &listening, &data);
        let (alternate_port, alternate) = (listening.alternate_port, listening.alternate);
        let (moved, moved_ends) = mpsc::channel(MOVED);
        let limits = RelayConfig::new(config.relay_total_bits);
        let limits = match config.relay_key_bits {
            Some(bits) => limits.with_per_key(bits),
            None => limits,
        };
        let relay = Relay::new(limits, moved, now);
        let datagrams = Arc::new(datagrams(config, seed, listening, relay, now)?);

        let (hub, inputs) = control::queue();
        let (claims, waiting_claims) = store::queue();
        let registry = RegistryConfig {
            open: config.open,
            tokens: vec![data.token],
            relay: config.relay_total_bits > 0,
            alternate_port,
            alternate,
            allow_loopback: config.allow_loopback,
            ..RegistryConfig::default()
        };
        let registry = Registry::new(registry, data.records, &seed.child("registry", 0), now);
        let running = Hub {
            registry,
            datagrams: datagrams.clone(),
            store: claims,
            links: BTreeMap::new(),
            proofs: JoinSet::new(),
        };
        let (closing, watch_closing) = watch::channel(false);
        let mut server = Self {
            ready,
            closing,
            endpoints: Vec::new(),
            gate: Arc::new(Gate::new(seed, now)),
            acceptors: JoinSet::new(),
            others: JoinSet::new(),
            store: JoinSet::new(),
            hub,
            datagrams,
        };
        let writing = store::worker(data.store, waiting_claims, server.hub.clone());
        server.store.spawn(async move {
            writing.await;
            "store"
        });
        server.others.spawn(async move {
            running.run(inputs, moved_ends).await;
            "registry"
        });
        let letting_out = server.datagrams.clone().let_out();
        server.others.spawn(async move {
            letting_out.await;
            "relay"
        });
        server.open_endpoints(&endpoint_config, &server_config, &watch_closing)?;
        Ok(server)
    }

    /// Begin to receive on every socket.
    fn open_endpoints(
        &mut self,
        endpoint_config: &quinn::EndpointConfig,
        server_config: &quinn::ServerConfig,
        closing: &watch::Receiver<bool>,
    ) -> Result<(), StartError> {
        let acceptor = Acceptor {
            gate: self.gate.clone(),
            hub: self.hub.clone(),
            numbers: Arc::new(AtomicU64::new(0)),
            closing: closing.clone(),
        };
        for (number, wire) in self.datagrams.wires.iter().enumerate() {
            let (to_quic, from_workers) = inbox();
            for (worker, socket) in wire.sockets.iter().enumerate() {
                let worker = Worker {
                    socket: socket.clone(),
                    place: Place { wire: number, worker },
                    datagrams: self.datagrams.clone(),
                    quic: (wire.purpose == Purpose::Main).then(|| to_quic.clone()),
                };
                self.others.spawn(async move {
                    worker.work().await;
                    "receiving"
                });
            }
            let Some(socket) = wire.sockets.first().filter(|_| wire.purpose == Purpose::Main) else {
                continue;
            };
            let port = Port::new(socket.clone(), from_workers);
            let endpoint = Endpoint::new_with_abstract_socket(
                endpoint_config.clone(),
                Some(server_config.clone()),
                Arc::new(port),
                Arc::new(TokioRuntime),
            )
            .map_err(|source| StartError::socket(wire.local, source))?;
            self.endpoints.push(endpoint.clone());
            let accepting = acceptor.clone().run(endpoint, number);
            self.acceptors.spawn(async move {
                accepting.await;
                "accepting connections"
            });
        }
        Ok(())
    }
}

async fn open_data(config: &Config, seed: &Seed) -> Result<Data, StartError> {
    let mut rng = seed.child("join token", 0).rng();
    let dir = config.data.clone();
    let opened = tokio::task::spawn_blocking(move || match dir {
        Some(dir) => Data::open(&dir, &mut rng),
        None => Data::in_memory(&mut rng),
    });
    Ok(opened.await.map_err(|_| StartError::Interrupted)??)
}

fn ready(config: &Config, listening: &Listening, data: &Data) -> Ready {
    let of = |purpose| {
        let sockets = listening
            .sockets
            .iter()
            .filter(move |bound| bound.purpose == purpose);
        sockets.map(|bound| bound.local).collect::<Vec<_>>()
    };
    let listen = of(Purpose::Main);
    let host = config.public_host.clone();
    let host = host.unwrap_or_else(|| PublicHost::from_ip(public_host::guess(&listen)));
    let key = data.identity.peer();
    let token = (!config.open).then(|| data.token.clone());
    let (host, port) = host.with_port(listen.first().map_or(0, SocketAddr::port));
    let url = ServerUrl {
        host,
        port,
        key,
        token: token.clone(),
    };
    Ready {
        server_url: url.reveal(),
        key,
        token,
        listen,
        alternate: of(Purpose::Discovery),
    }
}

fn datagrams(
    config: &Config,
    seed: &Seed,
    listening: Listening,
    relay: Relay,
    now: Instant,
) -> Result<Datagrams, StartError> {
    let public = config.public_host.as_ref().and_then(PublicHost::ip);
    // Behind a translator that gives the host its public address, the sockets themselves have another.
    let told = |role: ServerSocket, number: usize| {
        let local = listening.sockets.get(number).map(|bound| bound.local)?;
        let first = matches!(role, ServerSocket::Main | ServerSocket::AlternatePort);
        let public = public.filter(|ip| first && ip.is_ipv4() == local.is_ipv4());
        Some(SocketAddr::new(public.unwrap_or(local.ip()), local.port()))
    };
    let sites = listening.sites.iter().zip(0..).map(|(sockets, number)| {
        let known = sockets
            .iter()
            .filter_map(|(role, at)| Some((*role, told(*role, *at)?)));
        let stun = StunConfig {
            policy: config.stun,
            sockets: known.collect(),
        };
        Site {
            server: Mutex::new(StunServer::new(stun, &seed.child("stun", number), now)),
            sockets: sockets.clone(),
        }
    });
    let stun = Stun {
        sites: sites.collect(),
    };
    let mut wires = Vec::with_capacity(listening.sockets.len());
    for bound in listening.sockets {
        let sockets: std::io::Result<Vec<_>> = bound.sockets.into_iter().map(socket::wrap).collect();
        wires.push(Wire {
            sockets: sockets.map_err(|source| StartError::socket(bound.local, source))?,
            local: bound.local,
            purpose: bound.purpose,
        });
    }
    Ok(Datagrams {
        wires,
        relay,
        stun,
        counters: Counters::new(config.worker_count()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn started() -> Server {
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            ..Config::default()
        };
        Server::start(config).await.unwrap()
    }

    #[tokio::test]
    async fn a_server_that_lost_a_part_says_so_and_still_ends() {
        let lose: [fn(&mut Server); 4] = [
            |server| server.others.abort_all(),
            |server| server.store.abort_all(),
            |server| server.acceptors.abort_all(),
            |server| {
                server
                    .endpoints
                    .iter()
                    .for_each(|endpoint| endpoint.close(codes::STOPPED, b""))
            },
        ];
        for lose in lose {
            let mut server = started().await;
            let healthy = timeout(Duration::from_millis(50), server.failed()).await;
            assert!(healthy.is_err(), "{healthy:?}");
            lose(&mut server);
            let failed = timeout(Duration::from_secs(1), server.failed()).await;
            assert!(failed.is_ok());
            let ended = timeout(2 * DRAIN, server.shutdown()).await;
            assert!(ended.is_ok());
        }
    }
}
