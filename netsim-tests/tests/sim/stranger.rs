//! A stranger who sees every packet, sends copies, and changes no path.

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
fn copies_of_packets_and_bent_answers_change_no_path_and_cost_no_round() {
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
            // Ports of a NAT that draws them depend on all that was sent before.
            let [alone_at, watched_at] =
                [&alone, &watched].map(|outcome| remotes(outcome.paths).map(|at| at.map(|at| at.ip())));
            assert_eq!(alone_at, watched_at, "{a} and {b}, seed {seed}");
            // It can bend answers to questions about the network, so another plan may be chosen; the path is found all the same,
            // and in the first round.
            let [one, other] = [&alone, &watched].map(|outcome| outcome.to_direct.unwrap());
            assert!(
                other < one + 1_000 * MS,
                "{a} and {b}, seed {seed}: {one:?} {other:?}"
            );
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
