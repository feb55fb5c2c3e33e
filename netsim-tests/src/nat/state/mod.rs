//! The tables of a NAT: mappings, sessions, remembered unsolicited flows, and when they end. Bookkeeping only; who may
//! pass is decided by the box.

mod blocks;
mod session;

use std::cmp::Reverse;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::allocation::Block;
use super::flow::{NatStats, Proto};
use super::spec::Mapping;
use blocks::Blocks;
use session::after;

pub(super) use session::{Direction, Session, SessionKey, Timeouts};

/// What selects a mapping: the inside endpoint and as much of the remote one as the mapping behaviour looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MappingKey {
    proto: Proto,
    inside: SocketAddr,
    remote: SocketAddr,
}

impl MappingKey {
    pub(super) fn new(mapping: Mapping, session: &SessionKey) -> Self {
        let nowhere = match session.remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let remote = match mapping {
            Mapping::EndpointIndependent => SocketAddr::new(nowhere, 0),
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
    /// Does its end count for the block of its host?
    in_block: bool,
    /// Remote endpoints of its sessions; the mapping ends with the last of them.
    remotes: BTreeSet<SocketAddr>,
}

impl MappingEntry {
    /// Is there a session with this address, whatever the port?
    pub(super) fn knows_address(&self, ip: IpAddr) -> bool {
        has_address(&self.remotes, ip)
    }
}

/// An unsolicited flow that the box remembers, from `remote` to its own `external` endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unsolicited {
    pub(super) proto: Proto,
    pub(super) remote: SocketAddr,
    pub(super) external: SocketAddr,
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
    /// Remote endpoints of the sessions of each inside endpoint, through all of its mappings.
    endpoints: HashMap<(Proto, SocketAddr), BTreeSet<SocketAddr>>,
    blocks: Blocks,
    unsolicited: HashMap<Unsolicited, Instant>,
    /// One timer for each entry, set to a moment not after its end and moved on when it fires early.
    timers: BinaryHeap<Reverse<(Instant, Entry)>>,
    peak: usize,
    made: u64,
}

impl Tables {
    pub(super) fn session(&self, key: &SessionKey) -> Option<&Session> {
        self.sessions.get(key)
    }

    pub(super) fn session_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    pub(super) fn mapping(&self, proto: Proto, external: SocketAddr) -> Option<&MappingEntry> {
        self.mappings.get(&(proto, external))
    }

    pub(super) fn external_for(&self, key: &MappingKey) -> Option<SocketAddr> {
        self.by_key.get(key).copied()
    }

    /// Has an inside endpoint a session that is translated?
    pub(super) fn is_mapped(&self, proto: Proto, inside: SocketAddr) -> bool {
        // IPv4 endpoints sort before IPv6 ones.
        let first = self.endpoints.get(&(proto, inside)).and_then(BTreeSet::first);
        first.is_some_and(SocketAddr::is_ipv4)
    }

    /// Has an inside endpoint a session with this address, through any mapping and whatever the port?
    pub(super) fn endpoint_knows_address(&self, proto: Proto, inside: SocketAddr, ip: IpAddr) -> bool {
        let remotes = self.endpoints.get(&(proto, inside));
        remotes.is_some_and(|remotes| has_address(remotes, ip))
    }

    pub(super) fn block_of(&self, inside: IpAddr) -> Option<Block> {
        self.blocks.of(inside)
    }

    pub(super) fn is_block_taken(&self, block: &Block) -> bool {
        self.blocks.is_taken(block)
    }

    pub(super) fn is_unsolicited(&self, flow: &Unsolicited) -> bool {
        self.unsolicited.contains_key(flow)
    }

    /// Sessions and remembered flows together: what the table size limits.
    pub(super) fn entries(&self) -> usize {
        self.sessions.len() + self.unsolicited.len()
    }

    /// How much there is, without drops.
    pub(super) fn stats(&self) -> NatStats {
        NatStats {
            sessions: self.sessions.len(),
            mappings: self.mappings.len(),
            unsolicited: self.unsolicited.len(),
            peak_entries: self.peak,
            made: self.made,
            drops: BTreeMap::new(),
        }
    }

    /// Makes a mapping for a session, with or without a key under which others find it; [`Tables::add_session`] must
    /// follow.
    pub(super) fn add_mapping(
        &mut self,
        session: &SessionKey,
        external: SocketAddr,
        key: Option<MappingKey>,
        block: Option<Block>,
    ) {
        if let Some(block) = block {
            self.blocks.begin(session.inside.ip(), block);
        }
        self.mappings.insert(
            (session.proto, external),
            MappingEntry {
                inside: session.inside,
                key,
                in_block: block.is_some(),
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
        let session = Session::begin(external, direction, timeouts, now);
        if let Some(mapping) = self.mappings.get_mut(&(key.proto, external)) {
            mapping.remotes.insert(key.remote);
        }
        let known = self.endpoints.entry((key.proto, key.inside)).or_default();
        known.insert(key.remote);
        let timer = (session.expires(), Entry::Session(key));
        self.sessions.insert(key, session);
        self.timers.push(Reverse(timer));
        self.made += 1;
        self.peak = self.peak.max(self.entries());
    }

    /// Remembers an unsolicited flow, or extends its life. Ignored when `room` is false and it is new.
    pub(super) fn remember(&mut self, flow: Unsolicited, life: Duration, room: bool, now: Instant) {
        let expires = after(now, life);
        if let Some(known) = self.unsolicited.get_mut(&flow) {
            *known = expires.max(*known);
        } else if room {
            self.unsolicited.insert(flow, expires);
            self.timers.push(Reverse((expires, Entry::Unsolicited(flow))));
            self.made += 1;
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
                Entry::Session(key) => self.sessions.get(key).map(Session::expires),
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
                    self.leave_mapping(key, session.external);
                    self.leave_endpoint(key);
                }
            }
        }
    }

    fn leave_mapping(&mut self, key: &SessionKey, external: SocketAddr) {
        let Slot::Occupied(mut slot) = self.mappings.entry((key.proto, external)) else {
            return;
        };
        slot.get_mut().remotes.remove(&key.remote);
        if slot.get().remotes.is_empty() {
            let mapping = slot.remove();
            if let Some(key) = mapping.key {
                self.by_key.remove(&key);
            }
            if mapping.in_block {
                self.blocks.end(mapping.inside.ip());
            }
        }
    }

    fn leave_endpoint(&mut self, key: &SessionKey) {
        let Slot::Occupied(mut slot) = self.endpoints.entry((key.proto, key.inside)) else {
            return;
        };
        slot.get_mut().remove(&key.remote);
        if slot.get().is_empty() {
            slot.remove();
        }
    }

    /// Panics where one table contradicts another.
    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        let mut by_mapping = 0;
        for (place, mapping) in &self.mappings {
            assert!(!mapping.remotes.is_empty(), "{place:?} serves nobody");
            by_mapping += mapping.remotes.len();
            for remote in &mapping.remotes {
                let key = SessionKey {
                    proto: place.0,
                    inside: mapping.inside,
                    remote: *remote,
                };
                assert_eq!(self.sessions[&key].external, place.1, "{key:?}");
            }
            if let Some(key) = mapping.key {
                assert_eq!(self.by_key[&key], place.1, "{key:?}");
            }
        }
        let keyed = self.mappings.values().filter(|mapping| mapping.key.is_some());
        let blocked = self.mappings.values().filter(|mapping| mapping.in_block);
        let by_endpoint = self.endpoints.values().map(BTreeSet::len);
        assert_eq!(keyed.count(), self.by_key.len());
        assert_eq!(by_mapping, self.sessions.len());
        assert_eq!(by_endpoint.sum::<usize>(), self.sessions.len());
        assert_eq!(self.timers.len(), self.entries());
        let (holders, taken, mappings) = self.blocks.counts();
        assert_eq!((holders, mappings), (taken, blocked.count()));
    }
}

fn has_address(remotes: &BTreeSet<SocketAddr>, ip: IpAddr) -> bool {
    let range = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
    remotes.range(range).next().is_some()
}
