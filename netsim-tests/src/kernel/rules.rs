//! The IPv4 rules of a NAT: what is mapped, who may come in, what is remembered. Text only; see [the module](super) for
//! how it works.
//!
//! Of a flow that connection tracking follows, the side that opened it is `original` and the other `reply`. What came
//! from inside first has its inside endpoint as the original source and its external one as the reply's destination; what
//! came from outside first the other way round. [`Side`] names the two.

use crate::nat::{
    FilterScope, Filtering, Hairpin, InputPolicy, Mapping, NatSpec, Pooling, PortAllocation, Refusal,
};

use super::form::Place;
use super::ports::{allocation, inside_v4, paired, take, used};
use super::table::{Chain, Table, listed, time};

/// Packets to it move the counter of ports and go nowhere: IPv4's dummy address (RFC 7600 section 4.8).
pub(super) const NOWHERE: [u8; 4] = [192, 0, 0, 8];

/// A packet that crosses the NAT, or turns round inside.
const OUT: &str = "iifname \"lan0\" oifname \"wan0\"";
const IN: &str = "iifname \"wan0\" oifname \"lan0\"";
const BACK: &str = "iifname \"lan0\" oifname \"lan0\" ct status dnat";

/// Who is barred: sender and receiver of an unsolicited packet.
const BARRED: &str = "inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service";

/// Which end of a flow is the inside one.
#[derive(Clone, Copy, Debug)]
enum Side {
    Original,
    Reply,
}

impl Side {
    const BOTH: [Self; 2] = [Self::Original, Self::Reply];

    fn word(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Reply => "reply",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    /// The inside endpoint.
    fn inside(self) -> String {
        format!("ct {0} ip saddr . ct {0} proto-src", self.word())
    }

    fn inside_address(self) -> String {
        format!("ct {} ip saddr", self.word())
    }

    /// The external endpoint that stands for it.
    fn external(self) -> String {
        format!("ct {0} ip daddr . ct {0} proto-dst", self.other().word())
    }

    fn external_port(self) -> String {
        format!("ct {} proto-dst", self.other().word())
    }

    fn external_address(self) -> String {
        format!("ct {} ip daddr", self.other().word())
    }

    /// Whom it talks to.
    fn remote_address(self) -> String {
        format!("ct {} ip daddr", self.word())
    }

    fn remote_port(self) -> String {
        format!("ct {} proto-dst", self.word())
    }
}

/// What the filter has to know of those whom an inside endpoint has sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peers {
    /// All mappings of an inside endpoint together; otherwise each external endpoint by itself.
    by_inside: bool,
    /// Address and port, not the address alone.
    with_port: bool,
}

impl Peers {
    /// `None`: anyone may send, or connection tracking knows by itself.
    fn of(spec: &NatSpec) -> Option<Self> {
        let by_inside =
            spec.filter_scope == FilterScope::Endpoint && spec.mapping != Mapping::EndpointIndependent;
        let turns = spec.hairpin != Hairpin::Off;
        match spec.filtering {
            Filtering::EndpointIndependent => None,
            Filtering::AddressDependent => Some(Self {
                by_inside,
                with_port: false,
            }),
            Filtering::AddressAndPortDependent => (by_inside || turns).then_some(Self {
                by_inside,
                with_port: true,
            }),
        }
    }

    /// The type of their set.
    fn key_type(self) -> &'static str {
        if self.with_port {
            "ipv4_addr . inet_service . ipv4_addr . inet_service"
        } else {
            "ipv4_addr . inet_service . ipv4_addr"
        }
    }

    /// The element for the inside end of a flow and its remote one.
    fn key(self, side: Side) -> String {
        let own = if self.by_inside {
            side.inside()
        } else {
            side.external()
        };
        let port = if self.with_port {
            format!(" . {}", side.remote_port())
        } else {
            String::new()
        };
        format!("{own} . {}{port}", side.remote_address())
    }

    /// The element that an inbound packet asks for, by its present addresses.
    fn inbound(self) -> &'static str {
        if self.with_port {
            "ip daddr . udp dport . ip saddr . udp sport"
        } else {
            "ip daddr . udp dport . ip saddr"
        }
    }
}

/// Which maps and sets this NAT needs.
struct Needs {
    /// `outer`: the external endpoint of an inside one.
    outer: bool,
    /// `inner`: the inside endpoint of an external one.
    inner: bool,
    /// `used0`...: external ports in use.
    used: bool,
    /// `seen`: inside endpoints that have a mapping.
    seen: bool,
    /// `taken`: ports of a subscriber's block that are in use, by their numbers.
    taken: bool,
    peers: Option<Peers>,
}

impl Needs {
    fn of(spec: &NatSpec) -> Self {
        let clash = spec.input == InputPolicy::AcceptConntrackClash;
        let independent = spec.mapping == Mapping::EndpointIndependent;
        let peers = Peers::of(spec);
        let preserves_first = matches!(spec.ports, PortAllocation::PreserveThenCounter { .. });
        Self {
            outer: spec.mapping != Mapping::AddressAndPortDependent && !clash,
            inner: peers.is_some() || spec.filtering == Filtering::EndpointIndependent,
            used: preserves_first || (spec.ports == PortAllocation::Preserving && !(clash && independent)),
            seen: preserves_first,
            taken: matches!(spec.ports, PortAllocation::Block { .. }),
            peers,
        }
    }

    fn anything(&self) -> bool {
        self.outer || self.inner || self.used || self.seen || self.taken
    }
}

/// The table that translates IPv4.
pub(super) fn translation(spec: &NatSpec, place: &Place) -> Table {
    let needs = Needs::of(spec);
    let mut table = Table::new("ip", "lab_nat");
    declare(&mut table, spec, place, &needs);
    if let InputPolicy::Blacklist { refreshed, .. } = spec.input {
        table.chain(bar(spec, refreshed));
    }
    table.chain(arrive(spec, place, &needs));
    table.chain(
        Chain::at("depart", "nat hook postrouting priority srcnat")
            .with("oifname \"wan0\" jump translate")
            .with(format!("{BACK} jump translate")),
    );
    table.chain(translate(spec, place, &needs));
    for index in 0..place.externals.len() {
        for chain in allocation(spec, place, index, needs.used) {
            table.chain(chain);
        }
    }
    table.chain(record(spec, &needs));
    if needs.anything() {
        for side in Side::BOTH {
            for chain in keep(spec, place, &needs, side) {
                table.chain(chain);
            }
        }
    }
    table.chain(room(spec));
    table.chain(forward(spec, &needs));
    table.chain(local(spec, place));
    table.chain(unsolicited(spec));
    table
}

fn declare(table: &mut Table, spec: &NatSpec, place: &Place, needs: &Needs) {
    let endpoint = "ipv4_addr . inet_service";
    if needs.outer {
        let key = match spec.mapping {
            Mapping::AddressDependent => "ipv4_addr . inet_service . ipv4_addr",
            _ => endpoint,
        };
        table.map("outer", key, endpoint);
    }
    if needs.inner {
        table.map("inner", endpoint, endpoint);
    }
    if needs.used {
        for index in 0..place.externals.len() {
            table.set(&used(index), "inet_service");
        }
    }
    if needs.seen {
        table.set("seen", endpoint);
    }
    if needs.taken {
        table.set("taken", "ipv4_addr . mark");
    }
    if let Some(peers) = needs.peers {
        table.set("peers", peers.key_type());
    }
    if let InputPolicy::Blacklist { .. } = spec.input {
        table.set("barred", BARRED);
    }
}

/// Before connection tracking gets anywhere: nothing passes of those who are barred.
fn bar(spec: &NatSpec, refreshed: bool) -> Chain {
    let who = "meta l4proto . ip saddr . th sport . ip daddr . th dport";
    let life = blacklist_life(spec);
    let again = if refreshed {
        format!("update @barred {{ {who} timeout {life} }} ")
    } else {
        String::new()
    };
    Chain::at("bar", "filter hook prerouting priority mangle").with(format!(
        "iifname \"wan0\" meta l4proto {{ tcp, udp }} {who} @barred {again}drop"
    ))
}

/// Translates the destination of what the filter lets in; everything else stays addressed to the router.
fn arrive(spec: &NatSpec, place: &Place, needs: &Needs) -> Chain {
    let mut chain = Chain::at("arrive", "nat hook prerouting priority dstnat");
    let inward = "dnat ip to ip daddr . udp dport map @inner";
    let condition = match (spec.filtering, needs.peers) {
        (Filtering::EndpointIndependent, _) => Some(String::new()),
        // The filter of the inside endpoint can be asked only after the translation.
        (_, Some(peers)) if peers.by_inside => Some(String::new()),
        (Filtering::AddressDependent, Some(peers)) => Some(format!("{} @peers ", peers.inbound())),
        // Established flows only, which connection tracking translates by itself.
        _ => None,
    };
    if let Some(condition) = condition {
        chain.rule(format!("iifname \"wan0\" meta l4proto udp {condition}{inward}"));
    }
    if spec.hairpin != Hairpin::Off {
        let own = listed(&place.externals);
        chain.rule(format!(
            "iifname \"lan0\" meta l4proto udp ip daddr {own} {inward}"
        ));
    }
    chain
}

/// The external endpoint of a new flow: the one that it has, or an address and then a port.
fn translate(spec: &NatSpec, place: &Place, needs: &Needs) -> Chain {
    let mut chain = Chain::named("translate");
    if needs.outer {
        let key = match spec.mapping {
            Mapping::AddressDependent => "ip saddr . udp sport . ct original ip daddr",
            _ => "ip saddr . udp sport",
        };
        chain.rule(format!("meta l4proto udp snat ip to {key} map @outer"));
    }
    let count = place.externals.len();
    if count > 1 {
        let choice = match spec.pooling {
            Pooling::Arbitrary => {
                let takes = (0..count).map(|index| format!("{index} : goto {}", take(index)));
                format!("numgen random mod {count} vmap {}", listed(takes))
            }
            Pooling::Paired => {
                let subscribers = inside_v4(place).into_iter().enumerate();
                let takes =
                    subscribers.map(|(number, ip)| format!("{ip} : goto {}", take(paired(place, number))));
                format!("ip saddr vmap {}", listed(takes))
            }
        };
        if spec.pooling == Pooling::Arbitrary || !inside_v4(place).is_empty() {
            chain.rule(choice);
        }
    }
    chain.with(format!("goto {}", take(0)))
}

/// After the translation: remembers it, and filters what turns round inside.
fn record(spec: &NatSpec, needs: &Needs) -> Chain {
    let mut chain = Chain::at("record", "filter hook postrouting priority srcnat + 50");
    let [a, b, c, d] = NOWHERE;
    chain.rule(format!("ip daddr {a}.{b}.{c}.{d} drop"));
    if !needs.anything() {
        return chain;
    }
    chain.rule("meta l4proto != udp accept");
    for (way, original, reply) in [
        (OUT, Side::Original, Side::Reply),
        (IN, Side::Reply, Side::Original),
    ] {
        chain.rule(format!("{way} ct direction original jump {}", keeper(original)));
        chain.rule(format!("{way} ct direction reply jump {}", keeper(reply)));
    }
    if spec.hairpin == Hairpin::Off {
        return chain;
    }
    chain.rule(format!(
        "{BACK} ct direction original jump {}",
        keeper(Side::Original)
    ));
    chain.rule(format!("{BACK} ct direction reply jump {}", keeper(Side::Reply)));
    // The receiver's filter sees the sender's external endpoint.
    if let Some(peers) = needs.peers {
        let who = peers.key(Side::Reply);
        chain.rule(format!(
            "{BACK} ct direction original meta l4proto udp {who} != @peers drop"
        ));
    }
    chain.rule(format!(
        "{BACK} ct direction original jump {}",
        keeper(Side::Reply)
    ));
    chain.rule(format!(
        "{BACK} ct direction reply jump {}",
        keeper(Side::Original)
    ));
    if spec.hairpin == Hairpin::Internal {
        for side in Side::BOTH {
            let word = side.word();
            chain.rule(format!(
                "{BACK} ct direction {word} meta l4proto udp ip saddr set ct {word} ip saddr udp sport set ct {word} proto-src"
            ));
        }
    }
    chain
}

fn keeper(side: Side) -> String {
    format!("keep_{}", side.word())
}

/// Notes one side of a flow in all maps and sets, with the life that connection tracking gives the flow.
fn keep(spec: &NatSpec, place: &Place, needs: &Needs, side: Side) -> [Chain; 2] {
    let lasting = format!("{}_lasting", keeper(side));
    let notes = |chain: Chain, life: String| {
        let rules = notes(spec, place, needs, side);
        rules
            .into_iter()
            .fold(chain, |chain, (condition, set, key, value)| {
                let value = value.map(|value| format!(" : {value}")).unwrap_or_default();
                chain.with(format!(
                    "meta l4proto udp {condition}update @{set} {{ {key} timeout {life}{value} }}"
                ))
            })
    };
    // Assured: both ways, for over two seconds.
    let short = Chain::named(&keeper(side)).with(format!("ct status & assured == assured goto {lasting}"));
    [
        notes(short, time(spec.unreplied_timeout)),
        notes(Chain::named(&lasting), time(spec.stream_timeout)),
    ]
}

/// (condition, set, key, value of a map).
type Note = (String, String, String, Option<String>);

fn notes(spec: &NatSpec, place: &Place, needs: &Needs, side: Side) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut note = |condition: String, set: &str, key: String, value: Option<String>| {
        notes.push((condition, set.to_owned(), key, value));
    };
    let always = String::new;
    if needs.inner {
        note(always(), "inner", side.external(), Some(side.inside()));
    }
    if needs.outer {
        match (spec.mapping, side) {
            (Mapping::AddressDependent, Side::Original) => {
                let key = format!("{} . {}", side.inside(), side.remote_address());
                note(always(), "outer", key, Some(side.external()));
            }
            // A stranger's flow says nothing about where flows to his address leave.
            (Mapping::AddressDependent, Side::Reply) => {}
            _ => note(always(), "outer", side.inside(), Some(side.external())),
        }
    }
    if needs.used {
        for (index, address) in place.externals.iter().enumerate() {
            let condition = if place.externals.len() > 1 {
                format!("{} {address} ", side.external_address())
            } else {
                always()
            };
            note(condition, &used(index), side.external_port(), None);
        }
    }
    if needs.seen {
        note(always(), "seen", side.inside(), None);
    }
    if needs.taken {
        let key = format!("{} . ct mark", side.inside_address());
        // Flows that use a mapping which is there already have no number.
        note("ct mark != 0 ".to_owned(), "taken", key, None);
    }
    if let Some(peers) = needs.peers {
        note(always(), "peers", peers.key(side), None);
    }
    notes
}

/// One rule for all, because it counts by itself.
fn room(spec: &NatSpec) -> Chain {
    let mut chain = Chain::named("room");
    if let Some(rule) = quota(spec) {
        chain.rule(rule);
    }
    chain
}

/// The rule that refuses flows for which there is no room. A flow stays new until it is answered; that it is remembered
/// already shows in its being confirmed.
pub(super) fn quota(spec: &NatSpec) -> Option<String> {
    let limited = spec.table_size < NatSpec::default().table_size;
    limited.then(|| {
        format!(
            "ct state new ct status & confirmed != confirmed ct count over {} drop",
            spec.table_size
        )
    })
}

/// Only what connection tracking knows or the filter has let in gets through.
fn forward(spec: &NatSpec, needs: &Needs) -> Chain {
    let mut chain = Chain::at("forward", "filter hook forward priority filter")
        .with("iifname \"lan0\" jump room")
        .with("iifname \"lan0\" accept")
        .with("ct state established,related accept");
    let admitted = match (spec.filtering, needs.peers) {
        (_, Some(peers)) if peers.by_inside => Some(format!("{} @peers ", peers.inbound())),
        (Filtering::AddressAndPortDependent, _) => None,
        _ => Some(String::new()),
    };
    if let Some(condition) = admitted {
        let admitted = format!("ct status dnat meta l4proto udp {condition}");
        chain.rule(format!("{admitted}jump room"));
        chain.rule(format!("{admitted}accept"));
    }
    chain.with("goto unsolicited")
}

/// What is for the router itself.
fn local(spec: &NatSpec, place: &Place) -> Chain {
    let own = listed(&place.externals);
    let mut chain = Chain::at("local", "filter hook input priority filter").with(format!(
        "iifname \"lan0\" meta l4proto {{ tcp, udp }} ip daddr {own} drop"
    ));
    if spec.input != InputPolicy::AcceptConntrackClash {
        chain.rule("iifname \"wan0\" ct state established,related accept");
        chain.rule("iifname \"wan0\" goto unsolicited");
    }
    chain
}

fn unsolicited(spec: &NatSpec) -> Chain {
    let mut chain = Chain::named("unsolicited");
    match spec.input {
        InputPolicy::Drop | InputPolicy::AcceptConntrackClash => {}
        InputPolicy::Reject(refusal) => {
            for rule in refuse(refusal, "icmp") {
                chain.rule(rule);
            }
        }
        InputPolicy::Blacklist { .. } => {
            let who = "meta l4proto . ct original ip saddr . ct original proto-src . ct original ip daddr . ct original proto-dst";
            chain.rule(format!(
                "meta l4proto {{ tcp, udp }} update @barred {{ {who} timeout {} }}",
                blacklist_life(spec)
            ));
        }
    }
    chain.with("drop")
}

fn blacklist_life(spec: &NatSpec) -> String {
    match spec.input {
        InputPolicy::Blacklist { life, .. } => time(life),
        _ => time(spec.unreplied_timeout),
    }
}

/// The ends of rules that say no, in order. `icmp` is the family's word for its ICMP.
pub(super) fn refuse(refusal: Refusal, icmp: &str) -> Vec<String> {
    match refusal {
        Refusal::AdminProhibited => vec![format!("reject with {icmp} admin-prohibited")],
        Refusal::PortUnreachable => vec![format!("reject with {icmp} port-unreachable")],
        Refusal::Reset => vec![
            "meta l4proto tcp reject with tcp reset".to_owned(),
            format!("reject with {icmp} port-unreachable"),
        ],
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
