//! What holds whatever is offered in whatever order.

use std::collections::{BTreeMap, VecDeque};

use knothole_proto::rendezvous::RelayConfig;
use proptest::prelude::*;

use super::{Fate, Flow, MBIT, Relay, after, key};

/// Memory that may wait in all, as the documentation of the server says.
const TOTAL_MAX: u64 = 64 * 1024 * 1024;

/// One step: which lane sends, how much, and how long it takes until the next step.
fn steps() -> impl Strategy<Value = Vec<(usize, u32, u64)>> {
    let size = prop_oneof![1_u32..2_000, 1_u32..=65_507];
    let pause = prop_oneof![Just(0_u64), 0_u64..2_000, 0_u64..200_000];
    proptest::collection::vec((0_usize..8, size, pause), 1..400)
}

/// Eight lanes in six channels of three keys.
fn flows() -> Vec<Flow> {
    let keys: Vec<_> = (0..3).map(key).collect();
    let flow = |n: u64| {
        let key = keys[usize::try_from(n).unwrap() % keys.len()].clone();
        Flow::of_key(n % 6, n >= 6, Some(key))
    };
    (0..8).map(flow).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_is_lost_doubled_or_overtaken(
        steps in steps(), total in 1_u64..400, per_key in proptest::option::of(1_u64..100)
    ) {
        let mut config = RelayConfig::new(total * MBIT);
        if let Some(per_key) = per_key {
            config = config.with_per_key(per_key * MBIT);
        }
        let mut relay = Relay::new(config);
        let flows = flows();
        let mut waiting: BTreeMap<_, VecDeque<u64>> = BTreeMap::new();
        let (mut offered, mut passed, mut micros) = (0_u64, 0_u64, 0);
        for (number, (who, size, pause)) in (0..).zip(steps) {
            let flow = &flows[who];
            offered += u64::from(size);
            let queue = waiting.entry(flow.id).or_default();
            queue.retain(|number| !relay.lost.contains(number));
            match relay.send(flow, size, number) {
                Fate::Passed => {
                    prop_assert!(queue.is_empty(), "it overtook what waits in its own lane");
                    passed += u64::from(size);
                }
                Fate::Waits => queue.push_back(number),
                Fate::Dropped => {}
            }
            micros += pause;
            let mut left = Vec::new();
            relay.run_until(after(micros), &mut |release, _| left.push(release));
            for release in left {
                passed += u64::from(release.unit.bytes);
                let queue = waiting.entry(release.lane()).or_default();
                while let Some(first) = queue.pop_front()
                    && first != release.payload
                {
                    prop_assert!(relay.lost.contains(&first), "{first} was overtaken");
                }
            }
            let stats = relay.queue.stats();
            prop_assert_eq!(offered, passed + stats.held_bytes + stats.dropped_bytes());
            let allowed = config.total.burst + micros * total / 8;
            prop_assert!(passed <= allowed + 1, "{} of {}", passed, allowed);
        }
        relay.run_until(after(micros + 60_000_000), &mut |_, _| {});
        let stats = relay.queue.stats();
        prop_assert_eq!((stats.lanes, stats.held_bytes), (0, 0), "it does not empty");
        prop_assert_eq!(relay.queue.poll_timeout(), None);
    }

    /// While anything waits for the total alone, the total is used.
    #[test]
    fn the_limit_never_idles_while_something_waits(steps in steps(), total in 10_u64..400) {
        let mut relay = Relay::new(RelayConfig::new(total * MBIT));
        let flows = flows();
        let mut micros = 0;
        let mut busy_since: Option<(u64, u64)> = None;
        let mut passed = 0;
        for (who, size, pause) in steps {
            if relay.send(&flows[who], size, 0) == Fate::Passed {
                passed += u64::from(size);
            }
            if relay.queue.stats().lanes > 0 {
                busy_since.get_or_insert((micros, passed));
            }
            micros += pause;
            relay.run_until(after(micros), &mut |release, _| passed += u64::from(release.unit.bytes));
            match busy_since {
                Some((since, then)) if relay.queue.stats().lanes > 0 => {
                    let due = (micros - since) * total / 8;
                    prop_assert!(passed - then + 65_507 >= due, "{} of {}", passed - then, due);
                }
                _ => busy_since = None,
            }
        }
    }

    #[test]
    fn memory_is_bounded_however_many_send(sizes in proptest::collection::vec(1_u32..=65_507, 1..50)) {
        let mut relay = Relay::new(RelayConfig::new(10_000 * MBIT));
        let flows: Vec<Flow> = (0..300).map(|channel| Flow::new(channel, false)).collect();
        for round in 0..20 {
            for (number, flow) in flows.iter().enumerate() {
                let size = sizes[(number + round) % sizes.len()];
                while relay.send(flow, size, 0) == Fate::Passed {}
                relay.send(flow, size, 0);
            }
            prop_assert!(relay.queue.stats().held_bytes <= TOTAL_MAX);
        }
        prop_assert!(relay.queue.stats().held_bytes_max <= TOTAL_MAX);
    }
}

#[test]
fn a_thousand_greedy_senders_leave_room_for_one_more() {
    let mut relay = Relay::new(RelayConfig::new(10_000 * MBIT));
    for channel in 0..1_000 {
        let flow = Flow::new(channel, false);
        for _ in 0..100 {
            relay.send(&flow, 65_000, 0);
        }
    }
    let stats = relay.queue.stats();
    assert!(stats.held_bytes > TOTAL_MAX / 2 && stats.dropped_batches > 0);
    assert_eq!(relay.send(&Flow::new(5_000, false), 1_452, 0), Fate::Waits);
}
