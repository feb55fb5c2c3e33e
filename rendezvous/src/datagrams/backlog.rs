//! Batches that wait for a limit or for a socket: the queue, the memory that they lie in, and who wakes whom.
//!
//! Whatever leaves at once never comes here. The order and the moments are [`FairQueue`]'s.

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
    /// The socket that was found full.
    full: Option<(usize, usize)>,
}

impl Backlog {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            state: Mutex::new(State {
                queue: FairQueue::new(gate.clone()),
                memory: Memory::default(),
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
        let State { queue, memory, full } = &mut *self.lock();
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
        let State { queue, memory, full } = &mut *self.lock();
        if let Some((wire, worker)) = *full {
            return Next::Socket(wire, worker);
        }
        if let Some(release) = queue.poll(&mut |held| memory.take_back(held.bytes), now) {
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
        release.payload.sent += sent;
        // What left stays paid for, whatever becomes of the rest.
        let sent = u32::try_from(sent).unwrap_or(u32::MAX);
        release.unit.bytes = release.unit.bytes.saturating_sub(sent);
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
        self.lock().queue.stats()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, forwarding with what is there beats stopping.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unit(head: &Head, piece: &[u8]) -> Unit {
    let small = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    Unit {
        bytes: small(piece.len()),
        footprint: small(size_for(piece.len())),
        can_be_marked: head.ecn.is_some(),
    }
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
