//! Whose turn it is: lanes in a ring, where those of a key with a limit take one turn together and share it in turns of
//! their own.
//!
//! A key that has used up its limit is parked with all its lanes, and costs the others nothing. When it comes back, the
//! lane whose turn it was goes on: neither a neighbour with smaller batches nor one with a smaller number gets ahead.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::gate::LaneId;
use crate::id::PeerId;

/// Empty lists of lanes kept for the next key that must wait, so that one that comes and goes all the time costs no
/// allocation.
const SPARE_MAX: usize = 64;

/// Who has a place in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    /// A lane whose key has no limit.
    Lane(LaneId),
    /// All lanes of a key.
    Key(PeerId),
}

impl Party {
    const fn of(id: LaneId, key: Option<PeerId>) -> Self {
        match key {
            Some(key) => Self::Key(key),
            None => Self::Lane(id),
        }
    }
}

/// The lanes of a key of which something waits, in the order of their turns.
#[derive(Debug)]
struct Lanes {
    turns: VecDeque<LaneId>,
    /// The key is parked until then; it is in the ring otherwise.
    until: Option<Instant>,
}

/// The order.
#[derive(Debug, Default)]
pub(super) struct Turns {
    ring: VecDeque<Party>,
    keys: BTreeMap<PeerId, Lanes>,
    parked: BTreeSet<(Instant, PeerId)>,
    spare: Vec<VecDeque<LaneId>>,
}

impl Turns {
    /// Something of this lane waits now. `until`: its key has nothing left before.
    pub(super) fn join(&mut self, id: LaneId, key: Option<PeerId>, until: Option<Instant>) {
        let Some(key) = key else {
            self.ring.push_back(Party::Lane(id));
            return;
        };
        if let Some(lanes) = self.keys.get_mut(&key) {
            lanes.turns.push_back(id);
            return;
        }
        let mut turns = self.spare.pop().unwrap_or_default();
        turns.push_back(id);
        self.keys.insert(key, Lanes { turns, until });
        match until {
            Some(until) => {
                self.parked.insert((until, key));
            }
            None => self.ring.push_back(Party::Key(key)),
        }
    }

    /// Nothing of this lane waits any more.
    pub(super) fn leave(&mut self, id: LaneId, key: Option<PeerId>) {
        if let Some(key) = key {
            let Some(lanes) = self.keys.get_mut(&key) else {
                return;
            };
            take_out(&mut lanes.turns, id);
            if !lanes.turns.is_empty() {
                return;
            }
            if let Some(Lanes { turns, until }) = self.keys.remove(&key) {
                if self.spare.len() < SPARE_MAX {
                    self.spare.push(turns);
                }
                if let Some(until) = until {
                    self.parked.remove(&(until, key));
                    return;
                }
            }
        }
        take_out(&mut self.ring, Party::of(id, key));
    }

    /// The lane whose turn it is, and its key if that has a limit.
    pub(super) fn first(&self) -> Option<(LaneId, Option<PeerId>)> {
        match *self.ring.front()? {
            Party::Lane(id) => Some((id, None)),
            Party::Key(key) => Some((*self.keys.get(&key)?.turns.front()?, Some(key))),
        }
    }

    /// The turn of the first lane is over.
    pub(super) fn pass_on(&mut self) {
        if let Some(Party::Key(key)) = self.ring.front()
            && let Some(lanes) = self.keys.get_mut(key)
        {
            lanes.turns.rotate_left(1);
        }
        if !self.ring.is_empty() {
            self.ring.rotate_left(1);
        }
    }

    /// The key of the first lane has nothing left until then.
    pub(super) fn park(&mut self, until: Instant) {
        if let Some(Party::Key(key)) = self.ring.pop_front()
            && let Some(lanes) = self.keys.get_mut(&key)
        {
            lanes.until = Some(until);
            self.parked.insert((until, key));
        }
    }

    /// Keys whose moment has come are back.
    pub(super) fn unpark(&mut self, now: Instant) {
        while let Some((until, key)) = self.parked.first().copied()
            && until <= now
        {
            self.parked.pop_first();
            if let Some(lanes) = self.keys.get_mut(&key) {
                lanes.until = None;
                self.ring.push_back(Party::Key(key));
            }
        }
    }

    /// It is this lane's turn, whoever's it was.
    pub(super) fn put_first(&mut self, id: LaneId, key: Option<PeerId>) {
        let party = Party::of(id, key);
        if let Some(key) = key
            && let Some(lanes) = self.keys.get_mut(&key)
        {
            take_out(&mut lanes.turns, id);
            lanes.turns.push_front(id);
            if let Some(until) = lanes.until.take() {
                self.parked.remove(&(until, key));
            }
        }
        take_out(&mut self.ring, party);
        self.ring.push_front(party);
    }

    /// Is it nobody's turn? Keys may be parked all the same.
    pub(super) fn is_idle(&self) -> bool {
        self.ring.is_empty()
    }

    /// When the first key comes back.
    pub(super) fn back_at(&self) -> Option<Instant> {
        self.parked.first().map(|(until, _)| *until)
    }
}

/// Nearly always it is the first.
fn take_out<T: PartialEq>(list: &mut VecDeque<T>, one: T) {
    if list.front() == Some(&one) {
        list.pop_front();
    } else {
        list.retain(|other| *other != one);
    }
}
