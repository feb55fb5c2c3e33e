//! What is still to be sent, handed out to the streams of a transfer.
//!
//! Files go in the order of the list, small ones together. It is over when the receiver has said of every file what became
//! of it: until then it may ask for chunks again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::manifest::Manifest;
use super::source::Job;
use super::tree::{Geometry, Value};

/// Most small files of one job. More would keep one stream busy while others have nothing to do.
const SMALL_FILES_MAX: usize = 256;

/// Most bytes of small files of one job.
const SMALL_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Requests for chunks that may wait. An honest receiver has a few.
const AGAIN_MAX: usize = 1024;

/// Jobs of one transfer.
#[derive(Debug)]
pub(super) struct Jobs {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Files that nobody has begun to read.
    files: VecDeque<(u32, u64)>,
    claims: HashMap<u32, BTreeMap<u32, Value>>,
    again: VecDeque<(u32, Vec<u32>)>,
    /// Files without a verdict.
    open: HashSet<u32>,
}

impl Jobs {
    /// `files`: those that the receiver wants. `claims`: what it has of them.
    pub(super) fn new(
        manifest: &Manifest,
        files: impl IntoIterator<Item = u32>,
        claims: HashMap<u32, BTreeMap<u32, Value>>,
    ) -> Self {
        let sized = |index| (index, manifest.entry(index).map_or(0, |entry| entry.size));
        let files: VecDeque<_> = files.into_iter().map(sized).collect();
        Self {
            state: Mutex::new(State {
                open: files.iter().map(|(index, _)| *index).collect(),
                files,
                claims,
                again: VecDeque::new(),
            }),
            changed: Notify::new(),
        }
    }

    /// The next job; `None` when every file has its verdict.
    pub(super) async fn next(&self) -> Option<Job> {
        loop {
            // Before looking, so that no change is missed.
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if state.open.is_empty() {
                    return None;
                }
                if let Some(job) = state.next() {
                    return Some(job);
                }
            }
            changed.await;
        }
    }

    /// What became of a file. `false`: it has a verdict already, or was not wanted.
    pub(super) fn verdict(&self, index: u32) -> bool {
        let mut state = self.lock();
        let open = state.open.remove(&index);
        if state.open.is_empty() {
            self.changed.notify_waiters();
        }
        open
    }

    /// The receiver wants these chunks again. `false`: it cannot.
    pub(super) fn again(&self, manifest: &Manifest, index: u32, chunks: Vec<u32>) -> bool {
        let mut state = self.lock();
        if !state.open.contains(&index) {
            // Its verdict crossed the request on the way.
            return manifest.entry(index).is_some();
        }
        let Some(entry) = manifest.entry(index) else {
            return false;
        };
        let count = Geometry::new(entry.size).chunks();
        if state.again.len() >= AGAIN_MAX || chunks.iter().any(|chunk| *chunk >= count) {
            return false;
        }
        state.again.push_back((index, chunks));
        self.changed.notify_waiters();
        true
    }

    /// Has this file its verdict?
    pub(super) fn is_over(&self, index: u32) -> bool {
        !self.lock().open.contains(&index)
    }

    /// Files without a verdict.
    pub(super) fn left(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Job> {
        if let Some((index, chunks)) = self.again.pop_front() {
            return Some(Job::Again { index, chunks });
        }
        let (index, size) = self.files.pop_front()?;
        if !Geometry::new(size).is_single() {
            let claims = self.claims.remove(&index).unwrap_or_default();
            return Some(Job::Large { index, claims });
        }
        let (mut files, mut bytes) = (vec![index], size);
        while files.len() < SMALL_FILES_MAX
            && let Some((index, size)) = self.files.front().copied()
            && Geometry::new(size).is_single()
            && bytes + size <= SMALL_BYTES_MAX
        {
            self.files.pop_front();
            files.push(index);
            bytes += size;
        }
        Some(Job::Small(files))
    }
}
