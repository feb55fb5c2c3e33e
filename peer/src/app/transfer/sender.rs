//! The sending side of a transfer.
//!
//! A thread reads and hashes the files one after the other; a task writes what it reads into streams; another hears
//! what the receiver says of each file. Files follow each other without waiting for the receiver's verdict, up to
//! [`OUTSTANDING_MAX`] of them.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::{Semaphore, mpsc};

use super::messages::{
    AbortReason, DataHeader, Entry, FromReceiver, FromSender, Kind, OUTSTANDING_MAX, Outcome, PAGE_LEN_MAX,
    Refused, Run, STREAM_CANCELLED, SourceTrouble, TransferId,
};
use super::scan::Sources;
use super::{BLOCK_LEN, BLOCKS_WAITING};
use crate::app::framed::{self, FrameError};
use crate::app::{Bulk, Event, Listener};
use crate::session::StreamError;

/// How long the person at the other side may take to answer an offer. Longer, and the sender looks dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a receiver's last word may be behind the end of its streams.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// How a transfer ended for the sender.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Files in their place at the receiver, verified there.
    pub stored: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not, by entry, and why.
    pub others: Vec<(u32, Outcome)>,
    /// From the receiver's yes to its last word.
    pub took: Duration,
    /// BLAKE3 of the file, if there was one file only.
    pub hash: Option<[u8; 32]>,
}

/// Send everything in `sources` over a connection whose control stream is open already.
///
/// # Errors
/// Any [`SendError`]. Files that the receiver confirmed before stay where they are.
pub async fn send<B: Bulk>(
    bulk: &B,
    control: (SendStream, RecvStream),
    sources: Arc<Sources>,
    transfer: TransferId,
    listener: Arc<dyn Listener>,
) -> Result<Sent, SendError> {
    let (mut send, mut recv) = control;
    let wanted = offer(&mut send, &mut recv, &sources, transfer, &*listener).await?;
    let started = Instant::now();
    let files = wanted_files(&sources, &wanted)?;
    let total = files.iter().map(|(_, entry)| entry.size).sum();
    listener.on(Event::Accepted { bytes: total });

    let (blocks, pieces) = mpsc::channel(BLOCKS_WAITING);
    let indices: Vec<u32> = files.iter().map(|(index, _)| *index).collect();
    let reading = Arc::clone(&sources);
    tokio::task::spawn_blocking(move || read_files(&reading, &indices, &blocks));

    let window = Semaphore::new(OUTSTANDING_MAX);
    let mut pump = Pump {
        bulk,
        control: &mut send,
        window: &window,
        listener: &*listener,
        sources: &sources,
        transfer,
        moved: 0,
        total,
        hash: None,
    };
    let mut verdicts = Verdicts {
        left: files.len(),
        others: Vec::new(),
        stored: 0,
    };
    run_both(
        pump.run(pieces),
        verdicts.run(&mut recv, &window, &sources, &*listener),
    )
    .await?;
    let hash = pump.hash.filter(|_| files.len() == 1);

    framed::write(&mut send, &FromSender::End).await?;
    let FromReceiver::Summary { stored, bytes } = framed::expect(&mut recv).await? else {
        return Err(SendError::Protocol);
    };
    if stored != verdicts.stored {
        return Err(SendError::Protocol);
    }
    // Fails only if the receiver has closed the stream already.
    let _ = send.finish();
    Ok(Sent {
        stored,
        bytes,
        others: verdicts.others,
        took: started.elapsed(),
        hash,
    })
}

/// Announce everything and wait for what the receiver wants of it.
async fn offer(
    send: &mut SendStream,
    recv: &mut RecvStream,
    sources: &Sources,
    transfer: TransferId,
    listener: &dyn Listener,
) -> Result<Vec<Run>, SendError> {
    let announced = announce(send, sources, transfer).await;
    listener.on(Event::Offered);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, read_answer(recv))
        .await
        .map_err(|_| SendError::NoAnswer)?;
    // A receiver that declines early stops listening: its answer says more than the broken stream.
    match (announced, answer) {
        (Err(error), Err(SendError::Frame(_))) => Err(error.into()),
        (_, answer) => answer,
    }
}

async fn announce(send: &mut SendStream, sources: &Sources, transfer: TransferId) -> Result<(), FrameError> {
    framed::write(send, &FromSender::Offer(sources.manifest.offer(transfer))).await?;
    let mut entries = sources.manifest.entries();
    loop {
        let page = page_of(entries);
        entries = entries.get(page.len()..).unwrap_or_default();
        let last = entries.is_empty();
        framed::write(send, &FromSender::Entries { entries: page, last }).await?;
        if last {
            return Ok(());
        }
    }
}

/// As many entries as fit a page, at least one.
fn page_of(entries: &[Entry]) -> Vec<Entry> {
    /// Upper bound of what an entry takes besides its names: four numbers and two lengths.
    const FIXED_LEN: usize = 40;
    /// Upper bound of the length in front of a name.
    const NAME_OVERHEAD: usize = 3;
    let mut len = 0;
    let fits = entries.iter().take_while(|entry| {
        let names: usize = entry.path.iter().map(|name| name.len() + NAME_OVERHEAD).sum();
        let first = len == 0;
        len += FIXED_LEN + names;
        first || len <= PAGE_LEN_MAX
    });
    fits.cloned().collect()
}

async fn read_answer(recv: &mut RecvStream) -> Result<Vec<Run>, SendError> {
    let mut wanted = Vec::new();
    loop {
        match framed::expect(recv).await? {
            FromReceiver::Wanted { runs, last } => {
                // Disjoint runs cannot be more than entries: a list that grows past that never ends.
                if runs.is_empty() && !last || wanted.len() > super::messages::ENTRIES_MAX as usize {
                    return Err(SendError::Protocol);
                }
                wanted.extend(runs);
                if last {
                    return Ok(wanted);
                }
            }
            FromReceiver::Decline(why) => return Err(SendError::Declined(why)),
            FromReceiver::Abort(why) => return Err(SendError::Aborted { why, stored: 0 }),
            _ => return Err(SendError::Protocol),
        }
    }
}

/// The files within the runs, which must be ascending and within the list.
fn wanted_files<'a>(sources: &'a Sources, runs: &[Run]) -> Result<Vec<(u32, &'a Entry)>, SendError> {
    let entries = sources.manifest.entries();
    let mut files = Vec::new();
    let mut next = 0;
    for run in runs {
        let end = run.first.checked_add(run.count).ok_or(SendError::Protocol)?;
        if run.first < next || run.count == 0 {
            return Err(SendError::Protocol);
        }
        next = end;
        let slice = entries.get(run.first as usize..end as usize);
        let slice = slice.ok_or(SendError::Protocol)?;
        files.extend(
            (run.first..)
                .zip(slice)
                .filter(|(_, entry)| entry.kind == Kind::File),
        );
    }
    Ok(files)
}

/// What the reading thread hands over.
enum Piece {
    Begin(u32),
    Data(Bytes),
    Done(u32, [u8; 32]),
    Failed(u32, SourceTrouble),
}

/// Read and hash these files, in order, until done or until nobody listens any more.
fn read_files(sources: &Sources, indices: &[u32], pieces: &mpsc::Sender<Piece>) {
    for &index in indices {
        let at = index as usize;
        let (Some(entry), Some(place)) = (sources.manifest.entries().get(at), sources.places.get(at)) else {
            return;
        };
        if read_file(index, entry.size, place, pieces).is_none() {
            return;
        }
    }
}

/// `None` if nobody listens any more.
fn read_file(index: u32, size: u64, place: &Path, pieces: &mpsc::Sender<Piece>) -> Option<()> {
    let say = |piece| pieces.blocking_send(piece).ok();
    let mut file = match open_plain(place) {
        Ok(file) => file,
        Err(_) => return say(Piece::Failed(index, SourceTrouble::Unreadable)),
    };
    say(Piece::Begin(index))?;
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    while left > 0 {
        let want = left.min(BLOCK_LEN as u64);
        let mut block = Vec::with_capacity(usize::try_from(want).unwrap_or(BLOCK_LEN));
        match (&mut file).take(want).read_to_end(&mut block) {
            Ok(0) => return say(Piece::Failed(index, SourceTrouble::Shrank)),
            Ok(read) => left -= read as u64,
            Err(_) => return say(Piece::Failed(index, SourceTrouble::Unreadable)),
        }
        hasher.update(&block);
        say(Piece::Data(block.into()))?;
    }
    say(Piece::Done(index, *hasher.finalize().as_bytes()))
}

/// Open a file that was a plain file when it was listed: not through a link, and without waiting at a pipe.
fn open_plain(place: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(place)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    Ok(file)
}

/// The stream of the file that is being read.
enum Outgoing {
    /// No file has begun.
    Closed,
    /// The receiver listens.
    Open(SendStream),
    /// The receiver does not want the rest.
    Unwanted,
}

/// Writes what the reading thread reads.
struct Pump<'a, B> {
    bulk: &'a B,
    control: &'a mut SendStream,
    window: &'a Semaphore,
    listener: &'a dyn Listener,
    sources: &'a Sources,
    transfer: TransferId,
    moved: u64,
    total: u64,
    hash: Option<[u8; 32]>,
}

impl<B: Bulk> Pump<'_, B> {
    async fn run(&mut self, mut pieces: mpsc::Receiver<Piece>) -> Result<(), SendError> {
        let mut stream = Outgoing::Closed;
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Begin(index) => {
                    self.take_place().await?;
                    stream = Outgoing::Open(self.begin(index).await?);
                }
                Piece::Data(block) => self.data(&mut stream, block).await?,
                Piece::Done(index, hash) => {
                    if let Outgoing::Open(mut done) = std::mem::replace(&mut stream, Outgoing::Closed) {
                        // Fails only on a stream that the receiver stopped; its verdict comes.
                        let _ = done.finish();
                    }
                    self.hash = Some(hash);
                    framed::write(self.control, &FromSender::FileDone { index, hash }).await?;
                }
                Piece::Failed(index, why) => {
                    match std::mem::replace(&mut stream, Outgoing::Closed) {
                        // Fails only on a stream that the receiver stopped.
                        Outgoing::Open(mut broken) => drop(broken.reset(VarInt::from_u32(STREAM_CANCELLED))),
                        Outgoing::Unwanted => {}
                        Outgoing::Closed => self.take_place().await?,
                    }
                    framed::write(self.control, &FromSender::FileFailed { index, why }).await?;
                }
            }
        }
        Ok(())
    }

    /// Wait until fewer than [`OUTSTANDING_MAX`] files are without a verdict.
    async fn take_place(&self) -> Result<(), SendError> {
        let place = self.window.acquire().await;
        place.map_err(|_| SendError::Protocol)?.forget();
        Ok(())
    }

    async fn begin(&self, index: u32) -> Result<SendStream, SendError> {
        let entry = self.sources.manifest.entries().get(index as usize);
        let header = DataHeader {
            transfer: self.transfer,
            index,
            offset: 0,
            length: entry.map_or(0, |entry| entry.size),
        };
        let mut stream = self.bulk.open_uni().await?;
        match framed::write(&mut stream, &header).await {
            Ok(()) | Err(FrameError::Write(WriteError::Stopped(_))) => Ok(stream),
            Err(error) => Err(error.into()),
        }
    }

    async fn data(&mut self, stream: &mut Outgoing, block: Bytes) -> Result<(), SendError> {
        self.moved += block.len() as u64;
        if let Outgoing::Open(open) = stream {
            match open.write_chunk(block).await {
                Ok(()) => {}
                // The receiver does not want the rest; the file is read to its end all the same, and the verdict comes.
                Err(WriteError::Stopped(_)) => *stream = Outgoing::Unwanted,
                Err(error) => return Err(FrameError::from(error).into()),
            }
        }
        self.listener.on(Event::Progress {
            bytes: self.moved,
            total: self.total,
        });
        Ok(())
    }
}

/// Hears what became of each file.
struct Verdicts {
    left: usize,
    others: Vec<(u32, Outcome)>,
    stored: u32,
}

impl Verdicts {
    async fn run(
        &mut self,
        recv: &mut RecvStream,
        window: &Semaphore,
        sources: &Sources,
        listener: &dyn Listener,
    ) -> Result<(), SendError> {
        while self.left > 0 {
            let message = match framed::expect(recv).await {
                Ok(message) => message,
                Err(error) => {
                    return Err(SendError::Interrupted {
                        error,
                        stored: self.stored,
                    });
                }
            };
            match message {
                FromReceiver::FileResult { index, outcome } => {
                    let entry = sources.manifest.entries().get(index as usize);
                    let entry = entry.ok_or(SendError::Protocol)?;
                    self.left -= 1;
                    window.add_permits(1);
                    if outcome == Outcome::Stored {
                        self.stored += 1;
                    } else {
                        self.others.push((index, outcome));
                        let path = entry.path.join("/");
                        listener.on(Event::File { path, outcome });
                    }
                }
                FromReceiver::Abort(why) => {
                    return Err(SendError::Aborted {
                        why,
                        stored: self.stored,
                    });
                }
                _ => return Err(SendError::Protocol),
            }
        }
        Ok(())
    }
}

/// Run both to their ends. When writing breaks off, the receiver's last word says why, if it comes soon.
async fn run_both(
    pump: impl Future<Output = Result<(), SendError>>,
    verdicts: impl Future<Output = Result<(), SendError>>,
) -> Result<(), SendError> {
    let mut pump = std::pin::pin!(pump);
    let mut verdicts = std::pin::pin!(verdicts);
    tokio::select! {
        pumped = &mut pump => match pumped {
            Ok(()) => verdicts.await,
            Err(error) => match tokio::time::timeout(LAST_WORD_TIMEOUT, verdicts).await {
                Ok(Err(better)) => Err(better),
                _ => Err(error),
            },
        },
        heard = &mut verdicts => match heard {
            Ok(()) => pump.await,
            Err(error) => Err(error),
        },
    }
}

/// Why a transfer did not run to its end, seen from the sender.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other side said no.
    #[error("the other side declined: {}", refused_sentence(*.0))]
    Declined(Refused),
    /// Nobody answered the offer for ten minutes.
    #[error("nobody accepted at the other side")]
    NoAnswer,
    /// The receiver stopped; what it stored stays.
    #[error("the receiver stopped: {}", abort_sentence(*.why))]
    Aborted {
        /// Why.
        why: AbortReason,
        /// Files that are in their place.
        stored: u32,
    },
    /// The connection broke off in the middle.
    #[error("the transfer broke off: {error}")]
    Interrupted {
        /// How.
        error: FrameError,
        /// Files that are in their place.
        stored: u32,
    },
    /// The conversation broke off before or after the files.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// No stream could be opened.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The receiver said something that makes no sense here.
    #[error("the other side does not keep to the protocol; are both of the same version?")]
    Protocol,
}

fn refused_sentence(why: Refused) -> &'static str {
    match why {
        Refused::Person => "the person there said no",
        Refused::Format => "it speaks another version of the transfer format",
        Refused::Names => "a file name in it is not acceptable there",
        Refused::Inbox => "its folder for received files cannot be used",
        Refused::Busy => "it is busy with other transfers",
    }
}

fn abort_sentence(why: AbortReason) -> &'static str {
    match why {
        AbortReason::DiskFull => "its disk is full",
        AbortReason::Disk => "its disk does not take what is written",
        AbortReason::Stopped => "its person stopped it",
        AbortReason::Protocol => "it says that this side does not keep to the protocol",
    }
}

#[cfg(test)]
mod tests {
    use knothole_proto::wire::codec;

    use super::*;
    use crate::app::transfer::names::PATH_LEN_MAX;

    fn entry(path: Vec<String>) -> Entry {
        Entry {
            path,
            kind: Kind::File,
            size: u64::MAX,
            mode: u32::MAX,
            modified_ns: i64::MIN,
        }
    }

    #[test]
    fn pages_hold_all_entries_and_each_fits_a_message() {
        let deep = |n: usize| vec!["x".repeat(PATH_LEN_MAX / 64 - 1); n % 64 + 1];
        let wide = |n: usize| vec!["y".repeat(n % 255 + 1)];
        let entries: Vec<Entry> = (0..2000)
            .map(|n| entry(if n % 3 == 0 { deep(n) } else { wide(n) }))
            .collect();
        let mut left = entries.as_slice();
        let mut pages = 0;
        while !left.is_empty() {
            let page = page_of(left);
            assert!(!page.is_empty() && page == left[..page.len()]);
            left = &left[page.len()..];
            pages += 1;
            let message = FromSender::Entries {
                entries: page,
                last: false,
            };
            assert!(codec::encode_framed(&message).is_ok());
        }
        assert!(pages < 400, "{pages} pages for 2000 entries");
        assert_eq!(page_of(&[]), []);
    }
}
