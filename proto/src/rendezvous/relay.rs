//! The relay's forwarding table and its total cap: asked once for every received batch of frames.
//!
//! It holds for each channel the two ends and the address at which each was last seen. It never learns an address
//! from a frame: addresses come from the authenticated control connections alone, through [`RelayTable::open`] and
//! [`RelayTable::move_end`]. It sends nothing itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::command::ConnId;
use crate::addr::canonical;
use crate::id::ChannelId;
use crate::quota::Bucket;

/// Most channels at a time. Each takes about 300 bytes; the registry's cap on sessions is the same.
pub(super) const CHANNELS_MAX: usize = 65_536;

/// How much the relay may forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Cap over all channels together, counted on the datagrams as they arrive, without IP and UDP headers. 0: nothing.
    pub total_bits_per_second: u64,
    /// Bytes that may pass at once after a rest.
    pub burst: u64,
}

impl RelayConfig {
    /// A cap with the usual burst: 50 ms of it, but at least 256 KiB, which is four full receive buffers. A larger burst
    /// lets queues grow behind the server; a smaller one drops parts of a single batch.
    pub const fn new(total_bits_per_second: u64) -> Self {
        let burst = total_bits_per_second / 8 / 20;
        let least = 256 * 1024;
        Self {
            total_bits_per_second,
            burst: if burst > least { burst } else { least },
        }
    }
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Send it there, if [`RelayTable::admit`] agrees.
    To(SocketAddr),
    /// Drop it: there is no such channel.
    UnknownChannel,
    /// Drop it: it comes from neither end. One of them may have moved: compare where these control connections are
    /// now, and tell [`RelayTable::move_end`].
    WrongSource([ConnId; 2]),
}

/// Counters since the start, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Channels that are open.
    pub channels: usize,
    /// Bytes admitted.
    pub forwarded_bytes: u64,
    /// Batches admitted.
    pub forwarded_batches: u64,
    /// Bytes dropped by the cap.
    pub refused_bytes: u64,
    /// Batches dropped by the cap.
    pub refused_batches: u64,
    /// Batches dropped because their channel does not exist.
    pub unknown_channel: u64,
    /// Batches dropped because they came from neither end.
    pub wrong_source: u64,
}

/// The table.
#[derive(Debug)]
pub struct RelayTable {
    config: RelayConfig,
    bucket: Bucket,
    channels: BTreeMap<ChannelId, [(ConnId, SocketAddr); 2]>,
    of_conn: BTreeMap<ConnId, Vec<ChannelId>>,
    stats: RelayStats,
}

impl RelayTable {
    /// An empty table.
    pub const fn new(config: RelayConfig, now: Instant) -> Self {
        Self {
            config,
            bucket: Bucket::new(now),
            channels: BTreeMap::new(),
            of_conn: BTreeMap::new(),
            stats: RelayStats {
                channels: 0,
                forwarded_bytes: 0,
                forwarded_batches: 0,
                refused_bytes: 0,
                refused_batches: 0,
                unknown_channel: 0,
                wrong_source: 0,
            },
        }
    }

    /// Open a channel between two control connections, or give an open one new ends. `false` if the table is full.
    pub fn open(&mut self, channel: ChannelId, ends: [(ConnId, SocketAddr); 2], _now: Instant) -> bool {
        self.forget(channel);
        if self.channels.len() >= CHANNELS_MAX {
            return false;
        }
        self.channels
            .insert(channel, ends.map(|(conn, addr)| (conn, canonical(addr))));
        for (conn, _) in ends {
            self.of_conn.entry(conn).or_default().push(channel);
        }
        true
    }

    /// Close a channel; one that is not there is no error.
    pub fn close(&mut self, channel: ChannelId) {
        self.forget(channel);
    }

    /// This control connection is at that address now: all its channels follow.
    pub fn move_end(&mut self, conn: ConnId, addr: SocketAddr) {
        for channel in self.of_conn.get(&conn).into_iter().flatten() {
            let ends = self.channels.get_mut(channel);
            for end in ends.into_iter().flatten().filter(|end| end.0 == conn) {
                end.1 = canonical(addr);
            }
        }
    }

    /// Where a frame of this channel goes that came from `from`.
    pub fn route(&mut self, channel: ChannelId, from: SocketAddr) -> Route {
        let Some([one, other]) = self.channels.get(&channel) else {
            self.stats.unknown_channel += 1;
            return Route::UnknownChannel;
        };
        let from = canonical(from);
        if from == one.1 {
            Route::To(other.1)
        } else if from == other.1 {
            Route::To(one.1)
        } else {
            self.stats.wrong_source += 1;
            Route::WrongSource([one.0, other.0])
        }
    }

    /// May a batch of this many bytes pass under the total cap?
    pub fn admit(&mut self, bytes: usize, now: Instant) -> bool {
        let bytes = bytes as u64;
        let fits = match (self.time_of(bytes), self.time_of(self.config.burst)) {
            (Some(cost), Some(depth)) => self.bucket.take(cost, depth, now),
            _ => false,
        };
        if fits {
            self.stats.forwarded_bytes += bytes;
            self.stats.forwarded_batches += 1;
        } else {
            self.stats.refused_bytes += bytes;
            self.stats.refused_batches += 1;
        }
        fits
    }

    /// Counters and gauges.
    pub fn stats(&self) -> RelayStats {
        RelayStats {
            channels: self.channels.len(),
            ..self.stats
        }
    }

    fn time_of(&self, bytes: u64) -> Option<Duration> {
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(self.config.total_bits_per_second).max(1);
        (self.config.total_bits_per_second > 0)
            .then(|| Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn forget(&mut self, channel: ChannelId) {
        for (conn, _) in self.channels.remove(&channel).into_iter().flatten() {
            if let Some(channels) = self.of_conn.get_mut(&conn) {
                channels.retain(|of_conn| *of_conn != channel);
                if channels.is_empty() {
                    self.of_conn.remove(&conn);
                }
            }
        }
    }
}
