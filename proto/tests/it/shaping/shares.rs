//! Who gets how much: the total, the limit of a key, equal shares, and sockets that are full.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use knothole_proto::rendezvous::{LaneId, Offered, RelayConfig, SendingKey, Unit};

use super::super::support::{epoch, ms};
use super::{Fate, Flow, MBIT, Relay, after, key};

/// Each of these flows sends batches of its size and always more than fits. Bytes of each after so many seconds,
/// without those of the first second.
fn greedy(config: RelayConfig, flows: &[(Flow, u32)], seconds: u64) -> Vec<u64> {
    let mut relay = Relay::new(config);
    let mut bytes: BTreeMap<LaneId, u64> = BTreeMap::new();
    let step = 1_000;
    for micros in (0..seconds * 1_000_000).step_by(step) {
        for (flow, size) in flows {
            // Twice the total in each millisecond, from everybody.
            let offered = config.total.bits_per_second / 8 / 1000 * 2;
            for _ in 0..=offered / u64::from(*size) {
                match relay.send(flow, *size, 0) {
                    Fate::Passed if micros >= 1_000_000 => {
                        *bytes.entry(flow.id).or_default() += u64::from(*size)
                    }
                    Fate::Passed | Fate::Waits => {}
                    Fate::Dropped => break,
                }
            }
        }
        relay.run_until(after(micros + step as u64), &mut |release, _| {
            if micros >= 1_000_000 {
                *bytes.entry(release.lane()).or_default() += u64::from(release.unit.bytes);
            }
        });
    }
    flows
        .iter()
        .map(|(flow, _)| bytes.get(&flow.id).copied().unwrap_or(0))
        .collect()
}

fn assert_about(what: u64, expected: f64, tolerance: f64, why: &str) {
    let ratio = what as f64 / expected;
    assert!(
        (ratio - 1.0).abs() <= tolerance,
        "{why}: {ratio:.3} of what was expected"
    );
}

#[test]
fn the_total_is_used_and_kept_whatever_is_offered() {
    for (mbit, size) in [(2, 1_200), (200, 1_200), (200, 64_000), (10_000, 60_000)] {
        let bytes = greedy(RelayConfig::new(mbit * MBIT), &[(Flow::new(1, false), size)], 4);
        assert_about(
            bytes[0],
            (mbit * MBIT / 8 * 3) as f64,
            0.03,
            &format!("{mbit} Mbit/s in {size} bytes"),
        );
    }
}

#[test]
fn backlogged_channels_get_equal_shares_whatever_the_size_of_their_batches() {
    let sizes = [200, 1_452, 9_000, 33_000, 65_000];
    let flows: Vec<_> = (0..)
        .zip(sizes)
        .map(|(n, size)| (Flow::new(n, n % 2 == 0), size))
        .collect();
    let bytes = greedy(RelayConfig::new(100 * MBIT), &flows, 6);
    for (size, bytes) in sizes.iter().zip(bytes) {
        assert_about(
            bytes,
            (100 * MBIT / 8 * 5 / 5) as f64,
            0.05,
            &format!("in {size} bytes"),
        );
    }
}

#[test]
fn a_channel_that_sends_both_ways_gets_no_more_than_one_that_sends_one_way() {
    let both = [Flow::new(1, false), Flow::new(1, true)];
    let flows = [
        (both[0].clone(), 20_000),
        (both[1].clone(), 1_000),
        (Flow::new(2, false), 5_000),
    ];
    let bytes = greedy(RelayConfig::new(100 * MBIT), &flows, 6);
    let half = (100 * MBIT / 8 * 5 / 2) as f64;
    assert_about(bytes[0] + bytes[1], half, 0.05, "both ways together");
    assert_about(bytes[2], half, 0.05, "one way");
    assert_about(bytes[0], half / 2.0, 0.05, "one of the two ways");
}

#[test]
fn what_one_does_not_use_the_others_get() {
    let mut relay = Relay::new(RelayConfig::new(80 * MBIT));
    let (modest, greedy) = (Flow::new(1, false), Flow::new(2, false));
    let mut bytes = [0_u64; 2];
    for step in 0..4_000 {
        // 8 Mbit/s.
        if relay.send(&modest, 1_000, 0) == Fate::Passed {
            bytes[0] += 1_000;
        }
        for _ in 0..20 {
            if relay.send(&greedy, 1_000, 1) == Fate::Passed {
                bytes[1] += 1_000;
            }
        }
        relay.run_until(after((step + 1) * 1_000), &mut |release, _| {
            bytes[usize::try_from(release.payload).unwrap()] += u64::from(release.unit.bytes);
        });
    }
    assert_about(bytes[0], 4_000_000.0, 0.01, "all of the modest one");
    assert_about(bytes[1], 36_000_000.0, 0.03, "the rest");
}

#[test]
fn the_limit_of_a_key_binds_all_its_channels_and_costs_nobody_else() {
    let config = RelayConfig::new(1_000 * MBIT).with_per_key(16 * MBIT);
    let flows = |one: Option<Arc<SendingKey>>, other| {
        [
            (Flow::of_key(1, false, one.clone()), 1_200),
            (Flow::of_key(2, false, one), 12_000),
            (Flow::of_key(3, true, other), 12_000),
        ]
    };
    let bytes = greedy(config, &flows(Some(key(1)), Some(key(2))), 4);
    let limit = (16 * MBIT / 8 * 3) as f64;
    assert_about(bytes[0] + bytes[1], limit, 0.05, "two channels of one key");
    assert_about(bytes[2], limit, 0.05, "another key");

    let flows = flows(Some(key(1)), Some(key(2)));
    let mut relay = Relay::new(config);
    while relay.send(&flows[0].0, 1_200, 0) == Fate::Passed {}
    assert!(
        (0..1_000).all(|_| relay.send(&flows[2].0, 200, 0) == Fate::Passed),
        "a key that waits for its own limit does not make others wait"
    );
}

#[test]
fn channels_of_one_key_share_its_limit_alike_whatever_the_size_of_their_batches() {
    let config = RelayConfig::new(1_000 * MBIT).with_per_key(16 * MBIT);
    let key = key(1);
    let sizes = [1_200, 1_200, 12_000, 20_000];
    let flows: Vec<_> = (0..)
        .zip(sizes)
        .map(|(n, size)| (Flow::of_key(n, n % 2 == 0, Some(key.clone())), size))
        .collect();
    let bytes = greedy(config, &flows, 9);
    for (size, bytes) in sizes.iter().zip(&bytes) {
        let share = (16 * MBIT / 8 * 8 / 4) as f64;
        assert_about(*bytes, share, 0.1, &format!("in {size} bytes, of {bytes:?}"));
    }
}

#[test]
fn what_waits_for_the_total_is_not_overtaken_by_what_is_smaller() {
    let config = RelayConfig::new(100 * MBIT).with_per_key(50 * MBIT);
    let mut relay = Relay::new(config);
    let of_own_key = |n: u8| Flow::of_key(n.into(), false, Some(key(n)));
    let (large, small) = (of_own_key(100), (0..20).map(of_own_key).collect::<Vec<_>>());
    // First it waits for its key. By the time that this one has enough, others have used up the total, and take what
    // comes back at once.
    let mut spent = 0;
    while relay.send(&large, 60_000, 0) == Fate::Passed {
        spent += 60_000;
    }
    let mut senders = small.iter().cycle();
    for _ in 0..(config.total.burst - spent) / 1_000 {
        assert_eq!(relay.send(senders.next().unwrap(), 1_000, 1), Fate::Passed);
    }
    let mut left = None;
    for step in 1..=500 {
        relay.run_until(after(step * 80), &mut |release, now| {
            if release.payload == 0 {
                left = Some(now);
            }
        });
        relay.send(senders.next().unwrap(), 1_000, 1);
    }
    let left = left.expect("it leaves");
    // 8 ms for its key, 5 ms for the total.
    assert!(left <= after(20_000), "{:?}", left - epoch());
}

#[test]
fn a_key_with_many_channels_takes_no_memory_that_it_cannot_use() {
    let config = RelayConfig::new(1_000 * MBIT).with_per_key(16 * MBIT);
    let mut relay = Relay::new(config);
    let key = key(1);
    for channel in 0..256 {
        let flow = Flow::of_key(channel, false, Some(key.clone()));
        for _ in 0..200 {
            relay.send(&flow, 60_000, 0);
        }
    }
    let held = relay.queue.stats().held_bytes;
    // In half a second, after which what waits is dropped, 1 MB of it could leave.
    assert!(held <= 1 << 20, "{held}");
}

#[test]
fn a_full_socket_makes_everybody_wait_their_turn_and_nobody_pay_twice() {
    let mut relay = Relay::new(RelayConfig::new(8 * MBIT));
    let flows = [Flow::new(1, false), Flow::new(2, false)];
    assert!(relay.gate.pass(&flows[0].lane, 1_000, relay.now));
    let unit = Unit {
        bytes: 1_000,
        footprint: 1_000,
        can_be_marked: false,
    };
    let held = relay
        .queue
        .hold(flows[0].id, &flows[0].lane, unit, || 0, relay.now);
    assert_eq!(held, Offered::Waits);
    for payload in 1..=6 {
        let flow = &flows[usize::try_from(payload % 2).unwrap()];
        assert_eq!(relay.send(flow, 1_000, payload), Fate::Waits);
    }
    assert!(relay.poll().is_none());
    assert_eq!(relay.queue.poll_timeout(), None, "only the socket matters now");
    relay.queue.socket_ready();
    let first = relay.poll().unwrap();
    assert_eq!(first.payload, 0);
    relay.queue.put_back(first);
    assert!(relay.poll().is_none());
    relay.queue.socket_ready();
    let left: Vec<u64> = std::iter::from_fn(|| relay.poll())
        .map(|release| release.payload)
        .collect();
    assert_eq!(
        left,
        [0, 1, 2, 4, 3, 5, 6],
        "a packet or two in each turn, and in order within a lane"
    );
    assert_eq!(
        relay.send(&flows[0], 1_000, 7),
        Fate::Passed,
        "and then the way is free again"
    );
    // 8,000 bytes went, each paid for once: the burst less that, and not a batch more, passes at once.
    let more = (0..)
        .take_while(|_| relay.send(&flows[1], 1_000, 0) == Fate::Passed)
        .count();
    assert_eq!(more, (256 * 1024 - 8_000) / 1_000);
}

#[test]
fn nothing_waits_longer_than_half_a_second() {
    let mut relay = Relay::new(RelayConfig::new(MBIT));
    let flow = Flow::new(1, false);
    let mut sent_at = Vec::new();
    let mut longest = Duration::ZERO;
    for step in 0..5_000 {
        sent_at.push(relay.now);
        relay.send(&flow, 1_000, step);
        relay.run_until(after((step + 1) * 1_000), &mut |release, now| {
            longest = longest.max(now - sent_at[usize::try_from(release.payload).unwrap()]);
        });
    }
    assert!(longest > ms(300), "the queue did not fill: {longest:?}");
    assert!(longest <= ms(500), "{longest:?}");
}

#[test]
fn a_limit_of_nothing_forwards_nothing_and_keeps_nothing() {
    let mut relay = Relay::new(RelayConfig::new(0));
    let flow = Flow::new(1, false);
    assert!((0..100).all(|n| relay.send(&flow, 1, n) == Fate::Dropped));
    assert_eq!(relay.queue.stats().held_bytes, 0);
    assert_eq!(relay.queue.poll_timeout(), None);
}

#[test]
fn a_channel_that_is_closed_takes_what_waits_along() {
    let mut relay = Relay::new(RelayConfig::new(8 * MBIT));
    let (one, other) = (Flow::new(1, false), Flow::new(2, false));
    while relay.send(&one, 1_000, 1) == Fate::Passed {}
    assert_eq!(relay.send(&other, 1_000, 2), Fate::Waits);
    let lost = &mut relay.lost;
    relay.queue.forget(one.id, &mut |payload| lost.push(payload));
    assert_eq!(relay.lost, [1]);
    relay.now = after(100_000);
    assert!(relay.poll().is_some_and(|release| release.payload == 2));
    assert!(relay.poll().is_none());
    let stats = relay.queue.stats();
    assert_eq!((stats.lanes, stats.held_bytes, stats.dropped_batches), (0, 0, 1));
}

#[test]
fn every_drop_and_every_mark_is_counted_under_its_reason() {
    for can_be_marked in [true, false] {
        // 1 MB/s: a lane holds 256 KiB, a fourth of a second.
        let mut relay = Relay::new(RelayConfig::new(8 * MBIT));
        let flow = Flow::new(1, false);
        let mut refused = 0;
        for step in 0..700 {
            for _ in 0..2 {
                refused += u64::from(relay.send_marked(&flow, 1_000, 0, can_be_marked) == Fate::Dropped);
            }
            relay.run_until(after((step + 1) * 1_000), &mut |_, _| {});
        }
        let early = relay.queue.stats();
        assert_eq!((early.overflow_bytes, early.stale_bytes), (refused * 1_000, 0));
        let signals = if can_be_marked {
            early.marked_batches
        } else {
            early.signal_bytes / 1_000
        };
        assert!((1..100).contains(&signals), "{early:?}");
        assert_eq!(early.dropped_bytes(), early.dropped_batches * 1_000);
        // Nobody looks for a while.
        relay.now = after(2_000_000);
        while relay.poll().is_some() {}
        let late = relay.queue.stats();
        assert_eq!(late.stale_bytes, early.held_bytes, "{late:?}");
        assert_eq!(late.dropped_bytes(), late.dropped_batches * 1_000);
        assert_eq!((late.lanes, late.held_bytes), (0, 0));
    }
}
