//! Attempts in the world in memory.

use std::time::Duration;

use knothole_proto::path::Path;
use knothole_proto::punch::Plan;
use knothole_proto::seed::Seed;

use super::{Sample, Turn};
use crate::sim::{Attempt, Outcome, World};

/// How long a direct path is waited for: two rounds with their verdicts and the pause between them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes an attempt.
pub(super) fn sample(of_report: u64, row: &str, turn: Turn, cold: bool) -> Sample {
    let attempt = Attempt {
        cold,
        ..attempt(of_report, row, turn)
    };
    match attempt.watch(&mut World::at(attempt.epoch, attempt.seed), PATIENCE) {
        Ok(outcome) => Sample {
            command: attempt.command(),
            ..seen(&outcome, cold)
        },
        Err(failure) => Sample {
            broken: true,
            reason: Some(failure.violation.to_string()),
            command: failure.command,
            ..Sample::default()
        },
    }
}

/// The attempt of a turn: its own seed, whatever else is tried.
fn attempt(of_report: u64, row: &str, turn: Turn) -> Attempt {
    let label = format!("promise {row}");
    let seed = Seed::from_number(of_report).child(&label, turn.number.into());
    let [a, b] = turn.setup.kinds;
    let mut attempt = Attempt::new(a, b, turn.setup.weather, seed.rng().u64());
    attempt.place = turn.setup.place;
    attempt.skew = turn.setup.late.map(|(side, most)| {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        let by = seed.child("skew", 0).rng().below(most.saturating_add(1));
        (side, Duration::from_millis(by))
    });
    attempt
}

/// While a survey goes on its questions and its flows are no part of an attempt; the nodes know what is.
fn seen(outcome: &Outcome, cold: bool) -> Sample {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let costs = outcome.costs;
    Sample {
        direct: outcome.direct,
        to_direct_ms: outcome.to_direct.map(ms),
        data_ms: outcome.to_data[1].map(ms),
        plans: outcome.plans.iter().map(|plan| plan.word().to_owned()).collect(),
        guessed: outcome
            .plans
            .iter()
            .any(|plan| plan.guesses() || *plan == Plan::Steps),
        probes: Some(costs.map(|cost| cost.probes)),
        packets: (!cold).then_some(costs.map(|cost| cost.probes + cost.questions)),
        sockets: match cold {
            true => sockets_said(outcome),
            false => Some(costs.map(|cost| cost.sockets)),
        },
        entries: match cold {
            true => outcome
                .said
                .map(|said| said.map(|effort| effort.nat_entries.into())),
            false => costs.map(|cost| Some(cost.nat_entries)),
        },
        held: None,
        reason: outcome.paths[0].and_then(|path| match path {
            Path::Direct { .. } => None,
            Path::Relay(why) | Path::None(why) => Some(why.sentence().to_owned()),
        }),
        broken: !outcome.met,
        command: String::new(),
    }
}

fn sockets_said(outcome: &Outcome) -> Option<[u32; 2]> {
    match outcome.said {
        [Some(a), Some(b)] => Some([a.sockets, b.sockets]),
        _ => None,
    }
}
