//! The relay between sockets: where each batch of frames goes, and whether it may go now.
//!
//! Whoever receives asks [`Relay::route`], for every batch. What it needs lies in a table of its own, in shards, which
//! threads read side by side; the task that owns the registry writes there, rarely. What decides is [`RelayTable`] and
//! [`Gate`]; the shards hold copies of the former's entries, each with the way to either end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use knothole_proto::addr::{Reach, canonical};
use knothole_proto::id::{ChannelId, PeerId};
use knothole_proto::rendezvous::{
    ConnId, Ends, Gate, Lane, LaneId, RelayConfig, RelayTable, Route, SendingKey,
};
use knothole_proto::wire::relay::{HEADER_LEN, split};
use tokio::sync::mpsc;

use super::backlog::Backlog;
use super::counters::WorkerCounters;

/// Largest frame that is forwarded, in bytes: what fits a 1500-byte packet under IPv6 and UDP headers. Nodes keep to it;
/// a larger one could not leave through an ordinary interface, and the batch that it is in would be refused.
pub(crate) const FRAME_LEN_MAX: usize = 1452;

/// A channel whose frames come from a wrong source is looked into this often. A node whose NAT gave it a new port sends
/// at full rate until the server knows; more often would only repeat the question.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Parts of the table, each with a lock of its own: more than there are receiving threads, so that a channel that is
/// opened stops one in sixty-four of them for a microsecond.
const SHARDS: usize = 64;

/// Keys in the table of limits that are not worth a search for those that nobody uses any more.
const KEYS_KEPT: usize = 1024;

/// Where a batch goes and through what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) to: SocketAddr,
    /// Number of the socket.
    pub(crate) wire: usize,
    /// The local address that the other end talks to, where the system tells it.
    pub(crate) source: Option<IpAddr>,
}

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) enum Decision {
    /// It is paid for: send it.
    Send(Via, LaneId),
    /// It has to wait.
    Wait(Via, LaneId, Arc<Lane>),
    /// It goes nowhere.
    Drop,
}

/// The relay, shared by receiving threads and the task that owns the registry.
#[derive(Debug)]
pub(crate) struct Relay {
    gate: Arc<Gate>,
    shards: Vec<RwLock<HashMap<ChannelId, Published>>>,
    control: Mutex<Control>,
    pub(super) backlog: Backlog,
    looked: Mutex<Option<(ChannelId, Instant)>>,
    /// Ends of a channel that may have moved.
    moved: mpsc::Sender<[ConnId; 2]>,
}

/// What receiving threads see of a channel.
#[derive(Debug)]
struct Published {
    ends: Ends,
    /// How each end is reached, if it is known.
    ways: [Option<Via>; 2],
    /// What each end sends.
    lanes: [Arc<Lane>; 2],
}

/// What only the registry's task changes.
#[derive(Debug, Default)]
struct Control {
    table: RelayTable,
    conns: HashMap<ConnId, Conn>,
    /// The connections of each channel.
    channels: HashMap<ChannelId, [ConnId; 2]>,
    keys: HashMap<PeerId, Arc<SendingKey>>,
    /// How many keys there may be before those that nobody uses are let go.
    keys_max: usize,
}

#[derive(Debug)]
struct Conn {
    /// `None` where nothing can be sent.
    via: Option<Via>,
    /// `None` where keys have no limit.
    key: Option<Arc<SendingKey>>,
}

impl Relay {
    pub(crate) fn new(config: RelayConfig, moved: mpsc::Sender<[ConnId; 2]>, now: Instant) -> Self {
        let gate = Arc::new(Gate::new(config, now));
        Self {
            backlog: Backlog::new(gate.clone()),
            gate,
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            control: Mutex::default(),
            looked: Mutex::default(),
            moved,
        }
    }

    /// Where this batch of frames of one channel goes, if anywhere.
    pub(super) fn route(
        &self,
        batch: &[u8],
        stride: usize,
        from: SocketAddr,
        counters: &WorkerCounters,
        now: Instant,
    ) -> Decision {
        let first = batch.get(..stride.min(batch.len())).unwrap_or_default();
        let Some((channel, _)) = split(first).filter(|_| first.len() <= FRAME_LEN_MAX) else {
            counters.relay_malformed.add(1);
            return Decision::Drop;
        };
        let shard = self.shard(channel).read().unwrap_or_else(PoisonError::into_inner);
        let Some(published) = shard.get(&channel) else {
            counters.unknown_channel.add(1);
            return Decision::Drop;
        };
        match published.ends.route(canonical(from)) {
            Route::To { lane: id, .. } => {
                let (sender, receiver) = if id.from_second { (1, 0) } else { (0, 1) };
                let Some(via) = published.ways[receiver] else {
                    return Decision::Drop;
                };
                let lane = &published.lanes[sender];
                if self.gate.pass(lane, batch.len() as u64, now) {
                    Decision::Send(via, id)
                } else {
                    Decision::Wait(via, id, lane.clone())
                }
            }
            Route::UnknownChannel => Decision::Drop,
            Route::WrongSource(ends) => {
                counters.wrong_source.add(1);
                drop(shard);
                self.ask_where(channel, ends, now);
                Decision::Drop
            }
        }
    }

    /// The lane of what has been paid for already.
    pub(super) fn lane(&self, id: LaneId) -> Option<Arc<Lane>> {
        let shard = self
            .shard(id.channel)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let published = shard.get(&id.channel)?;
        Some(published.lanes[usize::from(id.from_second)].clone())
    }

    /// A connection was made: whose it is, and how it is reached.
    pub(crate) fn connect(&self, conn: ConnId, peer: PeerId, via: Via, now: Instant) {
        let mut control = self.control();
        let limited = self.gate.config().per_key.is_some();
        let key = limited.then(|| control.key(peer, now));
        control.conns.insert(conn, Conn { via: None, key });
        self.publish_end(&mut control, conn, via);
    }

    /// A connection is reached this way now.
    pub(crate) fn move_end(&self, conn: ConnId, via: Via) {
        self.publish_end(&mut self.control(), conn, via);
    }

    /// A connection is gone.
    pub(crate) fn forget(&self, conn: ConnId) {
        self.control().conns.remove(&conn);
    }

    /// Open a channel between two connections. `false` if the table is full.
    pub(crate) fn open(&self, channel: ChannelId, ends: [(ConnId, SocketAddr); 2]) -> bool {
        let mut control = self.control();
        let Some(opened) = control.table.open(channel, ends) else {
            return false;
        };
        let conns = ends.map(|(conn, _)| conn);
        let of = |conn: ConnId| control.conns.get(&conn);
        let lane = |conn| Arc::new(Lane::new(of(conn).and_then(|conn| conn.key.clone())));
        let published = Published {
            ends: opened,
            ways: conns.map(|conn| of(conn).and_then(|conn| conn.via)),
            lanes: conns.map(lane),
        };
        control.channels.insert(channel, conns);
        self.write(channel).insert(channel, published);
        true
    }

    /// Close a channel.
    pub(crate) fn close(&self, channel: ChannelId) {
        let mut control = self.control();
        control.table.close(channel);
        control.channels.remove(&channel);
        self.write(channel).remove(&channel);
        self.backlog.forget(channel);
    }

    /// Channels that are open.
    pub(crate) fn channels(&self) -> usize {
        self.control().table.len()
    }

    fn publish_end(&self, control: &mut Control, conn: ConnId, via: Via) {
        // A link-local address means nothing without its interface, and sending to it is an error of the socket.
        let way = (Reach::of(via.to) != Reach::Never).then_some(via);
        if let Some(conn) = control.conns.get_mut(&conn) {
            conn.via = way;
        }
        for (channel, ends) in control.table.move_end(conn, via.to) {
            let conns = control.channels.get(&channel).copied();
            if let Some(published) = self.write(channel).get_mut(&channel) {
                published.ends = ends;
                for (slot, of) in published.ways.iter_mut().zip(conns.into_iter().flatten()) {
                    if of == conn {
                        *slot = way;
                    }
                }
            }
        }
    }

    fn ask_where(&self, channel: ChannelId, ends: [ConnId; 2], now: Instant) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: Instant| now.saturating_duration_since(at) < LOOK_INTERVAL;
        if !looked.is_some_and(|(of, at)| of == channel && recent(at)) {
            *looked = Some((channel, now));
            // When the queue is full the question is already being asked.
            let _ = self.moved.try_send(ends);
        }
    }

    fn shard(&self, channel: ChannelId) -> &RwLock<HashMap<ChannelId, Published>> {
        // Channels are random numbers.
        let number = channel.0.to_le_bytes()[0];
        &self.shards[usize::from(number) % SHARDS]
    }

    fn write(&self, channel: ChannelId) -> impl std::ops::DerefMut<Target = HashMap<ChannelId, Published>> {
        self.shard(channel)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        // Nothing panics while holding it; if something did, forwarding with what is there beats stopping.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// The limit of a key. It outlives the key's connections until it is rested, so that connecting anew is no way around
    /// it.
    fn key(&mut self, peer: PeerId, now: Instant) -> Arc<SendingKey> {
        if self.keys.len() > self.keys_max.max(KEYS_KEPT) {
            self.keys
                .retain(|_, key| Arc::strong_count(key) > 1 || !key.is_rested(now));
            self.keys_max = 2 * self.keys.len();
        }
        self.keys
            .entry(peer)
            .or_insert_with(|| Arc::new(SendingKey::new(peer, now)))
            .clone()
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
