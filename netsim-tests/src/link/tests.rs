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
            (now, link.admit(PACKET, now).into_iter().collect())
        })
        .collect()
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
    assert_eq!(
        link.admit(PACKET, now).into_iter().collect::<Vec<_>>(),
        [now + 5 * MS]
    );
}
