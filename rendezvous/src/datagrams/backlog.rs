//! Batches that wait for a limit or for a socket: the queue, the memory that they lie in, and who wakes whom.
//!
//! Whatever leaves at once never comes here. The order and the moments are [`FairQueue`]'s.
//!
//! A batch is what QUIC sends in one go, up to 45 packets. Where its sender is to slow down and cannot be told by a mark, its
//! first frame is dropped and the rest leaves: one lost packet says it, and forty would be taken for worse than it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use knothole_proto::id::ChannelId;
use knothole_proto::rendezvous::{FairQueue, Gate, Lane, LaneId, Offered, QueueStats, Release, Unit};
use tokio::sync::Notify;

use super::outbox::Head;

/// Sizes of the buffers that batches lie in, in bytes: a frame, a handful, the largest batch. A batch takes the smallest
/// that holds it.
const SIZES: [usize; 3] = [2 * 1024, 16 * 1024, 64 * 1024];

/// Bytes of empty buffers kept of each size. Beyond it they go back to the allocator: this is what a server keeps for
/// good of a moment's rush.
const KEPT: usize = 4 * 1024 * 1024;

/// A batch that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) head: Head,
    /// Which of the sockets of its address.
    pub(super) worker: usize,
    bytes: Vec<u8>,
    /// Bytes at the front that have left already.
    sent: usize,
}

impl Held {
    /// What has not left yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send this.
    Send(Release<Held>),
    /// Wait until then, or until told.
    At(Instant),
    /// Wait until told.
    Idle,
    /// Wait for this socket: number and worker.
    Socket(usize, usize),
}

/// All that waits.
#[derive(Debug)]
pub(super) struct Backlog {
    gate: Arc<Gate>,
    state: Mutex<State>,
    /// Something came that may be due earlier than what is waited for.
    pub(super) wake: Notify,
}

#[derive(Debug)]
struct State {
    queue: FairQueue<Held>,
    memory: Memory,
    shortened: Shortened,
    /// The socket that was found full.
    full: Option<(usize, usize)>,
}

/// What the queue takes for marked batches: those that left without their first frame.
#[derive(Debug, Default)]
struct Shortened {
    batches: u64,
    bytes: u64,
}

impl Shortened {
    /// Drop the first frame, so that whoever receives the rest sees the gap. The limits stay charged for it.
    fn shorten(&mut self, release: &mut Release<Held>) {
        let held = &mut release.payload;
        let frame = held.head.stride.min(held.rest().len());
        held.sent += frame;
        release.unit.bytes = release.unit.bytes.saturating_sub(small(frame));
        // Said, also if its socket is full and it has to come again.
        release.mark = false;
        self.batches += 1;
        self.bytes += u64::from(small(frame));
    }
}

impl Backlog {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            state: Mutex::new(State {
                queue: FairQueue::new(gate.clone()),
                memory: Memory::default(),
                shortened: Shortened::default(),
                full: None,
            }),
            gate,
            wake: Notify::new(),
        }
    }

    /// Longest piece of a batch of frames of this length, in bytes: whole frames, at least one.
    pub(super) fn piece(&self, stride: usize) -> usize {
        let most = usize::try_from(self.gate.unit_max()).unwrap_or(usize::MAX);
        let frames = most.min(SIZES[SIZES.len() - 1]) / stride.max(1);
        frames.max(1) * stride.max(1)
    }

    /// A piece that may not leave at once. Does it leave after all?
    pub(super) fn offer(
        &self,
        id: LaneId,
        lane: &Arc<Lane>,
        head: Head,
        worker: usize,
        piece: &[u8],
        now: Instant,
    ) -> bool {
        let State { queue, memory, .. } = &mut *self.lock();
        let held = || memory.hold(head, worker, piece);
        let offered = queue.offer(id, lane, unit(&head, piece), held, now);
        if offered == Offered::Waits {
            self.wake.notify_one();
        }
        offered == Offered::Pass
    }

    /// A piece that is paid for and that its socket does not take.
    pub(super) fn hold(
        &self,
        id: LaneId,
        lane: &Arc<Lane>,
        head: Head,
        worker: usize,
        piece: &[u8],
        now: Instant,
    ) {
        let State {
            queue, memory, full, ..
        } = &mut *self.lock();
        queue.hold(
            id,
            lane,
            unit(&head, piece),
            || memory.hold(head, worker, piece),
            now,
        );
        full.get_or_insert((head.via.wire, worker));
        self.wake.notify_one();
    }

    /// What is due.
    pub(super) fn next(&self, now: Instant) -> Next {
        let State {
            queue,
            memory,
            shortened,
            full,
        } = &mut *self.lock();
        if let Some((wire, worker)) = *full {
            return Next::Socket(wire, worker);
        }
        if let Some(mut release) = queue.poll(&mut |held| memory.take_back(held.bytes), now) {
            if release.mark && release.payload.head.ecn.is_none() {
                shortened.shorten(&mut release);
            }
            return Next::Send(release);
        }
        queue.poll_timeout().map_or(Next::Idle, Next::At)
    }

    /// What was due was sent.
    pub(super) fn done(&self, release: Release<Held>) {
        self.lock().memory.take_back(release.payload.bytes);
    }

    /// What was due found its socket full, which took so many bytes at its front before.
    pub(super) fn put_back(&self, mut release: Release<Held>, sent: usize) {
        let held = &mut release.payload;
        held.sent += sent;
        release.unit.can_be_marked = can_be_told(&held.head, held.rest());
        // What left stays paid for, whatever becomes of the rest.
        release.unit.bytes = release.unit.bytes.saturating_sub(small(sent));
        let mut state = self.lock();
        state.full = Some((release.payload.head.via.wire, release.payload.worker));
        state.queue.put_back(release);
    }

    /// The socket that was full takes more.
    pub(super) fn socket_ready(&self) {
        let mut state = self.lock();
        state.full = None;
        state.queue.socket_ready();
    }

    /// A channel was closed.
    pub(super) fn forget(&self, channel: ChannelId) {
        let State { queue, memory, .. } = &mut *self.lock();
        for from_second in [false, true] {
            let id = LaneId { channel, from_second };
            queue.forget(id, &mut |held| memory.take_back(held.bytes));
        }
    }

    pub(super) fn stats(&self) -> QueueStats {
        let state = self.lock();
        let (stats, Shortened { batches, bytes }) = (state.queue.stats(), &state.shortened);
        QueueStats {
            delayed_bytes: stats.delayed_bytes.saturating_sub(*bytes),
            marked_batches: stats.marked_batches.saturating_sub(*batches),
            signal_bytes: stats.signal_bytes + bytes,
            ..stats
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, forwarding with what is there beats stopping.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unit(head: &Head, piece: &[u8]) -> Unit {
    Unit {
        bytes: small(piece.len()),
        footprint: small(size_for(piece.len())),
        can_be_marked: can_be_told(head, piece),
    }
}

/// Can its sender be told to slow down without the loss of all of it? By a mark, or by the loss of one of its frames.
fn can_be_told(head: &Head, frames: &[u8]) -> bool {
    head.ecn.is_some() || frames.len() > head.stride
}

fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Bytes of the buffer for a piece of this length.
fn size_for(len: usize) -> usize {
    SIZES.into_iter().find(|size| len <= *size).unwrap_or(len)
}

/// Empty buffers of each size.
#[derive(Debug, Default)]
struct Memory {
    empty: [Vec<Vec<u8>>; SIZES.len()],
}

impl Memory {
    fn hold(&mut self, head: Head, worker: usize, piece: &[u8]) -> Held {
        let size = size_for(piece.len());
        let place = SIZES.iter().position(|other| *other == size);
        let reused = place.and_then(|place| self.empty[place].pop());
        let mut bytes = reused.unwrap_or_else(|| Vec::with_capacity(size));
        bytes.extend_from_slice(piece);
        Held {
            head,
            worker,
            bytes,
            sent: 0,
        }
    }

    fn take_back(&mut self, mut bytes: Vec<u8>) {
        bytes.clear();
        let Some(place) = SIZES.iter().position(|size| *size == bytes.capacity()) else {
            return;
        };
        if self.empty[place].len() < KEPT / SIZES[place] {
            self.empty[place].push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knothole_proto::rendezvous::RelayConfig;
    use quinn::udp::EcnCodepoint;

    use super::super::relay::Via;
    use super::*;

    const FRAME: usize = 1_000;
    /// 8 ms at the limit.
    const BATCH: usize = 40 * FRAME;
    /// As many as may wait in a lane; the last of them leaves after 144 ms.
    const BATCHES: usize = 18;
    const LANE: LaneId = LaneId {
        channel: ChannelId(7),
        from_second: false,
    };

    /// A queue that stands for longer than it should, and when that began.
    fn standing(ecn: Option<EcnCodepoint>) -> (Backlog, Instant) {
        let now = Instant::now();
        let gate = Arc::new(Gate::new(RelayConfig::new(40_000_000), now));
        let lane = Arc::new(Lane::default());
        assert!(
            gate.pass(&lane, gate.config().total.burst, now),
            "what a rest has saved"
        );
        let backlog = Backlog::new(gate);
        let head = Head {
            via: Via {
                to: "198.51.100.1:1000".parse().unwrap(),
                wire: 0,
                source: None,
            },
            ecn,
            stride: FRAME,
            lane: LANE,
        };
        for _ in 0..BATCHES {
            assert!(!backlog.offer(LANE, &lane, head, 0, &[7; BATCH], now));
        }
        assert_eq!(backlog.stats().dropped_batches, 0);
        (backlog, now)
    }

    /// What is due next, at its moment.
    fn due(backlog: &Backlog, now: &mut Instant) -> Option<Release<Held>> {
        for _ in 0..1_000 {
            match backlog.next(*now) {
                Next::Send(release) => return Some(release),
                Next::At(at) => *now = at.max(*now + Duration::from_micros(1)),
                Next::Idle => return None,
                Next::Socket(..) => panic!("no socket is full"),
            }
        }
        panic!("nothing comes of waiting");
    }

    #[test]
    fn who_cannot_be_told_by_a_mark_loses_one_frame_and_not_the_batch() {
        let (backlog, mut now) = standing(None);
        let mut lengths = Vec::new();
        while let Some(release) = due(&backlog, &mut now) {
            assert!(!release.mark);
            assert_eq!(release.unit.bytes as usize, release.payload.rest().len());
            lengths.push(release.payload.rest().len());
            backlog.done(release);
        }
        let told = lengths.iter().filter(|len| **len == BATCH - FRAME).count();
        assert!(told > 0, "{lengths:?}");
        assert_eq!(lengths.len(), BATCHES);
        let stats = backlog.stats();
        assert_eq!(stats.signal_bytes, (told * FRAME) as u64);
        assert_eq!(stats.delayed_bytes, lengths.iter().sum::<usize>() as u64);
        assert_eq!((stats.dropped_batches, stats.marked_batches), (0, 0));
        assert_eq!((stats.lanes, stats.held_bytes), (0, 0));
    }

    #[test]
    fn who_was_told_is_not_told_again_because_a_socket_is_full() {
        let (backlog, mut now) = standing(None);
        let first = loop {
            let release = due(&backlog, &mut now).expect("a signal");
            if release.payload.rest().len() < BATCH {
                break release;
            }
            backlog.done(release);
        };
        backlog.put_back(first, 38 * FRAME);
        assert!(matches!(backlog.next(now), Next::Socket(0, 0)));
        backlog.socket_ready();
        let again = due(&backlog, &mut now).expect("the rest");
        assert_eq!(again.payload.rest().len(), FRAME);
        assert!(!again.mark && !again.unit.can_be_marked);
        backlog.done(again);
        let stats = backlog.stats();
        assert_eq!((stats.signal_bytes, stats.dropped_batches), (FRAME as u64, 0));
    }

    #[test]
    fn what_can_be_marked_stays_whole() {
        let (backlog, mut now) = standing(Some(EcnCodepoint::Ect0));
        let mut marked = 0;
        while let Some(release) = due(&backlog, &mut now) {
            assert_eq!(release.payload.rest().len(), BATCH);
            marked += u64::from(release.mark);
            backlog.done(release);
        }
        let stats = backlog.stats();
        assert!(marked > 0);
        assert_eq!((stats.marked_batches, stats.signal_bytes), (marked, 0));
    }
}
