//! The sending side of a transfer.
//!
//! A few data streams, each with a thread that reads and hashes ahead of a task that writes; one task speaks on the
//! control stream, another hears what the receiver says of each file. Nothing waits for a verdict: what is bounded is what
//! the receiver takes in before it is safe on its disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knothole_proto::wire::codec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::jobs::Jobs;
use super::limit::Limit;
use super::messages::{
    AbortReason, DataHeader, ENTRIES_MAX, Entry, FromReceiver, FromSender, Kind, Outcome, PAGE_LEN_MAX,
    Refused, Run, STREAMS_MAX, TransferId,
};
use super::scan::Sources;
use super::source::{self, Pool, Read};
use super::tree::{Geometry, Value};
use crate::app::flow::{Inflow, Outflow};
use crate::app::framed::{self, FrameError};
use crate::app::{Bulk, Event, Listener};
use crate::session::StreamError;

/// How long the person at the other side may take to answer an offer. Longer, and the sender looks dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a receiver's last word may be behind the end of its streams.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the receiver may take to bring the last files to its disk: what a slow disk has in its queue.
const SUMMARY_TIMEOUT: Duration = Duration::from_secs(120);

/// Buffers between the thread that reads and the task that writes, of 1 MiB each.
const READ_AHEAD: usize = 2;

/// Words that may wait for the control stream.
const WORDS_MAX: usize = 64;

/// Most values of chunks that a receiver may claim to have: 16 MiB of them.
const CLAIMS_MAX: usize = 524_288;

/// How to send.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Ties streams together; drawn at random.
    pub transfer: TransferId,
    /// Most bytes a second.
    pub limit: Option<Limit>,
}

/// How a transfer ended for the sender.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Files in their place at the receiver, verified there, those of earlier attempts included.
    pub stored: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were there from earlier attempts and did not have to go again.
    pub resumed: u64,
    /// Files that are not in their place, by entry, and why.
    pub others: Vec<(u32, Outcome)>,
    /// From the receiver's yes to its last word.
    pub took: Duration,
    /// BLAKE3 of the file, if there was one file only and it was read now.
    pub hash: Option<Value>,
}

/// Send everything in `sources` over a connection whose control stream is open already.
///
/// # Errors
/// Any [`SendError`]. Files that the receiver confirmed before stay where they are, and it keeps what arrived of others.
pub async fn send<B: Bulk>(
    bulk: &B,
    control: (impl Outflow, impl Inflow),
    sources: Arc<Sources>,
    sending: Sending,
    listener: Arc<dyn Listener>,
) -> Result<Sent, SendError> {
    let (mut send, mut recv) = control;
    let answer = offer(&mut send, &mut recv, &sources, sending.transfer, &*listener).await?;
    let started = Instant::now();
    let (bytes, resumed) = (answer.bytes, answer.resumed);
    listener.on(Event::Accepted { bytes, resumed });
    let files = wanted_files(&sources, &answer.wanted)?;
    let jobs = Arc::new(Jobs::new(&sources.manifest, files, answer.claims));

    let (words, waiting) = mpsc::channel(WORDS_MAX);
    let mut verdicts = Verdicts {
        jobs: &jobs,
        sources: &sources,
        listener: &*listener,
        total: bytes,
        others: Vec::new(),
        stored: answer.files,
        wanted: answer.wanted,
        last_late: None,
    };
    let pump = Pump {
        bulk: bulk.clone(),
        jobs: Arc::clone(&jobs),
        sources: Arc::clone(&sources),
        sending,
        words,
        pool: Pool::default(),
    };
    let mut speaker = Speaker {
        send: &mut send,
        hash: None,
    };
    let work = async {
        // The speaker ends when the last stream has dropped its end of the channel.
        let (pumped, spoken) = tokio::join!(pump_all(pump), speaker.run(waiting));
        spoken.and(pumped)
    };
    run_both(work, verdicts.run(&mut recv)).await?;
    let hash = speaker.hash.filter(|_| sources.manifest.files() == 1);
    let bytes = farewell(&mut send, &mut recv, &mut verdicts).await?;
    let (stored, others) = (verdicts.stored, verdicts.others);
    Ok(Sent {
        stored,
        bytes,
        resumed,
        others,
        took: started.elapsed(),
        hash,
    })
}

/// What the receiver wants, and what it has.
struct Answer {
    bytes: u64,
    resumed: u64,
    files: u32,
    wanted: Vec<Run>,
    claims: HashMap<u32, BTreeMap<u32, Value>>,
}

/// Announce everything and wait for what the receiver wants of it.
async fn offer(
    send: &mut impl Outflow,
    recv: &mut impl Inflow,
    sources: &Sources,
    transfer: TransferId,
    listener: &dyn Listener,
) -> Result<Answer, SendError> {
    let announced = announce(send, sources, transfer).await;
    listener.on(Event::Offered);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, read_answer(recv, sources))
        .await
        .map_err(|_| SendError::NoAnswer)?;
    // A receiver that declines early stops listening: its answer says more than the broken stream.
    match (announced, answer) {
        (Err(error), Err(SendError::Frame(_))) => Err(error.into()),
        (_, answer) => answer,
    }
}

async fn announce(
    send: &mut impl Outflow,
    sources: &Sources,
    transfer: TransferId,
) -> Result<(), FrameError> {
    framed::write(send, &FromSender::Offer(sources.manifest.offer(transfer))).await?;
    framed::write(send, &FromSender::Origin(sources.origin)).await?;
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
    /// Upper bound of what an entry takes besides its texts: six numbers, two lengths, a kind.
    const FIXED_LEN: usize = 48;
    let mut len = 0;
    let fits = entries.iter().take_while(|entry| {
        let first = len == 0;
        len += FIXED_LEN + entry.name.len() + entry.target_len();
        first || len <= PAGE_LEN_MAX
    });
    fits.cloned().collect()
}

async fn read_answer(recv: &mut impl Inflow, sources: &Sources) -> Result<Answer, SendError> {
    let first = framed::expect(recv).await?;
    let FromReceiver::Plan {
        bytes,
        resumed,
        files,
    } = first
    else {
        return Err(match first {
            FromReceiver::Decline(why) => SendError::Declined(why),
            FromReceiver::Abort(why) => SendError::Aborted { why, stored: 0 },
            _ => SendError::Protocol,
        });
    };
    let mut answer = Answer {
        bytes,
        resumed,
        files,
        wanted: Vec::new(),
        claims: HashMap::new(),
    };
    let mut claims = 0;
    loop {
        match framed::expect(recv).await? {
            FromReceiver::Have { index, first, values } => {
                claims += values.len();
                if claims > CLAIMS_MAX || !answer.claim(sources, index, first, values) {
                    return Err(SendError::Protocol);
                }
            }
            FromReceiver::Wanted { runs, last } => {
                // Disjoint runs cannot be more than entries: a list that grows past that never ends.
                if runs.is_empty() && !last || answer.wanted.len() > ENTRIES_MAX as usize {
                    return Err(SendError::Protocol);
                }
                answer.wanted.extend(runs);
                if last {
                    return Ok(answer);
                }
            }
            FromReceiver::Abort(why) => return Err(SendError::Aborted { why, stored: 0 }),
            _ => return Err(SendError::Protocol),
        }
    }
}

impl Answer {
    /// `false` if there are no such chunks.
    fn claim(&mut self, sources: &Sources, index: u32, first: u32, values: Vec<Value>) -> bool {
        let entry = sources.manifest.entry(index);
        let Some(entry) = entry.filter(|entry| entry.kind == Kind::File) else {
            return false;
        };
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let end = first.checked_add(count);
        if values.is_empty() || end.is_none_or(|end| end > Geometry::new(entry.size).chunks()) {
            return false;
        }
        self.claims
            .entry(index)
            .or_default()
            .extend((first..).zip(values));
        true
    }
}

/// The files within the runs, which must be ascending and within the list.
fn wanted_files(sources: &Sources, runs: &[Run]) -> Result<Vec<u32>, SendError> {
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
        let of_files = (run.first..)
            .zip(slice)
            .filter(|(_, entry)| entry.kind == Kind::File);
        files.extend(of_files.map(|(index, _)| index));
    }
    Ok(files)
}

/// Moves what is read into data streams.
#[derive(Clone)]
struct Pump<B> {
    bulk: B,
    jobs: Arc<Jobs>,
    sources: Arc<Sources>,
    sending: Sending,
    words: mpsc::Sender<FromSender>,
    pool: Pool,
}

async fn pump_all<B: Bulk>(pump: Pump<B>) -> Result<(), SendError> {
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS_MAX {
        streams.spawn(pump.clone().run());
    }
    drop(pump);
    while let Some(ended) = streams.join_next().await {
        ended.map_err(|_| SendError::Broken)??;
    }
    Ok(())
}

impl<B: Bulk> Pump<B> {
    /// One stream, opened when there is something for it.
    async fn run(self) -> Result<(), SendError> {
        let mut stream = None;
        while let Some(job) = self.jobs.next().await {
            let (out, mut read) = mpsc::channel(READ_AHEAD);
            let (sources, jobs, pool) = (
                Arc::clone(&self.sources),
                Arc::clone(&self.jobs),
                self.pool.clone(),
            );
            tokio::task::spawn_blocking(move || {
                source::read(&sources, job, &pool, &out, &|index| jobs.is_over(index));
            });
            while let Some(read) = read.recv().await {
                match read {
                    Read::Wire(bytes) => {
                        let stream = match &mut stream {
                            Some(stream) => stream,
                            None => stream.insert(self.open().await?),
                        };
                        self.write(stream, bytes).await?;
                    }
                    Read::Done(index, hash, chunks) => {
                        self.say(FromSender::FileDone { index, hash, chunks }).await?;
                    }
                    Read::Failed(index, why) => self.say(FromSender::FileFailed { index, why }).await?,
                    Read::Comparing => self.say(FromSender::Comparing).await?,
                }
            }
        }
        if let Some(mut stream) = stream {
            stream.finish();
        }
        Ok(())
    }

    async fn open(&self) -> Result<B::Out, SendError> {
        let mut stream = self.bulk.open_uni().await?;
        let transfer = self.sending.transfer;
        framed::write(&mut stream, &DataHeader { transfer }).await?;
        Ok(stream)
    }

    async fn write(&self, stream: &mut B::Out, mut bytes: bytes::Bytes) -> Result<(), SendError> {
        let Some(limit) = &self.sending.limit else {
            return Ok(stream.write(bytes).await?);
        };
        while !bytes.is_empty() {
            let slice = bytes.split_to(limit.slice_len().min(bytes.len()));
            limit.take(slice.len() as u64).await;
            stream.write(slice).await?;
        }
        Ok(())
    }

    async fn say(&self, word: FromSender) -> Result<(), SendError> {
        self.words.send(word).await.map_err(|_| SendError::Broken)
    }
}

/// Says what the streams have to say on the control stream.
struct Speaker<'a, O> {
    send: &'a mut O,
    hash: Option<Value>,
}

impl<O: Outflow> Speaker<'_, O> {
    async fn run(&mut self, mut words: mpsc::Receiver<FromSender>) -> Result<(), SendError> {
        while let Some(word) = words.recv().await {
            if let FromSender::FileDone { hash, .. } = word {
                self.hash = Some(hash);
            }
            let mut bytes = codec::encode_framed(&word).map_err(FrameError::from)?;
            while let Ok(more) = words.try_recv() {
                bytes.extend(codec::encode_framed(&more).map_err(FrameError::from)?);
                if let FromSender::FileDone { hash, .. } = more {
                    self.hash = Some(hash);
                }
            }
            self.send.write(bytes.into()).await?;
        }
        Ok(())
    }
}

/// Hears what became of each file.
struct Verdicts<'a> {
    jobs: &'a Jobs,
    sources: &'a Sources,
    listener: &'a dyn Listener,
    total: u64,
    others: Vec<(u32, Outcome)>,
    stored: u32,
    /// What the receiver asked for, in order.
    wanted: Vec<Run>,
    /// The last entry of which something was told at the end.
    last_late: Option<u32>,
}

impl Verdicts<'_> {
    async fn run(&mut self, recv: &mut impl Inflow) -> Result<(), SendError> {
        while self.jobs.left() > 0 {
            let stored = self.stored;
            let message = framed::expect(recv).await;
            match message.map_err(|error| SendError::Interrupted { error, stored })? {
                FromReceiver::Results(results) => {
                    for (index, outcome) in results {
                        self.result(index, outcome)?;
                    }
                }
                FromReceiver::Again { index, chunks } => {
                    if !self.jobs.again(&self.sources.manifest, index, chunks) {
                        return Err(SendError::Protocol);
                    }
                }
                FromReceiver::Progress { bytes } => {
                    let (bytes, total) = (bytes.min(self.total), self.total);
                    self.listener.on(Event::Progress { bytes, total });
                }
                FromReceiver::Abort(why) => return Err(SendError::Aborted { why, stored }),
                _ => return Err(SendError::Protocol),
            }
        }
        Ok(())
    }

    fn result(&mut self, index: u32, outcome: Outcome) -> Result<(), SendError> {
        if !self.jobs.verdict(index) {
            return Err(SendError::Protocol);
        }
        if outcome == Outcome::Stored {
            self.stored += 1;
        } else {
            self.miss(index, outcome);
        }
        Ok(())
    }

    /// What is told at the end: a link could not be made, or a file was not asked for because another one has its name there.
    fn late(&mut self, index: u32, outcome: Outcome) -> Result<(), SendError> {
        let entry = self.sources.manifest.entry(index);
        let lawful = match entry.map(|entry| &entry.kind) {
            Some(Kind::Link { .. }) => outcome != Outcome::Stored,
            Some(Kind::File) => outcome == Outcome::Kept && !self.is_wanted(index),
            _ => false,
        };
        // Each once: in the order of the list.
        if !lawful || self.last_late.is_some_and(|last| index <= last) {
            return Err(SendError::Protocol);
        }
        self.last_late = Some(index);
        self.miss(index, outcome);
        Ok(())
    }

    fn is_wanted(&self, index: u32) -> bool {
        let behind = self.wanted.partition_point(|run| run.first <= index);
        let run = behind.checked_sub(1).and_then(|at| self.wanted.get(at));
        run.is_some_and(|run| index - run.first < run.count)
    }

    /// It is not in its place.
    fn miss(&mut self, index: u32, outcome: Outcome) {
        self.others.push((index, outcome));
        let path = self.sources.manifest.joined(index);
        self.listener.on(Event::File { path, outcome });
    }
}

/// Say that it is the end, hear what is still to be told and the summary, and thank for it. Returns the bytes that are in place.
async fn farewell(
    send: &mut impl Outflow,
    recv: &mut impl Inflow,
    verdicts: &mut Verdicts<'_>,
) -> Result<u64, SendError> {
    framed::write(send, &FromSender::End).await?;
    let stored = verdicts.stored;
    let summary = async {
        loop {
            match framed::expect(recv).await {
                Ok(FromReceiver::Progress { .. }) => {}
                Ok(FromReceiver::Results(results)) => {
                    for (index, outcome) in results {
                        verdicts.late(index, outcome)?;
                    }
                }
                other => return other.map_err(|error| SendError::Interrupted { error, stored }),
            }
        }
    };
    let summary = tokio::time::timeout(SUMMARY_TIMEOUT, summary).await;
    let error = FrameError::Ended;
    let bytes = match summary.unwrap_or(Err(SendError::Interrupted { error, stored }))? {
        FromReceiver::Summary { stored: told, bytes } if told == stored => bytes,
        FromReceiver::Abort(why) => return Err(SendError::Aborted { why, stored }),
        _ => return Err(SendError::Protocol),
    };
    // Without thanks the receiver remembers for a while that everything is there.
    if framed::write(send, &FromSender::Thanks).await.is_ok() {
        send.finish();
        if tokio::time::timeout(LAST_WORD_TIMEOUT, send.settled())
            .await
            .is_err()
        {
            tracing::debug!("the receiver did not take the thanks");
        }
    }
    Ok(bytes)
}

/// Run both to their ends. When writing breaks off, the receiver's last word says why, if it comes soon.
async fn run_both(
    work: impl Future<Output = Result<(), SendError>>,
    verdicts: impl Future<Output = Result<(), SendError>>,
) -> Result<(), SendError> {
    let mut work = std::pin::pin!(work);
    let mut verdicts = std::pin::pin!(verdicts);
    tokio::select! {
        worked = &mut work => match worked {
            Ok(()) => verdicts.await,
            Err(error) => match tokio::time::timeout(LAST_WORD_TIMEOUT, verdicts).await {
                Ok(Err(better)) => Err(better),
                _ => Err(error),
            },
        },
        heard = &mut verdicts => match heard {
            Ok(()) => work.await,
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
    /// A task of this side ended before its time.
    #[error("a part of this program ended before its time")]
    Broken,
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
        AbortReason::Replaced => "it was begun anew from this machine",
        AbortReason::Stalled => "it heard nothing from this side for too long",
        AbortReason::Protocol => "it says that this side does not keep to the protocol",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: String, kind: Kind) -> Entry {
        Entry {
            parent: u32::MAX,
            name,
            kind,
            size: u64::MAX,
            mode: u32::MAX,
            modified_ns: i64::MIN,
            stamp: u64::MAX,
        }
    }

    #[test]
    fn pages_hold_all_entries_and_each_fits_a_message() {
        let entries: Vec<Entry> = (0..2000)
            .map(|n| {
                let target = "t".repeat(n * 37 % 4096);
                let kind = if n % 7 == 0 {
                    Kind::Link { target }
                } else {
                    Kind::File
                };
                entry("y".repeat(n % 255 + 1), kind)
            })
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
        assert!(pages < 150, "{pages} pages for 2000 entries");
        assert_eq!(page_of(&[]), []);
    }
}
