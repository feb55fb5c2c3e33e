//! Many nodes on one server, and misfortune at random. Every rule holds, and afterwards everything works again.

use knothole_netsim::sim::Fleet;

#[test]
fn after_any_run_of_misfortunes_everybody_is_back_and_every_pair_meets() {
    for seed in 0..100 {
        let outcome = Fleet::new(seed).and_then(|mut fleet| fleet.run());
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn a_fleet_fares_the_same_again() {
    let run = |seed| Fleet::new(seed).and_then(|mut fleet| fleet.run()).unwrap();
    assert_eq!(run(5), run(5));
    assert_ne!(run(5).trace, run(6).trace);
}
