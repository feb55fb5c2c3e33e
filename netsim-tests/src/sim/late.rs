//! The server's messages to a node that come too late: how two nodes come to start at different moments.
//!
//! Both sides of an introduction start at one moment on the server's clock. One that learns of it only after that moment
//! starts then, and the other has sent already. Messages come in order, so those behind a late one are late as well.

use std::collections::VecDeque;
use std::time::Duration;

use knothole_proto::wire::FromServer;

/// By how much a node starts after the moment that it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    /// So long after the start an introduction comes.
    pub by: Duration,
    /// The time that it takes anyway.
    pub one_way: Duration,
}

/// Messages that wait.
#[derive(Debug, Default)]
pub(super) struct Late {
    skew: Option<Skew>,
    waiting: VecDeque<(Duration, FromServer)>,
}

impl Late {
    pub(super) fn set(&mut self, skew: Option<Skew>) {
        self.skew = skew;
    }

    /// A message arrives; the answer is whether it is to be heard now. Otherwise it waits.
    pub(super) fn receive(&mut self, message: FromServer, now: Duration) -> Option<FromServer> {
        let before = self.waiting.back().map(|(due, _)| *due);
        let due = match (&message, self.skew) {
            (FromServer::Introduction(introduction), Some(skew)) => {
                let lead = introduction.start.0.saturating_sub(introduction.now.0);
                (now + Duration::from_micros(lead) + skew.by).saturating_sub(skew.one_way)
            }
            _ => now,
        };
        let due = before.map_or(due, |before| due.max(before));
        if due <= now {
            return Some(message);
        }
        self.waiting.push_back((due, message));
        None
    }

    /// The next message whose time has come.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<FromServer> {
        if self.wake_at()? > now {
            return None;
        }
        self.waiting.pop_front().map(|(_, message)| message)
    }

    /// When the next one comes.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The connection is gone, and what was on its way with it.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
