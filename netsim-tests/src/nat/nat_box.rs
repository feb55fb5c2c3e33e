//! [`NatBox`]: the machine that a [`NatSpec`] describes.
//!
//! It is not a router: it does not look at TTLs, lengths or payloads, and forwards nothing by itself. Drive it with
//! [`NatBox::outbound`] for each packet that comes from inside and [`NatBox::inbound`] for each that comes from
//! outside, and carry out the [`Verdict`]; with [`NatBox::outbound_error`] and [`NatBox::inbound_error`] for ICMP errors.
//! IPv4 is translated; IPv6 flows keep their addresses and meet only the filter, as behind a stateful firewall, unless
//! the box is a NAT64: then the verdict about a packet to [`NAT64_PREFIX`](super::NAT64_PREFIX) names IPv4 addresses,
//! and the one about its answer IPv6 ones again.
//!
//! The state is kept per session (inside endpoint, remote endpoint), as Linux does: an answer to a stranger that the
//! filter let in leaves by the external endpoint at which the stranger came in, whatever the mapping behaviour.
//! Finding and making sessions is the business of `translate.rs`; here is what comes before and after it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::allocation::{Picker, Pool};
use super::flow::{DropReason, Flow, NatStats, Proto, Verdict};
use super::nat64::{embed_endpoint, extract_endpoint};
use super::spec::{Hairpin, InputPolicy, Ipv6, NatSpec, Refusal, TcpPolicy, UdpPolicy};
use super::state::{Tables, Unsolicited};

/// How long Linux remembers a TCP flow that it answered with a reset: `nf_conntrack_tcp_timeout_close`. UDP and ICMP
/// flows live as long as any with traffic one way.
const RESET_LIFE: Duration = Duration::from_secs(10);

/// One NAT with one external IPv4 address, or several in a row.
#[derive(Debug)]
pub struct NatBox {
    pub(super) spec: NatSpec,
    pub(super) pool: Pool,
    pub(super) picker: Picker,
    pub(super) tables: Tables,
    drops: [u64; DropReason::ALL.len()],
}

impl NatBox {
    /// A box that has just started. The same seed and the same packets give the same addresses and ports.
    ///
    /// `external` is its address, or the first of [`NatSpec::addresses`] consecutive ones.
    #[must_use]
    pub fn new(spec: NatSpec, external: Ipv4Addr, seed: u64) -> Self {
        Self {
            pool: Pool::new(external, spec.addresses),
            spec,
            picker: Picker::new(seed),
            tables: Tables::default(),
            drops: [0; DropReason::ALL.len()],
        }
    }

    /// A packet from inside: who it is outside, or the way back inside, or its end.
    pub fn outbound(&mut self, flow: Flow, now: Instant) -> Verdict {
        self.tables.expire(now);
        match self.leave(flow, now) {
            Ok(verdict) => verdict,
            Err(reason) => {
                let told = match reason {
                    // A firewall has one way to say no.
                    DropReason::UdpBlocked | DropReason::TcpBlocked => self.spec.udp.refusal(),
                    _ => None,
                };
                self.end(reason, told)
            }
        }
    }

    /// A packet from outside: which inside endpoint gets it, if any.
    pub fn inbound(&mut self, flow: Flow, now: Instant) -> Verdict {
        self.tables.expire(now);
        match self.enter(flow, now) {
            Ok(flow) => Verdict::Forward(flow),
            Err(reason) => {
                let told = self.note_unsolicited(flow, reason, now);
                self.end(reason, told)
            }
        }
    }

    /// Changes what the box does with UDP from now on. Sessions stay.
    pub fn set_udp(&mut self, udp: UdpPolicy) {
        self.spec.udp = udp;
    }

    /// Forgets every mapping and session, as a power cycle does. The external addresses, the seed's progress and the
    /// counters stay.
    pub fn reboot(&mut self) {
        self.tables = Tables::default();
    }

    /// What the box is.
    #[must_use]
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// Its address on the outside; the first, if it has several.
    #[must_use]
    pub fn external(&self) -> Ipv4Addr {
        self.pool.first()
    }

    /// All its addresses on the outside, in a row from [`NatBox::external`]. Whoever routes to the box routes all of
    /// them.
    pub fn externals(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        self.pool.beginning_at(0)
    }

    /// Entries and drops so far.
    #[must_use]
    pub fn stats(&self) -> NatStats {
        let counted = DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.drops[reason.index()]));
        let drops = counted.filter(|(_, count)| *count > 0).collect();
        NatStats {
            drops,
            ..self.tables.stats()
        }
    }

    fn leave(&mut self, flow: Flow, now: Instant) -> Result<Verdict, DropReason> {
        let dst = match self.spec.ipv6 {
            Ipv6::Nat64 => extract_endpoint(flow.dst),
            Ipv6::Firewall | Ipv6::Open => flow.dst,
        };
        let meant = Flow { dst, ..flow };
        self.permit(meant.proto, dst)?;
        if self.pool.contains(dst.ip()) {
            return self.hairpin(meant, now);
        }
        if dst.is_ipv6() && self.spec.ipv6 == Ipv6::Open {
            return Ok(Verdict::Forward(meant));
        }
        let src = self.translate_out(meant, now)?;
        Ok(Verdict::Forward(Flow { src, ..meant }))
    }

    fn enter(&mut self, flow: Flow, now: Instant) -> Result<Flow, DropReason> {
        self.permit(flow.proto, flow.src)?;
        if flow.dst.is_ipv6() && self.spec.ipv6 == Ipv6::Open {
            return Ok(flow);
        }
        if self.is_barred(flow, now) {
            return Err(DropReason::Barred);
        }
        let dst = self.translate_in(flow, now)?;
        let src = shown(flow.src, dst);
        Ok(Flow { src, dst, ..flow })
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
        // Between the families of a NAT64 there is no inside source to show.
        let src = if self.spec.hairpin == Hairpin::Internal && flow.src.is_ipv4() == dst.is_ipv4() {
            flow.src
        } else {
            shown(external, dst)
        };
        Ok(Verdict::Hairpin(Flow { src, dst, ..flow }))
    }

    /// May packets be exchanged with `remote` at all?
    fn permit(&self, proto: Proto, remote: SocketAddr) -> Result<(), DropReason> {
        let tcp = &self.spec.tcp;
        match proto {
            Proto::Udp if !self.spec.udp.allows(remote.ip()) => Err(DropReason::UdpBlocked),
            Proto::Tcp if !tcp.allows(remote) => Err(DropReason::TcpBlocked),
            Proto::Icmp if *tcp != TcpPolicy::Open => Err(DropReason::TcpBlocked),
            Proto::Udp | Proto::Tcp | Proto::Icmp => Ok(()),
        }
    }

    /// Did the sender of this packet spoil it for itself?
    fn is_barred(&mut self, flow: Flow, now: Instant) -> bool {
        let InputPolicy::Blacklist { life, refreshed } = self.spec.input else {
            return false;
        };
        let stranger = unsolicited(flow);
        let barred = self.tables.is_unsolicited(&stranger);
        if barred && refreshed {
            self.tables.remember(stranger, life, false, now);
        }
        barred
    }

    /// What an inbound packet leaves behind that does not pass for this reason, and how its sender is told.
    fn note_unsolicited(&mut self, flow: Flow, reason: DropReason, now: Instant) -> Option<Refusal> {
        let unsolicited_here = matches!(reason, DropReason::NoMapping | DropReason::Filtered);
        if !unsolicited_here || !self.pool.contains(flow.dst.ip()) {
            return None;
        }
        let (life, refusal) = match self.spec.input {
            InputPolicy::Drop => return None,
            InputPolicy::Reject(refusal) => return Some(refusal),
            InputPolicy::Blacklist { life, .. } => (life, None),
            InputPolicy::AcceptConntrackClash => {
                let life = match flow.proto {
                    Proto::Tcp => RESET_LIFE,
                    Proto::Udp | Proto::Icmp => self.timeouts(flow.proto).unreplied,
                };
                (life, Some(Refusal::Reset))
            }
        };
        let room = self.has_room();
        self.tables.remember(unsolicited(flow), life, room, now);
        refusal
    }

    fn end(&mut self, reason: DropReason, told: Option<Refusal>) -> Verdict {
        self.drops[reason.index()] += 1;
        told.map_or(Verdict::Drop(reason), |refusal| Verdict::Reject(reason, refusal))
    }
}

/// The endpoint `outside` as the inside endpoint `to` sees it.
pub(super) fn shown(outside: SocketAddr, to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(_) => outside,
        IpAddr::V6(_) => embed_endpoint(outside),
    }
}

fn unsolicited(flow: Flow) -> Unsolicited {
    Unsolicited {
        proto: flow.proto,
        remote: flow.src,
        external: flow.dst,
    }
}
