//! Cells of real programs in namespaces: each attempt has a lab of its own, with a server and two machines.

use std::path::Path;
use std::time::Duration;

use super::Plan;
use super::cell::{Cell, End, Sample};
use crate::demo::meeting::{Cast, Meeting, SERVERS};
use crate::demo::{DemoError, PathSeen, Stop};
use crate::fabric::NatEngine;
use crate::link::LinkSpec;
use crate::nat::NatKind;
use crate::oracle::{Expect, expect, reaches};
use crate::role::RoleError;
use crate::sim::Place;

/// One-way delay of every access link: two of them make the 50 ms of [`Weather::STEADY`](crate::sim::Weather::STEADY).
const DELAY: Duration = Duration::from_millis(25);

/// How long a path that must become direct is waited for. It takes under a second; the rest is for machines with more
/// to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long one that need not is waited for: a round of probes with its verdict takes 2.5 s, and the pings end by
/// themselves when they know it.
const SHORT_PATIENCE: Duration = Duration::from_secs(8);

/// How long a program tries to reach a server that it should not reach.
const OUT_FOR: Duration = Duration::from_secs(3);

/// Runs the attempts of a cell; `None` if somebody stopped it before they were done.
///
/// # Errors
/// What makes labs impossible here; whatever goes wrong inside a lab is in the cell.
pub(super) fn cell(
    plan: &Plan,
    (executable, engine): (&Path, NatEngine),
    a: &'static NatKind,
    b: &'static NatKind,
    stop: &Stop,
) -> Result<Option<Cell>, DemoError> {
    let sides = [a, b].map(|kind| kind.side(&SERVERS));
    let oracle = expect(&sides[0], &sides[1]);
    let reaches = sides.map(|side| reaches(&side, &SERVERS));
    let mut samples = Vec::new();
    for run in 0..plan.runs {
        let cast = Cast {
            names: ["a", "b"],
            kinds: [a, b],
            place: Place::Apart,
            late: Duration::ZERO,
            links: [LinkSpec::delay(DELAY); 2],
            server_delay: DELAY,
            seed: plan.seed.wrapping_add(run.into()),
            executable: executable.to_owned(),
            engine,
        };
        match attempt(cast, oracle, reaches, stop) {
            Ok(sample) => samples.push(sample),
            Err(DemoError::Role(RoleError::Stopped)) => return Ok(None),
            Err(error @ (DemoError::Lab(_) | DemoError::Role(RoleError::Files { .. }))) => return Err(error),
            Err(error) => samples.push(failed(error.to_string())),
        }
    }
    let command = format!(
        "knothole-netsim matrix --world netns --nat {} --a {} --b {} --runs {} --seed {}",
        engine.word(),
        a.name,
        b.name,
        plan.runs,
        plan.seed
    );
    Ok(Some(Cell::new([a, b], (oracle, reaches), &samples, command)))
}

fn attempt(cast: Cast, oracle: Expect, reaches: [bool; 2], stop: &Stop) -> Result<Sample, DemoError> {
    let mut meeting = Meeting::new(cast, stop)?;
    meeting.serve()?;
    if reaches.contains(&false) {
        return stay_out(&meeting, reaches);
    }
    meeting.pair()?;
    let _up = meeting.up()?;
    let patience = if oracle <= Expect::Likely {
        PATIENCE
    } else {
        SHORT_PATIENCE
    };
    let pings = meeting.ping(patience, "auto", &mut |_| {})?;
    let end = match (&pings.last, pings.direct_after_ms) {
        (Some(_), Some(_)) => End::Direct,
        (Some(_), None) => End::Relay,
        (None, _) => End::Failed,
    };
    let fault = match end {
        End::Failed => Some(format!(
            "no ping was answered: {}",
            last_line(&meeting.log_of("ping-a"))
        )),
        End::Direct | End::Relay => None,
    };
    Ok(Sample {
        end,
        to_direct_ms: pings.direct_after_ms,
        probes: pings.probes,
        nat_entries: Some(meeting.nat_entries()),
        path: pings.last,
        fault,
    })
}

/// Who cannot reach the server over UDP is to say so.
fn stay_out(meeting: &Meeting, reaches: [bool; 2]) -> Result<Sample, DemoError> {
    let mut said = None;
    for side in (0..2).filter(|side| !reaches[*side]) {
        match meeting.reach(side, OUT_FOR)? {
            Err(message) => said = said.or(Some(message)),
            Ok(()) => {
                // It talks to the server although it should not: as if the relay worked, which the oracle rules out.
                return Ok(Sample {
                    end: End::Relay,
                    path: Some(PathSeen {
                        kind: "relay".to_owned(),
                        detail: "the server was reached through a network that lets no UDP pass".to_owned(),
                    }),
                    ..failed(String::new())
                });
            }
        }
    }
    Ok(Sample {
        nat_entries: Some(meeting.nat_entries()),
        ..failed(said.unwrap_or_default())
    })
}

fn failed(fault: String) -> Sample {
    Sample {
        end: End::Failed,
        to_direct_ms: None,
        probes: None,
        nat_entries: None,
        path: None,
        fault: Some(fault),
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or("it said nothing")
}
