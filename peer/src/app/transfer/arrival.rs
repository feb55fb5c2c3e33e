//! One data stream on its way to disk: a task at the network, a thread that compares and writes.
//!
//! The thread hands what is right to the keeper, and tells the loop of the transfer what is not. It knows nothing of
//! names to take.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::desk::{Desk, Job, Notice, is_single, lock};
use super::disk::set_modified;
use super::inbox::{Seen, is_disk_full};
use super::journal::Record;
use super::messages::{DataHeader, Outcome, Piece, STREAM_UNWANTED};
use super::part::{Begun, Part};
use super::partial::path_key;
use super::pieces::{Pieces, Sink};
use super::plan::{TAKEN, WANTED};
use super::tree::{ChunkHasher, Geometry, Value};
use super::{BLOCK_LEN, BLOCKS_WAITING};
use crate::app::flow::Inflow;
use crate::app::framed;

/// Zeros, for hashing and writing what was not sent.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Receive one stream to its end.
pub(super) async fn receive_stream(desk: Arc<Desk>, mut stream: impl Inflow) {
    let Ok(header) = framed::expect::<DataHeader>(&mut stream).await else {
        return;
    };
    if header.transfer != desk.transfer {
        // Left over from a transfer that ended before its streams did.
        stream.refuse(STREAM_UNWANTED);
        return;
    }
    let (blocks, waiting) = mpsc::channel(BLOCKS_WAITING);
    let (spent, used) = std::sync::mpsc::channel();
    let writing = {
        let desk = Arc::clone(&desk);
        tokio::task::spawn_blocking(move || write_blocks(&desk, waiting, &spent))
    };
    feed(&desk, &mut stream, blocks, used).await;
    stream.refuse(STREAM_UNWANTED);
    if let Err(error) = writing.await {
        tracing::error!(%error, "a thread that writes ended early");
    }
}

/// What arrived together.
#[derive(Default)]
struct Block {
    room: Vec<u8>,
    filled: usize,
}

/// Blocks for use again.
#[derive(Default)]
struct Spare(Vec<Block>);

impl Spare {
    /// The one that was used last: it is still in the processor's cache.
    fn take(&mut self, used: &std::sync::mpsc::Receiver<Block>) -> Block {
        self.0.extend(used.try_iter());
        self.0.pop().unwrap_or_default()
    }
}

/// Pass on what arrives, in blocks as large as what has arrived.
async fn feed(
    desk: &Desk,
    stream: &mut impl Inflow,
    blocks: mpsc::Sender<Block>,
    used: std::sync::mpsc::Receiver<Block>,
) {
    let mut spare = Spare::default();
    loop {
        // Room for the next block first: what waits meanwhile comes in one piece.
        let Ok(place) = blocks.reserve().await else { return };
        let mut block = spare.take(&used);
        block.room.resize(BLOCK_LEN, 0);
        let Ok(Some(mut filled)) = stream.read(&mut block.room).await else {
            return;
        };
        while let Some(rest) = block.room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let more = tokio::select! {
                biased;
                more = stream.read(rest) => more,
                () = std::future::ready(()) => break,
            };
            match more {
                Ok(Some(more)) => filled += more,
                // It shows again with the next block.
                _ => break,
            }
        }
        block.filled = filled;
        desk.heard.fetch_add(filled as u64, Ordering::Relaxed);
        if let Some(limit) = &desk.limit {
            limit.take(filled as u64).await;
        }
        place.send(block);
    }
}

fn write_blocks(desk: &Desk, mut blocks: mpsc::Receiver<Block>, spent: &std::sync::mpsc::Sender<Block>) {
    let mut pieces = Pieces::default();
    let mut writer = Writer {
        desk,
        current: Current::Nothing,
    };
    while let Some(block) = blocks.blocking_recv() {
        let arrived = block.room.get(..block.filled).unwrap_or_default();
        if let Err(why) = pieces.feed(arrived, &mut writer) {
            desk.tell(Notice::Broken(why));
            break;
        }
        if desk.queue.is_closed() {
            break;
        }
        // Fails when the task has ended.
        let _ = spent.send(block);
    }
    writer.abandon();
}

/// What the stream is at.
enum Current {
    Nothing,
    /// Bytes that nobody needs.
    Unwanted,
    Small(Small),
    Chunk(Chunk),
}

/// A file of one chunk.
struct Small {
    index: u32,
    modified_ns: i64,
    file: File,
    offset: u64,
    hasher: ChunkHasher,
    told: Value,
}

/// A chunk of a larger file.
struct Chunk {
    part: Arc<Part>,
    chunk: u32,
    offset: u64,
    hasher: ChunkHasher,
    /// What becomes of its bytes.
    bytes: Bytes,
    told: Option<Value>,
}

/// What becomes of the bytes of a chunk.
#[derive(Clone, Copy, PartialEq)]
enum Bytes {
    /// They are written.
    Written,
    /// They are written, but zeros where nobody wrote before are zeros already.
    OnBlank,
    /// They are there already.
    Spare,
}

struct Writer<'a> {
    desk: &'a Desk,
    current: Current,
}

impl Sink for Writer<'_> {
    fn begin(&mut self, piece: &Piece) -> Result<(), &'static str> {
        let Some(entry) = self.desk.file(piece.index)? else {
            self.abandon();
            self.current = Current::Unwanted;
            return Ok(());
        };
        let geometry = Geometry::new(entry.size);
        let chunk = geometry.chunk_at(piece.offset);
        let end = piece.offset.checked_add(u64::from(piece.length));
        let chunk_end = geometry.start(chunk) + geometry.len(chunk);
        let end = end.filter(|end| piece.offset <= entry.size && *end <= chunk_end);
        let end = end.ok_or("data behind the end of a chunk")?;
        if is_single(entry) && piece.value.is_none() {
            return Err("a small file in pieces");
        }
        if piece.value.is_some() != (end == chunk_end) || (piece.length == 0 && entry.size > 0) {
            return Err("a chunk without its value, or a value without its chunk");
        }
        let goes_on = match &mut self.current {
            Current::Chunk(at) if at.part.index == piece.index && at.offset == piece.offset => {
                at.told = piece.value;
                piece.offset > geometry.start(chunk)
            }
            _ => false,
        };
        if !goes_on {
            self.abandon();
            if piece.offset != geometry.start(chunk) {
                return Err("a chunk that does not begin at its beginning");
            }
            self.current = match piece.value {
                Some(value) if is_single(entry) => self.begin_small(piece.index, value)?,
                value => self.begin_chunk(piece.index, chunk, value)?,
            };
        }
        if piece.zeros {
            self.zeros(piece.length);
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        self.write(bytes, false);
        Ok(())
    }

    fn end(&mut self) -> Result<(), &'static str> {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Small(small) => self.end_small(small),
            Current::Chunk(chunk) => match chunk.told {
                Some(told) => self.end_chunk(chunk, told),
                None => self.current = Current::Chunk(chunk),
            },
            Current::Nothing | Current::Unwanted => {}
        }
        Ok(())
    }
}

impl Writer<'_> {
    fn begin_small(&mut self, index: u32, told: Value) -> Result<Current, &'static str> {
        let desk = self.desk;
        let Some(entry) = desk.manifest.entry(index) else {
            return Err("data of a file that is not in the list");
        };
        if !desk.change(index, WANTED, TAKEN) {
            return Err("data of a file that was sent already");
        }
        match desk.partial.create(&path_key(&desk.manifest, index), entry.mode) {
            Ok(file) => Ok(Current::Small(Small {
                index,
                modified_ns: entry.modified_ns,
                file,
                offset: 0,
                hasher: Geometry::new(entry.size).hasher(0),
                told,
            })),
            Err(error) => Ok(self.trouble(index, error)),
        }
    }

    fn begin_chunk(&mut self, index: u32, chunk: u32, told: Option<Value>) -> Result<Current, &'static str> {
        let desk = self.desk;
        let Some(entry) = desk.manifest.entry(index) else {
            return Err("data of a file that is not in the list");
        };
        let part = match desk.part(index, entry) {
            Ok(part) => part?,
            Err(error) => return Ok(self.trouble(index, error)),
        };
        let begun = part.begin(chunk).ok_or("a chunk that was sent already")?;
        if begun == Begun::Replaces {
            let record = Record::Lost { key: part.key, chunk };
            if let Err(error) = lock(&desk.journal).append(&[record]) {
                return Ok(self.trouble(index, error));
            }
            let bytes = part.geometry.len(chunk);
            desk.tell(Notice::Replaced { bytes });
        }
        let geometry = part.geometry;
        Ok(Current::Chunk(Chunk {
            bytes: match begun {
                Begun::Spare => Bytes::Spare,
                Begun::New if part.fresh => Bytes::OnBlank,
                _ => Bytes::Written,
            },
            part,
            chunk,
            offset: geometry.start(chunk),
            hasher: geometry.hasher(chunk),
            told,
        }))
    }

    fn zeros(&mut self, length: u32) {
        let mut left = usize::try_from(length).unwrap_or(0);
        while left > 0 {
            let zeros = ZEROS.get(..left.min(ZEROS.len())).unwrap_or(&ZEROS);
            self.write(zeros, true);
            left -= zeros.len();
        }
    }

    /// Zeros that nobody sent leave a hole where nothing was written before.
    fn write(&mut self, bytes: &[u8], hole: bool) {
        let disk = self.desk.inbox.disk();
        let written = match &mut self.current {
            Current::Nothing | Current::Unwanted => return,
            Current::Small(at) => {
                at.hasher.update(bytes);
                let offset = at.offset;
                at.offset += bytes.len() as u64;
                (at.index, disk.write(&at.file, bytes, offset))
            }
            Current::Chunk(at) => {
                let offset = at.offset;
                at.offset += bytes.len() as u64;
                if at.bytes == Bytes::Spare {
                    return;
                }
                at.hasher.update(bytes);
                let blank = hole && at.bytes == Bytes::OnBlank;
                let written = if blank {
                    Ok(())
                } else {
                    disk.write(&at.part.file, bytes, offset)
                };
                (at.part.index, written)
            }
        };
        if let (index, Err(error)) = written {
            self.abandon();
            self.current = self.trouble(index, error);
        }
    }

    fn end_small(&mut self, small: Small) {
        let (desk, index) = (self.desk, small.index);
        if small.hasher.value() != small.told {
            desk.change(index, TAKEN, WANTED);
            desk.tell(Notice::Missing {
                index,
                chunks: vec![0],
                bytes: 0,
            });
            return;
        }
        set_modified(&small.file, small.modified_ns);
        match Seen::of(&small.file) {
            Ok(seen) => {
                let hash = small.told;
                desk.queue.put(Job::Small { index, seen, hash });
            }
            Err(error) => self.current = self.trouble(index, error),
        }
    }

    fn end_chunk(&mut self, at: Chunk, told: Value) {
        let (desk, chunk, index) = (self.desk, at.chunk, at.part.index);
        let is_right = at.hasher.value() == told;
        if at.bytes == Bytes::Spare {
            at.part.count();
        } else if is_right {
            at.part.arrived(chunk, told);
            at.part.count();
            desk.queue.put(Job::Chunk {
                part: at.part,
                chunk,
                value: told,
            });
            return;
        } else {
            at.part.abandon(chunk);
            at.part.count();
            let chunks = vec![chunk];
            desk.tell(Notice::Missing {
                index,
                chunks,
                bytes: 0,
            });
        }
        // It may have been what the file was waiting for.
        desk.tell(Notice::Checked { index });
    }

    /// The current chunk will not be whole.
    fn abandon(&mut self) {
        match std::mem::replace(&mut self.current, Current::Nothing) {
            Current::Nothing | Current::Unwanted => {}
            Current::Small(at) => drop(self.desk.change(at.index, TAKEN, WANTED)),
            Current::Chunk(at) if at.bytes == Bytes::Spare => {}
            Current::Chunk(at) => at.part.abandon(at.chunk),
        }
    }

    /// A full disk ends the transfer; a file that cannot be written for another reason does not stop the others.
    fn trouble(&self, index: u32, error: std::io::Error) -> Current {
        if is_disk_full(&error) {
            self.desk.tell(Notice::Disk(error));
        } else if self.desk.resolve(index) {
            tracing::warn!(%error, "a file cannot be written");
            // What arrived of it is in the journal; nothing more comes in this attempt.
            self.desk.let_go(index);
            self.desk.tell(Notice::Placed {
                index,
                outcome: Outcome::Unwritable,
                name: None,
                hash: None,
            });
        }
        Current::Unwanted
    }
}
