//! One deadline for each thing that can expire, soonest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::command::ConnId;
use super::config::Timer;
use crate::id::{Nameplate, SessionId};

/// What can expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A connection that was not heard of.
    Connection(ConnId),
    /// A session that nobody asks for.
    Session(SessionId),
    /// A nameplate.
    Nameplate(Nameplate),
}

/// The deadlines.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queue: BTreeSet<(Instant, Due)>,
    set: BTreeMap<Due, Instant>,
}

impl Deadlines {
    /// Set the deadline of a thing; one that it had is replaced.
    pub(super) fn set(&mut self, due: Due, at: Instant) {
        self.clear(due);
        self.set.insert(due, at);
        self.queue.insert((at, due));
    }

    /// The thing no longer expires.
    pub(super) fn clear(&mut self, due: Due) {
        if let Some(at) = self.set.remove(&due) {
            self.queue.remove(&(at, due));
        }
    }

    /// Take one thing whose deadline has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<Due> {
        let (_, due) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.clear(due);
        Some(due)
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<(Instant, Timer)> {
        self.queue.first().map(|(at, due)| {
            let timer = match due {
                Due::Connection(_) => Timer::Silence,
                Due::Session(_) => Timer::SessionIdle,
                Due::Nameplate(_) => Timer::Nameplate,
            };
            (*at, timer)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.set.len()
    }
}
