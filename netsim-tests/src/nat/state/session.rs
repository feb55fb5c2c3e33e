//! One session of a NAT: who talks to whom, and how long the box remembers it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::nat::flow::Proto;

/// Both directions must have carried traffic over this span before the long timeout applies (measured on Linux 6.18,
/// `reference/netsim.md` section 7: an immediate reply alone leaves the short one in force).
const STREAM_AFTER: Duration = Duration::from_secs(2);

/// Longest life that is kept: a century, in seconds. Descriptions may say more, moments may not.
const LIFE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// One inside endpoint talking to one remote endpoint. Both are of one family, unless the box translates between
/// families: then the remote one is the IPv4 endpoint that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::nat) struct SessionKey {
    pub(in crate::nat) proto: Proto,
    pub(in crate::nat) inside: SocketAddr,
    pub(in crate::nat) remote: SocketAddr,
}

impl SessionKey {
    /// Is the inside endpoint hidden behind another one? IPv6 keeps its addresses.
    pub(in crate::nat) fn is_translated(&self) -> bool {
        self.remote.is_ipv4()
    }
}

#[derive(Debug)]
pub(in crate::nat) struct Session {
    /// The external endpoint that stands for the inside one in this session.
    pub(in crate::nat) external: SocketAddr,
    created: Instant,
    expires: Instant,
    seen_out: bool,
    seen_in: bool,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nat) enum Direction {
    Out,
    In,
}

/// The lives of a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::nat) struct Timeouts {
    pub(in crate::nat) unreplied: Duration,
    pub(in crate::nat) stream: Duration,
    /// From the first packet on, whatever comes after.
    pub(in crate::nat) absolute: Option<Duration>,
}

impl Session {
    /// A session that begins with a packet going `direction`.
    pub(super) fn begin(
        external: SocketAddr,
        direction: Direction,
        timeouts: Timeouts,
        now: Instant,
    ) -> Self {
        let life = timeouts.absolute.unwrap_or(LIFE_MAX).min(timeouts.unreplied);
        Self {
            external,
            created: now,
            expires: after(now, life),
            seen_out: direction == Direction::Out,
            seen_in: direction == Direction::In,
        }
    }

    /// Notes a packet; extends the life if `refresh`. A life never gets shorter.
    pub(in crate::nat) fn touch(
        &mut self,
        direction: Direction,
        timeouts: Timeouts,
        refresh: bool,
        now: Instant,
    ) {
        match direction {
            Direction::Out => self.seen_out = true,
            Direction::In => self.seen_in = true,
        }
        if refresh {
            let old = now.saturating_duration_since(self.created) >= STREAM_AFTER;
            let stream = self.seen_out && self.seen_in && old;
            let life = if stream {
                timeouts.stream
            } else {
                timeouts.unreplied
            };
            let wanted = after(now, life);
            let end = timeouts.absolute.map(|life| after(self.created, life));
            self.expires = self.expires.max(end.map_or(wanted, |end| end.min(wanted)));
        }
    }

    pub(super) fn expires(&self) -> Instant {
        self.expires
    }
}

/// The end of a life that begins at `now`.
pub(super) fn after(now: Instant, life: Duration) -> Instant {
    now.checked_add(life.min(LIFE_MAX)).unwrap_or(now)
}
