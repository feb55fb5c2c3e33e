//! What the tasks and threads of one transfer share at the receiver, and the queue between them.
//!
//! Threads at the data streams write and compare; one thread ([`super::keeper`]) brings what they wrote to disk and into
//! the journal; the loop of the transfer hears of both. The queue to the keeper holds a bounded number of bytes: what a
//! crash may cost is bounded by it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::inbox::{Conflict, Inbox, Roots, Seen};
use super::journal::{Journal, Record};
use super::limit::Limit;
use super::manifest::Manifest;
use super::messages::{Entry, Kind, Outcome, STREAMS_MAX, TransferId};
use super::part::Part;
use super::partial::{Partial, path_key};
use super::plan::{RESOLVED, TAKEN, UNWANTED, WANTED};
use super::tree::{CHUNKS_MAX, Geometry, Value};

/// Bytes that may be written and not in the journal yet. What a crash costs besides is a chunk of each stream and what
/// was on its way; all together stay below 16 MiB.
pub(super) const UNKEPT_MAX: u64 = 6 * 1024 * 1024;

/// Files and chunks that may wait for the keeper: how many small files become safe in one go at most.
const QUEUE_MAX: usize = 1024;

/// Places for files of several chunks that were begun in this attempt, until nobody has them in hand any more. A file takes one
/// for every [`PLACE_CHUNKS`], so that small ones are bounded by the number of open files and giants by their tables of chunks.
/// Those that are gone on with, of which there may be many, take none; [`super::plan`] bounds them.
pub(super) const PLACES: usize = 64;

/// Chunks that a place stands for: 16,384 of 33 bytes, so all places are 35 MB. An honest sender has at most two files a stream
/// begun, one that it sends and one that waits to be kept, and that is room for two of the largest.
const PLACE_CHUNKS: u64 = 2 * STREAMS_MAX as u64 * CHUNKS_MAX / PLACES as u64;

/// What the loop of the transfer hears.
#[derive(Debug)]
pub(super) enum Notice {
    /// So many bytes of this file are kept now.
    Kept { index: u32, bytes: u64 },
    /// A file came to its place, or not.
    Placed {
        index: u32,
        outcome: Outcome,
        name: Option<String>,
        hash: Option<Value>,
    },
    /// These chunks are not there, or not what the sender said; they take so many bytes.
    Missing {
        index: u32,
        chunks: Vec<u32>,
        bytes: u64,
    },
    /// A chunk with so many bytes that was there from an earlier attempt is another one now.
    Replaced { bytes: u64 },
    /// Something changed that the file may have been waiting for.
    Checked { index: u32 },
    /// The disk does not take any more.
    Disk(io::Error),
    /// A stream holds what was not announced.
    Broken(&'static str),
}

/// Work for the keeper.
#[derive(Debug)]
pub(super) enum Job {
    /// A chunk of a file was written.
    Chunk {
        part: Arc<Part>,
        chunk: u32,
        value: Value,
    },
    /// A file of one chunk was written.
    Small { index: u32, seen: Seen, hash: Value },
    /// A file of several chunks is whole.
    Finish(Arc<Part>),
}

/// Everything that is shared.
pub(super) struct Desk {
    pub(super) transfer: TransferId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) roots: Roots,
    pub(super) partial: Partial,
    pub(super) journal: Mutex<Journal>,
    pub(super) conflict: Conflict,
    pub(super) states: Vec<AtomicU8>,
    pub(super) ours: HashMap<u32, (String, Seen)>,
    /// Looked at by the loop of the transfer, so nobody waits for a disk with this lock in hand.
    pub(super) parts: Mutex<HashMap<u32, Arc<Part>>>,
    /// Held while a part is made.
    pub(super) making: Mutex<()>,
    /// Of [`PLACES`], those that are free.
    pub(super) places: Arc<Semaphore>,
    pub(super) queue: Queue,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) limit: Option<Limit>,
    /// Grows with every byte that comes in on data streams, of whatever kind, and every chunk that is compared with the journal.
    pub(super) heard: AtomicU64,
    /// How long nothing may happen.
    pub(super) patience: Duration,
}

impl Desk {
    /// The file that data is for, if any may come for it. `Ok(None)`: its fate is decided, the data is of no use.
    pub(super) fn file(&self, index: u32) -> Result<Option<&Entry>, &'static str> {
        let entry = self
            .manifest
            .entry(index)
            .filter(|entry| entry.kind == Kind::File);
        let entry = entry.ok_or("data of a file that is not in the list")?;
        match self.state(index) {
            UNWANTED => Err("data of a file that was not asked for"),
            RESOLVED => Ok(None),
            _ => Ok(Some(entry)),
        }
    }

    pub(super) fn state(&self, index: u32) -> u8 {
        let state = self.states.get(index as usize);
        state.map_or(UNWANTED, |state| state.load(Ordering::SeqCst))
    }

    /// `true` if it was in the first state and is now in the second.
    pub(super) fn change(&self, index: u32, from: u8, to: u8) -> bool {
        let state = self.states.get(index as usize);
        state.is_some_and(|state| {
            state
                .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        })
    }

    /// The fate of a file is decided. `false`: it was before.
    pub(super) fn resolve(&self, index: u32) -> bool {
        let (wanted, taken) = (
            self.change(index, WANTED, RESOLVED),
            self.change(index, TAKEN, RESOLVED),
        );
        wanted || taken
    }

    /// The part of a file of several chunks, made if it was not yet.
    pub(super) fn part(&self, index: u32, entry: &Entry) -> io::Result<Result<Arc<Part>, &'static str>> {
        if let Some(part) = self.begun(index) {
            return Ok(Ok(part));
        }
        // Makes one thread wait for the disk of another, but nobody who only looks for a part.
        let _making = lock(&self.making);
        // Another stream may have made it while this one waited.
        if let Some(part) = self.begun(index) {
            return Ok(Ok(part));
        }
        let Some(places) = self.places(entry) else {
            return Ok(Err("too many large files at once"));
        };
        let key = path_key(&self.manifest, index);
        let file = self.partial.create(&key, entry.mode)?;
        let disk = self.inbox.disk();
        disk.set_len(&file, entry.size)?;
        disk.sync_folder(self.partial.folder())?;
        // A former file of this path is gone, and with it whatever the journal says of it.
        let size = entry.size;
        lock(&self.journal).append(&[Record::Part { key, size: 0 }, Record::Part { key, size }])?;
        let part = Part::new(index, key, size, file, true, std::iter::empty());
        let part = Arc::new(part.with_places(places));
        lock(&self.parts).insert(index, Arc::clone(&part));
        if self.state(index) == RESOLVED {
            // Whoever decided meanwhile what becomes of it had nothing to let go of yet.
            self.let_go(index);
        }
        Ok(Ok(part))
    }

    /// The part of a file that was begun.
    pub(super) fn begun(&self, index: u32) -> Option<Arc<Part>> {
        lock(&self.parts).get(&index).map(Arc::clone)
    }

    /// Nothing more comes for this file.
    pub(super) fn let_go(&self, index: u32) {
        let part = lock(&self.parts).remove(&index);
        // Closes the file, perhaps, and by now without the lock.
        drop(part);
    }

    fn places(&self, entry: &Entry) -> Option<OwnedSemaphorePermit> {
        let chunks = u64::from(Geometry::new(entry.size).chunks());
        let count = u32::try_from(chunks.div_ceil(PLACE_CHUNKS)).ok()?;
        Arc::clone(&self.places).try_acquire_many_owned(count).ok()
    }

    /// Tell the loop; `false` if it is over.
    pub(super) fn tell(&self, notice: Notice) -> bool {
        self.notices.blocking_send(notice).is_ok()
    }
}

/// Jobs on their way to the keeper.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    /// Bytes in the queue and in the hands of the keeper.
    bytes: u64,
    /// Has the keeper something in its hands?
    busy: bool,
    closed: bool,
}

impl Job {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Chunk { part, chunk, .. } => part.geometry.len(*chunk),
            Self::Small { seen, .. } => seen.size,
            Self::Finish(_) => 0,
        }
    }
}

impl Queue {
    /// Hand over a job; waits while too much is not kept. `false` if the transfer is over.
    pub(super) fn put(&self, job: Job) -> bool {
        let bytes = job.bytes();
        let mut state = lock(&self.state);
        while !state.closed
            && (state.jobs.len() >= QUEUE_MAX || (state.bytes > 0 && state.bytes + bytes > UNKEPT_MAX))
        {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.bytes += bytes;
        state.jobs.push_back(job);
        self.changed.notify_all();
        true
    }

    /// Hand over a job without waiting; of these there are never more than open parts.
    pub(super) fn put_now(&self, job: Job) {
        let mut state = lock(&self.state);
        state.bytes += job.bytes();
        state.jobs.push_back(job);
        self.changed.notify_all();
    }

    /// Everything that waits; `None` when nothing will come any more.
    pub(super) fn take_all(&self) -> Option<Vec<Job>> {
        let mut state = lock(&self.state);
        state.busy = false;
        while state.jobs.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy = true;
        let jobs = state.jobs.drain(..).collect();
        self.changed.notify_all();
        Some(jobs)
    }

    /// So many bytes are kept.
    pub(super) fn done(&self, bytes: u64) {
        let mut state = lock(&self.state);
        state.bytes = state.bytes.saturating_sub(bytes);
        self.changed.notify_all();
    }

    /// Nothing more is taken; what waits is still kept.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Is something on its way to disk?
    pub(super) fn is_busy(&self) -> bool {
        let state = lock(&self.state);
        state.busy || !state.jobs.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }
}

/// Is the whole file one chunk?
pub(super) fn is_single(entry: &Entry) -> bool {
    Geometry::new(entry.size).is_single()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked ends the transfer; what it left is checked by the next attempt.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
