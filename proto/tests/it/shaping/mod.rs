//! Limits and fair shares of the relay, in virtual time: what passes, whose turn it is, and what senders make of it.

mod properties;
mod senders;
mod shares;

use std::sync::Arc;
use std::time::{Duration, Instant};

use knothole_proto::id::{ChannelId, PeerId};
use knothole_proto::rendezvous::{
    FairQueue, Gate, Lane, LaneId, Offered, RelayConfig, Release, SendingKey, Unit,
};

use super::support::epoch;

const MBIT: u64 = 1_000_000;

/// One lane of a test: who, and what the driver keeps of it.
#[derive(Clone)]
struct Flow {
    id: LaneId,
    lane: Arc<Lane>,
}

impl Flow {
    fn new(channel: u64, from_second: bool) -> Self {
        Self::of_key(channel, from_second, None)
    }

    fn of_key(channel: u64, from_second: bool, key: Option<Arc<SendingKey>>) -> Self {
        Self {
            id: LaneId {
                channel: ChannelId(channel),
                from_second,
            },
            lane: Arc::new(Lane::new(key)),
        }
    }
}

/// A driver with a clock that the test moves. A payload is a number.
struct Relay {
    gate: Arc<Gate>,
    queue: FairQueue<u64>,
    now: Instant,
    /// Payloads that were dropped inside.
    lost: Vec<u64>,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Passed,
    Waits,
    Dropped,
}

impl Relay {
    fn new(config: RelayConfig) -> Self {
        let gate = Arc::new(Gate::new(config, epoch()));
        Self {
            queue: FairQueue::new(gate.clone()),
            gate,
            now: epoch(),
            lost: Vec::new(),
        }
    }

    fn send(&mut self, flow: &Flow, bytes: u32, payload: u64) -> Fate {
        self.send_marked(flow, bytes, payload, false)
    }

    fn send_marked(&mut self, flow: &Flow, bytes: u32, payload: u64, can_be_marked: bool) -> Fate {
        if self.gate.pass(&flow.lane, u64::from(bytes), self.now) {
            return Fate::Passed;
        }
        let unit = Unit {
            bytes,
            footprint: bytes,
            can_be_marked,
        };
        match self.queue.offer(flow.id, &flow.lane, unit, || payload, self.now) {
            Offered::Pass => Fate::Passed,
            Offered::Waits => Fate::Waits,
            Offered::Dropped(_) => Fate::Dropped,
        }
    }

    fn poll(&mut self) -> Option<Release<u64>> {
        let lost = &mut self.lost;
        self.queue.poll(&mut |payload| lost.push(payload), self.now)
    }

    /// Until `at`, taking out whatever leaves, each at its moment.
    fn run_until(&mut self, at: Instant, left: &mut dyn FnMut(Release<u64>, Instant)) {
        loop {
            while let Some(release) = self.poll() {
                left(release, self.now);
            }
            match self.queue.poll_timeout() {
                Some(next) if next <= at => {
                    assert!(next > self.now, "it asks for a moment at which nothing leaves");
                    self.now = next;
                }
                _ => break,
            }
        }
        self.now = at;
    }
}

/// A key with a limit.
fn key(number: u8) -> Arc<SendingKey> {
    Arc::new(SendingKey::new(PeerId::from_bytes([number; 32]), epoch()))
}

/// So much time from the start.
fn after(micros: u64) -> Instant {
    epoch() + Duration::from_micros(micros)
}
