//! What the network around this machine does to its packets: the driver of [`knothole_proto::fingerprint`] over real
//! sockets, what was learnt of networks before, and what follows from it in words.
//!
//! Independent of a [`Node`](crate::Node): it needs no key, no registration and no pairing, only a STUN server.

mod cache;
mod hops;
mod json;
mod known;
mod odds;
mod run;
mod servers;
mod sockets;
mod verdict;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use knothole_proto::fingerprint::{
    Allocation, Class, Fact, FamilyFacts, Filtering, Fingerprint, Hairpin, Learnt, Mapping, Obstacle, Reach,
    Sign,
};

pub use json::{from_json, to_json};
pub(crate) use known::{recall, remember};
pub use odds::{Expected, Odds, odds};
pub(crate) use verdict::ports_in_words;
pub use verdict::{Verdict, verdict};

use cache::{Cache, Place};
use servers::Servers;

/// What to check, and how.
#[derive(Clone, Debug)]
pub struct NetcheckOptions {
    /// Host names or addresses, and UDP ports, of a STUN server that follows RFC 5780. Several where it has a name for
    /// each family of addresses: the first IPv4 and the first IPv6 address count.
    pub servers: Vec<(String, u16)>,
    /// The file of what was learnt before, and in which this is kept; `None`: neither.
    pub cache: Option<PathBuf>,
    /// Do not look at what was learnt before.
    pub fresh: bool,
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// The facts.
    pub fingerprint: Fingerprint,
    /// Who was asked: `host:port`.
    pub server: String,
    /// How old the facts are, if they were known from before; the address was compared just now.
    pub cached_for: Option<Duration>,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetcheckError {
    /// The host name has no address.
    #[error("the host name {host} was not found: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// This machine has no address of any family that the server has.
    #[error("this machine has no way to {server}: no network, or none of its kind of address")]
    NoRoute {
        /// The server.
        server: String,
    },
    /// The operating system gives no entropy.
    #[error("the system gives no random numbers")]
    Entropy,
}

/// Find out what the network does, or look up what it did the last time if it still looks the same. `observe` is told each
/// fact as soon as it is known.
///
/// Takes about 1.5 s, 3 s where packets get lost, 1 s where nothing answers, one round trip where the network is known, 10 s
/// and the lookup of the name at the most, and sends at most [`knothole_proto::fingerprint::PACKETS_MAX`] datagrams.
///
/// # Errors
/// Any [`NetcheckError`]. That nothing answers is not one: the report says so.
pub async fn netcheck(
    options: NetcheckOptions,
    mut observe: impl FnMut(&Learnt),
) -> Result<Report, NetcheckError> {
    let servers = Servers::resolve(&options.servers).await?;
    let server = servers.name.clone();
    let place = Place::find(&server).await;
    let cache = options.cache.map(Cache::at);
    if let (Some(cache), false) = (&cache, options.fresh)
        && let Some((fingerprint, age)) = cache.look_up(&place)
        && run::still_the_same(&servers, &fingerprint).await?
    {
        return Ok(Report {
            fingerprint,
            server,
            cached_for: Some(age),
        });
    }
    let fingerprint = run::run(&servers, &place.local, &mut observe).await?;
    let unasked = fingerprint.udp_blocked.known().is_none();
    if unasked {
        return Err(NetcheckError::NoRoute { server });
    }
    if let Some(cache) = &cache {
        // A cache that cannot be written only costs time.
        if let Err(error) = cache.keep(&place, &fingerprint) {
            tracing::debug!(%error, "what was learnt of this network could not be kept");
        }
    }
    Ok(Report {
        fingerprint,
        server,
        cached_for: None,
    })
}
