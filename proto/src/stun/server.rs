//! The server's answers to Binding requests, and when it gives none.
//!
//! An answer goes to the source of the request, which anybody can forge. So by default ([`StunPolicy::Nodes`]) it is
//! never longer than the request, each network gets a bounded number of them, and nothing but a request is ever answered:
//! two servers cannot be set on each other. One server answers for one address family; a host with two runs two.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::codec::{self, Flips, Request, Success};
use crate::addr::{Reach, canonical};
use crate::quota::{BucketTable, Rate};
use crate::seed::Seed;

/// Answers for one network that are no longer than their requests: ten nodes at their start at once, thirty more a minute.
/// They amplify nothing; the bound only saves work.
const PLAIN_RATE: Rate = Rate::new(Duration::from_millis(10), 400);

/// Answers for one network that are longer than their requests ([`StunPolicy::Public`] only): what a person's tool asks,
/// and so few that a forged source is hardly bothered.
const LONGER_RATE: Rate = Rate::new(Duration::from_millis(100), 10);

/// Buckets of each quota, 8 bytes each; see [`BucketTable`].
const QUOTA_BUCKETS: usize = 65_536;

/// Most unknown attributes that an error names; the rest goes unsaid.
const UNKNOWN_MAX: usize = 4;

/// Whom to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StunPolicy {
    /// Requests that are at least as long as their answer, as our nodes send them.
    #[default]
    Nodes,
    /// Any Binding request: for other people's programs. Then answers of up to 3 times the request's length go to
    /// sources that may be forged, 10 a second for each network.
    Public,
    /// Nobody.
    Off,
}

/// One of the server's sockets: two addresses with two ports each, as far as it has them (RFC 5780 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerSocket {
    /// First address, first port.
    Main,
    /// First address, second port.
    AlternatePort,
    /// Second address, first port.
    AlternateAddress,
    /// Second address, second port.
    AlternateBoth,
}

impl ServerSocket {
    const fn flipped(self, flips: Flips) -> Self {
        let (address, port) = match self {
            Self::Main => (false, false),
            Self::AlternatePort => (false, true),
            Self::AlternateAddress => (true, false),
            Self::AlternateBoth => (true, true),
        };
        match (address != flips.address, port != flips.port) {
            (false, false) => Self::Main,
            (false, true) => Self::AlternatePort,
            (true, false) => Self::AlternateAddress,
            (true, true) => Self::AlternateBoth,
        }
    }
}

/// What a server is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunConfig {
    /// Whom to answer.
    pub policy: StunPolicy,
    /// The sockets there are, with the address at which nodes reach each. Where that is unspecified
    /// (`0.0.0.0`), an answer names the one that was asked, if [`StunServer::handle_at`] is told it, and else none.
    pub sockets: Vec<(ServerSocket, SocketAddr)>,
}

/// An answer to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunReply {
    /// The socket to send it from.
    pub via: ServerSocket,
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StunStats {
    /// Requests answered.
    pub answered: u64,
    /// Bytes of those requests.
    pub bytes_in: u64,
    /// Bytes of the answers.
    pub bytes_out: u64,
    /// Datagrams that were not Binding requests, or that the policy leaves unanswered.
    pub ignored: u64,
    /// Requests dropped by the quota of their network.
    pub limited: u64,
}

/// The server.
#[derive(Debug)]
pub struct StunServer {
    config: StunConfig,
    plain: BucketTable,
    longer: BucketTable,
    stats: StunStats,
}

impl StunServer {
    /// A server with these sockets.
    pub fn new(config: StunConfig, seed: &Seed, now: Instant) -> Self {
        Self {
            config,
            plain: BucketTable::new(QUOTA_BUCKETS, &seed.child("stun quotas", 0), now),
            longer: BucketTable::new(QUOTA_BUCKETS, &seed.child("stun quotas", 1), now),
            stats: StunStats::default(),
        }
    }

    /// A STUN datagram arrived on this socket; `None` if it gets no answer.
    pub fn handle(
        &mut self,
        on: ServerSocket,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Option<StunReply> {
        self.handle_at(on, None, from, datagram, now)
    }

    /// The same for a socket on all addresses, where it is known to which of them the datagram came: the answer then
    /// names that one.
    pub fn handle_at(
        &mut self,
        on: ServerSocket,
        at: Option<IpAddr>,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Option<StunReply> {
        let answer = self.answer(on, at, from, datagram);
        let Some((via, bytes)) = answer else {
            self.stats.ignored += 1;
            return None;
        };
        let (table, rate) = if bytes.len() <= datagram.len() {
            (&mut self.plain, PLAIN_RATE)
        } else {
            (&mut self.longer, LONGER_RATE)
        };
        if !table.admit_prefix(from, rate, now) {
            self.stats.limited += 1;
            return None;
        }
        self.stats.answered += 1;
        self.stats.bytes_in += datagram.len() as u64;
        self.stats.bytes_out += bytes.len() as u64;
        Some(StunReply { via, to: from, bytes })
    }

    /// Counters.
    pub const fn stats(&self) -> StunStats {
        self.stats
    }

    fn answer(
        &self,
        on: ServerSocket,
        at: Option<IpAddr>,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Option<(ServerSocket, Vec<u8>)> {
        // Nothing that could have such a source is waiting for an answer.
        if self.config.policy == StunPolicy::Off || Reach::of(canonical(from)) == Reach::Never {
            return None;
        }
        let request = codec::read_request(datagram)?;
        let via = on.flipped(request.flips);
        let (via, bytes) = if !request.unknown.is_empty() {
            let named = request.unknown.get(..UNKNOWN_MAX).unwrap_or(&request.unknown);
            (on, codec::write_unknown(request.id, named)?)
        } else if self.address_of(via).is_none() {
            (on, codec::write_unknown(request.id, &[codec::CHANGE_REQUEST])?)
        } else {
            (via, self.success([on, via], at, from, &request, datagram.len())?)
        };
        let fits = match self.config.policy {
            StunPolicy::Nodes => bytes.len() <= datagram.len(),
            StunPolicy::Public => true,
            StunPolicy::Off => false,
        };
        fits.then_some((via, bytes))
    }

    fn success(
        &self,
        [on, via]: [ServerSocket; 2],
        at: Option<IpAddr>,
        from: SocketAddr,
        request: &Request,
        room: usize,
    ) -> Option<Vec<u8>> {
        let both = on.flipped(Flips {
            address: true,
            port: true,
        });
        let port = on.flipped(Flips {
            address: false,
            port: true,
        });
        let told = |socket| {
            let addr = self.address_of(socket)?;
            let ip = if addr.ip().is_unspecified() {
                at?.to_canonical()
            } else {
                addr.ip()
            };
            Some(SocketAddr::new(ip, addr.port()))
        };
        let success = Success {
            id: request.id,
            mapped: canonical(from),
            origin: told(via),
            other: told(both).or_else(|| told(port)),
        };
        // A person who tests with padding wants it back (RFC 5780 section 6.1); our nodes pad only to be answered.
        let padded = request.padded && self.config.policy == StunPolicy::Public;
        codec::write_success(&success, if padded { room } else { 0 })
    }

    fn address_of(&self, socket: ServerSocket) -> Option<SocketAddr> {
        let mut sockets = self.config.sockets.iter();
        sockets
            .find(|(has, _)| *has == socket)
            .map(|(_, addr)| canonical(*addr))
    }
}
