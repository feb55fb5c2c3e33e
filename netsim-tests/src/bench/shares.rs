//! Three transfers at once through one relay: does each get its share?

use std::time::{Duration, Instant};

use serde::Serialize;

use super::course::Plan;
use super::program::unexpected;
use super::{BenchError, Spread};
use crate::demo::meeting::{Meeting, STEP};
use crate::role::{Role, Stop};

/// Pairs of nodes, each with keys of its own: sender's folder and receiver's.
const PAIRS: [[&str; 2]; 3] = [["a1", "b1"], ["a2", "b2"], ["a3", "b3"]];

/// How long each takes at least: shares of a second say more about the start than about the relay.
const TIME_MIN: Duration = Duration::from_secs(5);

/// What each of the three got.
#[derive(Clone, Debug, Serialize)]
pub struct Shares {
    /// Gbit/s of each.
    pub gbit: Vec<f64>,
    /// Of all together.
    pub total_gbit: f64,
    /// How far the smallest and the largest lie from the mean, as a share of it: 0.2 is 20 %.
    pub apart: f64,
}

/// Three senders on one host, three receivers on the other, all at once and all over the relay, for the plan's time or 5 s.
///
/// # Errors
/// [`BenchError`].
pub fn shares(plan: &Plan, stop: &Stop) -> Result<Shares, BenchError> {
    let mut meeting = plan.road.meeting(plan, stop)?;
    meeting.serve()?;
    let (mut up, mut pairs) = (Vec::new(), Vec::new());
    for pair in PAIRS {
        pairs.push((pair[0], introduce(&meeting, pair, stop)?));
        let inbox = meeting.path(&format!("inbox-{}", pair[1]));
        let role = meeting.node_of(1, pair[1], &["up", "--inbox", &inbox.to_string_lossy()])?;
        role.wait_for("registered", Instant::now() + STEP, stop)?;
        up.push(role);
    }
    let time = plan.time.max(TIME_MIN);
    let seconds = time.as_secs().to_string();
    let start = |(from, to): &(&str, String)| {
        meeting.node_of(0, from, &["speed", to, "--seconds", &seconds, "--relay", "only"])
    };
    let running: Vec<Role> = pairs.iter().map(start).collect::<Result<_, _>>()?;
    let mut gbit = Vec::new();
    for role in &running {
        let summary = role.wait_for("summary", Instant::now() + time + STEP, stop)?;
        let bits = summary["bits_per_second"].as_f64();
        gbit.push(bits.ok_or_else(|| unexpected("speed", format!("no rate in {summary}")))? / 1e9);
    }
    Ok(of(gbit))
}

/// Pairs two; returns what the first calls the other now.
fn introduce(meeting: &Meeting, [one, other]: [&str; 2], stop: &Stop) -> Result<String, BenchError> {
    let deadline = Instant::now() + STEP;
    let shows = meeting.node_of(0, one, &["pair"])?;
    let event = shows.wait_for("code", deadline, stop)?;
    let types = meeting.node_of(1, other, &["pair", event["code"].as_str().unwrap_or_default()])?;
    types.wait_for("paired", deadline, stop)?;
    let paired = shows.wait_for("paired", deadline, stop)?;
    types.finish(deadline, stop)?;
    shows.finish(deadline, stop)?;
    Ok(paired["name"].as_str().unwrap_or(other).to_owned())
}

fn of(gbit: Vec<f64>) -> Shares {
    let total_gbit: f64 = gbit.iter().sum();
    let mean = total_gbit / gbit.len().max(1) as f64;
    let spread = Spread::of(gbit.iter().copied());
    let apart = spread.filter(|_| mean > 0.0).map_or(1.0, |spread| {
        ((spread.max - mean) / mean).max((mean - spread.min) / mean)
    });
    Shares {
        gbit,
        total_gbit,
        apart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_apart_as_far_as_the_farthest() {
        let shares = of(vec![1.0, 1.0, 0.7]);
        assert!((shares.total_gbit - 2.7).abs() < 1e-12);
        assert!((shares.apart - 0.2 / 0.9).abs() < 1e-12, "{shares:?}");
        assert!(of(vec![0.5; 3]).apart < 1e-12);
        assert!((of(vec![0.0; 3]).apart - 1.0).abs() < 1e-12, "nothing moved");
    }
}
