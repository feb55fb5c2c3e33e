//! Is there anybody at the address that a control connection goes to now?
//!
//! quinn turns to a new address at the first packet that comes from there, and takes that back when nobody there answers
//! its challenge (RFC 9000 section 8.2), three probe timeouts later. Meanwhile it sends at most three times what it got. The
//! relay knows no such measure: a node that forges a source, or somebody who sends one of its packets on, would turn all
//! that its peers send to whoever has that address. So the relay follows only when the answer is there.
//!
//! quinn does not tell when that is. But every path has a congestion controller of its own, which sees how long each packet
//! is; and as long as a path is not proven each of its packets carries the challenge, and is padded to 1200 bytes for it. So
//! a shorter packet says that the answer has come: at the latest the acknowledgement of the very answer, 25 ms after it.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use knothole_proto::addr::canonical;
use quinn::Connection;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;
use tokio::sync::Notify;

/// Longest packet that says something, in bytes. One without a challenge is longer if it is full; one with a challenge has at
/// least 1200 (RFC 9000 section 8.2.1). Well below both.
const BARE_LEN_MAX: u64 = 1000;

/// How often a path is looked at that is another one before the look is over. Each time it takes a move of the node within
/// microseconds.
const LOOKS_MAX: usize = 3;

/// Whether a path is proven. There is one for each path that a connection ever took.
#[derive(Debug, Default)]
pub(super) struct Proof {
    is_there: AtomicBool,
    told: Notify,
}

impl Proof {
    pub(super) fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    /// Wait for it, perhaps for ever. For one task at a time.
    pub(super) async fn come(&self) {
        while !self.is_there() {
            self.told.notified().await;
        }
    }

    fn give(&self) {
        // Mostly it is there already: a load before the store.
        if !self.is_there() && !self.is_there.swap(true, Ordering::AcqRel) {
            self.told.notify_one();
        }
    }
}

/// Where a connection's datagrams go now, and the proof of that path. `None` if it would not keep still, or does not have
/// our controllers.
pub(super) fn path(connection: &Connection) -> Option<(SocketAddr, Arc<Proof>)> {
    let look = |_| {
        let before = proof(connection)?;
        let at = canonical(connection.remote_address());
        let after = proof(connection)?;
        Arc::ptr_eq(&before, &after).then_some((at, after))
    };
    (0..LOOKS_MAX).find_map(look)
}

fn proof(connection: &Connection) -> Option<Arc<Proof>> {
    let controller = connection.congestion_state().into_any();
    controller.downcast::<Witness>().ok()?.of_original
}

/// Makes controllers that prove paths, and are otherwise those that quinn has by default.
#[derive(Debug, Default)]
pub(crate) struct Witnesses;

impl ControllerFactory for Witnesses {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Witness {
            inner: Arc::new(CubicConfig::default()).build(now, current_mtu),
            proof: Arc::default(),
            of_original: None,
        })
    }
}

/// The controller of one path.
struct Witness {
    inner: Box<dyn Controller>,
    proof: Arc<Proof>,
    /// A copy is made for whoever asks how things stand, and for a new path that is much like the old one. The former finds
    /// the proof here; the latter begins without one.
    of_original: Option<Arc<Proof>>,
}

impl Controller for Witness {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        if bytes <= BARE_LEN_MAX {
            self.proof.give();
        }
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            proof: Arc::default(),
            of_original: Some(self.proof.clone()),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn controller() -> Box<dyn Controller> {
        Arc::new(Witnesses).build(Instant::now(), 1200)
    }

    /// As [`proof`] asks.
    fn proof_of(controller: &dyn Controller) -> Arc<Proof> {
        let copy = controller.clone_box().into_any();
        copy.downcast::<Witness>().unwrap().of_original.unwrap()
    }

    #[test]
    fn a_packet_without_a_challenge_proves_its_path_and_a_padded_one_does_not() {
        let mut controller = controller();
        let proof = proof_of(controller.as_ref());
        controller.on_sent(Instant::now(), 1200, 1);
        controller.on_sent(Instant::now(), 2400, 3);
        assert!(!proof.is_there());
        controller.on_sent(Instant::now(), 30, 4);
        assert!(proof.is_there());
    }

    #[test]
    fn a_new_path_that_is_like_the_old_one_has_its_own_proof_to_give() {
        let mut old = controller();
        old.on_sent(Instant::now(), 30, 1);
        let new = old.clone_box();
        assert!(proof_of(old.as_ref()).is_there());
        assert!(!proof_of(new.as_ref()).is_there());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_proof_is_told_also_if_it_is_there() {
        let mut controller = controller();
        let proof = proof_of(controller.as_ref());
        let waiting = tokio::spawn(async move {
            proof.come().await;
            proof.come().await;
        });
        tokio::task::yield_now().await;
        controller.on_sent(Instant::now(), 30, 1);
        let told = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(told.is_ok());
    }
}
