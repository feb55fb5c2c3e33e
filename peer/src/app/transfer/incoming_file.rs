//! One data stream on its way to disk: a task at the network, a thread that writes and hashes.
//!
//! Knows nothing of hashes told or names to take: it ends with a partial file that holds exactly the announced bytes, or
//! with the reason why not.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quinn::{ReadError, RecvStream, VarInt};
use tokio::sync::{mpsc, oneshot};

use super::inbox::Part;
use super::messages::{DataHeader, Entry, STREAM_UNWANTED, TransferId};
use super::receiver::Place;
use super::{BLOCK_LEN, BLOCKS_WAITING};
use crate::app::framed;
use crate::app::{Event, Listener};

/// What all streams of one transfer share.
pub(super) struct Shared {
    /// The transfer.
    pub(super) transfer: TransferId,
    /// Where everything goes.
    pub(super) place: Place,
    /// For each entry: is no stream for it expected any more?
    pub(super) claimed: Vec<AtomicBool>,
    /// Bytes of files that arrived so far.
    pub(super) moved: AtomicU64,
    /// Who hears of progress.
    pub(super) listener: Arc<dyn Listener>,
}

/// How a data stream ended.
pub(super) enum Arrival {
    /// All bytes are in the partial file, with this hash.
    Whole {
        /// The entry.
        index: u32,
        /// The partial file.
        part: Part,
        /// BLAKE3 of what was written.
        hash: [u8; 32],
    },
    /// It ended early. The control stream tells what that means.
    Cut,
    /// The disk did not take it.
    Disk {
        /// The entry.
        index: u32,
        /// Why.
        error: io::Error,
    },
    /// Not what was announced.
    Broken(&'static str),
}

/// Receive one stream.
pub(super) async fn receive_stream(shared: Arc<Shared>, mut stream: RecvStream) -> Arrival {
    let Ok(header) = framed::expect::<DataHeader>(&mut stream).await else {
        return Arrival::Cut;
    };
    let index = header.index;
    if header.transfer != shared.transfer {
        // Left over from a transfer that ended before its streams did.
        let _ = stream.stop(VarInt::from_u32(STREAM_UNWANTED));
        return Arrival::Cut;
    }
    let entry = match shared.claim(&header) {
        Ok(entry) => entry.clone(),
        Err(why) => return Arrival::Broken(why),
    };
    let (blocks, waiting) = mpsc::channel(BLOCKS_WAITING);
    let (done, written) = oneshot::channel();
    let place = shared.place.clone();
    let size = entry.size;
    tokio::task::spawn_blocking(move || {
        // Fails only if the transfer is over.
        let _ = done.send(write_blocks(&place, &entry, waiting));
    });
    let fed = feed(&shared, &mut stream, size, &blocks).await;
    drop(blocks);
    let Ok(written) = written.await else {
        return Arrival::Cut;
    };
    match (written, fed) {
        (Err(error), _) => {
            // Fails only on a stream that has ended.
            let _ = stream.stop(VarInt::from_u32(STREAM_UNWANTED));
            Arrival::Disk { index, error }
        }
        (Ok((part, hash)), Fed::Whole) => Arrival::Whole { index, part, hash },
        (Ok((part, _)), Fed::Reset) => {
            if let Err(error) = blocking(move || part.discard()).await.flatten() {
                tracing::debug!(%error, "a partial file could not be deleted");
            }
            Arrival::Cut
        }
        (Ok(_), Fed::Cut) => Arrival::Cut,
        (Ok(_), Fed::TooMuch) => Arrival::Broken("more bytes than were announced"),
    }
}

/// Run work that touches the disk off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| io::Error::other(format!("a task ended early: {error}")))
}

impl Shared {
    /// A stream is for a file that was asked for, whole, and only one is.
    fn claim(&self, header: &DataHeader) -> Result<&Entry, &'static str> {
        let at = header.index as usize;
        let (Some(entry), Some(claimed)) = (self.place.manifest.entries().get(at), self.claimed.get(at))
        else {
            return Err("data of a file that is not in the list");
        };
        if header.offset != 0 || header.length != entry.size {
            return Err("data of another length than announced");
        }
        if claimed.swap(true, Ordering::Relaxed) {
            return Err("data of a file that was not asked for");
        }
        Ok(entry)
    }
}

/// How the bytes of a stream ended.
enum Fed {
    /// As announced.
    Whole,
    /// The sender gave the file up.
    Reset,
    /// Early: the connection or the transfer ended, or the disk takes no more.
    Cut,
    /// There were more.
    TooMuch,
}

async fn feed(shared: &Shared, stream: &mut RecvStream, size: u64, blocks: &mpsc::Sender<Vec<u8>>) -> Fed {
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).map_or(BLOCK_LEN, |left| left.min(BLOCK_LEN));
        let mut block = Vec::with_capacity(want);
        while block.len() < want {
            match stream.read_chunk(want - block.len(), true).await {
                Ok(Some(chunk)) => block.extend_from_slice(&chunk.bytes),
                Ok(None) => break,
                Err(ReadError::Reset(_)) => return Fed::Reset,
                Err(_) => break,
            }
        }
        let (got, short) = (block.len() as u64, block.len() < want);
        left -= got;
        if blocks.send(block).await.is_err() || short {
            return Fed::Cut;
        }
        let moved = shared.moved.fetch_add(got, Ordering::Relaxed) + got;
        shared.listener.on(Event::Progress {
            bytes: moved,
            total: shared.place.layout.wanted_bytes,
        });
    }
    match stream.read_chunk(1, true).await {
        Ok(None) => Fed::Whole,
        Ok(Some(_)) => Fed::TooMuch,
        Err(ReadError::Reset(_)) => Fed::Reset,
        Err(_) => Fed::Cut,
    }
}

/// Write and hash until the sender of blocks is done. What was written stays, whatever happens.
fn write_blocks(
    place: &Place,
    entry: &Entry,
    mut blocks: mpsc::Receiver<Vec<u8>>,
) -> io::Result<(Part, [u8; 32])> {
    let mut part = place.inbox.begin(&place.layout, entry)?;
    let mut hasher = blake3::Hasher::new();
    while let Some(block) = blocks.blocking_recv() {
        part.file().write_all(&block)?;
        hasher.update(&block);
    }
    Ok((part, *hasher.finalize().as_bytes()))
}
