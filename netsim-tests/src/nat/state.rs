//! The tables of a NAT: mappings, sessions, remembered unsolicited flows, and when they end. Bookkeeping only; who may
//! pass is decided in `nat_box.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::flow::Proto;
use super::spec::Mapping;

/// Both directions must have carried traffic over this span before the long timeout applies (measured on Linux 6.18,
/// `reference/netsim.md` section 7: an immediate reply alone leaves the short one in force).
const STREAM_AFTER: Duration = Duration::from_secs(2);

/// One inside endpoint talking to one remote endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SessionKey {
    pub(super) proto: Proto,
    pub(super) inside: SocketAddr,
    pub(super) remote: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Session {
    /// The external endpoint that stands for the inside one in this session.
    pub(super) external: SocketAddr,
    created: Instant,
    expires: Instant,
    seen_out: bool,
    seen_in: bool,
}

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
}

/// The two lives of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) unreplied: Duration,
    pub(super) stream: Duration,
}

impl Session {
    /// Notes a packet; extends the life if `refresh`. A life never gets shorter.
    pub(super) fn touch(&mut self, direction: Direction, timeouts: Timeouts, refresh: bool, now: Instant) {
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
            self.expires = self.expires.max(now + life);
        }
    }
}

/// What selects a mapping: the inside endpoint and as much of the remote one as the mapping behaviour looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MappingKey {
    proto: Proto,
    inside: SocketAddr,
    remote: SocketAddr,
}

impl MappingKey {
    pub(super) fn new(mapping: Mapping, session: &SessionKey) -> Self {
        let remote = match mapping {
            Mapping::EndpointIndependent => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            Mapping::AddressDependent => SocketAddr::new(session.remote.ip(), 0),
            Mapping::AddressAndPortDependent => session.remote,
        };
        Self {
            proto: session.proto,
            inside: session.inside,
            remote,
        }
    }
}

#[derive(Debug)]
pub(super) struct MappingEntry {
    pub(super) inside: SocketAddr,
    /// Key under which new sessions find it; `None` for a mapping that serves a single session.
    key: Option<MappingKey>,
    /// Remote endpoints of its sessions; the mapping ends with the last of them.
    remotes: BTreeSet<SocketAddr>,
}

impl MappingEntry {
    /// Is there a session with this address, whatever the port?
    pub(super) fn knows_address(&self, ip: IpAddr) -> bool {
        let range = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
        self.remotes.range(range).next().is_some()
    }
}

/// An unsolicited flow that the box took for itself: from `remote` to the external `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unsolicited {
    pub(super) proto: Proto,
    pub(super) remote: SocketAddr,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Session(SessionKey),
    Unsolicited(Unsolicited),
}

/// All state that a reboot of the box would lose.
#[derive(Debug, Default)]
pub(super) struct Tables {
    sessions: HashMap<SessionKey, Session>,
    mappings: HashMap<(Proto, SocketAddr), MappingEntry>,
    by_key: HashMap<MappingKey, SocketAddr>,
    unsolicited: HashMap<Unsolicited, Instant>,
    /// One timer for each entry, set to a moment not after its end and moved on when it fires early.
    timers: BinaryHeap<Reverse<(Instant, Entry)>>,
    peak: usize,
}

impl Tables {
    pub(super) fn session(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    pub(super) fn mapping(&self, proto: Proto, external: SocketAddr) -> Option<&MappingEntry> {
        self.mappings.get(&(proto, external))
    }

    pub(super) fn external_for(&self, key: &MappingKey) -> Option<SocketAddr> {
        self.by_key.get(key).copied()
    }

    pub(super) fn is_unsolicited(&self, flow: &Unsolicited) -> bool {
        self.unsolicited.contains_key(flow)
    }

    /// Sessions and remembered flows together: what the table size limits.
    pub(super) fn entries(&self) -> usize {
        self.sessions.len() + self.unsolicited.len()
    }

    /// (sessions, mappings, remembered flows, peak of entries).
    pub(super) fn counts(&self) -> (usize, usize, usize, usize) {
        (
            self.sessions.len(),
            self.mappings.len(),
            self.unsolicited.len(),
            self.peak,
        )
    }

    /// Makes a mapping without sessions yet; [`Tables::add_session`] must follow.
    pub(super) fn add_mapping(
        &mut self,
        proto: Proto,
        external: SocketAddr,
        inside: SocketAddr,
        key: Option<MappingKey>,
    ) {
        self.mappings.insert(
            (proto, external),
            MappingEntry {
                inside,
                key,
                remotes: BTreeSet::new(),
            },
        );
        if let Some(key) = key {
            self.by_key.insert(key, external);
        }
    }

    /// Adds a session to the mapping at `external`, first packet going `direction`.
    pub(super) fn add_session(
        &mut self,
        key: SessionKey,
        external: SocketAddr,
        direction: Direction,
        timeouts: Timeouts,
        now: Instant,
    ) {
        let expires = now + timeouts.unreplied;
        let session = Session {
            external,
            created: now,
            expires,
            seen_out: direction == Direction::Out,
            seen_in: direction == Direction::In,
        };
        if let Some(mapping) = self.mappings.get_mut(&(key.proto, external)) {
            mapping.remotes.insert(key.remote);
        }
        self.sessions.insert(key, session);
        self.timers.push(Reverse((expires, Entry::Session(key))));
        self.peak = self.peak.max(self.entries());
    }

    /// Remembers an unsolicited flow, or extends its life. Ignored when `room` is false and it is new.
    pub(super) fn remember(&mut self, flow: Unsolicited, life: Duration, room: bool, now: Instant) {
        let expires = now + life;
        if let Some(known) = self.unsolicited.get_mut(&flow) {
            *known = expires.max(*known);
        } else if room {
            self.unsolicited.insert(flow, expires);
            self.timers.push(Reverse((expires, Entry::Unsolicited(flow))));
            self.peak = self.peak.max(self.entries());
        }
    }

    /// Removes whatever has ended by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&Reverse((due, entry))) = self.timers.peek()
            && due <= now
        {
            self.timers.pop();
            let end = match &entry {
                Entry::Session(key) => self.sessions.get(key).map(|session| session.expires),
                Entry::Unsolicited(flow) => self.unsolicited.get(flow).copied(),
            };
            match end {
                Some(end) if end > now => self.timers.push(Reverse((end, entry))),
                Some(_) => self.remove(&entry),
                None => {}
            }
        }
    }

    fn remove(&mut self, entry: &Entry) {
        match entry {
            Entry::Unsolicited(flow) => {
                self.unsolicited.remove(flow);
            }
            Entry::Session(key) => {
                if let Some(session) = self.sessions.remove(key) {
                    self.detach(key, session.external);
                }
            }
        }
    }

    fn detach(&mut self, key: &SessionKey, external: SocketAddr) {
        let place = (key.proto, external);
        let Some(mapping) = self.mappings.get_mut(&place) else {
            return;
        };
        mapping.remotes.remove(&key.remote);
        if mapping.remotes.is_empty() {
            let index = mapping.key;
            self.mappings.remove(&place);
            if let Some(index) = index {
                self.by_key.remove(&index);
            }
        }
    }
}
