//! How things stand, told now and then: a line in the log, and for programs an event with what came of attempts.

use knothole_proto::rendezvous::{BUCKETS_MS, Outcome, Outcomes, RelayStats, Sort};
use knothole_proto::wire::NetworkClass;
use serde_json::{Value, json};
use tracing::info;

use super::say;
use crate::{DatagramStats, Stats, WorkerStats};

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
            say(&summary.event(stats));
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
            refused_by_cap_mb: stats.relay.queue.dropped_bytes() / MEGABYTE,
            registrations_refused: stats.registry.refused.values().sum(),
            dropped: datagrams.unknown
                + datagrams.relay_malformed
                + datagrams.control_full
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

    fn event(&self, stats: &Stats) -> Value {
        let rows: Vec<Value> = stats
            .registry
            .outcomes
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
            "relay": relay(&stats.relay),
            "datagrams_dropped": datagrams(&stats.datagrams),
            "workers": stats.workers.iter().map(worker).collect::<Vec<_>>(),
            "bucket_ends_ms": BUCKETS_MS,
            "outcomes": rows,
        })
    }
}

/// What the relay let through, what waits, and why anything was dropped.
fn relay(relay: &RelayStats) -> Value {
    let queue = &relay.queue;
    json!({
        "channels": relay.channels,
        "bytes": relay.forwarded_bytes,
        "frames": relay.forwarded_frames,
        "batches": relay.forwarded_batches,
        "queue": {
            "lanes": queue.lanes,
            "bytes": queue.held_bytes,
            "bytes_max": queue.held_bytes_max,
            "delayed_bytes": queue.delayed_bytes,
            "marked_batches": queue.marked_batches,
        },
        "dropped": {
            "overflow_bytes": queue.overflow_bytes,
            "stale_bytes": queue.stale_bytes,
            "signal_bytes": queue.signal_bytes,
            "batches": queue.dropped_batches,
            "unknown_channel_batches": relay.unknown_channel,
            "wrong_source_batches": relay.wrong_source,
        },
    })
}

fn datagrams(dropped: &DatagramStats) -> Value {
    json!({
        "unknown": dropped.unknown,
        "relay_malformed": dropped.relay_malformed,
        "control_full": dropped.control_full,
        "stun_full": dropped.stun_full,
        "receive_errors": dropped.receive_errors,
    })
}

fn worker(worker: &WorkerStats) -> Value {
    json!({
        "received_batches": worker.received_batches,
        "bytes": worker.forwarded_bytes,
        "frames": worker.forwarded_frames,
        "batches": worker.forwarded_batches,
    })
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
