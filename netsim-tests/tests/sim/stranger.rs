//! A stranger who sees every packet, sends copies, and changes nothing.

use std::ops::ControlFlow;

use knothole_netsim::nat::kind;
use knothole_netsim::sim::{Attempt, Choice, Mischief, Weather, soak};
use knothole_proto::path::Path;

use crate::stage::MS;

/// Where both paths lead, without what was measured on them.
fn remotes(paths: [Option<Path>; 2]) -> [Option<std::net::SocketAddr>; 2] {
    paths.map(|path| match path {
        Some(Path::Direct { remote, .. }) => Some(remote),
        _ => None,
    })
}

#[test]
fn copies_of_packets_change_neither_the_path_nor_when_it_is_found() {
    for (a, b) in [
        ("port-restricted", "port-restricted"),
        ("full-cone", "full-cone"),
        ("open", "symmetric"),
    ] {
        for seed in 0..100 {
            let quiet = Attempt::new(kind(a).unwrap(), kind(b).unwrap(), Weather::CALM, seed);
            let (alone, watched) = (
                quiet.run().unwrap(),
                quiet.with_stranger(Mischief::Replay).run().unwrap(),
            );
            assert_eq!(
                remotes(alone.paths),
                remotes(watched.paths),
                "{a} and {b}, seed {seed}"
            );
            // The clocks of hosts drift, and the nodes may have been asked a moment later.
            let [one, other] = [&alone, &watched].map(|outcome| outcome.to_direct.unwrap());
            assert!(one.abs_diff(other) < MS, "{a} and {b}, seed {seed}");
            assert_ne!(alone.trace, watched.trace, "the stranger was there");
        }
    }
}

#[test]
fn a_stranger_who_is_faster_than_the_network_leads_no_path_astray() {
    for mischief in [Mischief::Replay, Mischief::Race] {
        let choice = Choice {
            a: kind("full-cone"),
            b: kind("open"),
            weather: None,
            stranger: Some(Some(mischief)),
            ..Choice::plain()
        };
        let tally = soak(0..300, &choice, |attempt, outcome| {
            for remote in remotes(outcome.paths).into_iter().flatten() {
                assert_ne!(remote.ip().to_string(), "203.0.113.66", "seed {}", attempt.seed);
            }
            ControlFlow::Continue(())
        });
        let tally = tally.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(tally.direct, tally.runs, "{mischief:?}");
    }
}
