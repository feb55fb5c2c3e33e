//! Three transfers at once: does each get its share?
//!
//! Of a relay that is the narrowest place, each must: it has a queue for each. Where the processors are the narrowest place,
//! no queue of the relay fills, and the shares are those of a scheduler and of three senders that find their rates by
//! themselves. Three that share nothing but the machine show what is to be expected of that.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::course::Plan;
use super::program::unexpected;
use super::{BenchError, Spread};
use crate::demo::meeting::{Meeting, STEP};
use crate::role::{Role, RoleError, Stop};

/// Pairs of nodes, each with keys of its own: sender's folder and receiver's.
const PAIRS: [[&str; 2]; 3] = [["a1", "b1"], ["a2", "b2"], ["a3", "b3"]];

/// How long each takes at least: they tell once a second how far they are, and do not begin and end together.
const TIME_MIN: Duration = Duration::from_secs(10);

/// How often it is looked for news: what a program says is dated too late by half of this.
const LOOK: Duration = Duration::from_millis(5);

/// What the three go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The relay, which forwards so many Mbit/s and no more.
    LimitedRelay(u64),
    /// The relay, as fast as the machine is.
    Relay,
    /// Nothing: each has a direct path.
    Direct,
}

/// What each of the three got.
#[derive(Clone, Debug, Serialize)]
pub struct Shares {
    /// Gbit/s of each while all three were running.
    pub gbit: Vec<f64>,
    /// Of all together.
    pub total_gbit: f64,
    /// How far the smallest and the largest lie from the mean, as a share of it: 0.2 is 20 %.
    pub apart: f64,
    /// Part of what the relay forwarded that waited in its fair queue; without a relay, 0.
    pub queued: f64,
}

/// Three senders on one host, three receivers on the other, all at once, for the plan's time or 10 s.
///
/// # Errors
/// [`BenchError`].
pub fn shares(plan: &Plan, way: Way, stop: &Stop) -> Result<Shares, BenchError> {
    let mut meeting = plan.road.meeting(plan, stop)?;
    match way {
        Way::LimitedRelay(mbit) => meeting.serve_with(mbit)?,
        Way::Relay | Way::Direct => meeting.serve()?,
    };
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
    let relay = if way == Way::Direct { "never" } else { "only" };
    let start = |(from, to): &(&str, String)| {
        meeting.node_of(0, from, &["speed", to, "--seconds", &seconds, "--relay", relay])
    };
    let begun = Instant::now();
    let running: Vec<Role> = pairs.iter().map(start).collect::<Result<_, _>>()?;
    let curves = listen(&running, begun, time + STEP, stop)?;
    let (from, to) = common(&curves)
        .ok_or_else(|| unexpected("speed", "the three did not run at the same time".to_owned()))?;
    let rate = |curve: &Curve| curve.between(from, to) * 8e-9 / (to - from).as_secs_f64();
    let stats = meeting.dismiss_server(Instant::now() + STEP)?;
    Ok(of(curves.iter().map(rate).collect(), queued(&stats)))
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

/// How far each of the three was and when, on one clock.
fn listen(running: &[Role], begun: Instant, limit: Duration, stop: &Stop) -> Result<Vec<Curve>, BenchError> {
    let mut curves: Vec<Curve> = running.iter().map(|_| Curve::default()).collect();
    let deadline = begun + limit;
    while curves.iter().any(|curve| !curve.is_whole) {
        stop.check()?;
        if Instant::now() > deadline {
            return Err(unexpected("speed", "not done in time".to_owned()));
        }
        for (role, curve) in running.iter().zip(&mut curves) {
            if !curve.is_whole {
                let news = role
                    .news()
                    .ok_or_else(|| unexpected("speed", "it ended early".to_owned()))?;
                news.iter()
                    .try_for_each(|event| curve.take(event, begun.elapsed()))?;
            }
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(curves)
}

/// Bytes that had arrived, by time.
#[derive(Debug, Default)]
struct Curve {
    points: Vec<(Duration, u64)>,
    /// Its program has summed up.
    is_whole: bool,
}

impl Curve {
    fn take(&mut self, event: &Value, now: Duration) -> Result<(), RoleError> {
        match event["event"].as_str() {
            Some("speed") => self
                .points
                .push((now, event["bytes"].as_u64().unwrap_or_default())),
            Some("summary") => self.is_whole = true,
            Some("error") => {
                return Err(RoleError::Ended {
                    role: "speed".to_owned(),
                    message: event["message"].as_str().unwrap_or("no message").to_owned(),
                    log: String::new(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Bytes that had arrived at this time; between two points, as if they had come evenly.
    fn at(&self, time: Duration) -> f64 {
        let after = self.points.partition_point(|(at, _)| *at < time);
        let Some((end, bytes)) = self.points.get(after).copied() else {
            return self.points.last().map_or(0.0, |(_, bytes)| *bytes as f64);
        };
        let Some((start, before)) = after
            .checked_sub(1)
            .and_then(|index| self.points.get(index).copied())
        else {
            return bytes as f64;
        };
        let part = (time - start).as_secs_f64() / (end - start).as_secs_f64();
        before as f64 + part * (bytes as f64 - before as f64)
    }

    fn between(&self, from: Duration, to: Duration) -> f64 {
        self.at(to) - self.at(from)
    }
}

/// The span in which all of them told how far they were.
fn common(curves: &[Curve]) -> Option<(Duration, Duration)> {
    let from = curves
        .iter()
        .map(|curve| curve.points.first())
        .collect::<Option<Vec<_>>>()?;
    let to = curves.iter().filter_map(|curve| curve.points.last());
    let (from, to) = (
        from.iter().map(|(at, _)| *at).max()?,
        to.map(|(at, _)| *at).min()?,
    );
    (from < to).then_some((from, to))
}

/// The part of all forwarded bytes that waited.
fn queued(stats: &Value) -> f64 {
    let relay = &stats["relay"];
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    number(&relay["queue"]["delayed_bytes"]) / number(&relay["bytes"]).max(1.0)
}

fn of(gbit: Vec<f64>, queued: f64) -> Shares {
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
        queued,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn curve(points: &[(u64, u64)]) -> Curve {
        let mut curve = Curve::default();
        for (at, bytes) in points {
            let event = json!({ "event": "speed", "bytes": bytes });
            curve.take(&event, Duration::from_secs(*at)).unwrap();
        }
        curve
    }

    #[test]
    fn shares_are_apart_as_far_as_the_farthest() {
        let shares = of(vec![1.0, 1.0, 0.7], 0.0);
        assert!((shares.total_gbit - 2.7).abs() < 1e-12);
        assert!((shares.apart - 0.2 / 0.9).abs() < 1e-12, "{shares:?}");
        assert!(of(vec![0.5; 3], 0.0).apart < 1e-12);
        assert!((of(vec![0.0; 3], 0.0).apart - 1.0).abs() < 1e-12, "nothing moved");
    }

    #[test]
    fn only_the_time_counts_in_which_all_are_running() {
        // The first had the road for itself before the other came, and the other after the first was done.
        let curves = [
            curve(&[(1, 900), (3, 1100), (5, 1300)]),
            curve(&[(2, 0), (4, 200), (6, 1400)]),
        ];
        let (from, to) = common(&curves).unwrap();
        assert_eq!((from.as_secs(), to.as_secs()), (2, 5));
        let got = curves.map(|curve| curve.between(from, to));
        assert!(
            (got[0] - 300.0).abs() < 1e-9 && (got[1] - 800.0).abs() < 1e-9,
            "{got:?}"
        );
        assert_eq!(
            common(&[curve(&[(1, 0), (2, 9)]), curve(&[(3, 0), (4, 9)])]),
            None
        );
        assert_eq!(common(&[curve(&[(1, 0), (2, 9)]), curve(&[])]), None);
    }

    #[test]
    fn a_program_that_reports_an_error_has_no_curve() {
        let error = json!({ "event": "error", "message": "no path" });
        let taken = curve(&[]).take(&error, Duration::ZERO).unwrap_err();
        assert!(taken.to_string().contains("no path"), "{taken}");
    }

    #[test]
    fn what_waited_is_told_as_a_part_of_what_was_forwarded() {
        let stats = json!({ "relay": { "bytes": 400, "queue": { "delayed_bytes": 100 } } });
        assert!((queued(&stats) - 0.25).abs() < 1e-12);
        assert!(queued(&json!({})).abs() < 1e-12);
    }
}
