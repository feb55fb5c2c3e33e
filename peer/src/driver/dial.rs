//! Reaching the server: its name to addresses, and a handshake with the first of them that answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use knothole_proto::addr::canonical;
use knothole_proto::path::SocketId;
use knothole_proto::server_url::ServerUrl;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::net::{PathTable, Sockets};
use crate::session::{DialError, Quic};

/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may leave all handshakes unanswered. Four of QUIC's retries fit in (0.45, 1.4, 3.2, 6.8 s).
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);

/// Head start of each address before the next one is tried too (RFC 8305 section 5 recommends 250 ms).
const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 6;

/// Reaches one server.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) url: ServerUrl,
    pub(crate) quic: Quic,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) paths: Arc<PathTable>,
}

/// A connection to the server.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) connection: quinn::Connection,
    /// The address that answered.
    pub(crate) addr: SocketAddr,
    /// An address of the server for each socket that can reach it: that which answered, and the first of the other family.
    pub(crate) stun: Vec<(SocketId, SocketAddr)>,
}

/// Why the server was not reached.
#[derive(Debug)]
pub(crate) enum DialFailure {
    /// Its name has no address.
    Resolve(io::Error),
    /// Nothing answered.
    Silence,
    /// It holds another key.
    WrongKey,
    /// It answered and broke off.
    BrokenOff,
}

impl Dialer {
    /// Resolve and shake hands; the first address that finishes wins.
    pub(crate) async fn reach(&self) -> Result<Reached, DialFailure> {
        let addrs = self.resolve().await?;
        self.paths.set_servers(addrs.clone());
        let (addr, connection) = timeout(HANDSHAKE_TIMEOUT, self.race(&addrs))
            .await
            .unwrap_or(Err(DialFailure::Silence))?;
        let mut stun = Vec::new();
        for candidate in std::iter::once(addr).chain(addrs) {
            if let Some(bound) = self.sockets.for_family(candidate.ip())
                && stun.iter().all(|(id, _)| *id != bound.id())
            {
                stun.push((bound.id(), candidate));
            }
        }
        Ok(Reached {
            connection,
            addr,
            stun,
        })
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, DialFailure> {
        let lookup = lookup_host((self.url.host.as_str(), self.url.port));
        let found = match timeout(RESOLVE_TIMEOUT, lookup).await {
            Ok(found) => found.map_err(DialFailure::Resolve)?,
            Err(late) => return Err(DialFailure::Resolve(late.into())),
        };
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for addr in found.map(canonical) {
            if self.sockets.for_family(addr.ip()).is_some() && !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        addrs.truncate(ADDRESSES_MAX);
        if addrs.is_empty() {
            let none = io::Error::new(
                io::ErrorKind::NotFound,
                "no address of a family that is used here",
            );
            return Err(DialFailure::Resolve(none));
        }
        Ok(addrs)
    }

    async fn race(&self, addrs: &[SocketAddr]) -> Result<(SocketAddr, quinn::Connection), DialFailure> {
        let mut dials = JoinSet::new();
        let mut delay = Duration::ZERO;
        for addr in addrs.iter().copied() {
            let (quic, key) = (self.quic.clone(), self.url.key);
            dials.spawn(async move {
                tokio::time::sleep(delay).await;
                (addr, quic.dial_server(addr, key).await)
            });
            delay += STAGGER;
        }
        let mut failure = DialFailure::Silence;
        while let Some(dialled) = dials.join_next().await {
            match dialled {
                Ok((addr, Ok(connection))) => return Ok((addr, connection)),
                Ok((_, Err(DialError::WrongKey))) => failure = DialFailure::WrongKey,
                Ok((_, Err(DialError::Connection(quinn::ConnectionError::TimedOut)))) | Err(_) => {}
                Ok((_, Err(error))) => {
                    tracing::debug!(%error, "the server broke off a handshake");
                    if !matches!(failure, DialFailure::WrongKey) {
                        failure = DialFailure::BrokenOff;
                    }
                }
            }
        }
        Err(failure)
    }
}
