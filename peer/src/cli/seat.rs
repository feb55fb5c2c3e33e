//! Who is taking what: one transfer with which the command ends, or as many as come.
//!
//! Where one is taken, whoever comes first has the seat, and everybody else is turned away until it is free again. Another
//! attempt of the same transfer is let in beside it: a sender that was killed is back before its old connection is surely
//! dead. A transfer whose connection was lost keeps the seat, so that it can go on when its sender is back.
//!
//! Whoever is let in tells how it ended before it leaves: once the seat is vacant, there is no end that was not told.

use knothole_proto::id::PeerId;
use tokio::sync::watch;

/// A place for one transfer, or for as many as come.
#[derive(Debug)]
pub(super) struct Seat {
    only_one: bool,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The sender, and the hash of the names at the top of what it sends: the same that make it the same transfer for those
    /// who replace it.
    transfer: Option<(PeerId, blake3::Hash)>,
    /// Files and bytes of it that the person said yes to.
    agreed: Option<(u32, u64)>,
    /// Attempts of it that are under way, ascending.
    attempts: Vec<u64>,
    /// The number of the newest attempt.
    newest: u64,
    /// It was begun, and nobody else is let in while its sender may come back.
    is_kept: bool,
    /// It came to its end, and nothing is taken any more.
    is_over: bool,
    /// Nobody is let in any more.
    is_closed: bool,
}

/// An attempt of the transfer that has the seat, until dropped.
#[derive(Debug)]
pub(super) struct Seated<'a> {
    seat: &'a Seat,
    number: u64,
}

impl Seat {
    /// A free seat, which `only_one` transfer can have.
    pub(super) fn new(only_one: bool) -> Self {
        Self {
            only_one,
            state: watch::Sender::default(),
        }
    }

    /// May an attempt of this sender be let in, as far as can be said before its names are known?
    pub(super) fn admits(&self, sender: PeerId) -> bool {
        let state = self.state.borrow();
        let is_other = state.transfer.as_ref().is_none_or(|(of, _)| *of != sender);
        self.lets_in(&state, is_other)
    }

    /// Let an attempt of this transfer in; `None` if another transfer has the seat, or nothing is taken any more.
    pub(super) fn enter(&self, sender: PeerId, names: blake3::Hash) -> Option<Seated<'_>> {
        let transfer = Some((sender, names));
        let mut number = None;
        self.state.send_if_modified(|state| {
            let is_other = state.transfer != transfer;
            if !self.lets_in(state, is_other) {
                return false;
            }
            if is_other {
                state.agreed = None;
                state.transfer = transfer;
            }
            state.newest += 1;
            state.attempts.push(state.newest);
            number = Some(state.newest);
            true
        });
        number.map(|number| Seated { seat: self, number })
    }

    /// Let nobody in any more.
    pub(super) fn close(&self) {
        self.state.send_modify(|state| state.is_closed = true);
    }

    /// Let nobody in any more if nobody is there; `false` if somebody is.
    pub(super) fn close_if_vacant(&self) -> bool {
        let mut is_vacant = false;
        self.state.send_modify(|state| {
            is_vacant = state.attempts.is_empty();
            state.is_closed |= is_vacant;
        });
        is_vacant
    }

    /// Was something begun, so that its sender is waited for?
    pub(super) fn is_kept(&self) -> bool {
        self.state.borrow().is_kept
    }

    /// Wait until no attempt is under way.
    pub(super) async fn vacated(&self) {
        // Fails only when the seat is gone.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.attempts.is_empty())
            .await;
    }

    fn lets_in(&self, state: &State, is_other: bool) -> bool {
        let is_reserved = state.is_kept || !state.attempts.is_empty();
        !state.is_closed && !(self.only_one && (state.is_over || is_reserved && is_other))
    }
}

impl Seated<'_> {
    /// Is a newer attempt of this transfer under way, which may still bring it to its end?
    pub(super) fn is_followed(&self) -> bool {
        let state = self.seat.state.borrow();
        let is_newest = state.attempts.iter().all(|number| *number <= self.number);
        self.seat.only_one && !state.is_over && !is_newest
    }

    /// The transfer came to its end with this attempt, and nobody is let in any more; `false` if it had already.
    pub(super) fn finish(&self) -> bool {
        let mut is_first = true;
        if self.seat.only_one {
            self.seat.state.send_modify(|state| {
                is_first = !std::mem::replace(&mut state.is_over, true);
            });
        }
        is_first
    }

    /// The connection was lost: nobody but another attempt of this transfer is let in from now on. `false` if it is not waited
    /// for: others have room beside it, or there is an end already.
    pub(super) fn keep(&self) -> bool {
        let mut is_kept = false;
        self.seat.state.send_modify(|state| {
            is_kept = self.seat.only_one && !state.is_over && !state.is_closed;
            state.is_kept |= is_kept;
        });
        is_kept
    }

    /// Was it begun before, so that its sender has been waited for?
    pub(super) fn is_kept(&self) -> bool {
        self.seat.is_kept()
    }

    /// The person said yes to so many files and bytes of this transfer.
    pub(super) fn agree(&self, files: u32, bytes: u64) {
        if self.seat.only_one {
            let agreed = Some((files, bytes));
            self.seat.state.send_modify(|state| state.agreed = agreed);
        }
    }

    /// Did the person say yes to exactly this before?
    pub(super) fn is_agreed(&self, files: u32, bytes: u64) -> bool {
        self.seat.state.borrow().agreed == Some((files, bytes))
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.seat
            .state
            .send_modify(|state| state.attempts.retain(|of| *of != number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    fn names(name: &str) -> blake3::Hash {
        blake3::hash(name.as_bytes())
    }

    #[test]
    fn another_transfer_is_turned_away_until_the_seat_is_free() {
        let seat = Seat::new(true);
        let first = seat.enter(sender(1), names("a")).unwrap();
        assert!(seat.admits(sender(1)) && !seat.admits(sender(2)));
        assert!(seat.enter(sender(2), names("a")).is_none());
        assert!(seat.enter(sender(1), names("b")).is_none());
        drop(first);
        assert!(seat.admits(sender(2)));
        assert!(seat.enter(sender(2), names("a")).is_some());
    }

    #[test]
    fn a_new_attempt_of_the_same_transfer_comes_in_beside_the_old_one_and_one_of_them_finishes() {
        let seat = Seat::new(true);
        let old = seat.enter(sender(1), names("a")).unwrap();
        assert!(!old.is_followed());
        let new = seat.enter(sender(1), names("a")).unwrap();
        assert!(old.is_followed());
        assert!(
            !new.is_followed(),
            "the old one brings nothing to an end any more"
        );
        drop(old);
        let newer = seat.enter(sender(1), names("a")).unwrap();
        assert!(new.finish());
        assert!(!newer.finish());
        assert!(!new.is_followed(), "what fails now is the end");
    }

    #[test]
    fn nobody_is_let_in_after_the_end() {
        let seat = Seat::new(true);
        let only = seat.enter(sender(1), names("a")).unwrap();
        assert!(only.finish() && !only.keep());
        drop(only);
        assert!(!seat.admits(sender(1)));
        assert!(seat.enter(sender(1), names("a")).is_none());
        assert!(seat.enter(sender(2), names("b")).is_none());
    }

    #[test]
    fn a_transfer_whose_connection_was_lost_keeps_the_seat_for_itself() {
        let seat = Seat::new(true);
        let lost = seat.enter(sender(1), names("a")).unwrap();
        assert!(!lost.is_kept() && lost.keep());
        drop(lost);
        assert!(seat.admits(sender(1)) && !seat.admits(sender(2)));
        assert!(seat.enter(sender(2), names("a")).is_none());
        assert!(seat.enter(sender(1), names("b")).is_none());
        let back = seat.enter(sender(1), names("a")).unwrap();
        assert!(back.is_kept() && back.finish());
    }

    #[test]
    fn a_yes_holds_for_the_same_files_of_the_same_sender_and_for_nothing_else() {
        let seat = Seat::new(true);
        let first = seat.enter(sender(1), names("a")).unwrap();
        assert!(!first.is_agreed(2, 10));
        first.agree(2, 10);
        drop(first);
        let again = seat.enter(sender(1), names("a")).unwrap();
        assert!(again.is_agreed(2, 10));
        assert!(!again.is_agreed(3, 10) && !again.is_agreed(2, 11));
        drop(again);
        let other = seat.enter(sender(2), names("a")).unwrap();
        assert!(!other.is_agreed(2, 10));
        drop(other);
        let serves_on = Seat::new(false);
        let any = serves_on.enter(sender(1), names("a")).unwrap();
        any.agree(2, 10);
        assert!(!any.is_agreed(2, 10), "who serves on asks each time");
    }

    #[test]
    fn a_closed_seat_lets_nobody_in_and_one_that_is_taken_is_not_closed_in_passing() {
        for only_one in [true, false] {
            let seat = Seat::new(only_one);
            let first = seat.enter(sender(1), names("a")).unwrap();
            assert!(!seat.close_if_vacant() && seat.admits(sender(1)));
            seat.close();
            assert!(!seat.admits(sender(1)));
            assert!(seat.enter(sender(1), names("a")).is_none());
            assert!(!first.keep(), "nobody could come back");
            drop(first);
            assert!(seat.close_if_vacant());
        }
    }

    #[test]
    fn who_serves_on_has_room_for_all_and_each_ends_for_itself() {
        let seat = Seat::new(false);
        let one = seat.enter(sender(1), names("a")).unwrap();
        let two = seat.enter(sender(2), names("b")).unwrap();
        assert!(!one.is_followed() && !two.is_followed());
        assert!(!one.keep(), "nobody waits for it");
        assert!(one.finish() && two.finish());
        assert!(seat.enter(sender(3), names("c")).is_some());
    }
}
