//! A congestion controller that starts afresh when the path under it changed.
//!
//! QUIC sees one constant address per peer and would carry what it learnt on the relay over to the direct path, and
//! back; RFC 9002 section 9.4 demands a new start on a new path. The link's epoch, counted by the path table, tells.
//!
//! Packets that were sent on the path before are still in flight for QUIC at that moment. They take no room on the new
//! path, so their bytes are added to the window until they are acknowledged or lost; else a full window of a dead path
//! would stall the new one until every packet of it is given up.
//!
//! What a path bears is decided by [`super::model`].

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::model::Model;

/// Makes the controllers of a link's connections.
pub(crate) struct EpochFactory {
    epoch: Arc<AtomicU64>,
}

impl EpochFactory {
    /// Controllers that begin anew whenever `epoch` moves.
    pub(crate) fn new(epoch: Arc<AtomicU64>) -> Self {
        Self { epoch }
    }
}

impl ControllerFactory for EpochFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(EpochController {
            seen: self.epoch.load(Ordering::Acquire),
            model: Model::new(now, current_mtu),
            factory: self,
            since: now,
            mtu: current_mtu,
            outstanding: 0,
            stranded: 0,
            batch: (now, 0),
        })
    }
}

/// The controller of one connection.
#[derive(Clone)]
struct EpochController {
    factory: Arc<EpochFactory>,
    model: Model,
    /// The epoch that `model` belongs to.
    seen: u64,
    /// When it began.
    since: Instant,
    mtu: u16,
    /// Bytes in flight: what QUIC said at its last acknowledgement, and what was sent since.
    outstanding: u64,
    /// Of those, bytes that were sent before `since`.
    stranded: u64,
    /// What QUIC said at the last packet: when, and how long the batch was that it ended.
    batch: (Instant, u64),
}

impl EpochController {
    fn moved(&self) -> bool {
        self.factory.epoch.load(Ordering::Acquire) != self.seen
    }

    fn follow(&mut self, now: Instant) {
        if self.moved() {
            self.seen = self.factory.epoch.load(Ordering::Acquire);
            self.model = Model::new(now, self.mtu);
            self.since = now;
            self.stranded = self.outstanding;
        }
    }
}

impl Controller for EpochController {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.follow(now);
        // For every packet of a batch quinn tells the length of the batch so far.
        let (then, before) = std::mem::replace(&mut self.batch, (now, bytes));
        let packet = if then == now && bytes > before {
            bytes - before
        } else {
            bytes
        };
        self.outstanding = self.outstanding.saturating_add(packet);
        self.model.on_sent(self.outstanding.saturating_sub(self.stranded));
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.follow(now);
        if sent < self.since {
            self.stranded = self.stranded.saturating_sub(bytes);
        } else {
            let in_flight = self.outstanding.saturating_sub(self.stranded);
            self.model.on_ack(now, sent, bytes, in_flight, app_limited);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        self.follow(now);
        self.outstanding = in_flight;
        self.stranded = self.stranded.min(in_flight);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.follow(now);
        self.outstanding = self.outstanding.saturating_sub(lost_bytes);
        // What was lost is the oldest; the old path's packets come first.
        self.stranded = self.stranded.saturating_sub(lost_bytes);
        if sent < self.since {
            return;
        }
        self.model
            .on_loss(now, sent, lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.model.on_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.moved() {
            return self.outstanding.saturating_add(self.model.initial_window());
        }
        self.stranded.saturating_add(self.model.window())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.model.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MTU: u16 = 1200;

    fn controller() -> (Arc<AtomicU64>, Box<dyn Controller>, Instant) {
        let (epoch, now) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let controller = Arc::new(EpochFactory::new(Arc::clone(&epoch))).build(now, MTU);
        (epoch, controller, now)
    }

    #[test]
    fn a_new_path_begins_with_the_initial_window_beside_what_is_stranded() {
        let (epoch, mut controller, now) = controller();
        let initial = controller.initial_window();
        let later = |ms| now + Duration::from_millis(ms);
        controller.on_sent(later(1), 10_000, 9);
        assert_eq!(controller.window(), initial);
        epoch.fetch_add(1, Ordering::Release);
        assert_eq!(
            controller.window(),
            initial + 10_000,
            "before the controller heard of anything"
        );
        controller.on_sent(later(2), 1_000, 10);
        assert_eq!(controller.window(), initial + 10_000);
        controller.on_congestion_event(later(9), later(1), false, 4_000);
        assert_eq!(
            controller.window(),
            initial + 6_000,
            "losses on the old path cost nothing"
        );
        controller.on_end_acks(later(10), 1_000, false, Some(10));
        assert_eq!(controller.window(), initial + 1_000);
    }

    #[test]
    fn a_batch_of_packets_is_counted_once() {
        let (epoch, mut controller, now) = controller();
        let initial = controller.initial_window();
        for batch in [1_200, 2_400, 3_600, 1_200, 2_400] {
            controller.on_sent(now, batch, 1);
        }
        epoch.fetch_add(1, Ordering::Release);
        assert_eq!(controller.window(), initial + 6_000);
    }

    #[test]
    fn losses_and_marks_on_the_present_path_count_as_ever() {
        for lost in [100_000, 0] {
            let (epoch, mut controller, now) = controller();
            epoch.fetch_add(1, Ordering::Release);
            let sent = now + Duration::from_millis(5);
            controller.on_sent(sent, 1_000, 1);
            controller.on_end_acks(sent, 0, false, Some(1));
            let before = controller.window();
            controller.on_congestion_event(sent + Duration::from_millis(5), sent, false, lost);
            assert!(controller.window() < before, "{lost} bytes lost");
        }
    }
}
