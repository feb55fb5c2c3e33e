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

    /// Tell how things stand, unless they stand as they did. Did it?
    pub(super) fn tell(&mut self, stats: &Stats) -> bool {
        let (summary, outcomes) = (Summary::from(stats), &stats.registry.outcomes);
        if summary == self.summary && *outcomes == self.outcomes {
            return false;
        }
        summary.log();
        if self.json {
            say(&summary.event(stats));
        }
        (self.summary, self.outcomes) = (summary, outcomes.clone());
        true
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

#[cfg(test)]
mod tests {
    use knothole_proto::wire::Refusal;

    use super::*;

    /// Every number is another one.
    fn stats() -> Stats {
        let mut stats = Stats::default();
        stats.registry.connected = 1;
        stats.registry.names = 2;
        stats.registry.sessions = 3;
        stats.registry.refused = [(Refusal::Busy, 4), (Refusal::NameTaken, 5)].into();
        let relay = &mut stats.relay;
        relay.channels = 6;
        relay.forwarded_bytes = 7_000_000;
        (relay.forwarded_frames, relay.forwarded_batches) = (8, 9);
        (relay.unknown_channel, relay.wrong_source) = (10, 11);
        let queue = &mut relay.queue;
        (queue.lanes, queue.held_bytes, queue.held_bytes_max) = (12, 13, 14);
        (queue.delayed_bytes, queue.marked_batches, queue.dropped_batches) = (15, 16, 17);
        (queue.overflow_bytes, queue.stale_bytes, queue.signal_bytes) = (18_000_000, 19_000_000, 20_000_000);
        let datagrams = &mut stats.datagrams;
        (datagrams.unknown, datagrams.relay_malformed) = (21, 22);
        (
            datagrams.control_full,
            datagrams.stun_full,
            datagrams.receive_errors,
        ) = (23, 24, 25);
        let mut worker = WorkerStats::default();
        (worker.received_batches, worker.forwarded_bytes) = (26, 27);
        (worker.forwarded_frames, worker.forwarded_batches) = (28, 29);
        stats.workers = vec![worker];
        stats
    }

    #[test]
    fn every_counter_has_its_field_in_the_event() {
        let stats = stats();
        let event = Summary::from(&stats).event(&stats);
        let expected = json!({
            "schema": 1, "event": "stats", "nodes": 1, "names": 2, "sessions": 3, "attempts": 0, "direct": 0,
            "relayed_mb": 7, "refused_by_cap_mb": 57, "registrations_refused": 9, "dropped": 90,
            "relay": {
                "channels": 6, "bytes": 7_000_000, "frames": 8, "batches": 9,
                "queue": {
                    "lanes": 12, "bytes": 13, "bytes_max": 14, "delayed_bytes": 15, "marked_batches": 16,
                },
                "dropped": {
                    "overflow_bytes": 18_000_000, "stale_bytes": 19_000_000, "signal_bytes": 20_000_000, "batches": 17,
                    "unknown_channel_batches": 10, "wrong_source_batches": 11,
                },
            },
            "datagrams_dropped": {
                "unknown": 21, "relay_malformed": 22, "control_full": 23, "stun_full": 24, "receive_errors": 25,
            },
            "workers": [{ "received_batches": 26, "bytes": 27, "frames": 28, "batches": 29 }],
            "bucket_ends_ms": BUCKETS_MS, "outcomes": [],
        });
        assert_eq!(event, expected);
    }

    #[test]
    fn what_stands_as_it_did_is_not_told_again() {
        let mut reporter = Reporter::new(false);
        assert!(!reporter.tell(&Stats::default()), "nothing has happened yet");
        let mut now = stats();
        assert!(reporter.tell(&now));
        assert!(!reporter.tell(&now));
        now.relay.forwarded_bytes += MEGABYTE;
        assert!(reporter.tell(&now));
    }
}
