//! The relay's forwarding table: where a frame of a channel goes, judged by where it came from.
//!
//! It holds for each channel the two ends and the address at which each was last seen. It never learns an address
//! from a frame: addresses come from the authenticated control connections alone, through [`RelayTable::open`] and
//! [`RelayTable::move_end`]. It sends nothing itself, and says nothing of when: that is the [`Gate`](super::Gate)'s.
//!
//! A driver with several threads keeps a copy of each channel's [`Ends`] where they find it without waiting for each
//! other; the table stays what the copies are made from.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::command::ConnId;
use super::shaping::{LaneId, QueueStats};
use crate::addr::canonical;
use crate::id::ChannelId;

/// Most channels at a time. Each takes about 300 bytes; the registry's cap on sessions is the same.
pub(super) const CHANNELS_MAX: usize = 65_536;

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Send it there, as soon as the limits let this lane.
    To {
        /// The other end.
        to: SocketAddr,
        /// The direction.
        lane: LaneId,
    },
    /// Drop it: there is no such channel.
    UnknownChannel,
    /// Drop it: it comes from neither end. One of them may have moved: compare where these control connections are
    /// now, and tell [`RelayTable::move_end`].
    WrongSource([ConnId; 2]),
}

/// The two ends of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    channel: ChannelId,
    ends: [(ConnId, SocketAddr); 2],
}

impl Ends {
    /// Where a frame of this channel goes that came from `from`. Never [`Route::UnknownChannel`].
    pub fn route(&self, from: SocketAddr) -> Route {
        let [one, other] = self.ends;
        let from = canonical(from);
        let (to, from_second) = if from == one.1 {
            (other.1, false)
        } else if from == other.1 {
            (one.1, true)
        } else {
            return Route::WrongSource([one.0, other.0]);
        };
        let lane = LaneId {
            channel: self.channel,
            from_second,
        };
        Route::To { to, lane }
    }

    /// The addresses of both, in the order in which they were given.
    pub fn addrs(&self) -> [SocketAddr; 2] {
        self.ends.map(|(_, addr)| addr)
    }
}

/// Counters since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Channels that are open.
    pub channels: usize,
    /// Bytes that left.
    pub forwarded_bytes: u64,
    /// Frames that left.
    pub forwarded_frames: u64,
    /// Batches that left: calls into the kernel.
    pub forwarded_batches: u64,
    /// Batches dropped because their channel does not exist.
    pub unknown_channel: u64,
    /// Batches dropped because they came from neither end.
    pub wrong_source: u64,
    /// What waited, and what was dropped because of limits or full sockets.
    pub queue: QueueStats,
}

/// The table.
#[derive(Debug, Default)]
pub struct RelayTable {
    channels: BTreeMap<ChannelId, Ends>,
    of_conn: BTreeMap<ConnId, Vec<ChannelId>>,
}

impl RelayTable {
    /// An empty table.
    pub const fn new() -> Self {
        Self {
            channels: BTreeMap::new(),
            of_conn: BTreeMap::new(),
        }
    }

    /// Open a channel between two control connections, or give an open one new ends. `None` if the table is full.
    pub fn open(&mut self, channel: ChannelId, ends: [(ConnId, SocketAddr); 2]) -> Option<Ends> {
        self.close(channel);
        if self.channels.len() >= CHANNELS_MAX {
            return None;
        }
        let opened = Ends {
            channel,
            ends: ends.map(|(conn, addr)| (conn, canonical(addr))),
        };
        self.channels.insert(channel, opened);
        for (conn, _) in ends {
            self.of_conn.entry(conn).or_default().push(channel);
        }
        Some(opened)
    }

    /// Close a channel; one that is not there is no error.
    pub fn close(&mut self, channel: ChannelId) {
        let Some(closed) = self.channels.remove(&channel) else {
            return;
        };
        for (conn, _) in closed.ends {
            if let Some(channels) = self.of_conn.get_mut(&conn) {
                channels.retain(|of_conn| *of_conn != channel);
                if channels.is_empty() {
                    self.of_conn.remove(&conn);
                }
            }
        }
    }

    /// This control connection is at that address now: all its channels follow. The answer is what they have become.
    pub fn move_end(&mut self, conn: ConnId, addr: SocketAddr) -> Vec<(ChannelId, Ends)> {
        let mut moved = Vec::new();
        for channel in self.of_conn.get(&conn).into_iter().flatten() {
            if let Some(ends) = self.channels.get_mut(channel) {
                for end in ends.ends.iter_mut().filter(|end| end.0 == conn) {
                    end.1 = canonical(addr);
                }
                moved.push((*channel, *ends));
            }
        }
        moved
    }

    /// Where a frame of this channel goes that came from `from`.
    pub fn route(&self, channel: ChannelId, from: SocketAddr) -> Route {
        match self.channels.get(&channel) {
            Some(ends) => ends.route(from),
            None => Route::UnknownChannel,
        }
    }

    /// Channels that are open.
    pub fn len(&self) -> usize {
        self.channels.len()
    }

    /// Is none open?
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }
}
