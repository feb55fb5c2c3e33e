//! [`Facts`]: what is known of a NAT, by description or by measurement, and whether two of them agree. Data only.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::nat::{FilterScope, Filtering, Mapping, Pooling, Refusal};

/// By which addresses a host reaches the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Its IPv4 address.
    V4,
    /// Its IPv6 address, to IPv6 hosts.
    V6,
    /// Its IPv6 address, to IPv4 hosts by a translator (RFC 6146).
    Nat64,
}

/// What can be known of a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// Whom UDP reaches.
    Reach,
    /// What a sender hears whose UDP is blocked.
    Refusal,
    /// Is the source address or port of a packet changed?
    Translated,
    /// RFC 5780 section 4.3.
    Mapping,
    /// RFC 5780 section 4.4.
    Filtering,
    /// Does a packet of a host pass that nobody has sent to?
    Stranger,
    /// Whose packets the filter remembers.
    Scope,
    /// How external ports follow each other.
    Ports,
    /// External addresses of one host's sockets.
    Pooling,
    /// External addresses of all hosts.
    Addresses,
    /// Whom a neighbour sees that is sent to by its external address.
    Hairpin,
    /// Do two hosts with one inside port share an external endpoint?
    Overloads,
    /// What an unsolicited packet leaves behind.
    Unsolicited,
    /// In how many of a hundred cases an unsolicited packet costs the port.
    Clashes,
    /// What the sender of an unsolicited packet hears.
    Told,
    /// How long a sender of unsolicited packets is barred.
    Bar,
    /// Do further packets of the barred one prolong it?
    BarRefreshed,
    /// Life of a mapping after a packet that was not answered.
    Unreplied,
    /// Life of a mapping after an exchange of over two seconds.
    Stream,
    /// Life of a mapping that is used all the time.
    Absolute,
    /// Do packets from outside prolong the life of a mapping?
    InboundRefresh,
    /// How many mappings one host can have.
    Table,
    /// Do mappings live on when the table is full, and is there room again when they have ended?
    TableRecovers,
    /// Does a mapping outlive ICMP errors about its packets?
    OutlivesIcmp,
    /// What becomes of TCP.
    Tcp,
}

/// Whom UDP reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everyone.
    Open,
    /// The server and nobody else.
    ServerOnly,
    /// Nobody.
    Blocked,
}

/// What the network says of a packet that does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    Nothing,
    /// ICMP port unreachable; a program sees `ECONNREFUSED`.
    Refused,
    /// ICMP administratively prohibited; a program sees `EHOSTUNREACH` or, over IPv6, `EACCES`.
    Prohibited,
}

impl From<Refusal> for Said {
    /// What a sender of UDP hears.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::AdminProhibited => Self::Prohibited,
            Refusal::PortUnreachable | Refusal::Reset => Self::Refused,
        }
    }
}

/// How external ports follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ports {
    /// They are the inside ports.
    Preserved,
    /// The first port of a socket is its inside port, further ones are random.
    FirstPreserved,
    /// The first port of a socket is its inside port, further ones are counted by so much.
    FirstPreservedThenCounted(u16),
    /// Counted by `step`, with so many mappings of others in between.
    Counted {
        /// Distance of two ports in a row.
        step: u16,
        /// Foreign mappings a second.
        foreign: f64,
    },
    /// Random within a range that is far smaller than all ports.
    Block {
        /// Ports in the range: as described, or at least as many as were seen to be apart.
        size: u16,
        /// Lowest one seen; 0 in descriptions.
        low: u16,
    },
    /// Random.
    Random,
}

/// Whom a neighbour sees that is sent to by its external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HairpinSeen {
    /// Nobody: nothing arrives.
    Nobody,
    /// The sender's inside endpoint.
    Inside,
    /// The sender's external endpoint.
    External,
    /// Another one: that of a NAT in between.
    Between,
}

/// What an unsolicited packet leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Nothing.
    None,
    /// The flow: a later packet of ours to the same remote gets another port.
    Clash,
    /// A bar: its sender's packets do not pass even if they are asked for.
    Bar,
}

/// How long something lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As described.
    Exactly(Duration),
    /// Without end, as described.
    Endless,
    /// Measured: it lasted so long, and not so long.
    Between(Duration, Duration),
    /// Measured: it lasted as long as anybody looked.
    Beyond(Duration),
}

/// How many there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many.
    Exactly(usize),
    /// Measured: at least so many.
    Beyond(usize),
}

/// What becomes of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcp {
    /// It passes.
    Open,
    /// Only to port 443.
    WebOnly,
    /// Only to the HTTP proxy.
    ProxyOnly,
    /// It does not pass, or not as any of these.
    Other,
}

/// What is known of one property.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "each variant holds the value of the property of the same name"
)]
pub enum Value {
    Reach(Reach),
    Said(Said),
    Flag(bool),
    Mapping(Mapping),
    Filtering(Filtering),
    Scope(FilterScope),
    Ports(Ports),
    Pooling(Pooling),
    Hairpin(HairpinSeen),
    Trace(Trace),
    Percent(u8),
    Life(Life),
    Capacity(Capacity),
    Tcp(Tcp),
    /// It cannot be told here; the sentence says why.
    Unmeasured(&'static str),
}

/// What is known of a NAT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(pub BTreeMap<(Path, Property), Value>);

/// Two facts that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disagreement {
    /// By which addresses.
    pub path: Path,
    /// In what.
    pub property: Property,
    /// What the description says.
    pub described: Value,
    /// What was measured; `None`: nothing was.
    pub measured: Option<Value>,
}

impl Facts {
    /// The value of a property, if anything is known.
    #[must_use]
    pub fn get(&self, path: Path, property: Property) -> Option<Value> {
        self.0.get(&(path, property)).copied()
    }

    /// Notes a value.
    pub fn set(&mut self, path: Path, property: Property, value: Value) {
        self.0.insert((path, property), value);
    }

    /// In what the measurement contradicts this description. What the description leaves open agrees with anything; so does
    /// what is [`Value::Unmeasured`]. Where not even [`Property::Reach`] is as described, that alone is told.
    #[must_use]
    pub fn disagreements(&self, measured: &Self) -> Vec<Disagreement> {
        let compare = |(key, described): (&(Path, Property), &Value)| {
            let found = measured.0.get(key).copied();
            let agrees = found.is_some_and(|found| described.agrees(found));
            (!agrees).then_some(Disagreement {
                path: key.0,
                property: key.1,
                described: *described,
                measured: found,
            })
        };
        let all: Vec<Disagreement> = self.0.iter().filter_map(compare).collect();
        let unreached = |path| {
            all.iter()
                .any(|one| one.path == path && one.property == Property::Reach)
        };
        let told = |one: &&Disagreement| one.measured.is_some() || !unreached(one.path);
        all.iter().filter(told).copied().collect()
    }

    /// Leaves only what a measurement of nothing but timers on these paths can tell.
    pub(super) fn retain_timers(&mut self, paths: &[Path]) {
        self.0.retain(|(path, property), _| {
            let timer = matches!(
                property,
                Property::Reach
                    | Property::Mapping
                    | Property::Unreplied
                    | Property::Stream
                    | Property::InboundRefresh
            );
            timer && paths.contains(path)
        });
    }

    /// Takes over what the other one has measured and this one has not.
    pub fn absorb(&mut self, other: Self) {
        for (key, value) in other.0 {
            let known = self.0.entry(key).or_insert(value);
            if matches!(known, Value::Unmeasured(_)) {
                *known = value;
            }
        }
    }
}

/// Measured bounds may be off by so much: the time in which a packet crosses a loaded machine. Nothing next to timers of
/// a second and more.
const TIME_TOLERANCE: Duration = Duration::from_millis(60);

/// A rate that was estimated from some dozen random events may be off by this factor.
const RATE_TOLERANCE: f64 = 2.5;

/// Below so many foreign mappings a second a NAT counts as quiet. A sample takes a second or two, and a question that is
/// asked again on a loaded machine can move the counter of the kernel once more; less could not be told from that.
const QUIET: f64 = 5.0;

impl Value {
    /// Is `measured` what one measures where this holds?
    #[must_use]
    pub fn agrees(self, measured: Self) -> bool {
        match (self, measured) {
            (_, Self::Unmeasured(_)) => true,
            (Self::Life(described), Self::Life(measured)) => described.agrees(measured),
            (Self::Ports(described), Self::Ports(measured)) => described.agrees(measured),
            (Self::Capacity(Capacity::Exactly(size)), Self::Capacity(Capacity::Beyond(least))) => {
                size >= least
            }
            (described, measured) => described == measured,
        }
    }
}

impl Life {
    fn agrees(self, measured: Self) -> bool {
        match (self, measured) {
            (Self::Exactly(life), Self::Between(alive, dead)) => {
                alive <= life + TIME_TOLERANCE && life <= dead + TIME_TOLERANCE
            }
            (Self::Exactly(life), Self::Beyond(least)) => life >= least,
            (Self::Endless, Self::Beyond(_)) => true,
            (described, measured) => described == measured,
        }
    }
}

impl Ports {
    fn agrees(self, measured: Self) -> bool {
        match (self, measured) {
            (
                Self::Counted { step, foreign },
                Self::Counted {
                    step: seen,
                    foreign: rate,
                },
            ) => {
                let alike = foreign / RATE_TOLERANCE <= rate && rate <= foreign * RATE_TOLERANCE;
                step == seen && (alike || (foreign < QUIET && rate < QUIET))
            }
            // Seen ports of a block are apart by less than its size, and by more than half of it (with the forty of
            // a sample, in all but 1 of 10^10 cases).
            (Self::Block { size, .. }, Self::Block { size: apart, low }) => {
                let high = u32::from(low) + u32::from(apart.max(1)) - 1;
                apart <= size
                    && apart > size / 2
                    && u32::from(low) / u32::from(size) == high / u32::from(size)
            }
            (described, measured) => described == measured,
        }
    }
}

impl Property {
    /// Every property, in the order of tables.
    pub const ALL: [Self; 25] = [
        Self::Reach,
        Self::Refusal,
        Self::Translated,
        Self::Mapping,
        Self::Filtering,
        Self::Stranger,
        Self::Scope,
        Self::Ports,
        Self::Pooling,
        Self::Addresses,
        Self::Hairpin,
        Self::Overloads,
        Self::Unsolicited,
        Self::Clashes,
        Self::Told,
        Self::Bar,
        Self::BarRefreshed,
        Self::Unreplied,
        Self::Stream,
        Self::Absolute,
        Self::InboundRefresh,
        Self::Table,
        Self::TableRecovers,
        Self::OutlivesIcmp,
        Self::Tcp,
    ];

    /// The word in tables and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Reach => "udp",
            Self::Refusal => "refusal",
            Self::Translated => "translated",
            Self::Mapping => "mapping",
            Self::Filtering => "filtering",
            Self::Stranger => "stranger passes",
            Self::Scope => "filter scope",
            Self::Ports => "ports",
            Self::Pooling => "pooling",
            Self::Addresses => "addresses",
            Self::Hairpin => "hairpin",
            Self::Overloads => "ports overloaded",
            Self::Unsolicited => "unsolicited",
            Self::Clashes => "clashes",
            Self::Told => "unsolicited sender hears",
            Self::Bar => "bar",
            Self::BarRefreshed => "bar refreshed",
            Self::Unreplied => "unreplied timeout",
            Self::Stream => "stream timeout",
            Self::Absolute => "absolute timeout",
            Self::InboundRefresh => "inbound refresh",
            Self::Table => "mappings",
            Self::TableRecovers => "table recovers",
            Self::OutlivesIcmp => "outlives icmp",
            Self::Tcp => "tcp",
        }
    }
}

impl Path {
    /// The word in tables and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
            Self::Nat64 => "nat64",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reach(Reach::Open) => f.write_str("open"),
            Self::Reach(Reach::ServerOnly) => f.write_str("server only"),
            Self::Reach(Reach::Blocked) => f.write_str("blocked"),
            Self::Said(Said::Nothing) => f.write_str("nothing"),
            Self::Said(Said::Refused) => f.write_str("port unreachable"),
            Self::Said(Said::Prohibited) => f.write_str("prohibited"),
            Self::Flag(true) => f.write_str("yes"),
            Self::Flag(false) => f.write_str("no"),
            Self::Mapping(mapping) => mapping.fmt(f),
            Self::Filtering(filtering) => filtering.fmt(f),
            Self::Scope(FilterScope::Mapping) => f.write_str("by mapping"),
            Self::Scope(FilterScope::Endpoint) => f.write_str("by endpoint"),
            Self::Ports(ports) => ports.fmt(f),
            Self::Pooling(Pooling::Paired) => f.write_str("paired"),
            Self::Pooling(Pooling::Arbitrary) => f.write_str("arbitrary"),
            Self::Hairpin(HairpinSeen::Nobody) => f.write_str("off"),
            Self::Hairpin(HairpinSeen::Inside) => f.write_str("internal"),
            Self::Hairpin(HairpinSeen::External) => f.write_str("external"),
            Self::Hairpin(HairpinSeen::Between) => f.write_str("between"),
            Self::Trace(Trace::None) => f.write_str("no trace"),
            Self::Trace(Trace::Clash) => f.write_str("clash"),
            Self::Trace(Trace::Bar) => f.write_str("bar"),
            Self::Percent(share) => write!(f, "{share} %"),
            Self::Life(life) => life.fmt(f),
            Self::Capacity(Capacity::Exactly(count)) => count.fmt(f),
            Self::Capacity(Capacity::Beyond(count)) => write!(f, "{count} or more"),
            Self::Tcp(Tcp::Open) => f.write_str("open"),
            Self::Tcp(Tcp::WebOnly) => f.write_str("443 only"),
            Self::Tcp(Tcp::ProxyOnly) => f.write_str("proxy only"),
            Self::Tcp(Tcp::Other) => f.write_str("blocked"),
            Self::Unmeasured(why) => write!(f, "not measured: {why}"),
        }
    }
}

impl fmt::Display for Ports {
    /// At most 13 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserved => f.write_str("preserved"),
            Self::FirstPreserved => f.write_str("kept, random"),
            Self::FirstPreservedThenCounted(step) => write!(f, "kept, +{step}"),
            Self::Counted { step, foreign } if *foreign < QUIET => write!(f, "+{step}"),
            Self::Counted { step, foreign } => write!(f, "+{step}, {foreign:.0}/s"),
            Self::Block { size, .. } => write!(f, "block {size}"),
            Self::Random => f.write_str("random"),
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(life) => write!(f, "{} s", life.as_secs_f64()),
            Self::Endless => f.write_str("no end"),
            Self::Between(alive, dead) => {
                write!(f, "{:.3} to {:.3} s", alive.as_secs_f64(), dead.as_secs_f64())
            }
            Self::Beyond(least) => write!(f, "{} s or more", least.as_secs_f64()),
        }
    }
}

impl fmt::Display for Disagreement {
    /// `ipv4 mapping: described as EIM, measured as APDM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, property) = (self.path.word(), self.property.word());
        write!(f, "{path} {property}: described as {}, ", self.described)?;
        match self.measured {
            Some(measured) => write!(f, "measured as {measured}"),
            None => write!(f, "and nothing was measured"),
        }
    }
}

impl Serialize for Facts {
    /// `{"ipv4": {"mapping": "EIM", ..}, ..}`: the words of [`Property::word`] with those of the values.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut paths: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        for ((path, property), value) in &self.0 {
            let facts = paths.entry(path.word()).or_default();
            facts.insert(property.word(), value.to_string());
        }
        let mut map = serializer.serialize_map(Some(paths.len()))?;
        for (path, facts) in &paths {
            map.serialize_entry(path, facts)?;
        }
        map.end()
    }
}
