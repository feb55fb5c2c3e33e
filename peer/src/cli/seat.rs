//! Whose transfer a command takes that takes one and ends with it.
//!
//! Whoever comes first has the seat, and everybody else is turned away until it is free again. Another attempt of the same
//! transfer is let in beside it: a sender that was killed is back before its old connection is surely dead.

use std::sync::{Mutex, MutexGuard, PoisonError};

use knothole_proto::id::PeerId;

/// A place for one transfer, or for as many as come.
#[derive(Debug)]
pub(super) struct Seat {
    only_one: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The sender, and the names at the top of what it sends: the same that make it the same transfer for those who replace it.
    transfer: Option<(PeerId, Vec<String>)>,
    /// How many attempts of it are under way.
    attempts: usize,
    /// It came to its end, and nothing is taken any more.
    over: bool,
}

/// An attempt of the transfer that has the seat, until dropped.
#[derive(Debug)]
pub(super) struct Seated<'a>(&'a Seat);

impl Seat {
    /// A free seat, which `only_one` transfer can have.
    pub(super) fn new(only_one: bool) -> Self {
        Self {
            only_one,
            state: Mutex::default(),
        }
    }

    /// Let an attempt of this transfer in; `None` if another transfer has the seat.
    pub(super) fn enter(&self, sender: PeerId, names: Vec<String>) -> Option<Seated<'_>> {
        let mut state = self.state();
        let transfer = Some((sender, names));
        let is_other = state.attempts > 0 && state.transfer != transfer;
        if self.only_one && (state.over || is_other) {
            return None;
        }
        state.transfer = transfer;
        state.attempts += 1;
        Some(Seated(self))
    }

    /// Is a transfer under way, or was one taken?
    pub(super) fn is_taken(&self) -> bool {
        let state = self.state();
        state.over || state.attempts > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is guarded changes in one step: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seated<'_> {
    /// Is another attempt of this transfer under way, which may still bring it to its end?
    pub(super) fn is_followed(&self) -> bool {
        let state = self.0.state();
        self.0.only_one && !state.over && state.attempts > 1
    }

    /// The transfer came to its end with this attempt, and nobody is let in any more; `false` if it had already.
    pub(super) fn finish(&self) -> bool {
        !self.0.only_one || !std::mem::replace(&mut self.0.state().over, true)
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        self.0.state().attempts -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    fn names(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    #[test]
    fn another_transfer_is_turned_away_until_the_seat_is_free() {
        let seat = Seat::new(true);
        assert!(!seat.is_taken());
        let first = seat.enter(sender(1), names("a")).unwrap();
        assert!(seat.is_taken());
        assert!(seat.enter(sender(2), names("a")).is_none());
        assert!(seat.enter(sender(1), names("b")).is_none());
        drop(first);
        assert!(!seat.is_taken());
        assert!(seat.enter(sender(2), names("a")).is_some());
    }

    #[test]
    fn a_new_attempt_of_the_same_transfer_comes_in_beside_the_old_one_and_one_of_them_finishes() {
        let seat = Seat::new(true);
        let old = seat.enter(sender(1), names("a")).unwrap();
        assert!(!old.is_followed());
        let new = seat.enter(sender(1), names("a")).unwrap();
        assert!(old.is_followed());
        drop(old);
        assert!(!new.is_followed());
        let newer = seat.enter(sender(1), names("a")).unwrap();
        assert!(new.finish());
        assert!(!newer.finish());
        assert!(!new.is_followed(), "what fails now is the end");
    }

    #[test]
    fn nobody_is_let_in_after_the_end() {
        let seat = Seat::new(true);
        let only = seat.enter(sender(1), names("a")).unwrap();
        assert!(only.finish());
        drop(only);
        assert!(seat.is_taken());
        assert!(seat.enter(sender(1), names("a")).is_none());
        assert!(seat.enter(sender(2), names("b")).is_none());
    }

    #[test]
    fn who_serves_on_has_room_for_all_and_each_ends_for_itself() {
        let seat = Seat::new(false);
        let one = seat.enter(sender(1), names("a")).unwrap();
        let two = seat.enter(sender(2), names("b")).unwrap();
        assert!(!one.is_followed() && !two.is_followed());
        assert!(one.finish() && two.finish());
        assert!(seat.enter(sender(3), names("c")).is_some());
    }
}
