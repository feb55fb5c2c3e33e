//! [`NatBox`]: the machine that a [`NatSpec`] describes.
//!
//! It is not a router: it does not look at TTLs, lengths or payloads, and forwards nothing by itself. Drive it with
//! [`NatBox::outbound`] for each packet that comes from inside and [`NatBox::inbound`] for each that comes from
//! outside, and carry out the [`Verdict`]. IPv4 is translated; IPv6 flows keep their addresses and meet only the
//! filter, as behind a stateful firewall.
//!
//! The state is kept per session (inside endpoint, remote endpoint), as Linux does: an answer to a stranger that the
//! filter let in leaves by the external endpoint at which the stranger came in, whatever the mapping behaviour.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::allocation::PortPicker;
use super::flow::{DropReason, Flow, NatStats, Proto, Verdict};
use super::spec::{Filtering, Hairpin, InputPolicy, Mapping, NatSpec, PortAllocation, UdpPolicy};
use super::state::{Direction, MappingKey, SessionKey, Tables, Timeouts, Unsolicited};

/// TCP connections: RFC 5382 REQ-5 asks for 2 h 4 min when established, 4 min otherwise. Connection ends are not
/// followed, so entries stay that long; shorter would cut idle connections that real NATs keep.
const TCP_TIMEOUTS: Timeouts = Timeouts {
    unreplied: Duration::from_secs(240),
    stream: Duration::from_secs(7_440),
};

/// ICMP echo: RFC 5508 REQ-1 asks for at least 60 s.
const ICMP_TIMEOUTS: Timeouts = Timeouts {
    unreplied: Duration::from_secs(60),
    stream: Duration::from_secs(60),
};

/// One NAT with one external IPv4 address.
#[derive(Debug)]
pub struct NatBox {
    spec: NatSpec,
    external: Ipv4Addr,
    ports: PortPicker,
    tables: Tables,
    drops: [u64; DropReason::ALL.len()],
}

impl NatBox {
    /// A box that has just started. The same seed and the same packets give the same ports.
    #[must_use]
    pub fn new(spec: NatSpec, external: Ipv4Addr, seed: u64) -> Self {
        Self {
            spec,
            external,
            ports: PortPicker::new(seed),
            tables: Tables::default(),
            drops: [0; DropReason::ALL.len()],
        }
    }

    /// A packet from inside: who it is outside, or the way back inside, or its end.
    pub fn outbound(&mut self, flow: Flow, now: Instant) -> Verdict {
        self.tables.expire(now);
        let result = if flow.dst.ip() == IpAddr::V4(self.external) {
            self.hairpin(flow, now)
        } else {
            self.translate_out(flow, now)
                .map(|src| Verdict::Forward(Flow { src, ..flow }))
        };
        self.conclude(result)
    }

    /// A packet from outside: which inside endpoint gets it, if any.
    pub fn inbound(&mut self, flow: Flow, now: Instant) -> Verdict {
        self.tables.expire(now);
        let result = self
            .translate_in(flow, now)
            .map(|dst| Verdict::Forward(Flow { dst, ..flow }));
        if result.is_err_and(|reason| matches!(reason, DropReason::NoMapping | DropReason::Filtered)) {
            self.note_unsolicited(flow, now);
        }
        self.conclude(result)
    }

    /// An ICMP error from outside: who inside sent the packet that it quotes? `quoted` is that packet as it was seen
    /// outside, the answer is as it was inside. Looks only; no error makes, refreshes or ends a session (RFC 4787
    /// REQ-12, RFC 5508 REQ-3).
    pub fn inbound_error(&mut self, quoted: Flow, now: Instant) -> Option<Flow> {
        self.tables.expire(now);
        let inside = self.tables.mapping(quoted.proto, quoted.src)?.inside;
        let key = SessionKey {
            proto: quoted.proto,
            inside,
            remote: quoted.dst,
        };
        self.tables.session(&key).map(|_| Flow {
            src: inside,
            ..quoted
        })
    }

    /// An ICMP error from inside: to which external endpoint was the packet sent that it quotes? `quoted` is that packet
    /// as it arrived inside, the answer is as it was outside. Looks only, as [`NatBox::inbound_error`].
    pub fn outbound_error(&mut self, quoted: Flow, now: Instant) -> Option<Flow> {
        self.tables.expire(now);
        let key = SessionKey {
            proto: quoted.proto,
            inside: quoted.dst,
            remote: quoted.src,
        };
        self.tables.session(&key).map(|session| Flow {
            dst: session.external,
            ..quoted
        })
    }

    /// Changes what the box does with UDP from now on. Sessions stay.
    pub fn set_udp(&mut self, udp: UdpPolicy) {
        self.spec.udp = udp;
    }

    /// Forgets every mapping and session, as a power cycle does. The external address, the seed's progress and the
    /// counters stay.
    pub fn reboot(&mut self) {
        self.tables = Tables::default();
    }

    /// What the box is.
    #[must_use]
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// Its address on the outside.
    #[must_use]
    pub fn external(&self) -> Ipv4Addr {
        self.external
    }

    /// Entries and drops so far.
    #[must_use]
    pub fn stats(&self) -> NatStats {
        let (sessions, mappings, unsolicited, peak_entries) = self.tables.counts();
        let counted = DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.drops[reason.index()]));
        let drops = counted.filter(|(_, count)| *count > 0).collect();
        NatStats {
            sessions,
            mappings,
            unsolicited,
            peak_entries,
            drops,
        }
    }

    fn conclude(&mut self, result: Result<Verdict, DropReason>) -> Verdict {
        result.unwrap_or_else(|reason| {
            self.drops[reason.index()] += 1;
            Verdict::Drop(reason)
        })
    }

    fn translate_out(&mut self, flow: Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        if flow.proto == Proto::Udp && !self.spec.udp.allows(flow.dst.ip()) {
            return Err(DropReason::UdpBlocked);
        }
        let timeouts = self.timeouts(flow.proto);
        let key = SessionKey {
            proto: flow.proto,
            inside: flow.src,
            remote: flow.dst,
        };
        if let Some(session) = self.tables.session(&key) {
            session.touch(Direction::Out, timeouts, true, now);
            return Ok(session.external);
        }
        if !self.has_room() {
            return Err(DropReason::TableFull);
        }
        let external = self.external_for(&key)?;
        self.tables
            .add_session(key, external, Direction::Out, timeouts, now);
        Ok(external)
    }

    /// The external endpoint of a new session: that of an existing mapping, or a new one.
    fn external_for(&mut self, key: &SessionKey) -> Result<SocketAddr, DropReason> {
        let index = MappingKey::new(self.mapping(key.proto, key.inside), key);
        match self.tables.external_for(&index) {
            Some(external) if !self.is_taken_by_stranger(key, external.port()) => Ok(external),
            // The reverse of this flow belongs to the box itself: another port, for this session alone.
            Some(_) => self.new_mapping(key, None),
            None => self.new_mapping(key, Some(index)),
        }
    }

    fn new_mapping(&mut self, key: &SessionKey, index: Option<MappingKey>) -> Result<SocketAddr, DropReason> {
        let external = if key.inside.is_ipv6() {
            key.inside
        } else {
            let (tables, ip) = (&self.tables, IpAddr::V4(self.external));
            let free = |port: u16| {
                let stranger = Unsolicited {
                    proto: key.proto,
                    remote: key.remote,
                    port,
                };
                tables.mapping(key.proto, SocketAddr::new(ip, port)).is_none()
                    && !tables.is_unsolicited(&stranger)
            };
            let allocation = match key.proto {
                Proto::Udp => self.spec.ports,
                Proto::Tcp | Proto::Icmp => PortAllocation::Preserving,
            };
            let port = self.ports.pick(allocation, key.inside.port(), free);
            SocketAddr::new(ip, port.ok_or(DropReason::PortsExhausted)?)
        };
        self.tables.add_mapping(key.proto, external, key.inside, index);
        Ok(external)
    }

    fn translate_in(&mut self, flow: Flow, now: Instant) -> Result<SocketAddr, DropReason> {
        if flow.proto == Proto::Udp && !self.spec.udp.allows(flow.src.ip()) {
            return Err(DropReason::UdpBlocked);
        }
        let mapping = self
            .tables
            .mapping(flow.proto, flow.dst)
            .ok_or(DropReason::NoMapping)?;
        let inside = mapping.inside;
        let address_known = mapping.knows_address(flow.src.ip());
        let filtering = self.filtering(flow.proto);
        let timeouts = self.timeouts(flow.proto);
        let refresh = self.spec.inbound_refresh;
        let key = SessionKey {
            proto: flow.proto,
            inside,
            remote: flow.src,
        };
        let session = self.tables.session(&key);
        let has_session = session.is_some();
        if let Some(session) = session
            && session.external == flow.dst
        {
            session.touch(Direction::In, timeouts, refresh, now);
            return Ok(inside);
        }
        let passes = match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => address_known,
            Filtering::AddressAndPortDependent => false,
        };
        if !passes {
            return Err(DropReason::Filtered);
        }
        // A session with the same two ends at another external endpoint keeps its own; this packet only passes. Nor
        // may a stranger extend the life of a mapping by a session of his own where inbound packets do not refresh.
        if !has_session && (refresh || self.mapping(flow.proto, inside) != Mapping::EndpointIndependent) {
            if !self.has_room() {
                return Err(DropReason::TableFull);
            }
            self.tables
                .add_session(key, flow.dst, Direction::In, timeouts, now);
        }
        Ok(inside)
    }

    fn hairpin(&mut self, flow: Flow, now: Instant) -> Result<Verdict, DropReason> {
        if self.spec.hairpin == Hairpin::Off {
            return Err(DropReason::HairpinOff);
        }
        let external = self.translate_out(flow, now)?;
        let dst = self.translate_in(
            Flow {
                src: external,
                ..flow
            },
            now,
        )?;
        let src = if self.spec.hairpin == Hairpin::Internal {
            flow.src
        } else {
            external
        };
        Ok(Verdict::Hairpin(Flow {
            proto: flow.proto,
            src,
            dst,
        }))
    }

    fn note_unsolicited(&mut self, flow: Flow, now: Instant) {
        let for_the_box = flow.dst.ip() == IpAddr::V4(self.external);
        if for_the_box && self.spec.input == InputPolicy::AcceptConntrackClash {
            let stranger = Unsolicited {
                proto: flow.proto,
                remote: flow.src,
                port: flow.dst.port(),
            };
            let life = self.timeouts(flow.proto).unreplied;
            let room = self.has_room();
            self.tables.remember(stranger, life, room, now);
        }
    }

    fn is_taken_by_stranger(&self, key: &SessionKey, port: u16) -> bool {
        key.inside.is_ipv4()
            && self.tables.is_unsolicited(&Unsolicited {
                proto: key.proto,
                remote: key.remote,
                port,
            })
    }

    fn has_room(&self) -> bool {
        self.tables.entries() < self.spec.table_size
    }

    /// What an address keeps is the same for every destination: IPv6 is not translated.
    fn mapping(&self, proto: Proto, inside: SocketAddr) -> Mapping {
        match proto {
            Proto::Udp if inside.is_ipv4() => self.spec.mapping,
            Proto::Udp | Proto::Tcp | Proto::Icmp => Mapping::EndpointIndependent,
        }
    }

    fn filtering(&self, proto: Proto) -> Filtering {
        match proto {
            Proto::Udp => self.spec.filtering,
            Proto::Tcp | Proto::Icmp => Filtering::AddressAndPortDependent,
        }
    }

    fn timeouts(&self, proto: Proto) -> Timeouts {
        match proto {
            Proto::Udp => Timeouts {
                unreplied: self.spec.unreplied_timeout,
                stream: self.spec.stream_timeout,
            },
            Proto::Tcp => TCP_TIMEOUTS,
            Proto::Icmp => ICMP_TIMEOUTS,
        }
    }
}
