//! How things stand, told now and then: a line in the log, and for programs an event with what came of attempts.

use knothole_proto::rendezvous::{BUCKETS_MS, Outcome, Outcomes, Sort};
use knothole_proto::wire::NetworkClass;
use serde_json::{Value, json};
use tracing::info;

use super::say;
use crate::Stats;

/// Bytes in the unit of the summary.
const MEGABYTE: u64 = 1_000_000;

/// Tells what changed.
pub(super) struct Reporter {
    json: bool,
    summary: Summary,
    outcomes: Outcomes,
}

impl Reporter {
    /// That nothing has happened yet need not be told.
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            summary: Summary::default(),
            outcomes: Outcomes::default(),
        }
    }

    /// Tell how things stand, unless they stand as they did.
    pub(super) fn tell(&mut self, stats: &Stats) {
        let (summary, outcomes) = (Summary::from(stats), &stats.registry.outcomes);
        if summary == self.summary && *outcomes == self.outcomes {
            return;
        }
        summary.log();
        if self.json {
            say(&summary.event(outcomes));
        }
        (self.summary, self.outcomes) = (summary, outcomes.clone());
    }
}

/// What an operator wants to know at a glance.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    nodes: usize,
    names: usize,
    sessions: usize,
    attempts: u64,
    direct: u64,
    relayed_mb: u64,
    refused_by_cap_mb: u64,
    registrations_refused: u64,
    dropped: u64,
}

impl From<&Stats> for Summary {
    fn from(stats: &Stats) -> Self {
        let datagrams = &stats.datagrams;
        let (attempts, direct) = stats.registry.outcomes.totals();
        Self {
            nodes: stats.registry.connected,
            names: stats.registry.names,
            sessions: stats.registry.sessions,
            attempts,
            direct,
            relayed_mb: stats.relay.forwarded_bytes / MEGABYTE,
            refused_by_cap_mb: stats.relay.refused_bytes / MEGABYTE,
            registrations_refused: stats.registry.refused.values().sum(),
            dropped: datagrams.unknown
                + datagrams.relay_malformed
                + datagrams.relay_full
                + datagrams.stun_full,
        }
    }
}

impl Summary {
    fn log(&self) {
        info!(
            nodes = self.nodes,
            names = self.names,
            sessions = self.sessions,
            attempts = self.attempts,
            direct = self.direct,
            relayed_mb = self.relayed_mb,
            refused_by_cap_mb = self.refused_by_cap_mb,
            registrations_refused = self.registrations_refused,
            dropped = self.dropped,
            "summary"
        );
    }

    fn event(&self, outcomes: &Outcomes) -> Value {
        let rows: Vec<Value> = outcomes
            .iter()
            .map(|(sort, outcome)| row(sort, outcome))
            .collect();
        json!({
            "schema": 1,
            "event": "stats",
            "nodes": self.nodes,
            "names": self.names,
            "sessions": self.sessions,
            "attempts": self.attempts,
            "direct": self.direct,
            "relayed_mb": self.relayed_mb,
            "refused_by_cap_mb": self.refused_by_cap_mb,
            "registrations_refused": self.registrations_refused,
            "dropped": self.dropped,
            "bucket_ends_ms": BUCKETS_MS,
            "outcomes": rows,
        })
    }
}

fn row(sort: &Sort, outcome: &Outcome) -> Value {
    json!({
        "classes": sort.classes.map(NetworkClass::word),
        "plan": sort.plan,
        "attempts": outcome.attempts,
        "direct": outcome.direct,
        "direct_ms_sum": outcome.direct_ms,
        "direct_ms_median": outcome.median_ms(),
        "buckets": outcome.buckets,
    })
}
