//! What a node is started with.

use std::path::PathBuf;
use std::time::Duration;

use knothole_proto::id::{Name, PairSecret, PeerId};
use knothole_proto::server_url::ServerUrl;
use knothole_proto::wire::PathPolicy;

use crate::identity::Identity;
use crate::net::Bind;

/// How long [`crate::Node::connect`] tries unless told otherwise: as long as a person waits before thinking it broken.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything a node needs to know; begin with [`NodeConfig::new`] and change fields.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its key.
    pub identity: Identity,
    /// Its server.
    pub server: ServerUrl,
    /// The name it wants to hold at the server; `None` for none.
    pub name: Option<Name>,
    /// Does it accept connections? A node that only dials never takes the place of one that accepts.
    pub accepting: bool,
    /// The paired machines.
    pub peers: Vec<Peer>,
    /// Where its sockets are bound.
    pub bind: Bind,
    /// Use loopback addresses as candidates too: for tests on one machine.
    pub allow_loopback: bool,
    /// Take part in attempts that guess ports with up to a thousand packets. Off where port scans raise alarms, or packets
    /// cost money; then the relay serves where only guessing would help.
    pub guesses: bool,
    /// Find out what the network does to packets, with 20 to 50 questions to the server, and choose how to reach a peer by
    /// it.
    pub fingerprint: bool,
    /// The file in which that is kept, so that a network which was met within a day is not asked again; `None`: nowhere.
    pub networks: Option<PathBuf>,
    /// Folder for qlog traces of its connections, a file for each; made if it is missing.
    pub qlog: Option<PathBuf>,
}

impl NodeConfig {
    /// A node that accepts connections, with no name and no paired machines, on any port.
    pub fn new(identity: Identity, server: ServerUrl) -> Self {
        Self {
            identity,
            server,
            name: None,
            accepting: true,
            peers: Vec::new(),
            bind: Bind::default(),
            allow_loopback: false,
            guesses: true,
            fingerprint: true,
            networks: None,
            qlog: None,
        }
    }
}

/// A paired machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub id: PeerId,
    /// What this node shares with it.
    pub secret: PairSecret,
}

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Which paths may be used.
    pub policy: PathPolicy,
    /// When to give up.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            policy: PathPolicy::Auto,
            timeout: CONNECT_TIMEOUT,
        }
    }
}
