//! What a link must do: what was configured is what is measured.

use std::time::{Duration, Instant};

use super::*;

const MS: Duration = Duration::from_millis(1);
const PACKET: usize = 1200;

fn times(link: &mut Link, count: u32, spacing: Duration) -> Vec<(Instant, Vec<Instant>)> {
    let start = Instant::now();
    (0..count)
        .map(|i| {
            let now = start + spacing * i;
            (now, moments(link.admit(PACKET, now)))
        })
        .collect()
}

fn moments(due: DueTimes) -> Vec<Instant> {
    due.into_iter().map(|arrival| arrival.at).collect()
}

/// Delivered share of `count` packets.
fn delivered(spec: LinkSpec, count: u32) -> f64 {
    let mut link = Link::new(spec, 11);
    let copies: usize = times(&mut link, count, MS).iter().map(|(_, due)| due.len()).sum();
    f64::from(u32::try_from(copies).unwrap()) / f64::from(count)
}

#[test]
fn a_perfect_link_delivers_at_once() {
    let mut link = Link::new(LinkSpec::default(), 1);
    for (now, due) in times(&mut link, 100, Duration::ZERO) {
        assert_eq!(due, [now]);
    }
}

#[test]
fn the_measured_delay_is_the_configured_one() {
    let mut link = Link::new(LinkSpec::delay(30 * MS), 1);
    for (now, due) in times(&mut link, 100, MS) {
        assert_eq!(due, [now + 30 * MS]);
    }
}

#[test]
fn jitter_stays_within_its_bounds_spreads_and_keeps_the_order() {
    let spec = LinkSpec {
        jitter: 5 * MS,
        ..LinkSpec::delay(30 * MS)
    };
    let mut link = Link::new(spec, 1);
    let seen = times(&mut link, 2000, 20 * MS);
    let delays: Vec<Duration> = seen.iter().map(|(now, due)| due[0] - *now).collect();
    assert!(delays.iter().all(|delay| (25 * MS..=35 * MS).contains(delay)));
    assert!(delays.iter().any(|delay| *delay < 26 * MS) && delays.iter().any(|delay| *delay > 34 * MS));
    let mean = delays.iter().sum::<Duration>() / 2000;
    assert!((29_700..30_300).contains(&mean.as_micros()), "{mean:?}");
    let dense = times(&mut Link::new(spec, 1), 2000, Duration::from_micros(10));
    assert!(
        dense.windows(2).all(|pair| pair[0].1[0] <= pair[1].1[0]),
        "jitter alone must not reorder"
    );
}

#[test]
fn the_measured_loss_is_the_configured_one() {
    for loss in [0.01, 0.05, 0.3] {
        let measured = 1.0 - delivered(LinkSpec::default().with_loss(loss), 200_000);
        assert!((measured - loss).abs() < 0.003, "asked {loss}, got {measured}");
    }
    assert!(delivered(LinkSpec::default().with_loss(1.0), 1000) == 0.0);
}

#[test]
fn bursts_lose_the_configured_share_in_runs_of_the_configured_length() {
    let loss = Loss::Burst {
        rate: 0.1,
        length: 8.0,
    };
    let mut link = Link::new(
        LinkSpec {
            loss,
            ..LinkSpec::default()
        },
        3,
    );
    let fates: Vec<bool> = times(&mut link, 400_000, MS)
        .iter()
        .map(|(_, due)| due.is_empty())
        .collect();
    let lost = u32::try_from(fates.iter().filter(|lost| **lost).count()).unwrap();
    let runs = u32::try_from(fates.windows(2).filter(|pair| !pair[0] && pair[1]).count()).unwrap();
    let share = f64::from(lost) / 400_000.0;
    let length = f64::from(lost) / f64::from(runs);
    assert!((share - 0.1).abs() < 0.01, "{share}");
    assert!((length - 8.0).abs() < 0.5, "{length}");
}

#[test]
fn duplicates_come_out_twice_as_often_as_asked() {
    let measured = delivered(
        LinkSpec {
            duplicate: 0.2,
            ..LinkSpec::default()
        },
        100_000,
    );
    assert!((measured - 1.2).abs() < 0.01, "{measured}");
}

#[test]
fn held_back_packets_are_overtaken_at_the_configured_share() {
    let reorder = Some(Reorder {
        probability: 0.1,
        by: 10 * MS,
    });
    let mut link = Link::new(
        LinkSpec {
            reorder,
            ..LinkSpec::delay(5 * MS)
        },
        1,
    );
    let seen = times(&mut link, 10_000, MS);
    let late = seen.iter().filter(|(now, due)| due[0] - *now == 15 * MS).count();
    let in_time = seen.iter().filter(|(now, due)| due[0] - *now == 5 * MS).count();
    assert_eq!(late + in_time, 10_000);
    assert!((900..1100).contains(&late), "{late}");
}

#[test]
fn a_rate_limit_lets_through_exactly_its_rate() {
    // 1200 bytes at 9.6 Mbit/s take one millisecond each.
    let mut link = Link::new(
        LinkSpec {
            queue: 1 << 20,
            ..LinkSpec::default().with_rate(9_600_000)
        },
        1,
    );
    let seen = times(&mut link, 100, Duration::ZERO);
    let first = seen[0].0;
    for (i, (_, due)) in (1..).zip(&seen) {
        assert_eq!(due[..], [first + MS * i]);
    }
}

#[test]
fn a_full_queue_drops_the_newest_and_drains_in_time() {
    let mut link = Link::new(
        LinkSpec {
            queue: 10 * PACKET,
            ..LinkSpec::default().with_rate(9_600_000)
        },
        1,
    );
    let start = Instant::now();
    let passed = (0..100).filter(|_| !link.admit(PACKET, start).is_empty()).count();
    assert_eq!(passed, 10);
    assert_eq!(link.stats().queue_drops, 90);
    assert!(
        !link.admit(PACKET, start + MS).is_empty(),
        "one packet has left, one fits"
    );
    assert!(link.admit(PACKET, start + MS).is_empty());
}

#[test]
fn a_queue_smaller_than_a_packet_still_lets_an_idle_line_send() {
    let mut link = Link::new(
        LinkSpec {
            queue: 0,
            ..LinkSpec::default().with_rate(9_600_000)
        },
        1,
    );
    let now = Instant::now();
    assert!(!link.admit(PACKET, now).is_empty());
    assert!(link.admit(PACKET, now).is_empty());
}

#[test]
fn packets_above_the_mtu_vanish() {
    let mut link = Link::new(
        LinkSpec {
            mtu: 1280,
            ..LinkSpec::default()
        },
        1,
    );
    let now = Instant::now();
    assert!(!link.admit(1280, now).is_empty());
    assert!(link.admit(1281, now).is_empty());
    assert_eq!(link.stats().oversized, 1);
}

#[test]
fn the_same_seed_gives_the_same_fates_and_another_seed_others() {
    let fates = |seed| {
        let mut link = Link::new(LinkSpec::default().with_loss(0.5), seed);
        times(&mut link, 64, MS)
            .iter()
            .map(|(_, due)| due.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(fates(1), fates(1));
    assert_ne!(fates(1), fates(2));
}

#[test]
fn a_changed_description_holds_for_the_next_packet() {
    let mut link = Link::new(LinkSpec::delay(50 * MS), 1);
    let now = Instant::now();
    link.admit(PACKET, now);
    link.set_spec(LinkSpec::delay(5 * MS));
    assert_eq!(moments(link.admit(PACKET, now)), [now + 5 * MS]);
}

/// The flips of `count` packets on a link that corrupts this share and doubles every second packet.
fn flips(corrupt: f64, seed: u64, count: usize) -> Vec<Option<Flip>> {
    let spec = LinkSpec::default().with_corruption(corrupt).with_duplicates(0.5);
    let mut link = Link::new(spec, seed);
    let now = Instant::now();
    let all: Vec<_> = (0..count)
        .flat_map(|_| link.admit(PACKET, now))
        .map(|arrival| arrival.flip)
        .collect();
    let bent = all.iter().flatten().count();
    assert_eq!(u64::try_from(bent).unwrap(), link.stats().corrupted);
    all
}

#[test]
fn the_configured_share_of_copies_is_corrupted_each_by_its_own_chance() {
    let all = flips(0.1, 5, 100_000);
    let share = all.iter().flatten().count() as f64 / all.len() as f64;
    assert!((share - 0.1).abs() < 0.005, "{share}");
    assert!(flips(0.0, 5, 1000).iter().all(Option::is_none));
    assert!(flips(1.0, 5, 1000).iter().all(Option::is_some));
    assert_eq!(flips(0.1, 5, 1000), flips(0.1, 5, 1000));
    assert_ne!(flips(0.1, 5, 1000), flips(0.1, 6, 1000));
}

#[test]
fn a_flip_changes_one_bit_of_any_payload_and_back_again() {
    let mut bits = std::collections::BTreeSet::new();
    for flip in flips(1.0, 7, 1000).into_iter().flatten() {
        for len in [1, 7, 1200] {
            let mut payload = vec![0xa5; len];
            flip.apply(&mut payload);
            let changed: u32 = payload.iter().map(|byte| (byte ^ 0xa5).count_ones()).sum();
            assert_eq!(changed, 1);
            if len == 7 {
                bits.insert(payload.clone());
            }
            flip.apply(&mut payload);
            assert_eq!(payload, vec![0xa5; len]);
        }
        flip.apply(&mut []);
    }
    assert_eq!(bits.len(), 56, "every bit has its turn");
}

#[test]
fn a_link_without_corruption_draws_the_same_chances_as_before() {
    let spec = LinkSpec::default().with_loss(0.3).with_duplicates(0.2);
    let fates = |spec| {
        let mut link = Link::new(spec, 9);
        let now = Instant::now();
        (0..200)
            .map(|_| link.admit(PACKET, now).len())
            .collect::<Vec<_>>()
    };
    assert_eq!(fates(spec), fates(spec.with_corruption(0.0)));
    assert_ne!(fates(spec), fates(spec.with_corruption(0.5)));
}

#[test]
fn whatever_meets_packets_one_by_one_wants_them_one_by_one() {
    let spec = LinkSpec::delay(5 * MS).with_jitter(MS);
    assert!(!spec.counts_packets());
    for counting in [
        spec.with_loss(0.1),
        spec.with_bursts(0.1, 3.0),
        spec.with_reordering(0.1, MS),
        spec.with_duplicates(0.1),
        spec.with_corruption(0.1),
        spec.with_rate(1_000_000).with_queue(10_000),
        spec.with_mtu(1280),
    ] {
        assert!(counting.counts_packets(), "{counting:?}");
    }
}
