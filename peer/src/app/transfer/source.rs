//! The thread that reads files for a data stream: bytes, their hashes, and headers in front of them.
//!
//! A job is a few small files together, or one large one, or chunks of one that are wanted again. What comes out is ready to
//! be written to the stream, so that the task at the network does nothing but write. A file must be at its end what it was
//! when it was listed; one that changed on the way is told as failed, and the next attempt sends what changed.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use knothole_proto::aligned::Aligned;
use knothole_proto::wire::codec;
use tokio::sync::mpsc;

use super::messages::{Entry, PIECE_LEN_MAX, Piece, SourceTrouble};
use super::scan::Sources;
use super::tree::{Geometry, Value};

/// Bytes that are read and hashed in one go: what was read is still in the processor's cache when it is hashed.
const READ_LEN: usize = 256 * 1024;

/// Files up to this length are copied together into one buffer; larger ones are worth a buffer of their own.
const PACKED_LEN_MAX: u64 = 64 * 1024;

/// Bytes of a buffer: a piece.
const BUFFER_LEN: usize = PIECE_LEN_MAX as usize;

/// Buffers that are kept for use again. What is in flight holds more for a while on long paths; those are given back to
/// the system.
const POOLED_MAX: usize = 64;

/// How often the receiver hears that chunks are compared. It gives up after two minutes without any word; less often, and a slow
/// disk comes near that. Tests have few chunks.
const COMPARING_EVERY: Duration = if cfg!(test) {
    Duration::ZERO
} else {
    Duration::from_secs(10)
};

/// Something to read.
#[derive(Debug)]
pub(super) enum Job {
    /// These files, each of one chunk.
    Small(Vec<u32>),
    /// A file of several chunks. The receiver has those with these values.
    Large {
        index: u32,
        claims: BTreeMap<u32, Value>,
    },
    /// These chunks, and nothing but them.
    Again { index: u32, chunks: Vec<u32> },
}

/// What comes of it.
#[derive(Debug)]
pub(super) enum Read {
    /// To be written to the data stream.
    Wire(Bytes),
    /// All of a file of several chunks was read; its hash, and how many chunks of it were sent.
    Done(u32, Value, u32),
    /// A file cannot be sent whole.
    Failed(u32, SourceTrouble),
    /// What the receiver has is the same here, as far as it was compared.
    Comparing,
}

/// Where reading threads put what they read.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    out: &'a mpsc::Sender<Read>,
    pool: &'a Pool,
    /// Small files that wait for company.
    packed: Vec<u8>,
    /// Does nobody want this file any more?
    is_over: &'a (dyn Fn(u32) -> bool + Sync),
    /// When something was said last.
    said: Instant,
}

/// Why reading a file ended early.
enum Trouble {
    /// Nobody listens any more.
    Deaf,
    /// Nobody wants this file any more.
    Unwanted,
    Source(SourceTrouble),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Source(match error.kind() {
            io::ErrorKind::UnexpectedEof => SourceTrouble::Shrank,
            _ => SourceTrouble::Unreadable,
        })
    }
}

/// Do a job, until it is done or nobody listens any more.
pub(super) fn read(
    sources: &Sources,
    job: Job,
    pool: &Pool,
    out: &mpsc::Sender<Read>,
    is_over: &(dyn Fn(u32) -> bool + Sync),
) {
    let mut reader = Reader {
        sources,
        out,
        pool,
        packed: Vec::new(),
        is_over,
        said: Instant::now(),
    };
    let (files, job) = match job {
        Job::Small(files) => (files, None),
        Job::Large { index, .. } | Job::Again { index, .. } => (vec![index], Some(job)),
    };
    for index in files {
        let done = match &job {
            None | Some(Job::Small(_)) => reader.small(index),
            Some(Job::Large { claims, .. }) => reader.large(index, claims),
            Some(Job::Again { chunks, .. }) => reader.again(index, chunks),
        };
        let told = match done {
            Ok(()) | Err(Trouble::Unwanted) => Ok(()),
            Err(Trouble::Deaf) => return,
            Err(Trouble::Source(why)) => reader.say(Read::Failed(index, why)),
        };
        if told.is_err() {
            return;
        }
    }
    // Nobody listens if it fails.
    let _ = reader.flush();
}

impl Reader<'_> {
    /// A file of one chunk.
    fn small(&mut self, index: u32) -> Result<(), Trouble> {
        let (file, entry) = self.open(index)?;
        let length = usize::try_from(entry.size).map_err(|_| Trouble::Source(SourceTrouble::Unreadable))?;
        let mut buffer = self.pool.take();
        let value = self.fill(&file, &entry, 0, 0, buffer.get_mut(length)?)?;
        self.check_unchanged(&file, &entry)?;
        let piece = Piece {
            index,
            offset: 0,
            length: u32::try_from(length).unwrap_or(u32::MAX),
            zeros: false,
            value: Some(value),
        };
        if self.sources.manifest.files() == 1 {
            // For whoever wants to see the hash of what was sent; the receiver has it from the piece.
            self.say(Read::Done(index, value, 1))?;
        }
        if entry.size > PACKED_LEN_MAX {
            return self.emit(piece, buffer, length);
        }
        let header = encode(&piece)?;
        if self.packed.len() + header.len() + length > BUFFER_LEN {
            self.flush()?;
        }
        self.packed.extend_from_slice(&header);
        self.packed.extend_from_slice(buffer.get_mut(length)?);
        Ok(())
    }

    /// All chunks that the receiver has not, then those that it has, to see whether they are the same.
    fn large(&mut self, index: u32, claims: &BTreeMap<u32, Value>) -> Result<(), Trouble> {
        let (file, entry) = self.open(index)?;
        let geometry = Geometry::new(entry.size);
        let mut values = vec![[0; 32]; geometry.chunks() as usize];
        let missing = (0..geometry.chunks()).filter(|chunk| !claims.contains_key(chunk));
        let mut sent = 0;
        for chunk in missing {
            let value = self.chunk(index, &file, &entry, chunk, None)?;
            sent += 1;
            set(&mut values, chunk, value);
        }
        for (chunk, claimed) in claims {
            let value = self.chunk(index, &file, &entry, *chunk, Some(claimed))?;
            sent += u32::from(value != *claimed);
            set(&mut values, *chunk, value);
            // Nothing goes out for chunks that are the same, and a receiver that hears nothing gives up.
            if self.said.elapsed() >= COMPARING_EVERY {
                self.say(Read::Comparing)?;
            }
        }
        self.check_unchanged(&file, &entry)?;
        let hash = geometry
            .root(&values)
            .ok_or(Trouble::Source(SourceTrouble::Unreadable))?;
        self.say(Read::Done(index, hash, sent))
    }

    fn again(&mut self, index: u32, chunks: &[u32]) -> Result<(), Trouble> {
        let (_, entry) = self.open(index)?;
        if Geometry::new(entry.size).is_single() {
            return self.small(index);
        }
        let (file, entry) = self.open(index)?;
        for chunk in chunks {
            self.chunk(index, &file, &entry, *chunk, None)?;
        }
        self.check_unchanged(&file, &entry)
    }

    /// Read a chunk; send it unless the receiver has one of the same value. Returns its value.
    fn chunk(
        &mut self,
        index: u32,
        file: &File,
        entry: &Entry,
        chunk: u32,
        claimed: Option<&Value>,
    ) -> Result<Value, Trouble> {
        let geometry = Geometry::new(entry.size);
        let (start, len) = (geometry.start(chunk), geometry.len(chunk));
        if let Some(claimed) = claimed
            && len > u64::from(PIECE_LEN_MAX)
        {
            // Too large to be held until its value is known.
            let value = self.hash(file, &geometry, chunk)?;
            return match value == *claimed {
                true => Ok(value),
                false => self.chunk(index, file, entry, chunk, None),
            };
        }
        let mut hasher = geometry.hasher(chunk);
        let mut offset = start;
        loop {
            if (self.is_over)(index) {
                return Err(Trouble::Unwanted);
            }
            let left = start + len - offset;
            let length = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            let mut buffer = self.pool.take();
            read_hashing(file, offset, buffer.get_mut(length)?, &mut hasher)?;
            let last = length as u64 == left;
            let value = last.then(|| hasher.value());
            if let Some(value) = value
                && claimed == Some(&value)
            {
                return Ok(value);
            }
            let piece = Piece {
                index,
                offset,
                length: u32::try_from(length).unwrap_or(u32::MAX),
                zeros: buffer.get_mut(length)?.iter().all(|byte| *byte == 0),
                value,
            };
            self.emit(piece, buffer, length)?;
            if let Some(value) = value {
                return Ok(value);
            }
            offset += length as u64;
        }
    }

    fn hash(&self, file: &File, geometry: &Geometry, chunk: u32) -> Result<Value, Trouble> {
        let mut hasher = geometry.hasher(chunk);
        let mut buffer = self.pool.take();
        let (mut offset, mut left) = (geometry.start(chunk), geometry.len(chunk));
        while left > 0 {
            let length = usize::try_from(left).map_or(BUFFER_LEN, |left| left.min(BUFFER_LEN));
            read_hashing(file, offset, buffer.get_mut(length)?, &mut hasher)?;
            offset += length as u64;
            left -= length as u64;
        }
        Ok(hasher.value())
    }

    fn fill(
        &self,
        file: &File,
        entry: &Entry,
        chunk: u32,
        offset: u64,
        into: &mut [u8],
    ) -> Result<Value, Trouble> {
        let mut hasher = Geometry::new(entry.size).hasher(chunk);
        read_hashing(file, offset, into, &mut hasher)?;
        Ok(hasher.value())
    }

    fn open(&self, index: u32) -> Result<(File, Entry), Trouble> {
        if (self.is_over)(index) {
            return Err(Trouble::Unwanted);
        }
        let unreadable = || Trouble::Source(SourceTrouble::Unreadable);
        let entry = self.sources.manifest.entry(index).ok_or_else(unreadable)?;
        let place = self.sources.place(index).ok_or_else(unreadable)?;
        // Not through a link, and without waiting at a pipe: it was a plain file when it was listed.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(place)
            .map_err(|_| unreadable())?;
        self.check_unchanged(&file, entry)?;
        Ok((file, entry.clone()))
    }

    /// Is it still what it was when it was listed?
    fn check_unchanged(&self, file: &File, entry: &Entry) -> Result<(), Trouble> {
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(Trouble::Source(SourceTrouble::Unreadable));
        }
        if meta.size() < entry.size {
            return Err(Trouble::Source(SourceTrouble::Shrank));
        }
        if meta.size() != entry.size || super::scan::modified_ns(&meta) != entry.modified_ns {
            return Err(Trouble::Source(SourceTrouble::Changed));
        }
        Ok(())
    }

    /// A piece with a buffer of its own.
    fn emit(&mut self, piece: Piece, buffer: Pooled, length: usize) -> Result<(), Trouble> {
        // The header travels with what waits before it.
        let header = encode(&piece)?;
        self.packed.extend_from_slice(&header);
        self.flush()?;
        if piece.zeros {
            return Ok(());
        }
        self.say(Read::Wire(Bytes::from_owner(buffer).slice(..length)))
    }

    fn flush(&mut self) -> Result<(), Trouble> {
        if self.packed.is_empty() {
            return Ok(());
        }
        let packed = std::mem::take(&mut self.packed);
        self.say(Read::Wire(packed.into()))
    }

    fn say(&mut self, read: Read) -> Result<(), Trouble> {
        self.said = Instant::now();
        self.out.blocking_send(read).map_err(|_| Trouble::Deaf)
    }
}

fn read_hashing(
    file: &File,
    mut offset: u64,
    into: &mut [u8],
    hasher: &mut super::tree::ChunkHasher,
) -> Result<(), Trouble> {
    for block in into.chunks_mut(READ_LEN) {
        file.read_exact_at(block, offset)?;
        hasher.update(block);
        offset += block.len() as u64;
    }
    Ok(())
}

fn set(values: &mut [Value], chunk: u32, value: Value) {
    if let Some(slot) = values.get_mut(chunk as usize) {
        *slot = value;
    }
}

fn encode(piece: &Piece) -> Result<Vec<u8>, Trouble> {
    codec::encode_framed(piece).map_err(|_| Trouble::Source(SourceTrouble::Unreadable))
}

/// Buffers for use again: fresh memory for every piece would cost as much as copying it.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Aligned>>>);

/// A buffer; goes back when dropped.
#[derive(Debug)]
pub(super) struct Pooled {
    bytes: Aligned,
    pool: Pool,
}

impl Pool {
    fn take(&self) -> Pooled {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Pooled {
            bytes: pooled.unwrap_or_else(|| Aligned::zeroed(BUFFER_LEN)),
            pool: self.clone(),
        }
    }
}

impl Pooled {
    fn get_mut(&mut self, length: usize) -> Result<&mut [u8], Trouble> {
        let bytes = self.bytes.get_mut(..length);
        bytes.ok_or(Trouble::Source(SourceTrouble::Unreadable))
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut pool = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOLED_MAX {
            pool.push(std::mem::take(&mut self.bytes));
        }
    }
}
