//! A congestion controller that starts afresh when the path under it changed.
//!
//! QUIC sees one constant address per peer and would carry what it learnt on the relay over to the direct path, and
//! back; RFC 9002 section 9.4 demands a new start on a new path. The link's epoch, counted by the path table, tells.
//!
//! Packets that were sent on the path before are still in flight for QUIC at that moment. They take no room on the new
//! path, so their bytes are added to the window until they are acknowledged or lost; else a full window of a dead path
//! would stall the new one until every packet of it is given up.
//!
//! A new path is often the shorter one, and what is sent on it first then overtakes the end of the handshake, which is still on the
//! relay: the other side cannot read it yet and drops it (RFC 9001 section 5.7). So what is sent before anything has arrived, an
//! initial window at the most, tells nothing if it is lost; taken for congestion it would end slow start before it began.
//!
//! While the window is full and data waits, quinn sends no acknowledgements either, although RFC 9002 section 7 would let them
//! pass. Two sides that begin a new path with a full first window each would wait for each other, and QUIC's timer, which has
//! measured the outage as a round trip, comes seconds later. So a full window that nothing empties lets a packet out now
//! and then, and the acknowledgements with it.
//!
//! What a path bears is decided by [`super::model`].

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::model::Model;

/// A full window whose last packet left two round trips and so long ago lets one out; the next after twice the time. Twice
/// the time by which an acknowledgement may be delayed; less would be more than the window where nothing is wrong.
const STUCK_AFTER: Duration = Duration::from_millis(50);

/// As many packets, one after the other, leave a full window at most: a path that carries nothing is left to QUIC's timer.
const LET_OUT_MAX: u32 = 6;

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
            has_moved: false,
            arrived: None,
            mtu: current_mtu,
            outstanding: 0,
            stranded: 0,
            last_sent: now,
            let_out: 0,
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
    /// Did it begin with a move, rather than with the connection?
    has_moved: bool,
    /// When it was first heard that something had arrived that was sent since.
    arrived: Option<Instant>,
    mtu: u16,
    /// Bytes in flight: what QUIC said at its last acknowledgement, and what was sent since.
    outstanding: u64,
    /// Of those, bytes that were sent before `since`.
    stranded: u64,
    /// When a packet left last.
    last_sent: Instant,
    /// Packets that left although the window was full, since the last acknowledgement.
    let_out: u32,
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
            self.has_moved = true;
            self.arrived = None;
            self.let_out = 0;
            self.stranded = self.outstanding;
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool) {
        self.follow(now);
        if sent < self.since {
            self.stranded = self.stranded.saturating_sub(bytes);
            return;
        }
        self.arrived.get_or_insert(now);
        let in_flight = self.outstanding.saturating_sub(self.stranded);
        self.model.on_ack(now, sent, bytes, in_flight, app_limited);
    }

    /// What may be in flight.
    fn allowed(&self) -> u64 {
        self.stranded.saturating_add(self.model.window())
    }

    /// What must be free for one packet more: quinn begins none that would fill the window.
    fn room(&self) -> u64 {
        2 * u64::from(self.mtu) + 1
    }

    fn is_full(&self) -> bool {
        self.outstanding.saturating_add(self.room()) > self.allowed()
    }

    /// Has a full window not moved for so long that it needs help?
    fn is_stuck(&self, now: Instant) -> bool {
        if self.let_out >= LET_OUT_MAX || !self.is_full() {
            return false;
        }
        let patience = (STUCK_AFTER + self.model.least() * 2) * 2_u32.pow(self.let_out);
        now.saturating_duration_since(self.last_sent) >= patience
    }

    /// Was it sent before anything had arrived on a new path?
    fn is_vanguard(&self, sent: Instant) -> bool {
        self.has_moved && self.arrived.is_none_or(|arrived| sent < arrived)
    }
}

impl Controller for EpochController {
    /// quinn calls this once for each batch of packets, with the bytes of all of them.
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.follow(now);
        self.let_out += u32::from(self.is_stuck(now));
        self.last_sent = now;
        self.outstanding = self.outstanding.saturating_add(bytes);
        self.model.on_sent(self.outstanding.saturating_sub(self.stranded));
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.acked(now, sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _: bool, _: Option<u64>) {
        self.follow(now);
        self.outstanding = in_flight;
        self.let_out = 0;
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
        // Persistent congestion neither: before anything has arrived, what persists is the end of the old path.
        let says_nothing = lost_bytes > 0 && self.is_vanguard(sent);
        if sent < self.since || says_nothing {
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
        // The clock is read only where it matters.
        if self.is_full() && self.is_stuck(Instant::now()) {
            return self.outstanding.saturating_add(self.room());
        }
        self.allowed()
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
    fn a_full_window_that_nothing_empties_lets_a_packet_out_now_and_then() {
        let (_, controller, now) = controller();
        let mut controller = whole(controller);
        let later = |ms| now + Duration::from_millis(ms);
        let full = controller.window();
        controller.on_sent(now, full, 1);
        assert!(!controller.is_stuck(later(49)));
        let out: Vec<u64> = (0..100_000)
            .filter(|ms| {
                let stuck = controller.is_stuck(later(*ms));
                if stuck {
                    controller.on_sent(later(*ms), 1_200, 2);
                }
                stuck
            })
            .collect();
        assert_eq!(
            out,
            [50, 150, 350, 750, 1_550, 3_150],
            "each after twice the time"
        );
        // What was acknowledged makes room as ever, and the patience begins anew.
        controller.acked(later(100_010), later(100_000), full, false);
        controller.on_end_acks(later(100_010), 0, false, Some(2));
        assert_eq!((controller.let_out, controller.is_full()), (0, false));
    }

    #[test]
    fn a_window_with_room_is_as_wide_as_it_was_however_long_nothing_is_sent() {
        let (_, mut controller, now) = controller();
        let before = controller.window();
        controller.on_sent(now - Duration::from_secs(9), 1_200, 1);
        assert_eq!(controller.window(), before);
        controller.on_sent(now - Duration::from_secs(8), before - 1_200, 9);
        assert!(controller.window() > before, "but a full one lets a packet out");
    }

    #[test]
    fn batches_that_leave_at_the_same_time_are_counted_in_full() {
        let (epoch, mut controller, now) = controller();
        let initial = controller.initial_window();
        for batch in [2_400, 3_600, 1_200] {
            controller.on_sent(now, batch, 1);
        }
        epoch.fetch_add(1, Ordering::Release);
        assert_eq!(controller.window(), initial + 7_200);
    }

    fn whole(controller: Box<dyn Controller>) -> Box<EpochController> {
        controller.into_any().downcast().unwrap()
    }

    #[test]
    fn losses_and_marks_on_the_present_path_count_as_ever() {
        for moves in [0, 1] {
            for lost in [100_000, 0] {
                let (epoch, controller, now) = controller();
                let mut controller = whole(controller);
                epoch.fetch_add(moves, Ordering::Release);
                let later = |ms| now + Duration::from_millis(ms);
                for (sent, acked) in [(5, 10), (15, 20)] {
                    controller.on_sent(later(sent), 1_000, 1);
                    controller.acked(later(acked), later(sent), 1_000, true);
                }
                controller.on_sent(later(25), 1_000, 3);
                if lost == 0 {
                    // What was marked has arrived.
                    controller.acked(later(30), later(25), 1_000, true);
                }
                controller.on_end_acks(later(25), 0, false, Some(3));
                let before = controller.window();
                controller.on_congestion_event(later(30), later(25), false, lost);
                assert!(
                    controller.window() < before,
                    "{lost} bytes lost after {moves} moves"
                );
            }
        }
    }

    #[test]
    fn the_end_of_the_old_path_is_no_persistent_congestion_of_the_new_one() {
        let (epoch, controller, now) = controller();
        let mut controller = whole(controller);
        let later = |ms| now + Duration::from_millis(ms);
        controller.on_sent(later(0), 4_800, 4);
        epoch.fetch_add(1, Ordering::Release);
        controller.on_sent(later(2_000), 4_800, 8);
        controller.on_sent(later(2_010), 1_200, 9);
        // The first to arrive on the new path shows that all before it is lost, for a time that was long on the old one.
        controller.acked(later(2_060), later(2_010), 1_200, false);
        controller.on_end_acks(later(2_060), 9_600, false, Some(9));
        controller.on_congestion_event(later(2_060), later(2_000), true, 9_600);
        controller.on_end_acks(later(2_060), 0, false, Some(9));
        assert!(controller.window() >= controller.initial_window());
        // What persists from now on is of this path.
        controller.on_congestion_event(later(9_000), later(8_000), true, 9_600);
        assert_eq!(controller.window(), 2 * u64::from(MTU));
    }

    #[test]
    fn what_overtakes_the_handshake_on_a_new_path_and_is_dropped_does_not_end_slow_start() {
        let (epoch, controller, now) = controller();
        let mut controller = whole(controller);
        let later = |ms| now + Duration::from_millis(ms);
        controller.on_sent(later(0), 2_000, 2);
        epoch.fetch_add(1, Ordering::Release);
        for n in 1..=8 {
            controller.on_sent(later(26), n * 1_200, 2 + n);
        }
        // The end of the handshake is heard of, then what was sent after it, and that shows the gap.
        controller.acked(later(151), later(0), 2_000, false);
        let slow_start = controller.window();
        for packet in [11, 12] {
            controller.on_sent(later(152), 1_200, packet);
        }
        for _ in 0..2 {
            controller.acked(later(252), later(152), 1_200, false);
        }
        for _ in 0..8 {
            controller.on_congestion_event(later(252), later(26), false, 1_200);
        }
        controller.on_end_acks(later(252), 0, false, Some(12));
        assert!(controller.window() >= slow_start, "{}", controller.window());
        // What is lost from now on counts.
        controller.on_congestion_event(later(360), later(260), false, 9_600);
        assert!(controller.window() < slow_start, "{}", controller.window());
    }
}
