//! Pairs of NATs by the thousand.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use knothole_netsim::nat::{kind, kinds};
use knothole_netsim::oracle::Expect;
use knothole_netsim::sim::{Attempt, Choice, PLACES, Tally, WEATHERS, Weather, soak};

/// Kinds between any two of which a direct path must come about.
const EASY: [&str; 4] = ["open", "full-cone", "address-restricted", "port-restricted"];

fn run(choice: &Choice, seeds: std::ops::Range<u64>) -> Tally {
    let result = soak(seeds, choice, |_, _| ControlFlow::Continue(()));
    result.unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn ten_thousand_pairs_behind_port_restricted_nats_under_loss_all_become_direct() {
    let choice = Choice {
        a: kind("port-restricted"),
        b: kind("port-restricted"),
        weather: Some(Weather::ORDINARY),
        ..Choice::plain()
    };
    let begun = Instant::now();
    let tally = run(&choice, 0..10_000);
    let rate = tally.runs as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{} attempts, {} direct, median {:?}, 99 % {:?}, {rate:.0} attempts a second on one core",
        tally.runs,
        tally.direct,
        tally.to_direct(0.5),
        tally.to_direct(0.99)
    );
    assert_eq!((tally.runs, tally.direct), (10_000, 10_000));
}

#[test]
fn every_pair_of_easy_kinds_becomes_direct_in_every_weather() {
    for (a, b) in EASY.iter().flat_map(|a| EASY.iter().map(move |b| (*a, *b))) {
        for weather in WEATHERS {
            let choice = Choice {
                a: kind(a),
                b: kind(b),
                weather: Some(weather),
                ..Choice::plain()
            };
            let tally = run(&choice, 0..25);
            assert_eq!(tally.direct, tally.runs, "{a} and {b}, {}", weather.name);
        }
    }
}

#[test]
fn every_pair_of_kinds_ends_as_the_oracle_says() {
    for (a, b) in kinds().iter().flat_map(|a| kinds().iter().map(move |b| (a, b))) {
        let choice = Choice {
            a: Some(a),
            b: Some(b),
            ..Choice::plain()
        };
        let expected = choice.attempt(0).expect();
        let tally = run(&choice, 100..115);
        match expected {
            Expect::Must => assert_eq!(tally.direct, tally.runs, "{} and {}", a.name, b.name),
            Expect::Cannot => assert_eq!(tally.direct, 0, "{} and {}", a.name, b.name),
            // How often is the matrix's matter.
            Expect::Likely | Expect::May => {}
        }
    }
}

#[test]
fn wherever_the_two_are_it_ends_as_the_oracle_says_in_every_weather() {
    for (place, weather) in PLACES
        .iter()
        .flat_map(|place| WEATHERS.map(|weather| (*place, weather)))
    {
        let choice = Choice {
            place: Some(place),
            weather: Some(weather),
            ..Choice::plain()
        };
        let tally = run(&choice, 0..60);
        assert!(tally.direct > 0, "{}, {}", place.word(), weather.name);
    }
}

#[test]
fn after_routers_links_and_places_have_changed_everything_works_again() {
    for place in PLACES {
        let choice = Choice {
            place: Some(place),
            weather: Some(Weather::CALM),
            changes: Some(true),
            ..Choice::plain()
        };
        // A timeline takes a minute and more; what has met only takes seconds.
        let tally = run(&choice, 0..30);
        assert!(
            tally.virtual_time > Duration::from_secs(30 * 40),
            "{}",
            place.word()
        );
    }
}

#[test]
fn at_fifty_milliseconds_each_way_the_median_is_direct_within_a_second() {
    let choice = Choice {
        a: kind("port-restricted"),
        b: kind("port-restricted"),
        weather: Some(Weather::STEADY),
        ..Choice::plain()
    };
    let tally = run(&choice, 0..200);
    let (median, slowest) = (tally.to_direct(0.5).unwrap(), tally.to_direct(1.0).unwrap());
    println!("median {median:?}, slowest {slowest:?}");
    // Three trips A-server-B of 100 ms, two round trips A-B of 100 ms: the goal of the design, by half beaten.
    assert!(median <= Duration::from_millis(500), "{median:?}");
    assert!(slowest <= Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn an_attempt_leaves_few_traces_in_the_routers() {
    let choice = Choice {
        a: kind("port-restricted"),
        b: kind("port-restricted"),
        weather: Some(Weather::CALM),
        ..Choice::plain()
    };
    let tally = run(&choice, 0..100);
    assert!(tally.probes_max <= 30, "{} probes", tally.probes_max);
    assert!(tally.nat_entries_max <= 8, "{} entries", tally.nat_entries_max);
}

#[test]
fn where_clocks_begin_makes_no_difference() {
    let attempt = Attempt::new(
        kind("port-restricted").unwrap(),
        kind("symmetric").unwrap(),
        Weather::ROUGH,
        5,
    );
    let usual = attempt.run().unwrap();
    let early = Attempt {
        epoch: earliest(attempt.epoch),
        ..attempt
    };
    assert_eq!(early.run().unwrap(), usual);
}

/// The earliest moment that this platform can tell.
fn earliest(some: Instant) -> Instant {
    let (mut reached, mut step) = (some, Duration::from_secs(1 << 62));
    while step > Duration::ZERO {
        match reached.checked_sub(step) {
            Some(earlier) => reached = earlier,
            None => step /= 2,
        }
    }
    reached
}
