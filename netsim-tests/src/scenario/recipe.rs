//! [`Recipe`]: a NAT as a file describes it, which becomes [`NatSpec`]s once the server's addresses are known. They
//! differ from world to world, and a firewall that lets UDP pass to the server only must know them.

use std::net::IpAddr;

use super::error::Trouble;
use super::reader::{Table, Value, among};
use super::units;
use crate::nat::{
    Families, FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Mapping, NatKind, NatSpec, Pooling,
    PortAllocation, Refusal, TcpPolicy, UdpPolicy, kind, kinds,
};

/// The fields of RFC 4787 that a file may set.
const FIELDS: [&str; 14] = [
    "mapping",
    "filtering",
    "filter-scope",
    "ports",
    "addresses",
    "pooling",
    "hairpin",
    "timeouts",
    "inbound-refresh",
    "table",
    "unsolicited",
    "udp",
    "tcp",
    "ipv6",
];

/// Largest step of a port counter, and most foreign flows a second: beyond them no box is meant.
const COUNTER_MAX: u64 = 1000;

/// A NAT, described.
#[derive(Clone, Debug)]
pub struct Recipe {
    kind: Option<&'static NatKind>,
    /// What the file says of the NAT, on top of the kind. `None`: nothing, so that the kind may be a row of NATs.
    own: Option<NatSpec>,
    /// UDP passes to and from the server only.
    server_only: bool,
}

impl Recipe {
    /// A named kind as it is.
    pub(super) fn of(kind: &'static NatKind) -> Self {
        Self {
            kind: Some(kind),
            own: None,
            server_only: false,
        }
    }

    /// The NATs, innermost first, at least one.
    #[must_use]
    pub fn specs(&self, servers: &[IpAddr]) -> Vec<NatSpec> {
        let Some(own) = &self.own else {
            return self.kind.map_or_else(Vec::new, |kind| kind.chain(servers));
        };
        let mut spec = own.clone();
        let by_kind = matches!(spec.udp, UdpPolicy::OnlyTo(_));
        if self.server_only || by_kind {
            spec.udp = UdpPolicy::OnlyTo(servers.iter().copied().collect());
        }
        vec![spec]
    }

    /// Which addresses a machine behind it has, unless the file says otherwise.
    #[must_use]
    pub fn families(&self) -> Families {
        self.kind.map_or(Families::V4, |kind| kind.families)
    }

    /// For people: the name of the kind, or what it is.
    #[must_use]
    pub fn words(&self) -> String {
        match (self.kind, &self.own) {
            (Some(kind), None) => kind.name.to_owned(),
            (Some(kind), Some(_)) => format!("{}, changed", kind.name),
            (None, Some(own)) => own.to_string(),
            (None, None) => "no NAT".to_owned(),
        }
    }

    /// Reads `kind` and the fields of a table.
    pub(super) fn read(table: &Table<'_>) -> Result<Self, Trouble> {
        let named = table.get("kind").map(|value| named(&value)).transpose()?;
        let present: Vec<_> = FIELDS.iter().filter_map(|field| table.get(field)).collect();
        let Some(first) = present.first() else {
            let missing = || {
                let what = format!("{} says nothing of what it is", table.what);
                Trouble::new(
                    table.at,
                    what,
                    "`kind` = a named kind, or fields such as `mapping`",
                )
            };
            return named.map(Self::of).ok_or_else(missing);
        };
        let base = match named {
            None => NatSpec::default(),
            Some(kind) => match kind.chain(&[]).as_slice() {
                [one] => one.clone(),
                _ => {
                    let what = format!(
                        "kind {:?} is a row of NATs, whose fields cannot be set",
                        kind.name
                    );
                    return Err(first.wrong(what, "two NATs, one `behind` the other"));
                }
            },
        };
        let mut recipe = Self {
            kind: named,
            own: None,
            server_only: false,
        };
        recipe.own = Some(recipe.fields(table, base)?);
        Ok(recipe)
    }

    fn fields(&mut self, table: &Table<'_>, mut spec: NatSpec) -> Result<NatSpec, Trouble> {
        if let Some(value) = table.get("mapping") {
            spec.mapping = value.word("mapping", &MAPPINGS)?;
        }
        if let Some(value) = table.get("filtering") {
            spec.filtering = value.word("filtering", &FILTERINGS)?;
        }
        if let Some(value) = table.get("filter-scope") {
            let words = [
                ("mapping", FilterScope::Mapping),
                ("endpoint", FilterScope::Endpoint),
            ];
            spec.filter_scope = value.word("filter-scope", &words)?;
        }
        if let Some(value) = table.get("ports") {
            spec.ports = ports(&value)?;
        }
        if let Some(value) = table.get("addresses") {
            spec.addresses = value.whole("addresses", 1..=16)?;
        }
        if let Some(value) = table.get("pooling") {
            let words = [("paired", Pooling::Paired), ("arbitrary", Pooling::Arbitrary)];
            spec.pooling = value.word("pooling", &words)?;
        }
        if let Some(value) = table.get("hairpin") {
            spec.hairpin = value.word("hairpin", &HAIRPINS)?;
        }
        if let Some(value) = table.get("timeouts") {
            timeouts(&value, &mut spec)?;
        }
        if let Some(value) = table.get("inbound-refresh") {
            spec.inbound_refresh = value.flag("inbound-refresh")?;
        }
        if let Some(value) = table.get("table") {
            spec.table_size = value.whole("table", 1..=1_000_000)?;
        }
        if let Some(value) = table.get("unsolicited") {
            spec.input = unsolicited(&value)?;
        }
        if let Some(value) = table.get("udp") {
            self.udp(&value, &mut spec)?;
        }
        if let Some(value) = table.get("tcp") {
            spec.tcp = tcp(&value)?;
        }
        if let Some(value) = table.get("ipv6") {
            let words = [
                ("firewall", Ipv6::Firewall),
                ("open", Ipv6::Open),
                ("nat64", Ipv6::Nat64),
            ];
            spec.ipv6 = value.word("ipv6", &words)?;
        }
        Ok(spec)
    }

    fn udp(&mut self, value: &Value<'_>, spec: &mut NatSpec) -> Result<(), Trouble> {
        if let Some(table) = value.as_table("`udp`") {
            let how = table.need("blocked", "\"admin-prohibited\" or \"port-unreachable\"")?;
            spec.udp = UdpPolicy::Blocked(Some(how.word("blocked", &REFUSALS)?));
            return table.finish();
        }
        let words = [
            ("open", (UdpPolicy::Open, false)),
            ("server-only", (UdpPolicy::Open, true)),
            ("blocked", (UdpPolicy::Blocked(None), false)),
        ];
        let indexed: Vec<(&str, usize)> = words
            .iter()
            .enumerate()
            .map(|(i, (word, _))| (*word, i))
            .collect();
        let index = value.word("udp", &indexed)?;
        let (policy, server_only) = words[index].1.clone();
        spec.udp = policy;
        self.server_only = server_only;
        Ok(())
    }
}

/// The kind that a value names.
pub(super) fn named(value: &Value<'_>) -> Result<&'static NatKind, Trouble> {
    let names: Vec<&str> = kinds().iter().map(|kind| kind.name).collect();
    let name = value.text(
        "kind",
        "the name of a kind, as `knothole-netsim kinds` lists them",
    )?;
    kind(name).ok_or_else(|| value.wrong(format!("no kind of NAT is called {name:?}"), among(name, &names)))
}

const MAPPINGS: [(&str, Mapping); 6] = [
    ("endpoint-independent", Mapping::EndpointIndependent),
    ("address-dependent", Mapping::AddressDependent),
    ("address-and-port-dependent", Mapping::AddressAndPortDependent),
    ("EIM", Mapping::EndpointIndependent),
    ("ADM", Mapping::AddressDependent),
    ("APDM", Mapping::AddressAndPortDependent),
];

const FILTERINGS: [(&str, Filtering); 6] = [
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("address-dependent", Filtering::AddressDependent),
    ("address-and-port-dependent", Filtering::AddressAndPortDependent),
    ("EIF", Filtering::EndpointIndependent),
    ("ADF", Filtering::AddressDependent),
    ("APDF", Filtering::AddressAndPortDependent),
];

const HAIRPINS: [(&str, Hairpin); 3] = [
    ("off", Hairpin::Off),
    ("internal", Hairpin::Internal),
    ("external", Hairpin::External),
];

const REFUSALS: [(&str, Refusal); 3] = [
    ("admin-prohibited", Refusal::AdminProhibited),
    ("port-unreachable", Refusal::PortUnreachable),
    ("reset", Refusal::Reset),
];

fn ports(value: &Value<'_>) -> Result<PortAllocation, Trouble> {
    let Some(table) = value.as_table("`ports`") else {
        return value.word(
            "ports",
            &[
                ("preserving", PortAllocation::Preserving),
                ("random", PortAllocation::Random),
                ("counter", PortAllocation::Counter { step: 1, foreign: 0 }),
                (
                    "preserve-then-counter",
                    PortAllocation::PreserveThenCounter { step: 1 },
                ),
            ],
        );
    };
    let found = table.one_of(&["counter", "preserve-then-counter", "block"])?;
    let allocation = match found {
        Some(("counter", _, step)) => {
            let foreign = table.get("foreign");
            let foreign = foreign.map(|value| value.whole("foreign", 0..=COUNTER_MAX));
            PortAllocation::Counter {
                step: step.whole("counter", 1..=COUNTER_MAX)?,
                foreign: foreign.transpose()?.unwrap_or(0),
            }
        }
        Some(("block", _, size)) => PortAllocation::Block {
            size: size.whole("block", 1..=32_768)?,
        },
        Some((name, _, step)) => PortAllocation::PreserveThenCounter {
            step: step.whole(name, 1..=COUNTER_MAX)?,
        },
        None => {
            let expected =
                "`counter` = a step, `preserve-then-counter` = a step, or `block` = a number of ports";
            return Err(value.wrong("`ports` says nothing", expected));
        }
    };
    table.finish()?;
    Ok(allocation)
}

fn timeouts(value: &Value<'_>, spec: &mut NatSpec) -> Result<(), Trouble> {
    let table = value.table("timeouts", "a table with `unreplied`, `stream`, `absolute`")?;
    if let Some(value) = table.get("unreplied") {
        spec.unreplied_timeout = units::time(&value, "unreplied")?;
    }
    if let Some(value) = table.get("stream") {
        spec.stream_timeout = units::time(&value, "stream")?;
    }
    if let Some(value) = table.get("absolute") {
        spec.absolute_timeout = Some(units::time(&value, "absolute")?);
    }
    table.finish()
}

fn unsolicited(value: &Value<'_>) -> Result<InputPolicy, Trouble> {
    let Some(table) = value.as_table("`unsolicited`") else {
        return value.word(
            "unsolicited",
            &[
                ("drop", InputPolicy::Drop),
                ("reject", InputPolicy::Reject(Refusal::PortUnreachable)),
                ("accept", InputPolicy::AcceptConntrackClash),
            ],
        );
    };
    let policy = match table.one_of(&["reject", "blacklist"])? {
        Some(("blacklist", _, life)) => {
            let refreshed = table.get("refreshed").map(|value| value.flag("refreshed"));
            InputPolicy::Blacklist {
                life: units::time(&life, "blacklist")?,
                refreshed: refreshed.transpose()?.unwrap_or(true),
            }
        }
        Some((_, _, how)) => InputPolicy::Reject(how.word("reject", &REFUSALS)?),
        None => {
            let expected = "`reject` = how, or `blacklist` = a time";
            return Err(value.wrong("`unsolicited` says nothing", expected));
        }
    };
    table.finish()?;
    Ok(policy)
}

fn tcp(value: &Value<'_>) -> Result<TcpPolicy, Trouble> {
    let Some(table) = value.as_table("`tcp`") else {
        return value.word("tcp", &[("open", TcpPolicy::Open)]);
    };
    let policy = match table.one_of(&["only-port", "only-to"])? {
        Some(("only-port", _, port)) => TcpPolicy::OnlyPort(port.whole("only-port", 1..=65_535)?),
        Some((_, _, proxy)) => {
            let expected = "an address and a port, such as \"5.5.7.1:3128\"";
            let text = proxy.text("only-to", expected)?;
            let parsed = text.parse();
            TcpPolicy::OnlyTo(parsed.map_err(|_| proxy.wrong(format!("`only-to` is {text:?}"), expected))?)
        }
        None => {
            return Err(value.wrong(
                "`tcp` says nothing",
                "`only-port` = a port, or `only-to` = an endpoint",
            ));
        }
    };
    table.finish()?;
    Ok(policy)
}
