//! Bugs that a seed once found, each with the seed.

use knothole_netsim::nat::kind;
use knothole_netsim::sim::{Attempt, Mischief, Weather};

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
