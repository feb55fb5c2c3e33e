//! The rules for each axis, as text; and that the kernel takes all of them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;
use crate::kernel::NoKernelForm;
use crate::nat::{Ipv6, UdpPolicy, kind};

fn place() -> Place {
    Place {
        externals: vec![Ipv4Addr::new(5, 5, 16, 2)],
        inside: vec![[192, 168, 1, 10].into(), [192, 168, 1, 11].into()],
        seed: 0,
    }
}

/// The rules of a NAT; every line without its indentation.
fn rules(spec: &NatSpec) -> String {
    let text = spec.kernel_form().unwrap().ruleset(&place());
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("\n")
}

#[track_caller]
fn has(spec: &NatSpec, lines: &[&str]) {
    let text = rules(spec);
    for line in lines {
        assert!(text.lines().any(|have| have == *line), "no `{line}` in\n{text}");
    }
}

#[track_caller]
fn lacks(spec: &NatSpec, words: &[&str]) {
    let text = rules(spec);
    for word in words {
        assert!(!text.contains(word), "`{word}` in\n{text}");
    }
}

#[test]
fn the_common_home_router_is_these_rules() {
    let expected = "flush ruleset
table ip lab_nat {
  map outer { type ipv4_addr . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; size 131072; }
  set used0 { type inet_service; flags dynamic,timeout; size 131072; }
  chain arrive {
    type nat hook prerouting priority dstnat; policy accept;
  }
  chain depart {
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"wan0\" jump translate
    iifname \"lan0\" oifname \"lan0\" ct status dnat jump translate
  }
  chain translate {
    meta l4proto udp snat ip to ip saddr . udp sport map @outer
    goto take0
  }
  chain take0 {
    meta l4proto != udp snat to 5.5.16.2
    udp sport @used0 meta l4proto udp snat to 5.5.16.2:1024-65535 random
    snat to 5.5.16.2
  }
  chain record {
    type filter hook postrouting priority srcnat + 50; policy accept;
    ip daddr 192.0.0.8 drop
    meta l4proto != udp accept
    iifname \"lan0\" oifname \"wan0\" ct direction original jump keep_original
    iifname \"lan0\" oifname \"wan0\" ct direction reply jump keep_reply
    iifname \"wan0\" oifname \"lan0\" ct direction original jump keep_reply
    iifname \"wan0\" oifname \"lan0\" ct direction reply jump keep_original
  }
  chain keep_original {
    ct status & assured == assured goto keep_original_lasting
    meta l4proto udp update @outer { ct original ip saddr . ct original proto-src timeout 30000ms : ct reply ip daddr . ct reply proto-dst }
    meta l4proto udp update @used0 { ct reply proto-dst timeout 30000ms }
  }
  chain keep_original_lasting {
    meta l4proto udp update @outer { ct original ip saddr . ct original proto-src timeout 120000ms : ct reply ip daddr . ct reply proto-dst }
    meta l4proto udp update @used0 { ct reply proto-dst timeout 120000ms }
  }
  chain keep_reply {
    ct status & assured == assured goto keep_reply_lasting
    meta l4proto udp update @outer { ct reply ip saddr . ct reply proto-src timeout 30000ms : ct original ip daddr . ct original proto-dst }
    meta l4proto udp update @used0 { ct original proto-dst timeout 30000ms }
  }
  chain keep_reply_lasting {
    meta l4proto udp update @outer { ct reply ip saddr . ct reply proto-src timeout 120000ms : ct original ip daddr . ct original proto-dst }
    meta l4proto udp update @used0 { ct original proto-dst timeout 120000ms }
  }
  chain room {
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname \"lan0\" jump room
    iifname \"lan0\" accept
    ct state established,related accept
    goto unsolicited
  }
  chain local {
    type filter hook input priority filter; policy accept;
    iifname \"lan0\" meta l4proto { tcp, udp } ip daddr { 5.5.16.2 } drop
    iifname \"wan0\" ct state established,related accept
    iifname \"wan0\" goto unsolicited
  }
  chain unsolicited {
    drop
  }
}
table ip6 lab_firewall {
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname \"lan0\" accept
    ct state established,related accept
    goto unsolicited
  }
  chain unsolicited {
    drop
  }
}
table inet lab_service {
  chain service_forward {
    type filter hook forward priority -10; policy accept;
  }
  chain service_local {
    type filter hook input priority -10; policy accept;
  }
}
";
    let form = NatSpec::default();
    assert_eq!(form.kernel_form().unwrap().ruleset(&place()), expected);
}

#[test]
fn mapping_is_a_matter_of_the_key_under_which_the_external_endpoint_is_kept() {
    let with = |mapping| NatSpec {
        mapping,
        ..NatSpec::default()
    };
    has(
        &with(Mapping::AddressDependent),
        &[
            "meta l4proto udp snat ip to ip saddr . udp sport . ct original ip daddr map @outer",
            "meta l4proto udp update @outer { ct original ip saddr . ct original proto-src . ct original ip daddr timeout 30000ms : ct reply ip daddr . ct reply proto-dst }",
        ],
    );
    lacks(&with(Mapping::AddressAndPortDependent), &["@outer"]);
}

#[test]
fn the_filter_decides_whose_packets_are_translated_at_all() {
    let with = |filtering, filter_scope| NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        filtering,
        filter_scope,
        ..NatSpec::default()
    };
    let inward = "dnat ip to ip daddr . udp dport map @inner";
    has(
        &with(Filtering::EndpointIndependent, FilterScope::Mapping),
        &[&format!("iifname \"wan0\" meta l4proto udp {inward}")],
    );
    has(
        &with(Filtering::AddressDependent, FilterScope::Mapping),
        &[
            &format!("iifname \"wan0\" meta l4proto udp ip daddr . udp dport . ip saddr @peers {inward}"),
            "ct status dnat meta l4proto udp accept",
        ],
    );
    has(
        &with(Filtering::AddressDependent, FilterScope::Endpoint),
        &[
            &format!("iifname \"wan0\" meta l4proto udp {inward}"),
            "ct status dnat meta l4proto udp ip daddr . udp dport . ip saddr @peers accept",
        ],
    );
    let closed = with(Filtering::AddressAndPortDependent, FilterScope::Mapping);
    lacks(&closed, &["dnat ip to", "@inner", "@peers"]);
}

#[test]
fn each_way_to_choose_ports_has_its_rules() {
    let with = |ports| NatSpec {
        mapping: Mapping::AddressAndPortDependent,
        ports,
        ..NatSpec::default()
    };
    has(
        &with(PortAllocation::Random),
        &["meta l4proto udp snat to 5.5.16.2:1024-65535 random"],
    );
    has(
        &with(PortAllocation::Block { size: 2 }),
        &[
            "meta mark set numgen random mod 2 offset 1",
            "ip saddr . meta mark @taken meta mark set numgen random mod 2 offset 1",
            "ct mark set meta mark",
            "ip saddr 192.168.1.10 meta l4proto udp snat to 5.5.16.2:meta mark map { 1 : 1024, 2 : 1025 }",
            "ip saddr 192.168.1.11 meta l4proto udp snat to 5.5.16.2:meta mark map { 1 : 1026, 2 : 1027 }",
            "drop",
            "meta l4proto udp ct mark != 0 update @taken { ct original ip saddr . ct mark timeout 30000ms }",
        ],
    );
    has(
        &with(PortAllocation::Counter {
            step: 21_504,
            foreign: 9,
        }),
        &[
            "goto count0",
            "meta l4proto udp snat to 5.5.16.2:numgen inc mod 3 map { 0 : 1024, 1 : 22528, 2 : 44032 }",
        ],
    );
    has(
        &with(PortAllocation::PreserveThenCounter { step: 21_504 }),
        &[
            "ip saddr . udp sport @seen goto count0",
            "udp sport @used0 goto count0",
            "meta l4proto udp update @seen { ct original ip saddr . ct original proto-src timeout 30000ms }",
        ],
    );
}

#[test]
fn a_hairpin_is_filtered_after_both_translations_and_may_get_its_inside_source_back() {
    let with = |hairpin| NatSpec {
        hairpin,
        ..NatSpec::default()
    };
    let back = "iifname \"lan0\" oifname \"lan0\" ct status dnat";
    let filter = format!(
        "{back} ct direction original meta l4proto udp ct original ip daddr . ct original proto-dst . ct reply ip daddr . ct reply proto-dst != @peers drop"
    );
    let restored = format!(
        "{back} ct direction original meta l4proto udp ip saddr set ct original ip saddr udp sport set ct original proto-src"
    );
    has(&with(Hairpin::External), &[&filter]);
    lacks(&with(Hairpin::External), &[" set ct"]);
    has(&with(Hairpin::Internal), &[&filter, &restored]);
    lacks(&with(Hairpin::Off), &["@peers", " set ct"]);
}

#[test]
fn a_pool_has_ports_of_its_own_on_each_address() {
    let with = |pooling| NatSpec {
        addresses: 2,
        pooling,
        ..NatSpec::default()
    };
    let two = Place {
        externals: vec![Ipv4Addr::new(5, 5, 16, 2), Ipv4Addr::new(5, 5, 16, 3)],
        ..place()
    };
    let text = |pooling| with(pooling).kernel_form().unwrap().ruleset(&two);
    let paired = text(Pooling::Paired);
    assert!(paired.contains("ip saddr vmap { 192.168.1.10 : goto take0, 192.168.1.11 : goto take1 }"));
    assert!(paired.contains("ct reply ip daddr 5.5.16.3 update @used1 {"));
    let arbitrary = text(Pooling::Arbitrary);
    assert!(arbitrary.contains("numgen random mod 2 vmap { 0 : goto take0, 1 : goto take1 }"));
    assert!(arbitrary.contains("udp sport @used1 meta l4proto udp snat to 5.5.16.3:1024-65535 random"));
}

#[test]
fn unsolicited_packets_are_dropped_or_refused_or_barred_or_accepted() {
    let with = |input| NatSpec {
        input,
        ..NatSpec::default()
    };
    let reject = |refusal| with(InputPolicy::Reject(refusal));
    has(
        &reject(Refusal::AdminProhibited),
        &["reject with icmp admin-prohibited"],
    );
    has(
        &reject(Refusal::Reset),
        &[
            "meta l4proto tcp reject with tcp reset",
            "reject with icmp port-unreachable",
            "reject with icmpv6 port-unreachable",
        ],
    );
    let bar = |refreshed| {
        with(InputPolicy::Blacklist {
            life: Duration::from_secs(2),
            refreshed,
        })
    };
    let who = "meta l4proto . ip saddr . th sport . ip daddr . th dport";
    let barred = format!("iifname \"wan0\" meta l4proto {{ tcp, udp }} {who} @barred");
    has(
        &bar(true),
        &[&format!(
            "{barred} update @barred {{ {who} timeout 2000ms }} drop"
        )],
    );
    has(&bar(false), &[&format!("{barred} drop")]);
    let accept = with(InputPolicy::AcceptConntrackClash);
    has(&accept, &["snat to 5.5.16.2"]);
    lacks(
        &accept,
        &["iifname \"wan0\" goto unsolicited", "@outer", "@used0"],
    );
}

#[test]
fn what_is_blocked_is_in_a_table_of_its_own() {
    let service = |name: &str| {
        let servers = [IpAddr::from([5, 5, 5, 1])];
        rules(&kind(name).unwrap().chain(&servers)[0])
    };
    assert!(service("udp-blocked").contains("iifname \"lan0\" meta l4proto udp drop"));
    let prohibited = "iifname \"lan0\" meta l4proto udp reject with icmpx admin-prohibited";
    assert!(service("udp-prohibited").contains(prohibited));
    let web = service("tcp-443-only");
    assert!(web.contains("iifname \"lan0\" tcp dport != 443 reject with icmpx port-unreachable"));
    let proxy = service("http-proxy-only");
    assert!(proxy.contains("iifname \"lan0\" meta l4proto tcp ip daddr != 5.5.7.1 drop"));
    assert!(proxy.contains("iifname \"lan0\" tcp dport != 3128 drop"));
    let listed = service("udp-server-only");
    assert!(listed.contains("iifname \"lan0\" meta l4proto udp ip daddr != { 5.5.5.1 } drop"));
    assert!(listed.contains("iifname \"lan0\" meta nfproto ipv6 meta l4proto udp drop"));
    let changed = NatSpec::default();
    let changed = changed
        .kernel_form()
        .unwrap()
        .udp_policy(&UdpPolicy::Blocked(None));
    assert!(changed.starts_with("table inet lab_service\ndelete table inet lab_service\n"));
    assert!(!changed.contains("lab_nat") && !changed.contains("flush"));
}

#[test]
fn what_the_kernel_cannot_do_is_refused_with_its_reason() {
    let base = NatSpec::default;
    let millis = Duration::from_millis;
    let clash = InputPolicy::AcceptConntrackClash;
    let cases = [
        (
            NatSpec {
                ipv6: Ipv6::Nat64,
                ..base()
            },
            NoKernelForm::Nat64,
        ),
        (
            NatSpec {
                inbound_refresh: false,
                ..base()
            },
            NoKernelForm::InboundRefresh,
        ),
        (
            NatSpec {
                absolute_timeout: Some(millis(9)),
                ..base()
            },
            NoKernelForm::AbsoluteTimeout,
        ),
        (
            NatSpec {
                stream_timeout: millis(1500),
                ..base()
            },
            NoKernelForm::Timeout(millis(1500)),
        ),
        (
            NatSpec {
                unreplied_timeout: millis(0),
                ..base()
            },
            NoKernelForm::Timeout(millis(0)),
        ),
        (
            NatSpec {
                ports: PortAllocation::Block { size: 40_000 },
                ..base()
            },
            NoKernelForm::Block(40_000),
        ),
        (
            NatSpec {
                input: clash,
                hairpin: Hairpin::External,
                ..base()
            },
            NoKernelForm::ClashWithMaps,
        ),
        (
            NatSpec {
                input: clash,
                ports: PortAllocation::Random,
                ..base()
            },
            NoKernelForm::ClashWithMaps,
        ),
    ];
    for (spec, reason) in cases {
        assert_eq!(spec.kernel_form().err(), Some(reason));
    }
}

/// Every so many of all combinations are tried: a prime, so that each value of each axis meets all others sooner or later.
#[cfg(target_os = "linux")]
const STRIDE: usize = 37;

#[test]
#[cfg(target_os = "linux")]
fn the_kernel_takes_the_rules_of_any_combination() {
    use crate::netns::{Namespace, load_rules, probe};
    let possible = probe()
        .map_err(|error| error.to_string())
        .and_then(|probe| probe.kernel_nat);
    if let Err(reason) = possible {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "must run here: {reason}"
        );
        println!("skipped: {reason}");
        return;
    }
    let namespace = Namespace::create("rules").unwrap();
    let all: Vec<NatSpec> = combinations().collect();
    let tried = all.iter().step_by(STRIDE);
    for spec in tried.filter(|spec| spec.kernel_form().is_ok()) {
        let text = spec.kernel_form().unwrap().ruleset(&place());
        load_rules(&namespace, &text).unwrap_or_else(|error| panic!("{spec}: {error}\n{text}"));
    }
}

#[cfg(target_os = "linux")]
fn combinations() -> impl Iterator<Item = NatSpec> {
    use {Filtering as F, Hairpin as H, InputPolicy as I, Mapping as M, PortAllocation as P};
    let mappings = [
        M::EndpointIndependent,
        M::AddressDependent,
        M::AddressAndPortDependent,
    ];
    let filterings = [
        F::EndpointIndependent,
        F::AddressDependent,
        F::AddressAndPortDependent,
    ];
    let ports = [
        P::Preserving,
        P::Random,
        P::Counter {
            step: 3000,
            foreign: 0,
        },
        P::Block { size: 512 },
        P::PreserveThenCounter { step: 3000 },
    ];
    let inputs = [
        I::Drop,
        I::AcceptConntrackClash,
        I::Reject(Refusal::Reset),
        I::Blacklist {
            life: Duration::from_secs(2),
            refreshed: true,
        },
    ];
    let mut all = vec![NatSpec::default()];
    let mut cross = |choose: &[&dyn Fn(&mut NatSpec)]| {
        let each = |spec: &NatSpec| {
            let changed = choose.iter().map(|change| {
                let mut spec = spec.clone();
                change(&mut spec);
                spec
            });
            changed.collect::<Vec<_>>()
        };
        all = all.iter().flat_map(each).collect();
    };
    for_each_of(&mappings, &mut cross, |spec, value| spec.mapping = value);
    for_each_of(&filterings, &mut cross, |spec, value| spec.filtering = value);
    for_each_of(&ports, &mut cross, |spec, value| spec.ports = value);
    for_each_of(&inputs, &mut cross, |spec, value| spec.input = value);
    let turns = [H::Off, H::Internal, H::External];
    for_each_of(&turns, &mut cross, |spec, value| spec.hairpin = value);
    let scopes = [FilterScope::Mapping, FilterScope::Endpoint];
    for_each_of(&scopes, &mut cross, |spec, value| spec.filter_scope = value);
    for_each_of(&[65_535, 8], &mut cross, |spec, value| spec.table_size = value);
    all.into_iter()
}

/// Multiplies all combinations by the values of one axis.
#[cfg(target_os = "linux")]
fn for_each_of<T: Copy>(
    values: &[T],
    cross: &mut impl FnMut(&[&dyn Fn(&mut NatSpec)]),
    set: impl Fn(&mut NatSpec, T) + Copy,
) {
    let changes: Vec<_> = values
        .iter()
        .map(|value| move |spec: &mut NatSpec| set(spec, *value))
        .collect();
    let changes: Vec<&dyn Fn(&mut NatSpec)> = changes.iter().map(|change| change as _).collect();
    cross(&changes);
}
