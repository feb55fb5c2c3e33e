//! The relay between sockets: asks the table where frames go, and knows through which socket each address is reached.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use knothole_proto::addr::{Reach, canonical};
use knothole_proto::id::ChannelId;
use knothole_proto::rendezvous::{ConnId, RelayConfig, RelayStats, RelayTable, Route};
use knothole_proto::wire::relay::{HEADER_LEN, split};
use tokio::sync::mpsc;

use super::Counters;

/// Largest frame that is forwarded, in bytes: what fits a 1500-byte packet under IPv6 and UDP headers. Nodes keep to it;
/// a larger one could not leave through an ordinary interface, and old kernels answer that with an error that makes the
/// socket give up segmentation for everybody.
pub(crate) const FRAME_LEN_MAX: usize = 1452;

/// A channel whose frames come from a wrong source is looked into this often. A node whose NAT gave it a new port sends
/// at full rate until the server knows; more often would only repeat the question.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Where a batch goes and through what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) to: SocketAddr,
    /// Number of the socket.
    pub(crate) wire: usize,
    /// The local address that the other end talks to, where the system tells it.
    pub(crate) source: Option<IpAddr>,
}

/// The relay, shared by receiving threads and the task that owns the registry.
#[derive(Debug)]
pub(crate) struct Relay {
    state: Mutex<State>,
    /// Ends of a channel that may have moved.
    moved: mpsc::Sender<[ConnId; 2]>,
}

#[derive(Debug)]
struct State {
    table: RelayTable,
    /// How each control connection is reached, by the address of its node.
    ways: HashMap<SocketAddr, (ConnId, Via)>,
    looked: Option<(ChannelId, Instant)>,
}

impl Relay {
    pub(crate) fn new(config: RelayConfig, moved: mpsc::Sender<[ConnId; 2]>, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                table: RelayTable::new(config, now),
                ways: HashMap::new(),
                looked: None,
            }),
            moved,
        }
    }

    /// Where this batch of frames of one channel goes, if anywhere.
    pub(super) fn route(
        &self,
        batch: &[u8],
        stride: usize,
        from: SocketAddr,
        now: Instant,
        counters: &Counters,
    ) -> Option<Via> {
        let first = batch.get(..stride.min(batch.len())).unwrap_or_default();
        let Some((channel, _)) = split(first).filter(|_| first.len() <= FRAME_LEN_MAX) else {
            counters.relay_malformed.add(1);
            return None;
        };
        let mut state = self.lock();
        match state.table.route(channel, canonical(from)) {
            Route::To(to) => {
                let via = state.ways.get(&to).map(|(_, via)| *via)?;
                state.table.admit(batch.len(), now).then_some(via)
            }
            Route::UnknownChannel => None,
            Route::WrongSource(ends) => {
                let recent = |at: Instant| now.saturating_duration_since(at) < LOOK_INTERVAL;
                if !state
                    .looked
                    .is_some_and(|(looked, at)| looked == channel && recent(at))
                {
                    state.looked = Some((channel, now));
                    // When the queue is full the question is already being asked.
                    let _ = self.moved.try_send(ends);
                }
                None
            }
        }
    }

    /// Open a channel between two connections. `false` if the table is full.
    pub(crate) fn open(&self, channel: ChannelId, ends: [(ConnId, SocketAddr); 2], now: Instant) -> bool {
        self.lock().table.open(channel, ends, now)
    }

    /// Close a channel.
    pub(crate) fn close(&self, channel: ChannelId) {
        self.lock().table.close(channel);
    }

    /// A connection is reached this way now; it was reached at `before`, if anywhere.
    pub(crate) fn move_end(&self, conn: ConnId, before: Option<SocketAddr>, via: Via) {
        let mut state = self.lock();
        state.forget(conn, before);
        // A link-local address means nothing without its interface, and sending to it is an error of the socket.
        if Reach::of(via.to) != Reach::Never {
            state.ways.insert(via.to, (conn, via));
        }
        state.table.move_end(conn, via.to);
    }

    /// A connection is gone.
    pub(crate) fn forget(&self, conn: ConnId, at: SocketAddr) {
        self.lock().forget(conn, Some(at));
    }

    /// Counters and gauges of the table.
    pub(crate) fn stats(&self) -> RelayStats {
        self.lock().table.stats()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, forwarding with what is there beats stopping.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, conn: ConnId, at: Option<SocketAddr>) {
        // A newer connection may have taken the same address.
        if let Some(at) = at.filter(|at| self.ways.get(at).is_some_and(|(of, _)| *of == conn)) {
            self.ways.remove(&at);
        }
    }
}

/// Bytes at the front of `frames` that go the same way: whole frames with the header of the first.
pub(super) fn run(frames: &[u8], stride: usize) -> usize {
    let mut segments = frames.chunks(stride.max(1));
    let Some(first) = segments.next() else { return 0 };
    let alike = |other: &[u8]| other.len() > HEADER_LEN && first.get(..HEADER_LEN) == other.get(..HEADER_LEN);
    let rest = segments.take_while(|segment| alike(segment)).map(<[u8]>::len);
    first.len() + rest.sum::<usize>()
}
