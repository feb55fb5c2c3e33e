//! Attempts of the real programs in namespaces: each has a lab of its own, with a server and two machines.

use std::path::Path;
use std::time::Duration;

use knothole_proto::seed::Seed;

use super::{Sample, Turn};
use crate::demo::meeting::{Cast, Meeting, Pings};
use crate::demo::{DemoError, Stop};
use crate::fabric::NatEngine;
use crate::link::{LinkSpec, Loss};
use crate::role::RoleError;
use crate::sim::Weather;

/// One-way delay of every access link: two of them make the 50 ms of [`Weather::STEADY`](crate::sim::Weather::STEADY).
const DELAY: Duration = Duration::from_millis(25);

/// The way of the request to the server and of its answer back, in milliseconds: before the program says what its plan is.
const REQUEST_MS: u64 = 100;

/// Words of the plans that try ports which nobody has named.
const GUESSES: [&str; 3] = ["birthday", "block", "steps"];

/// How long a direct path is waited for: two rounds, and what a busy machine adds.
const PATIENCE: Duration = Duration::from_secs(12);

/// How all attempts are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'a> {
    /// The executable that plays the roles.
    pub(super) executable: &'a Path,
    /// Who plays the NATs.
    pub(super) engine: NatEngine,
    /// Does the caller know nothing of its network when it asks?
    pub(super) cold: bool,
}

/// Makes an attempt; `None` if somebody stopped it.
///
/// # Errors
/// What makes labs impossible here; whatever goes wrong inside a lab is in the sample.
pub(super) fn sample(seed: u64, how: How<'_>, turn: Turn, stop: &Stop) -> Result<Option<Sample>, DemoError> {
    let [a, b] = turn.setup.kinds;
    let seed = seed.wrapping_add(turn.number.into());
    let cast = Cast {
        names: ["a", "b"],
        kinds: [a, b],
        place: turn.setup.place,
        late: late(turn, seed),
        links: [link(&turn.setup.weather); 2],
        server_delay: DELAY,
        seed,
        executable: how.executable.to_owned(),
        engine: how.engine,
    };
    let command = format!(
        "knothole-netsim matrix --world netns --nat {} --a {} --b {} --runs 1 --seed {seed}",
        how.engine.word(),
        a.name,
        b.name
    );
    let broken = |reason: String| Sample {
        broken: true,
        reason: Some(reason),
        ..Sample::default()
    };
    let sample = match attempt(cast, how.cold, stop) {
        Ok(sample) => sample,
        Err(DemoError::Role(RoleError::Stopped)) => return Ok(None),
        Err(error @ (DemoError::Lab(_) | DemoError::Role(RoleError::Files { .. }))) => return Err(error),
        Err(error) => broken(error.to_string()),
    };
    Ok(Some(Sample { command, ..sample }))
}

/// How late the callee is, between nothing and the most.
fn late(turn: Turn, seed: u64) -> Duration {
    let most = turn.setup.late.map_or(Duration::ZERO, |(_, most)| most);
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    let mut dice = Seed::from_number(seed).child("late", 0).rng();
    Duration::from_micros(dice.below(micros.saturating_add(1)))
}

/// The access link of a node, the same both ways. Two of them make the way between the nodes, so each has its part of the jitter and
/// of what is lost; on the way to the server, whose own link is calm, there is half as much of both.
fn link(weather: &Weather) -> LinkSpec {
    let loss = match weather.loss {
        Loss::Uniform(lost) => Loss::Uniform(1.0 - (1.0 - lost).sqrt()),
        other => other,
    };
    LinkSpec {
        loss,
        ..LinkSpec::delay(DELAY).with_jitter(weather.jitter / 2)
    }
}

fn attempt(cast: Cast, cold: bool, stop: &Stop) -> Result<Sample, DemoError> {
    let mut meeting = Meeting::new(cast, stop)?;
    meeting.serve()?;
    meeting.pair()?;
    let _up = meeting.up()?;
    if !cold {
        meeting.survey(0)?;
    }
    let pings = meeting.ping(PATIENCE, "auto", &mut |_| {})?;
    Ok(seen(&meeting, pings))
}

fn seen(meeting: &Meeting, pings: Pings) -> Sample {
    let direct = pings.direct_after_ms.is_some();
    let since_plan = pings.path_ms.zip(pings.plan_ms);
    let said = pings.last.clone().map(|path| path.detail);
    Sample {
        direct,
        to_direct_ms: match since_plan {
            Some((path, plan)) => Some(path.saturating_sub(plan) + REQUEST_MS),
            None => pings.direct_after_ms,
        }
        .filter(|_| direct),
        plans: pings.plans.clone(),
        guessed: pings.plans.iter().any(|plan| GUESSES.contains(&plan.as_str())),
        // One side tells what it did; the other does the like.
        probes: pings.probes.map(|probes| [probes, probes]),
        sockets: pings.sockets.map(|sockets| [sockets, sockets]),
        entries: [pings.nat_entries, None],
        held: u64::try_from(meeting.nat_entries()).ok(),
        reason: said.filter(|_| !direct),
        broken: pings.last.is_none(),
        ..Sample::default()
    }
    .or_log(meeting)
}

impl Sample {
    /// If no ping was answered, the last that the program said is the reason.
    fn or_log(mut self, meeting: &Meeting) -> Self {
        if self.broken {
            let log = meeting.log_of("ping-a");
            let last = log.lines().last().unwrap_or("it said nothing");
            self.reason = Some(format!("no ping was answered: {last}"));
        }
        self
    }
}
