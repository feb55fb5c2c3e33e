//! Rounds that guess: whose limits count, and that both sides go by them.

use knothole_proto::fingerprint::{
    Allocation, Fact, FamilyFacts, Filtering, Fingerprint, Hairpin, Mapping, Obstacle, Reach,
};
use knothole_proto::punch::Plan;

use super::*;

/// An IPv4 network that filters by port, with this mapping and these ports.
fn network(mapping: Mapping, ports: Allocation) -> Box<Fingerprint> {
    let unasked = FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::NoLocalAddress);
    Box::new(Fingerprint {
        v4: FamilyFacts {
            reach: Reach::Works,
            translated: Fact::Known(true),
            mapping: Fact::Known(mapping),
            filtering: Fact::Known(Filtering::AddressAndPortDependent),
            ..unasked
        },
        v6: unasked,
        through_nat64: false,
        addresses: Vec::new(),
        ports: Fact::Known(ports),
        hairpin: Fact::Known(Hairpin::Absent),
        udp_blocked: Fact::Known(false),
        signs: Vec::new(),
        rtt: None,
        packets: 0,
        took: Duration::ZERO,
    })
}

/// Three easy nodes and, as number 0, one whose ports nobody foresees; no datagram passes between any two.
fn three_and_a_hard_one() -> Town {
    let mut town = Town::new(4);
    town.passes = Box::new(|_, _| false);
    for index in 0..4 {
        let known = match index {
            0 => network(Mapping::AddressAndPortDependent, Allocation::Random),
            _ => network(Mapping::EndpointIndependent, Allocation::Preserving),
        };
        town.feed(index, Input::Network(known));
    }
    town.run(town.now + SECOND);
    town.clear();
    town
}

fn plans(town: &Town, index: usize) -> Vec<Plan> {
    let plan = |event| match event {
        Event::Plan { plan, .. } => Some(plan),
        _ => None,
    };
    events(town, index).into_iter().filter_map(plan).collect()
}

fn probes(town: &Town, index: usize) -> usize {
    let sent = town.citizens[index].sent.iter();
    sent.filter(|sent| sent.bytes[0] == 4).count()
}

#[test]
fn who_may_guess_no_more_says_so_and_the_other_side_stops_at_once() {
    let mut town = three_and_a_hard_one();
    let birthday = Plan::Birthday { hard: Role::Callee };
    for caller in [1, 2] {
        town.connect(caller, 0, PathPolicy::Auto);
    }
    town.run(town.now + ms(500));
    assert_eq!(
        plans(&town, 0),
        [birthday, birthday],
        "two rounds at a time are its limit"
    );
    town.connect(3, 0, PathPolicy::Auto);
    town.run(town.now + 4 * SECOND);
    assert_eq!(plans(&town, 3)[..2], [birthday, Plan::NoGuess]);
    assert_eq!(plans(&town, 0)[2], Plan::NoGuess);
    assert_eq!(town.path(3), Some(Path::Relay(Why::NoGuess)));
    assert!(probes(&town, 3) < 20, "{} probes", probes(&town, 3));
    assert!(probes(&town, 1) > 500, "the others go on: {}", probes(&town, 1));
}
