//! What it says of a socket when the system refuses to send something.
//!
//! quinn-udp learns from refusals what a system lacks: after an `EIO` or `EINVAL` it sends no batches, and after an `EINVAL` no
//! marks (ECN) either, for as long as its object lives. But the system says the same of places that are none (port 0, an address
//! of many as source, on older kernels any source that is not this machine's) and of a batch that a single route cannot carry.
//! So one datagram could slow down everybody for good. This machine decides what of it is believed:
//!
//! * A single datagram that is refused says nothing of the socket. What was learnt is forgotten.
//! * A batch that is refused is sent once more by the driver, one by one. If that is refused as well, see above. If not, it may
//!   be the batch; three such in a row, with none in between that left as it was, are believed, and asked again after a minute.

use std::time::{Duration, Instant};

/// Batches in a row, to whomever, that were refused and then left one by one, until it is believed. Each costs its datagrams a
/// call; fewer would let a single odd destination speak for all.
const REFUSED_MAX: u32 = 3;

/// How long it is believed then. The way out may be another one by then, and asking again costs three batches.
const BELIEVED: Duration = Duration::from_secs(60);

/// Between two times that something learnt is forgotten, at the least. To forget takes some ten calls, and whoever causes
/// refusals could cause them at any rate; shorter costs more of a processor, longer leaves batches off for longer.
const FORGET_INTERVAL: Duration = Duration::from_millis(10);

/// The refusals of one socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refusals {
    in_a_row: u32,
    due: Option<Instant>,
    forgotten: Option<Instant>,
}

impl Refusals {
    /// A batch left as it was.
    pub const fn handle_batch(&mut self) {
        self.in_a_row = 0;
    }

    /// Something was refused; `left_singly`: it was a batch, and all its datagrams left one by one.
    pub fn handle_refusal(&mut self, left_singly: bool, now: Instant) {
        let mut pause = Duration::ZERO;
        if left_singly {
            self.in_a_row += 1;
            if self.in_a_row >= REFUSED_MAX {
                self.in_a_row = 0;
                pause = BELIEVED;
            }
        }
        self.postpone(pause, now);
    }

    /// What was learnt could not be forgotten now.
    pub fn handle_failure(&mut self, now: Instant) {
        self.postpone(BELIEVED, now);
    }

    /// What was learnt is forgotten.
    pub const fn handle_forgotten(&mut self, now: Instant) {
        self.due = None;
        self.forgotten = Some(now);
    }

    /// Is it time to forget what was learnt?
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Is there nothing to be forgotten, nor to be told of a batch that leaves?
    pub const fn is_at_rest(&self) -> bool {
        self.due.is_none() && self.in_a_row == 0
    }

    /// Not before this pause is over, nor before one that was there already.
    fn postpone(&mut self, pause: Duration, now: Instant) {
        let earliest = self.forgotten.map_or(now, |last| last + FORGET_INTERVAL);
        let due = earliest.max(now + pause);
        self.due = Some(self.due.map_or(due, |other| other.max(due)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    #[test]
    fn a_refused_datagram_is_forgotten_at_once_but_not_all_the_time() {
        let (mut refusals, now) = (Refusals::default(), epoch());
        assert!(refusals.is_at_rest() && !refusals.is_due(now));
        refusals.handle_refusal(false, now);
        assert!(!refusals.is_at_rest() && refusals.is_due(now));
        refusals.handle_forgotten(now);
        assert!(refusals.is_at_rest() && !refusals.is_due(now));
        refusals.handle_refusal(false, now);
        assert!(!refusals.is_due(now) && refusals.is_due(now + FORGET_INTERVAL));
    }

    #[test]
    fn three_batches_in_a_row_that_leave_singly_are_believed_for_a_minute() {
        let (mut refusals, now) = (Refusals::default(), epoch());
        for batches_leave in [true, false] {
            for _ in 0..REFUSED_MAX {
                assert!(!refusals.is_due(now + BELIEVED), "believed so far: nothing");
                refusals.handle_refusal(true, now);
                if batches_leave {
                    assert!(refusals.is_due(now + FORGET_INTERVAL));
                    refusals.handle_batch();
                }
                if refusals.is_due(now + FORGET_INTERVAL) {
                    refusals.handle_forgotten(now);
                }
            }
        }
        let almost = BELIEVED - Duration::from_millis(1);
        assert!(!refusals.is_due(now + almost) && refusals.is_due(now + BELIEVED));
        // What else is refused meanwhile changes nothing.
        refusals.handle_refusal(false, now);
        assert!(!refusals.is_due(now + almost));
    }

    #[test]
    fn whoever_cannot_forget_tries_again_after_a_minute() {
        let (mut refusals, now) = (Refusals::default(), epoch());
        refusals.handle_refusal(false, now);
        refusals.handle_failure(now);
        assert!(!refusals.is_at_rest());
        assert!(!refusals.is_due(now) && refusals.is_due(now + BELIEVED));
    }
}
