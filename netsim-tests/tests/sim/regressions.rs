//! Bugs that a seed once found, each with the seed.

use std::time::Duration;

use knothole_netsim::nat::kind;
use knothole_netsim::sim::{Attempt, Mischief, Weather, World};

fn attempt(a: &str, b: &str, weather: Weather, seed: u64) -> Attempt {
    Attempt::new(kind(a).unwrap(), kind(b).unwrap(), weather, seed)
}

/// The original of the copied probe was lost, so the copy was news; its forged source got nine probes for it.
#[test]
fn a_recorded_probe_from_a_forged_source_is_not_worth_a_schedule_of_probes() {
    let attempt = attempt("full-cone", "open", Weather::STORM, 90).with_stranger(Mischief::Replay);
    attempt.run().unwrap_or_else(|failure| panic!("{failure}"));
}

/// Two introductions came in one datagram; the probe of the first was counted as one of the second.
#[test]
fn two_introductions_at_one_moment_have_a_budget_each() {
    let attempt = attempt("port-block", "symmetric-preserve-first", Weather::STORM, 7026)
        .with_stranger(Mischief::Replay);
    attempt.run().unwrap_or_else(|failure| panic!("{failure}"));
}

/// Of each STUN answer a copy with a bit flipped came first; one that named another port made a router that keeps its ports look as if
/// it did not, and the two stayed on the relay.
#[test]
fn an_answer_that_somebody_bent_does_not_make_an_easy_network_look_hard() {
    let attempt = attempt("small-table", "linux-input-accept", Weather::ORDINARY, 126_816)
        .with_stranger(Mischief::Replay);
    attempt.run().unwrap_or_else(|failure| panic!("{failure}"));
}

/// A caller knew its mapping and not yet its filter. That was taken for one by port: the two were told to guess at ports while the packet
/// that needed no guess was on its way, and one side sent 136 probes.
#[test]
fn nothing_is_guessed_before_it_is_known_whom_the_easy_side_lets_in() {
    for (a, b, seed) in [
        ("open", "address-dependent", 4_071_938_135_249_465_388),
        (
            "symmetric-address",
            "address-restricted",
            8_784_447_490_130_905_143,
        ),
        ("pool-arbitrary", "symmetric", 11_760_844_842_842_947_318),
    ] {
        let attempt = Attempt {
            cold: true,
            ..attempt(a, b, Weather::STEADY, seed)
        };
        let mut world = World::at(attempt.epoch, attempt.seed);
        let outcome = attempt
            .watch(&mut world, Duration::from_secs(10))
            .unwrap_or_else(|failure| panic!("{failure}"));
        let probes = outcome.costs.map(|cost| cost.probes);
        assert!(
            outcome.direct && probes.iter().all(|probes| *probes <= 10),
            "{a} x {b}: {probes:?}"
        );
        assert!(
            !outcome.plans.iter().any(|plan| plan.guesses()),
            "{:?}",
            outcome.plans
        );
    }
}
