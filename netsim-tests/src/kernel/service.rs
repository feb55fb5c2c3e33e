//! The rules that say whether UDP and TCP pass at all: a table of their own, so that they can be replaced at run time
//! while every mapping stays.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::nat::{TcpPolicy, UdpPolicy};

use super::rules::refuse;
use super::table::{Chain, Table, listed};

/// The table that blocks.
pub(super) fn policy(udp: &UdpPolicy, tcp: &TcpPolicy) -> Table {
    // Earlier than the filters of the NAT, so that what is blocked is nothing unsolicited.
    let mut forward = Chain::at("service_forward", "filter hook forward priority -10");
    let mut local = Chain::at("service_local", "filter hook input priority -10");
    let refusal = udp.refusal();
    let no = |chain: &mut Chain, what: &str| {
        let ends = refusal.map_or_else(Vec::new, |refusal| refuse(refusal, "icmpx"));
        for end in ends.iter().map(String::as_str).chain(["drop"]) {
            chain.rule(format!("iifname \"lan0\" {what} {end}"));
        }
    };
    match udp {
        UdpPolicy::Open => {}
        UdpPolicy::OnlyTo(allowed) => {
            for family in ["ip", "ip6"] {
                let (to, from) = (others(family, "daddr", allowed), others(family, "saddr", allowed));
                no(&mut forward, &to);
                for chain in [&mut forward, &mut local] {
                    chain.rule(format!("iifname \"wan0\" {from} drop"));
                }
            }
        }
        UdpPolicy::Blocked(_) => {
            no(&mut forward, "meta l4proto udp");
            for chain in [&mut forward, &mut local] {
                chain.rule("iifname \"wan0\" meta l4proto udp drop");
            }
        }
    }
    match tcp {
        TcpPolicy::Open => {}
        TcpPolicy::OnlyPort(port) => no(&mut forward, &format!("tcp dport != {port}")),
        TcpPolicy::OnlyTo(proxy) => {
            let (own, other) = if proxy.is_ipv4() {
                ("ip", "ipv6")
            } else {
                ("ip6", "ipv4")
            };
            no(&mut forward, &format!("meta nfproto {other} meta l4proto tcp"));
            no(
                &mut forward,
                &format!("meta l4proto tcp {own} daddr != {}", proxy.ip()),
            );
            no(&mut forward, &format!("tcp dport != {}", proxy.port()));
        }
    }
    if *tcp != TcpPolicy::Open {
        for echo in ["icmp type echo-request", "icmpv6 type echo-request"] {
            no(&mut forward, echo);
        }
    }
    let mut table = Table::new("inet", "lab_service");
    table.chain(forward);
    table.chain(local);
    table
}

/// UDP of a family whose remote end is none of these.
fn others(family: &str, field: &str, allowed: &BTreeSet<IpAddr>) -> String {
    let of_family: Vec<&IpAddr> = allowed
        .iter()
        .filter(|ip| ip.is_ipv4() == (family == "ip"))
        .collect();
    let number = if family == "ip" { "ipv4" } else { "ipv6" };
    if of_family.is_empty() {
        format!("meta nfproto {number} meta l4proto udp")
    } else {
        format!("meta l4proto udp {family} {field} != {}", listed(of_family))
    }
}
