//! The relay of the world's server: the project's table, limits and queue, and a driver around them with one thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use knothole_proto::id::ChannelId;
use knothole_proto::rendezvous::{
    ConnId, FairQueue, Gate, Lane, LaneId, Offered, RelayConfig, RelayStats, RelayTable, Route, Unit,
};
use knothole_proto::wire::relay;

/// A frame and where it goes.
type Frame = (SocketAddr, Vec<u8>);

/// The relay.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) table: RelayTable,
    lanes: BTreeMap<LaneId, Arc<Lane>>,
    gate: Arc<Gate>,
    queue: FairQueue<Frame>,
    stats: RelayStats,
}

impl Relay {
    /// Without channels, and with full buckets.
    pub(super) fn new(config: RelayConfig, now: Instant) -> Self {
        let gate = Arc::new(Gate::new(config, now));
        Self {
            table: RelayTable::new(),
            lanes: BTreeMap::new(),
            queue: FairQueue::new(gate.clone()),
            gate,
            stats: RelayStats::default(),
        }
    }

    /// Close a channel.
    pub(super) fn close(&mut self, channel: ChannelId) {
        self.table.close(channel);
        for from_second in [false, true] {
            let id = LaneId { channel, from_second };
            self.lanes.remove(&id);
            self.queue.forget(id, &mut drop);
        }
    }

    /// A frame arrived. What is to leave at once, or the control connections that may have moved.
    ///
    /// # Errors
    /// The two control connections whose addresses are to be compared.
    pub(super) fn forward(
        &mut self,
        from: SocketAddr,
        frame: &[u8],
        now: Instant,
    ) -> Result<Option<Frame>, [ConnId; 2]> {
        let Some((channel, _)) = relay::split(frame) else {
            return Ok(None);
        };
        let (to, id) = match self.table.route(channel, from) {
            Route::To { to, lane } => (to, lane),
            Route::UnknownChannel => {
                self.stats.unknown_channel += 1;
                return Ok(None);
            }
            Route::WrongSource(ends) => {
                self.stats.wrong_source += 1;
                return Err(ends);
            }
        };
        let lane = self.lanes.entry(id).or_default();
        let bytes = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let unit = Unit {
            bytes,
            footprint: bytes,
            can_be_marked: false,
        };
        let waits = || (to, frame.to_vec());
        let passes = self.gate.pass(lane, u64::from(bytes), now)
            || self.queue.offer(id, lane, unit, waits, now) == Offered::Pass;
        Ok(passes.then(|| self.sent((to, frame.to_vec()))))
    }

    /// The next frame that has waited long enough.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Frame> {
        let release = self.queue.poll(&mut drop, now)?;
        Some(self.sent(release.payload))
    }

    /// When to poll.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.queue.poll_timeout()
    }

    /// Counters and gauges.
    pub(super) fn stats(&self) -> RelayStats {
        RelayStats {
            channels: self.table.len(),
            queue: self.queue.stats(),
            ..self.stats
        }
    }

    fn sent(&mut self, frame: Frame) -> Frame {
        self.stats.forwarded_bytes += frame.1.len() as u64;
        self.stats.forwarded_frames += 1;
        self.stats.forwarded_batches += 1;
        frame
    }
}
