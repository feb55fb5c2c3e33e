//! What a server is told at its start, and why it may refuse to start.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use knothole_proto::stun::StunPolicy;

use crate::data::DataError;
use crate::public_host::PublicHost;

/// Total relay rate unless told otherwise, in bit/s. A relay without a cap is a bill without a cap: 200 Mbit/s is 2 TB
/// a day at the most, a fifth of a common 1 Gbit/s port, and several people's transfers at once.
pub const RELAY_TOTAL_BITS: u64 = 200_000_000;

/// Most workers: with 2 MB of buffers each, and more than any network card feeds.
const WORKERS_MAX: usize = 64;

/// What a server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; empty: every address of both families, on [`knothole_proto::wire::SERVER_PORT`]. An address serves
    /// its own family alone. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Second port for NAT behaviour discovery (RFC 5780), or second address and port. `None`: the port after the first
    /// one, or any that is free.
    pub alternate: Option<SocketAddr>,
    /// Where key, token and names are kept; `None`: nowhere, a restart forgets everything.
    pub data: Option<PathBuf>,
    /// Under which host name or address nodes reach this server; `None`: the best guess.
    pub public_host: Option<PublicHost>,
    /// Admit every node, without a token.
    pub open: bool,
    /// Most that the relay forwards in all, in bit/s; 0: no relay.
    pub relay_total_bits: u64,
    /// Most that the relay forwards of what one key sends, in bit/s; `None`: its fair share of the total.
    pub relay_key_bits: Option<u64>,
    /// Sockets at each address, and tasks that read them and forward; `None`: as many as there are processors. One where
    /// the system does not spread datagrams over sockets (everywhere but on Linux).
    pub workers: Option<NonZeroUsize>,
    /// Whose STUN requests are answered.
    pub stun: StunPolicy,
    /// Pass on loopback addresses of nodes: for tests on one machine.
    pub allow_loopback: bool,
}

impl Config {
    /// Sockets at each address.
    pub(crate) fn worker_count(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.workers
            .map_or_else(processors, NonZeroUsize::get)
            .min(WORKERS_MAX)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            alternate: None,
            data: None,
            public_host: None,
            open: false,
            relay_total_bits: RELAY_TOTAL_BITS,
            relay_key_bits: None,
            workers: None,
            stun: StunPolicy::Nodes,
            allow_loopback: false,
        }
    }
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another program has the port.
    #[error("UDP port {addr} is in use by another program")]
    PortInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The system does not let this user have the port.
    #[error("no permission to listen on {addr}")]
    PortForbidden {
        /// The address.
        addr: SocketAddr,
    },
    /// This machine does not have the address.
    #[error("{addr} is no address of this machine")]
    NotOurAddress {
        /// The address.
        addr: SocketAddr,
    },
    /// Something else is wrong with a socket.
    #[error("cannot listen on {addr}: {source}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A second address for discovery needs to know which one is the first.
    #[error("a second address ({alternate}) needs a first one of the same family, not \"all addresses\"")]
    AlternateNeedsAddress {
        /// The second address.
        alternate: SocketAddr,
    },
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The key cannot be used for TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The operating system gives no entropy.
    #[error("the system gives no random numbers: {0}")]
    Entropy(String),
    /// The start was interrupted, or panicked.
    #[error("the start did not finish")]
    Interrupted,
}

impl StartError {
    pub(crate) fn socket(addr: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::PortInUse { addr },
            io::ErrorKind::PermissionDenied => Self::PortForbidden { addr },
            io::ErrorKind::AddrNotAvailable => Self::NotOurAddress { addr },
            _ => Self::Socket { addr, source },
        }
    }
}
