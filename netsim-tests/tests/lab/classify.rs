//! Each kind of NAT, measured over real sockets by an observer with two addresses and two ports and by a stranger, as
//! RFC 5780 does it, and held against its description.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use knothole_netsim::fabric::HostSpec;
use knothole_netsim::nat::{
    Families, Hairpin, InputPolicy, Kernel, NatKind, NatSpec, Refusal, Side, UdpPolicy, kinds,
};
use knothole_netsim::verify::{
    Capacity, Depth, Facts, HairpinSeen, Life, Namespaces, Path, Property, Reach, Report, Value, World, Yard,
    has_coturn, measure, verify_in_namespaces,
};

use crate::support::*;

const PORTS: [u16; 2] = [3478, 3479];

/// Every kind, measured once in each world for all tests that look at the result.
fn reports(world: World) -> &'static [Report] {
    static REPORTS: [OnceLock<Vec<Report>>; 2] = [OnceLock::new(), OnceLock::new()];
    REPORTS[usize::from(world == World::Kernel)].get_or_init(|| {
        let _quiet = quiet();
        let all: Vec<&'static NatKind> = kinds().iter().collect();
        let mut reports = Vec::new();
        verify_in_namespaces(&all, world, has_coturn(), |report| reports.push(report)).unwrap();
        reports
    })
}

/// Every kind is there and measures as described, but for those that the kernel does not have.
#[track_caller]
fn all_agree(world: World) {
    let reports = reports(world);
    let words = reports.iter().flat_map(|report| {
        let name = report.kind.name;
        report
            .disagreements
            .iter()
            .map(move |one| format!("{name}: {one}"))
    });
    let words: Vec<String> = words.collect();
    assert!(words.is_empty(), "{}", words.join("\n"));
    assert_eq!(reports.len(), kinds().len());
    for report in reports {
        let absent = world == World::Kernel && matches!(report.kind.kernel, Kernel::Absent(_));
        assert_eq!(report.measured.0.is_empty(), absent, "{}", report.kind.name);
    }
}

/// Coturn's client was asked about every kind that lets it out, and says the same.
#[track_caller]
fn coturn_agrees(world: World) {
    for report in reports(world) {
        let reach = report.measured.get(Path::V4, Property::Reach);
        let out = !matches!(reach, None | Some(Value::Reach(Reach::Blocked)));
        let second = report.second.as_ref();
        assert_eq!(second.is_some(), out, "{}", report.kind.name);
        let contradictions = second.map(|second| second.contradictions.as_slice());
        assert_eq!(
            contradictions.unwrap_or_default(),
            [""; 0],
            "{}",
            report.kind.name
        );
    }
}

#[test]
fn every_kind_measures_between_namespaces_as_what_it_is_described() {
    if possible() {
        all_agree(World::Netns);
    }
}

#[test]
fn coturns_client_finds_the_same_behind_every_kind_that_lets_it_out() {
    if possible() && installed("turnutils_natdiscovery", has_coturn()) {
        coturn_agrees(World::Netns);
    }
}

#[test]
fn every_kind_that_the_kernel_plays_measures_as_what_it_is_described() {
    if kernel_possible() {
        all_agree(World::Kernel);
    }
}

#[test]
fn coturns_client_finds_the_same_behind_every_kind_that_the_kernel_plays() {
    if kernel_possible() && installed("turnutils_natdiscovery", has_coturn()) {
        coturn_agrees(World::Kernel);
    }
}

/// Measures these NATs at the same time in one lab, each before hosts with IPv4.
fn measured(specs: Vec<NatSpec>, depth: &Depth) -> Vec<Facts> {
    let side = |spec| Side {
        nats: vec![spec],
        families: Families::V4,
    };
    let yard = Yard::build(specs.into_iter().map(side).collect(), World::Netns).unwrap();
    let one = |site| {
        let (mut ground, stage) = yard.ground(site);
        measure(&mut ground, &stage, depth).unwrap()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..yard.len())
            .map(|site| scope.spawn(move || one(site)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    })
}

fn behaviour() -> Depth {
    Namespaces::behaviour(&Side {
        nats: Vec::new(),
        families: Families::V4,
    })
}

#[test]
fn two_hosts_on_one_port_stay_apart_and_neighbours_meet_as_hairpinning_says() {
    if !possible() {
        return;
    }
    let triple = [
        (Hairpin::Off, HairpinSeen::Nobody),
        (Hairpin::Internal, HairpinSeen::Inside),
        (Hairpin::External, HairpinSeen::External),
    ];
    let specs = triple.map(|(hairpin, _)| NatSpec {
        hairpin,
        ..NatSpec::default()
    });
    let found = measured(specs.to_vec(), &behaviour());
    for (facts, (hairpin, seen)) in found.iter().zip(triple) {
        let get = |property| facts.get(Path::V4, property);
        assert_eq!(get(Property::Hairpin), Some(Value::Hairpin(seen)), "{hairpin:?}");
        assert_eq!(get(Property::Overloads), Some(Value::Flag(false)));
    }
}

#[test]
fn a_packet_that_comes_too_early_costs_the_port_always_or_never() {
    if !possible() {
        return;
    }
    let inputs = [
        (InputPolicy::AcceptConntrackClash, 100),
        (InputPolicy::Drop, 0),
        (InputPolicy::Reject(Refusal::PortUnreachable), 0),
    ];
    let specs = inputs.map(|(input, _)| NatSpec {
        input,
        ..NatSpec::default()
    });
    let depth = behaviour();
    assert!(depth.clashes >= 20, "trials");
    for (facts, (input, share)) in measured(specs.to_vec(), &depth).iter().zip(inputs) {
        let clashes = facts.get(Path::V4, Property::Clashes);
        assert_eq!(clashes, Some(Value::Percent(share)), "{input:?}");
    }
}

#[test]
fn mappings_end_when_their_timers_say_and_not_before() {
    if !possible() {
        return;
    }
    let (unreplied, stream) = (Duration::from_secs(1), Duration::from_secs(2));
    let specs = [true, false].map(|inbound_refresh| NatSpec {
        unreplied_timeout: unreplied,
        stream_timeout: stream,
        inbound_refresh,
        ..NatSpec::default()
    });
    let _quiet = quiet();
    let found = measured(specs.to_vec(), &Namespaces::timers());
    for (facts, refresh) in found.iter().zip([true, false]) {
        let get = |property| facts.get(Path::V4, property).unwrap();
        for (property, life) in [(Property::Unreplied, unreplied), (Property::Stream, stream)] {
            let described = Value::Life(Life::Exactly(life));
            let seen = get(property);
            assert!(matches!(seen, Value::Life(Life::Between(..))), "{seen}");
            assert!(described.agrees(seen), "{}: {described}, {seen}", property.word());
        }
        assert_eq!(get(Property::InboundRefresh), Value::Flag(refresh));
    }
}

#[test]
fn a_full_table_refuses_keeps_what_it_has_and_recovers_when_mappings_end() {
    if !possible() {
        return;
    }
    let spec = NatSpec {
        table_size: 12,
        unreplied_timeout: Duration::from_secs(3),
        ..NatSpec::default()
    };
    let depth = Depth {
        lifetimes: None,
        table: Some(30),
        recovery: Some(Duration::from_millis(3_500)),
        ..Namespaces::timers()
    };
    let found = measured(vec![spec], &depth);
    let get = |property| found[0].get(Path::V4, property);
    assert_eq!(get(Property::Table), Some(Value::Capacity(Capacity::Exactly(12))));
    assert_eq!(get(Property::TableRecovers), Some(Value::Flag(true)));
}

#[test]
fn what_icmp_says_of_packets_never_ends_a_mapping() {
    if !possible() {
        return;
    }
    let symmetric = NatSpec {
        mapping: knothole_netsim::nat::Mapping::AddressAndPortDependent,
        ..NatSpec::default()
    };
    for facts in measured(vec![NatSpec::default(), symmetric], &behaviour()) {
        let outlives = facts.get(Path::V4, Property::OutlivesIcmp);
        assert_eq!(outlives, Some(Value::Flag(true)));
    }
}

#[test]
fn a_wrong_description_is_caught_between_namespaces() {
    if !possible() {
        return;
    }
    let described = |name: &str| {
        let side = knothole_netsim::nat::kind(name).unwrap().side(&[]);
        let yard = Yard::build(vec![side.clone()], World::Netns).unwrap();
        let (mut ground, stage) = yard.ground(0);
        let facts = measure(&mut ground, &stage, &behaviour()).unwrap();
        (facts, knothole_netsim::verify::expected(&side, &stage))
    };
    let ((symmetric, own), (_, other)) = (described("symmetric"), described("port-restricted"));
    assert_eq!(own.disagreements(&symmetric), []);
    let wrong: Vec<Property> = other
        .disagreements(&symmetric)
        .iter()
        .map(|one| one.property)
        .collect();
    assert!(
        wrong.contains(&Property::Mapping) && wrong.contains(&Property::Ports),
        "{wrong:?}"
    );
}

#[test]
fn a_policy_changed_at_run_time_cuts_udp_off_and_lets_it_on_again() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("str", HostSpec::public([STRANGER]))
        .host("a", HostSpec::behind(chain("full-cone"), LAN_A))
        .build()
        .unwrap();
    let observer = socket(&lab, "srv", SERVERS[0], PORTS[0]);
    let client = any(&lab, "a");
    let at = SocketAddr::from((SERVERS[0], PORTS[0]));
    assert!(seen(&client, &observer, at).is_some());
    lab.set_udp_policy("a", UdpPolicy::Blocked(None)).unwrap();
    assert_eq!(seen(&client, &observer, at), None);
    lab.set_udp_policy("a", UdpPolicy::OnlyTo([IpAddr::from(SERVERS[0])].into()))
        .unwrap();
    assert!(seen(&client, &observer, at).is_some());
    let stranger = socket(&lab, "str", STRANGER, PORTS[0]);
    assert_eq!(seen(&client, &stranger, (STRANGER, PORTS[0]).into()), None);
    assert!(lab.set_udp_policy("srv", UdpPolicy::Blocked(None)).is_err());
}
