//! A file of several chunks on its way: which of them are there, and what they hash to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::journal::PathKey;
use super::tree::{Geometry, Value};

/// Bytes that are read in one go when chunks of an earlier attempt are checked.
const CHECK_BLOCK_LEN: usize = 256 * 1024;

/// A file that is being received, and the partial file that it grows in.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) index: u32,
    pub(super) key: PathKey,
    pub(super) geometry: Geometry,
    pub(super) file: File,
    /// Was the file made in this attempt? Then what nobody wrote to is zero.
    pub(super) fresh: bool,
    state: Mutex<State>,
    /// Given back when nobody has the part any more.
    _places: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct State {
    chunks: Vec<Chunk>,
    /// Chunks that are neither kept nor confirmed.
    left: u32,
    /// Chunks that came in this attempt, for better or worse.
    came: u32,
    /// Chunks that may come once more than they are needed: what the journal claimed of them was wrong, and the sender may
    /// have sent them already because they are others at its side.
    spare: u32,
}

/// How far a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// Not there.
    Missing,
    /// Not there, and something else may be.
    Spoilt,
    /// Being written.
    Arriving,
    /// There, as the journal says; not checked in this attempt yet.
    Claimed(Value),
    /// And compared with what is on disk. The sender may still find that its own chunk is another one.
    Confirmed(Value),
    /// Written, its value compared.
    Arrived(Value),
    /// And on disk, and in the journal.
    Kept(Value),
}

/// A chunk may be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Nobody wrote there in this attempt.
    New,
    /// Something of no value is there.
    Again,
    /// The journal claims that it is there: the sender has other bytes now.
    Replaces,
    /// It is there, and need not be written.
    Spare,
}

impl Part {
    /// `claims`: chunks that the journal says are there.
    pub(super) fn new(
        index: u32,
        key: PathKey,
        size: u64,
        file: File,
        fresh: bool,
        claims: impl Iterator<Item = (u32, Value)>,
    ) -> Self {
        let geometry = Geometry::new(size);
        let left = geometry.chunks();
        let mut chunks = vec![Chunk::Missing; left as usize];
        for (chunk, value) in claims {
            if let Some(slot) = chunks.get_mut(chunk as usize) {
                *slot = Chunk::Claimed(value);
            }
        }
        Self {
            index,
            key,
            geometry,
            file,
            fresh,
            state: Mutex::new(State {
                chunks,
                left,
                came: 0,
                spare: 0,
            }),
            _places: None,
        }
    }

    /// The same in these places of [`super::desk::Desk`].
    pub(super) fn with_places(self, places: OwnedSemaphorePermit) -> Self {
        Self {
            _places: Some(places),
            ..self
        }
    }

    /// Chunks that are claimed and not checked yet, with their values.
    pub(super) fn claims(&self) -> Vec<(u32, Value)> {
        let state = self.lock();
        let claims = (0..).zip(&state.chunks).filter_map(|(chunk, state)| match state {
            Chunk::Claimed(value) => Some((chunk, *value)),
            _ => None,
        });
        claims.collect()
    }

    /// Bytes of the chunks that are there, claimed ones included.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.lock();
        let there = (0..)
            .zip(&state.chunks)
            .filter(|(_, chunk)| matches!(chunk, Chunk::Claimed(_) | Chunk::Confirmed(_) | Chunk::Kept(_)));
        there.map(|(chunk, _)| self.geometry.len(chunk)).sum()
    }

    /// A chunk is about to be written. `None`: nobody asked for it once more.
    pub(super) fn begin(&self, chunk: u32) -> Option<Begun> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let slot = state.chunks.get_mut(chunk as usize)?;
        let begun = match slot {
            Chunk::Missing => Begun::New,
            Chunk::Spoilt => Begun::Again,
            Chunk::Claimed(_) => Begun::Replaces,
            Chunk::Confirmed(_) => {
                state.left += 1;
                Begun::Replaces
            }
            _ => {
                state.spare = state.spare.checked_sub(1)?;
                return Some(Begun::Spare);
            }
        };
        *slot = Chunk::Arriving;
        Some(begun)
    }

    /// It was not written whole, or was not what the sender said.
    pub(super) fn abandon(&self, chunk: u32) {
        self.set(chunk, Chunk::Spoilt);
    }

    /// It was written, and is what the sender said.
    pub(super) fn arrived(&self, chunk: u32, value: Value) {
        self.set(chunk, Chunk::Arrived(value));
    }

    /// It is on disk and in the journal.
    pub(super) fn kept(&self, chunk: u32) {
        let mut state = self.lock();
        if let Some(slot) = state.chunks.get_mut(chunk as usize)
            && let Chunk::Arrived(value) = *slot
        {
            *slot = Chunk::Kept(value);
            state.left -= 1;
        }
    }

    /// Compare the claimed chunks with what is in the file. Returns those that are not there after all, with their bytes
    /// together.
    pub(super) fn check(&self, go_on: impl Fn() -> bool) -> (Vec<u32>, u64) {
        let (mut missing, mut bytes) = (Vec::new(), 0);
        for (chunk, value) in self.claims() {
            if !go_on() {
                break;
            }
            // A chunk that cannot be read is not there.
            let same = self.hash(chunk).is_ok_and(|own| own == value);
            let mut guard = self.lock();
            let state = &mut *guard;
            let Some(slot) = state.chunks.get_mut(chunk as usize) else {
                continue;
            };
            if *slot != Chunk::Claimed(value) {
                continue;
            }
            if same {
                *slot = Chunk::Confirmed(value);
                state.left -= 1;
            } else {
                *slot = Chunk::Missing;
                state.spare += 1;
                missing.push(chunk);
                bytes += self.geometry.len(chunk);
            }
        }
        (missing, bytes)
    }

    /// A chunk has come to its end, whatever became of it.
    pub(super) fn count(&self) {
        self.lock().came += 1;
    }

    /// Is every chunk on disk, and has everything come that the sender had to send?
    pub(super) fn is_whole(&self, sent: u32) -> bool {
        let state = self.lock();
        state.left == 0 && state.came >= sent
    }

    /// The hash of the file; `None` while chunks are missing.
    pub(super) fn root(&self) -> Option<Value> {
        let values: Option<Vec<Value>> = {
            let state = self.lock();
            let kept = state.chunks.iter().map(|chunk| match chunk {
                Chunk::Kept(value) | Chunk::Confirmed(value) => Some(*value),
                _ => None,
            });
            kept.collect()
        };
        self.geometry.root(&values?)
    }

    fn hash(&self, chunk: u32) -> io::Result<Value> {
        let mut hasher = self.geometry.hasher(chunk);
        let mut offset = self.geometry.start(chunk);
        let end = offset + self.geometry.len(chunk);
        let mut block = vec![0; CHECK_BLOCK_LEN];
        while offset < end {
            let want =
                usize::try_from(end - offset).map_or(CHECK_BLOCK_LEN, |left| left.min(CHECK_BLOCK_LEN));
            let Some(block) = block.get_mut(..want) else { break };
            self.file.read_exact_at(block, offset)?;
            hasher.update(block);
            offset += want as u64;
        }
        Ok(hasher.value())
    }

    fn set(&self, chunk: u32, to: Chunk) {
        let mut state = self.lock();
        if let Some(slot) = state.chunks.get_mut(chunk as usize)
            && *slot == Chunk::Arriving
        {
            *slot = to;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::iter::empty;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn part(bytes: &[u8], claims: &[(u32, Value)]) -> Part {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Part::new(
            0,
            [0; 16],
            bytes.len() as u64,
            file,
            false,
            claims.iter().copied(),
        )
    }

    fn value(bytes: &[u8], chunk: u32) -> Value {
        let geometry = Geometry::new(bytes.len() as u64);
        let mut hasher = geometry.hasher(chunk);
        let start = chunk as usize * MIB;
        hasher.update(&bytes[start..(start + MIB).min(bytes.len())]);
        hasher.value()
    }

    #[test]
    fn a_chunk_is_written_once_and_counts_when_it_is_kept() {
        let bytes = vec![7; 2 * MIB + 1];
        let part = part(&bytes, &[]);
        assert_eq!(part.begin(3), None, "not in the file");
        for chunk in [1, 0, 2] {
            assert_eq!(part.begin(chunk), Some(Begun::New));
            assert_eq!(part.begin(chunk), None);
            part.kept(chunk);
            assert!(!part.is_whole(0), "nothing counts before it has arrived");
            part.arrived(chunk, value(&bytes, chunk));
            part.kept(chunk);
            part.kept(chunk);
        }
        assert!(part.is_whole(0) && !part.is_whole(3), "nothing was counted");
        assert_eq!(part.root(), Some(*blake3::hash(&bytes).as_bytes()));
    }

    #[test]
    fn what_was_abandoned_can_be_written_again() {
        let part = Part::new(0, [0; 16], 2 << 20, tempfile::tempfile().unwrap(), true, empty());
        assert_eq!(part.begin(0), Some(Begun::New));
        part.abandon(0);
        assert_eq!(part.begin(0), Some(Begun::Again));
        part.arrived(0, [1; 32]);
        part.abandon(0);
        assert_eq!(part.begin(0), None, "what has arrived stays");
        assert_eq!(part.root(), None);
    }

    #[test]
    fn claims_are_compared_with_the_file_and_those_that_are_wrong_are_missing() {
        let mut bytes = vec![7; 4 * MIB];
        let claims: Vec<_> = (0..4).map(|chunk| (chunk, value(&bytes, chunk))).collect();
        bytes[2 * MIB + 9] ^= 1;
        let part = part(&bytes, &claims);
        assert_eq!((part.bytes(), part.claims().len()), (4 << 20, 4));
        assert_eq!(part.begin(3), Some(Begun::Replaces));
        assert_eq!(part.check(|| true), (vec![2], 1 << 20));
        assert_eq!((part.bytes(), part.claims().len()), (2 << 20, 0));
        assert_eq!(part.begin(2), Some(Begun::New));
        assert_eq!(
            part.begin(2),
            Some(Begun::Spare),
            "the sender may have sent it before it was asked"
        );
        assert_eq!(part.begin(2), None);
        assert_eq!(
            part.begin(1),
            Some(Begun::Replaces),
            "the sender has another one now"
        );
        assert_eq!(part.begin(1), None);
    }
}
