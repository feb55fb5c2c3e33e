//! How far away is the outermost filter? A packet with a short life goes to another place of the server, then the server is
//! asked to answer from there: the answer passes if the packet came through the filter (`nat-techniques` section 3.6).

use std::collections::BTreeMap;

use super::facts::{Fact, Obstacle};
use super::question::Outcome;

/// Times to live that are tried at once. Four reach through a home NAT, two routers and a carrier's NAT.
pub(super) const AT_ONCE: u8 = 4;

/// Beyond so many hops it is not looked for: the opener is to end before it comes to the peer's NAT.
const DEPTH_MAX: u8 = 9;

/// The test.
#[derive(Debug, Default)]
pub(super) struct Depth {
    tried: BTreeMap<u8, Outcome>,
    /// It will not be done.
    pub(super) obstacle: Option<Obstacle>,
}

impl Depth {
    pub(super) fn set(&mut self, ttl: u8, outcome: Outcome) {
        self.tried.insert(ttl, outcome);
    }

    pub(super) fn is_begun(&self) -> bool {
        self.obstacle.is_some() || !self.tried.is_empty()
    }

    fn is_open(&self) -> bool {
        self.tried.values().any(|outcome| outcome.is_open())
    }

    /// Times to live to try next, given the lowest that makes sense.
    pub(super) fn next(&self, lowest: u8) -> std::ops::Range<u8> {
        let passed = self.tried.values().any(|outcome| outcome.answered().is_some());
        let from = self.tried.keys().next_back().map_or(lowest, |last| last + 1);
        if self.is_open() || passed || self.obstacle.is_some() || from > DEPTH_MAX {
            return 0..0;
        }
        from..(from + AT_ONCE).min(DEPTH_MAX + 1)
    }

    pub(super) fn result(&self) -> Fact<u8> {
        let passed = self
            .tried
            .iter()
            .find(|(_, outcome)| outcome.answered().is_some());
        match (self.obstacle, passed) {
            (Some(why), _) => Fact::NotTestable(why),
            (None, Some((ttl, _))) if !self.tried.range(..ttl).any(|(_, tried)| tried.is_open()) => {
                Fact::Known(*ttl)
            }
            (None, Some(_)) => Fact::NotTestable(Obstacle::NotReached),
            (None, None) if self.tried.is_empty() || self.is_open() => {
                Fact::NotTestable(Obstacle::NotReached)
            }
            (None, None) => {
                let sockets = self.tried.values().any(|outcome| *outcome == Outcome::NoSocket);
                Fact::NotTestable(if sockets {
                    Obstacle::NoSocket
                } else {
                    Obstacle::TooLossy
                })
            }
        }
    }
}
