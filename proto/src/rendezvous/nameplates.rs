//! Nameplates: numbers at which two nodes meet to pair, each for one pair, once, for a while.
//!
//! The server passes bodies between the two in order and does not read them. Whoever joins uses the nameplate up,
//! rightly or not, so a code can be guessed at once only, and whoever waits learns that somebody came.

use std::collections::BTreeMap;

use super::command::ConnId;
use super::config::Limits;
use crate::id::{Nameplate, PeerId};
use crate::wire::PAIR_BODY_LEN_MAX;

/// Most messages that each side may send. Pairing takes three.
const BODIES_MAX: u8 = 8;

/// Somebody at a nameplate.
#[derive(Clone, Copy, Debug)]
struct Visitor {
    conn: ConnId,
    sent: u8,
}

#[derive(Clone, Copy, Debug)]
enum Plate {
    Open {
        opener: Visitor,
        key: PeerId,
    },
    Joined([Visitor; 2]),
    /// Ended; the number is not given out again until its deadline comes.
    Resting,
}

/// What became of an attempt to join.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// Met: this connection opened it.
    With(ConnId),
    /// No such nameplate, or it is used up.
    Unknown,
    /// Opened by the same key.
    Yourself,
}

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// It is for this connection.
    To(ConnId),
    /// The sender is not at this nameplate, or is there alone.
    Unknown,
    /// Too long, or too many: the nameplate ends for both.
    Excess,
}

/// All nameplates.
#[derive(Debug, Default)]
pub(super) struct Nameplates {
    plates: BTreeMap<Nameplate, Plate>,
    in_use: usize,
}

impl Nameplates {
    /// Open the smallest number that is free; `None` if there are too many.
    pub(super) fn open(&mut self, conn: ConnId, key: PeerId, limits: &Limits) -> Option<Nameplate> {
        if self.in_use >= limits.nameplates || self.plates.len() >= limits.nameplates_resting {
            return None;
        }
        let free = (1..).map(Nameplate).zip(self.plates.keys());
        let next = Nameplate(
            u32::try_from(self.plates.len())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        );
        let number = free
            .filter_map(|(free, used)| (free != *used).then_some(free))
            .next()
            .unwrap_or(next);
        self.plates.insert(
            number,
            Plate::Open {
                opener: Visitor { conn, sent: 0 },
                key,
            },
        );
        self.in_use += 1;
        Some(number)
    }

    /// Join the nameplate that a person typed.
    pub(super) fn join(&mut self, number: Nameplate, conn: ConnId, key: PeerId) -> Join {
        match self.plates.get_mut(&number) {
            Some(Plate::Open { key: opener, .. }) if *opener == key => Join::Yourself,
            Some(plate @ Plate::Open { .. }) => {
                let Plate::Open { opener, .. } = *plate else {
                    return Join::Unknown;
                };
                *plate = Plate::Joined([opener, Visitor { conn, sent: 0 }]);
                Join::With(opener.conn)
            }
            _ => Join::Unknown,
        }
    }

    /// Pass a body of `len` bytes to the other side.
    pub(super) fn pass(&mut self, number: Nameplate, conn: ConnId, len: usize) -> Pass {
        let Some(Plate::Joined(visitors)) = self.plates.get_mut(&number) else {
            return Pass::Unknown;
        };
        let [one, other] = visitors;
        let (sender, receiver) = if one.conn == conn {
            (one, other)
        } else if other.conn == conn {
            (other, one)
        } else {
            return Pass::Unknown;
        };
        if sender.sent >= BODIES_MAX || len > PAIR_BODY_LEN_MAX {
            return Pass::Excess;
        }
        sender.sent += 1;
        Pass::To(receiver.conn)
    }

    /// Is this connection at this nameplate?
    pub(super) fn has(&self, number: Nameplate, conn: ConnId) -> bool {
        self.plates
            .get(&number)
            .is_some_and(|plate| plate.visitors().contains(&Some(conn)))
    }

    /// The nameplates at which this connection is.
    pub(super) fn of_conn(&self, conn: ConnId) -> Vec<Nameplate> {
        let at = self
            .plates
            .iter()
            .filter(|(_, plate)| plate.visitors().contains(&Some(conn)));
        at.map(|(number, _)| *number).collect()
    }

    /// End a nameplate: its number rests from now on. Returns who was at it.
    pub(super) fn end(&mut self, number: Nameplate) -> Vec<ConnId> {
        let Some(plate) = self.plates.get_mut(&number) else {
            return Vec::new();
        };
        let visitors: Vec<ConnId> = plate.visitors().into_iter().flatten().collect();
        if !visitors.is_empty() {
            self.in_use -= 1;
            *plate = Plate::Resting;
        }
        visitors
    }

    /// Is the number resting?
    pub(super) fn rests(&self, number: Nameplate) -> bool {
        matches!(self.plates.get(&number), Some(Plate::Resting))
    }

    /// The number may be given out again.
    pub(super) fn free(&mut self, number: Nameplate) {
        if self.rests(number) {
            self.plates.remove(&number);
        }
    }

    /// Every number in use or resting.
    pub(super) fn numbers(&self) -> Vec<Nameplate> {
        self.plates.keys().copied().collect()
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    pub(super) fn resting(&self) -> usize {
        self.plates.len() - self.in_use
    }
}

impl Plate {
    fn visitors(&self) -> [Option<ConnId>; 2] {
        match self {
            Self::Open { opener, .. } => [Some(opener.conn), None],
            Self::Joined([one, other]) => [Some(one.conn), Some(other.conn)],
            Self::Resting => [None, None],
        }
    }
}
