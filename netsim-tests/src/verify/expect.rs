//! [`expected`]: what one must measure behind a chain of NATs, told from the description alone.
//!
//! In a chain the strictest mapping and filter count, the ports are those of the outermost box that changes them, and an
//! unsolicited packet meets the first box from outside that does not let it in. What several boxes together do beyond that
//! is left open: a property that is not in the result agrees with anything.

use std::net::IpAddr;
use std::time::Duration;

use crate::nat::{
    FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Kernel, Mapping, NatKind, NatSpec, Pooling,
    PortAllocation, Side, TcpPolicy, UdpPolicy,
};

use super::facts::{
    Capacity, Facts, HairpinSeen, Life, Path, Ports, Property, Reach, Said, Tcp, Trace, Value,
};
use super::ground::Stage;

/// What must be measured at hosts of this side on this stage.
#[must_use]
pub fn expected(side: &Side, stage: &Stage) -> Facts {
    let mut facts = Facts::default();
    let nats: Vec<&NatSpec> = side.nats.iter().collect();
    if side.families.v4 {
        let tcp = nats.iter().map(|nat| tcp(nat.tcp)).find(|tcp| *tcp != Tcp::Open);
        facts.set(Path::V4, Property::Tcp, Value::Tcp(tcp.unwrap_or(Tcp::Open)));
        Chain::new(Path::V4, &nats, stage).describe(&mut facts);
    }
    if side.families.v6 {
        Chain::new(Path::V6, &nats, stage).describe(&mut facts);
    }
    let translator = nats.iter().position(|nat| nat.ipv6 == Ipv6::Nat64);
    if let (true, Some(translator)) = (stage.nat64, translator) {
        // What is inside of the translator passes it as a firewall; such chains are not told in full.
        if translator == 0 {
            Chain::new(Path::Nat64, &nats, stage).describe(&mut facts);
        }
    }
    facts
}

/// What must be measured where the rules of a kernel play this kind: as described, but for what [`Kernel::Differs`] says.
#[must_use]
pub fn expected_of_kernel(kind: &NatKind, side: &Side, stage: &Stage) -> Facts {
    let mut facts = expected(side, stage);
    if let (Kernel::Differs(_), "linux-input-accept") = (kind.kernel, kind.name) {
        // Masquerading gives a port to two hosts that talk to different endpoints (`reference/netsim.md` section 4).
        facts.set(Path::V4, Property::Overloads, Value::Flag(true));
    }
    facts
}

/// The boxes on one way to the internet, innermost first.
struct Chain<'a> {
    path: Path,
    nats: &'a [&'a NatSpec],
    stage: &'a Stage,
}

impl<'a> Chain<'a> {
    fn new(path: Path, nats: &'a [&'a NatSpec], stage: &'a Stage) -> Self {
        Self { path, nats, stage }
    }

    fn describe(&self, facts: &mut Facts) {
        let mut set = |property, value| facts.set(self.path, property, value);
        let reach = self.reach();
        set(Property::Reach, Value::Reach(reach));
        if reach == Reach::Blocked {
            set(Property::Refusal, Value::Said(self.refusal()));
            return;
        }
        let (mapping, filtering) = (self.mapping(), self.filtering());
        set(Property::Mapping, Value::Mapping(mapping));
        set(Property::Filtering, Value::Filtering(filtering));
        set(Property::Translated, Value::Flag(self.translates()));
        set(Property::Ports, Value::Ports(self.ports()));
        if reach == Reach::Open {
            let open = filtering == Filtering::EndpointIndependent;
            set(Property::Stranger, Value::Flag(open));
            set(Property::OutlivesIcmp, Value::Flag(true));
            if let Some(scope) = self.scope(mapping, filtering) {
                set(Property::Scope, Value::Scope(scope));
            }
            self.unsolicited(mapping, filtering, &mut set);
        }
        self.lifetimes(&mut set);
        if self.path != Path::V6 {
            self.translation(mapping, filtering, &mut set);
        }
    }

    fn reach(&self) -> Reach {
        let server = |ip: &IpAddr| ip.is_ipv4() == (self.path != Path::V6);
        let mut servers = self.stage.servers.iter().filter(|ip| server(ip));
        let mut strangers = self.stage.strangers.iter().filter(|ip| server(ip));
        let passes = |ip: &IpAddr| self.nats.iter().all(|nat| nat.udp.allows(*ip));
        match (servers.all(passes), strangers.all(passes)) {
            (false, _) => Reach::Blocked,
            (true, false) => Reach::ServerOnly,
            (true, true) => Reach::Open,
        }
    }

    /// That of the first box that blocks, since what is beyond it never gets the packet.
    fn refusal(&self) -> Said {
        let blocking = self.nats.iter().find(|nat| nat.udp != UdpPolicy::Open);
        let refusal = blocking.and_then(|nat| nat.udp.refusal());
        refusal.map_or(Said::Nothing, Said::from)
    }

    fn translates(&self) -> bool {
        self.path != Path::V6 && !self.nats.is_empty()
    }

    fn mapping(&self) -> Mapping {
        let strictness = |mapping: &Mapping| match mapping {
            Mapping::EndpointIndependent => 0,
            Mapping::AddressDependent => 1,
            Mapping::AddressAndPortDependent => 2,
        };
        let mappings = self.nats.iter().map(|nat| nat.mapping);
        let strictest = mappings.filter(|_| self.translates()).max_by_key(strictness);
        strictest.unwrap_or(Mapping::EndpointIndependent)
    }

    fn filtering(&self) -> Filtering {
        let strictness = |filtering: &Filtering| match filtering {
            Filtering::EndpointIndependent => 0,
            Filtering::AddressDependent => 1,
            Filtering::AddressAndPortDependent => 2,
        };
        let filters = self.nats.iter().map(|nat| self.filter_of(nat));
        filters
            .max_by_key(strictness)
            .unwrap_or(Filtering::EndpointIndependent)
    }

    fn filter_of(&self, nat: &NatSpec) -> Filtering {
        match (self.path, nat.ipv6) {
            (Path::V6, Ipv6::Open) => Filtering::EndpointIndependent,
            _ => nat.filtering,
        }
    }

    /// It shows where a socket has several mappings and a filter; in a chain it takes all boxes together.
    fn scope(&self, mapping: Mapping, filtering: Filtering) -> Option<FilterScope> {
        match self.nats {
            [nat]
                if mapping != Mapping::EndpointIndependent && filtering != Filtering::EndpointIndependent =>
            {
                Some(nat.filter_scope)
            }
            _ => None,
        }
    }

    /// Those of the outermost box that does not preserve.
    fn ports(&self) -> Ports {
        if !self.translates() {
            return Ports::Preserved;
        }
        let changing = self.nats.iter().rev().find(|nat| ports(nat) != Ports::Preserved);
        changing.map_or(Ports::Preserved, |nat| ports(nat))
    }

    /// The box that an unsolicited packet comes to: from outside, the first that does not let it in.
    fn judge(&self) -> Option<&'a NatSpec> {
        let closed = |nat: &&&NatSpec| nat.filtering != Filtering::EndpointIndependent;
        let judge = self.nats.iter().rev().find(closed).or(self.nats.last());
        judge.copied()
    }

    fn unsolicited(&self, mapping: Mapping, filtering: Filtering, set: &mut impl FnMut(Property, Value)) {
        let Some(judge) = self.judge().filter(|_| self.path != Path::V6) else {
            return;
        };
        let (trace, told) = match judge.input {
            InputPolicy::Drop => (Trace::None, Said::Nothing),
            InputPolicy::Reject(refusal) => (Trace::None, refusal.into()),
            InputPolicy::Blacklist { .. } => (Trace::Bar, Said::Nothing),
            InputPolicy::AcceptConntrackClash => (Trace::Clash, Said::Refused),
        };
        set(Property::Told, Value::Said(told));
        let shows = mapping == Mapping::EndpointIndependent && filtering != Filtering::EndpointIndependent;
        if !shows {
            return;
        }
        set(Property::Unsolicited, Value::Trace(trace));
        let clashes = if trace == Trace::Clash { 100 } else { 0 };
        set(Property::Clashes, Value::Percent(clashes));
        if let InputPolicy::Blacklist { life, refreshed } = judge.input {
            set(Property::Bar, Value::Life(Life::Exactly(life)));
            set(Property::BarRefreshed, Value::Flag(refreshed));
        }
    }

    fn lifetimes(&self, set: &mut impl FnMut(Property, Value)) {
        let remembers = |nat: &&&NatSpec| self.path != Path::V6 || nat.ipv6 != Ipv6::Open;
        let stateful: Vec<&NatSpec> = self.nats.iter().filter(remembers).copied().collect();
        let shortest = |life: fn(&NatSpec) -> Option<Duration>| {
            let shortest = stateful.iter().filter_map(|nat| life(nat)).min();
            Value::Life(shortest.map_or(Life::Endless, Life::Exactly))
        };
        let unreplied = |nat: &NatSpec| {
            let end = nat.absolute_timeout.unwrap_or(Duration::MAX);
            Some(nat.unreplied_timeout.min(end))
        };
        set(Property::Unreplied, shortest(unreplied));
        if stateful.iter().all(|nat| nat.absolute_timeout.is_none()) {
            // With an absolute end it depends on how old the flow was.
            set(Property::Stream, shortest(|nat| Some(nat.stream_timeout)));
        }
        set(Property::Absolute, shortest(|nat| nat.absolute_timeout));
        if !stateful.is_empty() {
            let refresh = stateful.iter().all(|nat| nat.inbound_refresh);
            set(Property::InboundRefresh, Value::Flag(refresh));
        }
    }

    fn translation(&self, mapping: Mapping, filtering: Filtering, set: &mut impl FnMut(Property, Value)) {
        let Some(outermost) = self.nats.last() else {
            return;
        };
        set(Property::Overloads, Value::Flag(false));
        let several = outermost.addresses > 1;
        let pooling = if several {
            outermost.pooling
        } else {
            Pooling::Paired
        };
        set(Property::Pooling, Value::Pooling(pooling));
        let addresses = usize::from(outermost.addresses.max(1));
        set(Property::Addresses, Value::Capacity(Capacity::Exactly(addresses)));
        if mapping == Mapping::EndpointIndependent || filtering == Filtering::EndpointIndependent {
            set(Property::Hairpin, Value::Hairpin(self.hairpin(outermost)));
        }
        let blocks = self.nats.iter().filter_map(|nat| match nat.ports {
            PortAllocation::Block { size } => Some(usize::from(size.max(1))),
            _ => None,
        });
        let tables = self.nats.iter().map(|nat| nat.table_size);
        if let Some(capacity) = tables.chain(blocks).min() {
            set(Property::Table, Value::Capacity(Capacity::Exactly(capacity)));
            set(Property::TableRecovers, Value::Flag(true));
        }
    }

    /// The outermost box turns the packet round; those further in must let its source pass.
    fn hairpin(&self, outermost: &NatSpec) -> HairpinSeen {
        let inner = self.nats.iter().rev().skip(1);
        let mut all_open = inner.map(|nat| nat.filtering == Filtering::EndpointIndependent);
        match (outermost.hairpin, self.nats.len()) {
            (Hairpin::Off, _) => HairpinSeen::Nobody,
            (Hairpin::External, _) => HairpinSeen::External,
            (Hairpin::Internal, 1) => HairpinSeen::Inside,
            (Hairpin::Internal, _) if all_open.all(|open| open) => HairpinSeen::Between,
            (Hairpin::Internal, _) => HairpinSeen::Nobody,
        }
    }
}

fn ports(nat: &NatSpec) -> Ports {
    match (nat.ports, nat.mapping) {
        (PortAllocation::Preserving, Mapping::EndpointIndependent) => Ports::Preserved,
        (PortAllocation::Preserving, _) => Ports::FirstPreserved,
        (PortAllocation::Random, _) => Ports::Random,
        (PortAllocation::Counter { step, foreign }, _) => Ports::Counted {
            step: step.max(1),
            foreign: f64::from(foreign),
        },
        (PortAllocation::Block { size }, _) => Ports::Block {
            size: size.max(1),
            low: 0,
        },
        // One mapping for all destinations is the first one.
        (PortAllocation::PreserveThenCounter { .. }, Mapping::EndpointIndependent) => Ports::Preserved,
        (PortAllocation::PreserveThenCounter { step }, _) => Ports::FirstPreservedThenCounted(step.max(1)),
    }
}

fn tcp(policy: TcpPolicy) -> Tcp {
    match policy {
        TcpPolicy::Open => Tcp::Open,
        TcpPolicy::OnlyPort(443) => Tcp::WebOnly,
        TcpPolicy::OnlyTo(crate::nat::PROXY) => Tcp::ProxyOnly,
        TcpPolicy::OnlyPort(_) | TcpPolicy::OnlyTo(_) => Tcp::Other,
    }
}
