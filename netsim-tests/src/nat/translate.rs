//! How a [`NatBox`] finds the session of a packet or makes one: mapping, filtering, ports, lives. Whether such packets
//! pass at all is asked before.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::allocation::Block;
use super::flow::{DropReason, Flow, Proto};
use super::nat_box::NatBox;
use super::spec::{FilterScope, Filtering, InputPolicy, Mapping, PortAllocation};
use super::state::{Direction, MappingKey, SessionKey, Tables, Timeouts, Unsolicited};

/// TCP connections: RFC 5382 REQ-5 asks for 2 h 4 min when established, 4 min otherwise. Connection ends are not
/// followed, so entries stay that long; shorter would cut idle connections that real NATs keep.
const TCP_TIMEOUTS: Timeouts = Timeouts {
    unreplied: Duration::from_secs(240),
    stream: Duration::from_secs(7_440),
    absolute: None,
};

/// ICMP echo: RFC 5508 REQ-1 asks for at least 60 s.
const ICMP_TIMEOUTS: Timeouts = Timeouts {
    unreplied: Duration::from_secs(60),
    stream: Duration::from_secs(60),
    absolute: None,
};

impl NatBox {
    /// The external endpoint that stands for the source of an outbound packet.
    pub(super) fn translate_out(&mut self, flow: Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        let timeouts = self.timeouts(flow.proto);
        let key = SessionKey {
            proto: flow.proto,
            inside: flow.src,
            remote: flow.dst,
        };
        if let Some(session) = self.tables.session_mut(&key) {
            session.touch(Direction::Out, timeouts, true, now);
            return Ok(session.external);
        }
        if !self.has_room() {
            return Err(DropReason::TableFull);
        }
        let external = self.external_for(&key, now)?;
        self.tables
            .add_session(key, external, Direction::Out, timeouts, now);
        Ok(external)
    }

    /// The inside endpoint that gets an inbound packet.
    pub(super) fn translate_in(&mut self, flow: Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        let timeouts = self.timeouts(flow.proto);
        let refresh = self.spec.inbound_refresh;
        let mapping = self
            .tables
            .mapping(flow.proto, flow.dst)
            .ok_or(DropReason::NoMapping)?;
        let inside = mapping.inside;
        let address_known = mapping.knows_address(flow.src.ip());
        let key = SessionKey {
            proto: flow.proto,
            inside,
            remote: flow.src,
        };
        let session = self.tables.session_mut(&key);
        let has_session = session.is_some();
        if let Some(session) = session
            && session.external == flow.dst
        {
            session.touch(Direction::In, timeouts, refresh, now);
            return Ok(inside);
        }
        let passes = match (self.filtering(flow.proto), self.filter_scope(flow.proto)) {
            (Filtering::EndpointIndependent, _) => true,
            (Filtering::AddressDependent, FilterScope::Mapping) => address_known,
            (Filtering::AddressDependent, FilterScope::Endpoint) => {
                self.tables
                    .endpoint_knows_address(flow.proto, inside, flow.src.ip())
            }
            (Filtering::AddressAndPortDependent, FilterScope::Mapping) => false,
            (Filtering::AddressAndPortDependent, FilterScope::Endpoint) => has_session,
        };
        if !passes {
            return Err(DropReason::Filtered);
        }
        // A session with the same two ends at another external endpoint keeps its own; this packet only passes. Nor
        // may a stranger extend the life of a mapping by a session of his own where inbound packets do not refresh.
        if !has_session && (refresh || self.mapping(&key) != Mapping::EndpointIndependent) {
            if !self.has_room() {
                return Err(DropReason::TableFull);
            }
            self.tables
                .add_session(key, flow.dst, Direction::In, timeouts, now);
        }
        Ok(inside)
    }

    pub(super) fn has_room(&self) -> bool {
        self.tables.entries() < self.spec.table_size
    }

    pub(super) fn timeouts(&self, proto: Proto) -> Timeouts {
        match proto {
            Proto::Udp => Timeouts {
                unreplied: self.spec.unreplied_timeout,
                stream: self.spec.stream_timeout,
                absolute: self.spec.absolute_timeout,
            },
            Proto::Tcp => TCP_TIMEOUTS,
            Proto::Icmp => ICMP_TIMEOUTS,
        }
    }

    /// What an address keeps is the same for every destination where it is not translated.
    pub(super) fn mapping(&self, session: &SessionKey) -> Mapping {
        match session.proto {
            Proto::Udp if session.is_translated() => self.spec.mapping,
            Proto::Udp | Proto::Tcp | Proto::Icmp => Mapping::EndpointIndependent,
        }
    }

    fn filtering(&self, proto: Proto) -> Filtering {
        match proto {
            Proto::Udp => self.spec.filtering,
            Proto::Tcp | Proto::Icmp => Filtering::AddressAndPortDependent,
        }
    }

    fn filter_scope(&self, proto: Proto) -> FilterScope {
        match proto {
            Proto::Udp => self.spec.filter_scope,
            Proto::Tcp | Proto::Icmp => FilterScope::Mapping,
        }
    }

    /// The external endpoint of a new session: that of an existing mapping, or a new one.
    fn external_for(&mut self, key: &SessionKey, now: Instant) -> Result<SocketAddr, DropReason> {
        let index = MappingKey::new(self.mapping(key), key);
        match self.tables.external_for(&index) {
            Some(external) if !self.is_taken_by_stranger(key, external) => Ok(external),
            // The reverse of this flow belongs to the box itself: another port, for this session alone.
            Some(_) => self.new_mapping(key, None, now),
            None => self.new_mapping(key, Some(index), now),
        }
    }

    fn new_mapping(
        &mut self,
        key: &SessionKey,
        index: Option<MappingKey>,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        let (external, block) = if key.is_translated() {
            self.allocate(key, now).ok_or(DropReason::PortsExhausted)?
        } else {
            (key.inside, None)
        };
        self.tables.add_mapping(key, external, index, block);
        Ok(external)
    }

    /// A free external endpoint for a session, and the block that it lies in.
    fn allocate(&mut self, key: &SessionKey, now: Instant) -> Option<(SocketAddr, Option<Block>)> {
        let allocation = match key.proto {
            Proto::Udp => self.spec.ports,
            Proto::Tcp | Proto::Icmp => PortAllocation::Preserving,
        };
        if let PortAllocation::Block { size } = allocation {
            return self.allocate_in_block(key, size);
        }
        let keeps = match allocation {
            PortAllocation::PreserveThenCounter { .. } => !self.tables.is_mapped(key.proto, key.inside),
            _ => true,
        };
        let kept = keeps.then_some(key.inside.port());
        let clashes = self.clashes();
        let mut addresses = self
            .picker
            .addresses(self.pool, self.spec.pooling, key.inside.ip());
        addresses.find_map(|address| {
            let external = |port: u16| SocketAddr::new(address.into(), port);
            let free = |port: u16| is_free(&self.tables, clashes, key, external(port));
            let port = self.picker.port(allocation, kept, free, now)?;
            Some((external(port), None))
        })
    }

    /// The same where each host inside has a block of ports, which it gets with its first mapping.
    fn allocate_in_block(&mut self, key: &SessionKey, size: u16) -> Option<(SocketAddr, Option<Block>)> {
        let inside = key.inside.ip();
        let block = match self.tables.block_of(inside) {
            Some(block) => block,
            None => {
                let mut addresses = self.picker.addresses(self.pool, self.spec.pooling, inside);
                let free = |block: &Block| !self.tables.is_block_taken(block);
                addresses.find_map(|address| self.picker.block(address, size, free))?
            }
        };
        let clashes = self.clashes();
        let external = |port: u16| SocketAddr::new(block.address.into(), port);
        let free = |port: u16| is_free(&self.tables, clashes, key, external(port));
        let port = self.picker.port_in(block, free)?;
        Some((external(port), Some(block)))
    }

    fn is_taken_by_stranger(&self, key: &SessionKey, external: SocketAddr) -> bool {
        self.clashes() && key.is_translated() && is_strangers(&self.tables, key, external)
    }

    /// Do unsolicited flows take ports away from those that come later?
    fn clashes(&self) -> bool {
        self.spec.input == InputPolicy::AcceptConntrackClash
    }
}

/// May a new mapping for this session have this external endpoint?
fn is_free(tables: &Tables, clashes: bool, key: &SessionKey, external: SocketAddr) -> bool {
    tables.mapping(key.proto, external).is_none() && !(clashes && is_strangers(tables, key, external))
}

/// Does the reverse of this session through this external endpoint belong to the box itself?
fn is_strangers(tables: &Tables, key: &SessionKey, external: SocketAddr) -> bool {
    tables.is_unsolicited(&Unsolicited {
        proto: key.proto,
        remote: key.remote,
        external,
    })
}
