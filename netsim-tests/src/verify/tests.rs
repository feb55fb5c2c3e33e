//! Every kind and the whole grid of RFC 4787 in memory; exact timers; wrong descriptions caught.

use std::time::Duration;

use super::*;
use crate::nat::{
    Families, FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Mapping, NatSpec, Pooling, PortAllocation,
    Refusal, Side, kind, kinds,
};

fn side(nats: Vec<NatSpec>) -> Side {
    Side {
        nats,
        families: Families::V4,
    }
}

/// What is measured at such hosts, and what the description says.
fn both(side: &Side) -> (Facts, Facts) {
    let (mut ground, stage) = Memory::new(side, 7);
    let measured = measure(&mut ground, &stage, &Memory::depth()).unwrap();
    (measured, expected(side, &stage))
}

fn fact(spec: NatSpec, property: Property) -> Value {
    let (measured, _) = both(&side(vec![spec]));
    measured.get(Path::V4, property).unwrap()
}

#[track_caller]
fn agree(side: &Side) {
    let (measured, described) = both(side);
    let wrong = described.disagreements(&measured);
    let words: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert!(words.is_empty(), "{:?}: {}", side.nats, words.join("; "));
}

#[test]
fn every_kind_measures_in_memory_as_what_it_is_described() {
    for kind in kinds() {
        let report = verify_in_memory(kind).unwrap();
        let words: Vec<String> = report.disagreements.iter().map(ToString::to_string).collect();
        assert!(report.agrees(), "{}: {}", kind.name, words.join("; "));
    }
}

#[test]
fn a_kind_measured_against_the_description_of_another_is_caught_wherever_they_differ() {
    let stage_of = |name: &str| {
        let side = kind(name).unwrap().side(&SERVERS);
        let (measured, described) = both(&side);
        (measured, described)
    };
    let all: Vec<(&str, (Facts, Facts))> = kinds()
        .iter()
        .map(|kind| (kind.name, stage_of(kind.name)))
        .collect();
    for (name, (measured, own)) in &all {
        for (other, (_, described)) in &all {
            let differ = described.0.iter().any(|(key, value)| {
                let seen = measured.0.get(key).copied();
                let open = own.0.contains_key(key) && own.0.get(key) != Some(value);
                open && !matches!(seen, Some(Value::Unmeasured(_)))
            });
            let caught = !described.disagreements(measured).is_empty();
            assert!(caught || !differ, "{name} passes for {other}");
        }
    }
}

#[test]
fn a_symmetric_nat_that_calls_itself_port_restricted_is_told_so_in_words() {
    let (measured, _) = both(&kind("symmetric").unwrap().side(&SERVERS));
    let (_, described) = both(&kind("port-restricted").unwrap().side(&SERVERS));
    let wrong = described.disagreements(&measured);
    let words: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    let mapping = "ipv4 mapping: described as EIM, measured as APDM".to_owned();
    let ports = "ipv4 ports: described as preserved, measured as random".to_owned();
    assert!(words.contains(&mapping) && words.contains(&ports), "{words:?}");
}

#[test]
fn every_mapping_with_every_filter_and_every_way_of_choosing_ports_measures_as_described() {
    let mappings = [
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ];
    let filters = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    let allocations = [
        PortAllocation::Preserving,
        PortAllocation::Random,
        PortAllocation::Counter { step: 3, foreign: 0 },
        PortAllocation::Block { size: 1024 },
        PortAllocation::PreserveThenCounter { step: 2 },
    ];
    for mapping in mappings {
        for filtering in filters {
            for ports in allocations {
                for filter_scope in [FilterScope::Mapping, FilterScope::Endpoint] {
                    agree(&side(vec![NatSpec {
                        mapping,
                        filtering,
                        ports,
                        filter_scope,
                        ..NatSpec::default()
                    }]));
                }
            }
        }
    }
}

#[test]
fn two_hosts_on_one_port_stay_apart_behind_a_nat_that_preserves() {
    assert_eq!(fact(NatSpec::default(), Property::Overloads), Value::Flag(false));
}

#[test]
fn hairpinning_shows_nobody_the_inside_or_the_outside() {
    let seen = |hairpin| {
        fact(
            NatSpec {
                hairpin,
                ..NatSpec::default()
            },
            Property::Hairpin,
        )
    };
    assert_eq!(seen(Hairpin::Off), Value::Hairpin(HairpinSeen::Nobody));
    assert_eq!(seen(Hairpin::Internal), Value::Hairpin(HairpinSeen::Inside));
    assert_eq!(seen(Hairpin::External), Value::Hairpin(HairpinSeen::External));
}

#[test]
fn behind_two_nats_the_outer_one_turns_packets_round_and_the_inner_one_filters_them() {
    let open = NatSpec {
        filtering: Filtering::EndpointIndependent,
        ..NatSpec::default()
    };
    for hairpin in [Hairpin::Off, Hairpin::Internal, Hairpin::External] {
        for inner in [&open, &NatSpec::default()] {
            let outer = NatSpec {
                hairpin,
                ..open.clone()
            };
            agree(&side(vec![inner.clone(), outer]));
        }
    }
}

#[test]
fn timers_are_measured_to_the_millisecond() {
    let spec = NatSpec {
        unreplied_timeout: Duration::from_millis(7_300),
        stream_timeout: Duration::from_millis(61_700),
        inbound_refresh: false,
        ..NatSpec::default()
    };
    let (measured, _) = both(&side(vec![spec.clone()]));
    let within = |property, life: Duration| match measured.get(Path::V4, property) {
        Some(Value::Life(Life::Between(alive, dead))) => {
            assert!(alive < life && life <= dead && dead - alive <= Duration::from_millis(1));
        }
        other => panic!("{property:?}: {other:?}"),
    };
    within(Property::Unreplied, spec.unreplied_timeout);
    within(Property::Stream, spec.stream_timeout);
    assert_eq!(
        measured.get(Path::V4, Property::InboundRefresh),
        Some(Value::Flag(false))
    );
}

#[test]
fn an_absolute_end_is_seen_through_constant_traffic() {
    let spec = NatSpec {
        absolute_timeout: Some(Duration::from_secs(90)),
        ..NatSpec::default()
    };
    let Value::Life(Life::Between(alive, dead)) = fact(spec.clone(), Property::Absolute) else {
        panic!("it has an end");
    };
    assert!(alive <= Duration::from_secs(90) && Duration::from_secs(90) <= dead);
    agree(&side(vec![spec]));
}

#[test]
fn an_unsolicited_packet_costs_the_port_always_or_never() {
    let share = |input| {
        fact(
            NatSpec {
                input,
                ..NatSpec::default()
            },
            Property::Clashes,
        )
    };
    assert_eq!(share(InputPolicy::AcceptConntrackClash), Value::Percent(100));
    assert_eq!(share(InputPolicy::Drop), Value::Percent(0));
    let reject = InputPolicy::Reject(Refusal::PortUnreachable);
    assert_eq!(share(reject), Value::Percent(0));
}

#[test]
fn a_bar_is_measured_with_its_length_and_whether_trying_prolongs_it() {
    for refreshed in [false, true] {
        let life = Duration::from_millis(4_500);
        agree(&side(vec![NatSpec {
            input: InputPolicy::Blacklist { life, refreshed },
            ..NatSpec::default()
        }]));
    }
}

#[test]
fn a_full_table_refuses_keeps_what_it_has_and_recovers() {
    let spec = NatSpec {
        table_size: 100,
        ..NatSpec::default()
    };
    let (measured, _) = both(&side(vec![spec]));
    let capacity = Value::Capacity(Capacity::Exactly(100));
    assert_eq!(measured.get(Path::V4, Property::Table), Some(capacity));
    assert_eq!(
        measured.get(Path::V4, Property::TableRecovers),
        Some(Value::Flag(true))
    );
}

#[test]
fn pools_are_counted_and_told_apart() {
    for pooling in [Pooling::Paired, Pooling::Arbitrary] {
        for mapping in [Mapping::EndpointIndependent, Mapping::AddressAndPortDependent] {
            agree(&side(vec![NatSpec {
                addresses: 3,
                pooling,
                mapping,
                ports: PortAllocation::Random,
                ..NatSpec::default()
            }]));
        }
    }
}

#[test]
fn ipv6_is_untranslated_and_filtered_as_described_or_not_at_all() {
    for ipv6 in [Ipv6::Firewall, Ipv6::Open, Ipv6::Nat64] {
        for filtering in [Filtering::EndpointIndependent, Filtering::AddressDependent] {
            agree(&Side {
                nats: vec![NatSpec {
                    ipv6,
                    filtering,
                    ..NatSpec::default()
                }],
                families: Families::BOTH,
            });
        }
    }
}

#[test]
fn one_seed_measures_the_same_twice() {
    let busy = kind("symmetric-counter-busy").unwrap().side(&SERVERS);
    assert_eq!(both(&busy).0, both(&busy).0);
}
