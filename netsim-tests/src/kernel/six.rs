//! The rules of the stateful firewall that IPv6 meets (RFC 6092): nothing is translated.

use crate::nat::{Filtering, InputPolicy, Ipv6, NatSpec};

use super::rules::{quota, refuse};
use super::table::{Chain, Table, time};

/// The table that filters IPv6; `None` where it passes unfiltered.
pub(super) fn firewall(spec: &NatSpec) -> Option<Table> {
    if spec.ipv6 == Ipv6::Open {
        return None;
    }
    let mut table = Table::new("ip6", "lab_firewall");
    // Inside endpoints, and those whom they have sent to: (type, of an outbound packet, of an inbound one).
    let open = match spec.filtering {
        Filtering::EndpointIndependent => Some((
            "ipv6_addr . inet_service",
            "ip6 saddr . udp sport",
            "ip6 daddr . udp dport",
        )),
        Filtering::AddressDependent => Some((
            "ipv6_addr . inet_service . ipv6_addr",
            "ip6 saddr . udp sport . ip6 daddr",
            "ip6 daddr . udp dport . ip6 saddr",
        )),
        Filtering::AddressAndPortDependent => None,
    };
    let mut forward = Chain::at("forward", "filter hook forward priority filter");
    if let Some(quota) = quota(spec) {
        forward.rule(format!("iifname \"lan0\" {quota}"));
    }
    if let Some((key, outbound, inbound)) = open {
        table.set("open", key);
        let lives = [
            ("", spec.unreplied_timeout),
            ("ct status & assured == assured ", spec.stream_timeout),
        ];
        for (condition, life) in lives {
            for (way, who) in [
                ("iifname \"lan0\"", outbound),
                ("iifname \"wan0\" ct state established", inbound),
            ] {
                forward.rule(format!(
                    "{way} meta l4proto udp {condition}update @open {{ {who} timeout {} }}",
                    time(life)
                ));
            }
        }
        forward.rule(format!(
            "iifname \"wan0\" meta l4proto udp {inbound} @open accept"
        ));
    }
    forward.rule("iifname \"lan0\" accept");
    forward.rule("ct state established,related accept");
    forward.rule("goto unsolicited");
    table.chain(forward);
    table.chain(unsolicited(spec));
    Some(table)
}

/// Only refusals: there is no port to take, and nobody is barred from an address that is the host's own.
fn unsolicited(spec: &NatSpec) -> Chain {
    let mut chain = Chain::named("unsolicited");
    if let InputPolicy::Reject(refusal) = spec.input {
        for rule in refuse(refusal, "icmpv6") {
            chain.rule(rule);
        }
    }
    chain.with("drop")
}
