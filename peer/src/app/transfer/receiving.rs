//! The loop of a transfer that was accepted.
//!
//! Matches files that arrived with the hashes that the sender tells, puts them in their places, and tells the sender
//! what became of each. Bounded: at most [`OUTSTANDING_MAX`] files or hashes wait for their other half.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::{RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use super::inbox::{Part, Placed, is_disk_full};
use super::incoming_file::{Arrival, Shared, blocking, receive_stream};
use super::messages::{AbortReason, FromReceiver, FromSender, Kind, OUTSTANDING_MAX, Outcome, TransferId};
use super::receiver::{Place, ReceiveError, Received, last_word};
use crate::app::framed::{self, FrameError};
use crate::app::{Bulk, Event, Listener};
use crate::session::StreamError;

/// Data streams that are read at once. Several hide the time it takes to bring small files to disk.
const STREAMS_MAX: usize = 8;

/// How long nothing at all may happen in a transfer. A dead connection shows itself earlier; this is for a sender that
/// lives and does nothing, such as one whose disk hangs.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A transfer under way.
pub(super) struct Receiving {
    shared: Arc<Shared>,
    send: SendStream,
    /// Files without a verdict.
    open: HashSet<u32>,
    /// Arrived whole, hash not told yet.
    arrived: BTreeMap<u32, (Part, [u8; 32])>,
    /// Hash told, not arrived whole yet.
    told: BTreeMap<u32, [u8; 32]>,
    streams: JoinSet<Arrival>,
    placing: JoinSet<(u32, io::Result<Placed>)>,
    stored: u32,
    bytes: u64,
    others: Vec<(u32, Outcome)>,
    /// Files at the top, and the names they got.
    names: BTreeMap<u32, String>,
    hash: Option<[u8; 32]>,
}

/// Why the loop ended before its time.
enum Stop {
    Disk(io::Error),
    Lost(FrameError),
    Stalled,
    Told,
    Protocol(&'static str),
}

/// What happened next.
enum Step {
    Word(Option<Result<FromSender, FrameError>>),
    Stream(Result<RecvStream, StreamError>),
    Arrival(Result<Arrival, JoinError>),
    Placed(Result<(u32, io::Result<Placed>), JoinError>),
    Stop,
}

impl Receiving {
    pub(super) fn new(
        transfer: TransferId,
        place: Place,
        send: SendStream,
        listener: Arc<dyn Listener>,
    ) -> Self {
        let entries = place.manifest.entries();
        let claimed: Vec<AtomicBool> = entries.iter().map(|_| AtomicBool::new(true)).collect();
        let mut open = HashSet::new();
        for run in &place.layout.wanted {
            open.extend(run.first..run.first.saturating_add(run.count));
        }
        let mut others = Vec::new();
        for (index, (entry, claimed)) in (0..).zip(entries.iter().zip(&claimed)) {
            match (entry.kind, open.contains(&index)) {
                (Kind::File, true) => claimed.store(false, Ordering::Relaxed),
                (Kind::File, false) => others.push((index, Outcome::Kept)),
                (Kind::Folder, _) => drop(open.remove(&index)),
            }
        }
        Self {
            shared: Arc::new(Shared {
                transfer,
                place,
                claimed,
                moved: AtomicU64::new(0),
                listener,
            }),
            send,
            open,
            arrived: BTreeMap::new(),
            told: BTreeMap::new(),
            streams: JoinSet::new(),
            placing: JoinSet::new(),
            stored: 0,
            bytes: 0,
            others,
            names: BTreeMap::new(),
            hash: None,
        }
    }

    /// Receive everything, and tell the sender how it ended.
    pub(super) async fn run<B: Bulk>(
        mut self,
        bulk: &B,
        recv: RecvStream,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Received, ReceiveError> {
        let started = Instant::now();
        let ended = match self.run_to_end(bulk, recv, stop).await {
            Ok(()) => self.sync().await.map_err(Stop::Disk),
            Err(stop) => Err(stop),
        };
        let (stored, left) = (self.stored, u32::try_from(self.open.len()).unwrap_or(u32::MAX));
        let stop = match ended {
            Ok(()) => {
                let summary = FromReceiver::Summary {
                    stored,
                    bytes: self.bytes,
                };
                last_word(&mut self.send, &summary).await;
                return Ok(self.received(started.elapsed()));
            }
            Err(stop) => stop,
        };
        let (reason, error) = match stop {
            Stop::Disk(error) if is_disk_full(&error) => {
                (AbortReason::DiskFull, ReceiveError::DiskFull { stored, left })
            }
            Stop::Disk(error) => (AbortReason::Disk, ReceiveError::Inbox(error)),
            Stop::Stalled => (AbortReason::Stopped, ReceiveError::Stalled),
            Stop::Told => (AbortReason::Stopped, ReceiveError::Stopped { stored, left }),
            Stop::Protocol(why) => (AbortReason::Protocol, ReceiveError::Protocol(why)),
            Stop::Lost(error) => return Err(ReceiveError::Interrupted { error, stored, left }),
        };
        last_word(&mut self.send, &FromReceiver::Abort(reason)).await;
        Err(error)
    }

    async fn run_to_end<B: Bulk>(
        &mut self,
        bulk: &B,
        recv: RecvStream,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<(), Stop> {
        let mut stop = std::pin::pin!(stop);
        let (mut words, _ears) = listen(recv);
        let mut moved = 0;
        loop {
            let step = async {
                tokio::select! {
                    () = &mut stop => Step::Stop,
                    word = words.recv() => Step::Word(word),
                    stream = bulk.accept_uni(), if self.streams.len() < STREAMS_MAX => Step::Stream(stream),
                    Some(arrival) = self.streams.join_next() => Step::Arrival(arrival),
                    Some(placed) = self.placing.join_next() => Step::Placed(placed),
                }
            };
            match tokio::time::timeout(STALL_TIMEOUT, step).await {
                Ok(step) => {
                    if self.take(step).await? {
                        return Ok(());
                    }
                }
                // A large file may take long, as long as it grows.
                Err(_) => match self.shared.moved.load(Ordering::Relaxed) {
                    now if now == moved => return Err(Stop::Stalled),
                    now => moved = now,
                },
            }
        }
    }

    /// `true` when everything is done.
    async fn take(&mut self, step: Step) -> Result<bool, Stop> {
        match step {
            Step::Stop => return Err(Stop::Told),
            Step::Word(Some(Ok(FromSender::FileDone { index, hash }))) => self.told(index, hash)?,
            Step::Word(Some(Ok(FromSender::FileFailed { index, .. }))) => self.failed(index).await?,
            Step::Word(Some(Ok(FromSender::End))) if self.open.is_empty() => return Ok(true),
            Step::Word(Some(Ok(FromSender::End))) => {
                return Err(Stop::Protocol("the end comes before all files"));
            }
            Step::Word(Some(Ok(_))) => return Err(Stop::Protocol("a second offer")),
            Step::Word(Some(Err(FrameError::Codec(_)))) => {
                return Err(Stop::Protocol("a message is malformed"));
            }
            Step::Word(Some(Err(error))) => return Err(Stop::Lost(error)),
            Step::Word(None) | Step::Stream(Err(_)) => return Err(Stop::Lost(FrameError::Ended)),
            Step::Stream(Ok(stream)) => {
                self.streams
                    .spawn(receive_stream(Arc::clone(&self.shared), stream));
            }
            Step::Arrival(Ok(arrival)) => self.arrival(arrival).await?,
            Step::Placed(Ok((index, placed))) => self.placed(index, placed).await?,
            Step::Arrival(Err(error)) | Step::Placed(Err(error)) => {
                return Err(Stop::Disk(io::Error::other(error)));
            }
        }
        Ok(false)
    }

    fn told(&mut self, index: u32, hash: [u8; 32]) -> Result<(), Stop> {
        if !self.open.contains(&index) {
            // Its verdict crossed this word on the way, or it was never asked for; nothing hangs on it.
            return Ok(());
        }
        if let Some((part, own)) = self.arrived.remove(&index) {
            self.place(index, part, own, hash);
            return Ok(());
        }
        if self.told.insert(index, hash).is_some() || self.told.len() > OUTSTANDING_MAX {
            return Err(Stop::Protocol("too many hashes without their files"));
        }
        Ok(())
    }

    async fn failed(&mut self, index: u32) -> Result<(), Stop> {
        if !self.open.contains(&index) {
            return Ok(());
        }
        if let Some(claimed) = self.shared.claimed.get(index as usize) {
            claimed.store(true, Ordering::Relaxed);
        }
        if let Some((part, _)) = self.arrived.remove(&index) {
            discard(part).await;
        }
        self.resolve(index, Outcome::Incomplete).await
    }

    async fn arrival(&mut self, arrival: Arrival) -> Result<(), Stop> {
        match arrival {
            Arrival::Whole { index, part, .. } if !self.open.contains(&index) => discard(part).await,
            Arrival::Whole { index, part, hash } => {
                if let Some(told) = self.told.remove(&index) {
                    self.place(index, part, hash, told);
                } else {
                    self.arrived.insert(index, (part, hash));
                }
                if self.arrived.len() > OUTSTANDING_MAX {
                    return Err(Stop::Protocol("too many files without their hashes"));
                }
            }
            Arrival::Cut => {}
            Arrival::Disk { index, error } => self.disk_trouble(index, error).await?,
            Arrival::Broken(why) => return Err(Stop::Protocol(why)),
        }
        Ok(())
    }

    /// Compare and, if it is what was sent, bring the file to its place.
    fn place(&mut self, index: u32, part: Part, own: [u8; 32], told: [u8; 32]) {
        let conflict = self.shared.place.conflict;
        self.hash = Some(own);
        self.placing.spawn(async move {
            let work = move || {
                if own == told {
                    part.place(conflict)
                } else {
                    part.discard().map(|()| Placed::Mismatch)
                }
            };
            (index, blocking(work).await.flatten())
        });
    }

    async fn placed(&mut self, index: u32, placed: io::Result<Placed>) -> Result<(), Stop> {
        match placed {
            Ok(Placed::Stored(name)) => {
                if let Some(entry) = self.shared.place.manifest.entries().get(index as usize) {
                    self.bytes += entry.size;
                    if entry.path.len() == 1 {
                        self.names.insert(index, name);
                    }
                }
                self.resolve(index, Outcome::Stored).await
            }
            Ok(Placed::Kept) => self.resolve(index, Outcome::Kept).await,
            Ok(Placed::Mismatch) => self.resolve(index, Outcome::HashMismatch).await,
            Err(error) => self.disk_trouble(index, error).await,
        }
    }

    /// A full disk ends the transfer; a file that cannot be written for another reason does not stop the others.
    async fn disk_trouble(&mut self, index: u32, error: io::Error) -> Result<(), Stop> {
        if is_disk_full(&error) {
            return Err(Stop::Disk(error));
        }
        tracing::warn!(%error, "a file cannot be written");
        if self.open.contains(&index) {
            self.resolve(index, Outcome::Unwritable).await?;
        }
        Ok(())
    }

    async fn resolve(&mut self, index: u32, outcome: Outcome) -> Result<(), Stop> {
        self.open.remove(&index);
        self.told.remove(&index);
        if outcome == Outcome::Stored {
            self.stored += 1;
        } else {
            self.others.push((index, outcome));
            let entry = self.shared.place.manifest.entries().get(index as usize);
            let path = entry.map_or_else(String::new, |entry| entry.path.join("/"));
            self.shared.listener.on(Event::File { path, outcome });
        }
        let result = FromReceiver::FileResult { index, outcome };
        framed::write(&mut self.send, &result).await.map_err(Stop::Lost)
    }

    async fn sync(&self) -> io::Result<()> {
        let place = self.shared.place.clone();
        blocking(move || place.inbox.sync(&place.layout, &place.manifest)).await?
    }

    fn received(self, took: Duration) -> Received {
        let place = &self.shared.place;
        let roots = (0..)
            .zip(place.manifest.entries())
            .filter(|(_, entry)| entry.path.len() == 1);
        let places = roots
            .filter_map(|(index, entry)| match (entry.kind, self.names.get(&index)) {
                (Kind::File, None) => None,
                (_, name) => Some(
                    place
                        .inbox
                        .shown_path(&place.layout, entry, name.map(String::as_str)),
                ),
            })
            .collect();
        Received {
            stored: self.stored,
            bytes: self.bytes,
            places,
            took,
            hash: self.hash.filter(|_| self.stored == 1),
            others: self.others,
        }
    }
}

type Words = mpsc::Receiver<Result<FromSender, FrameError>>;

/// Read the control stream in a task of its own, because reading a message half is not to be undone.
fn listen(mut recv: RecvStream) -> (Words, JoinSet<()>) {
    let (heard, words) = mpsc::channel(OUTSTANDING_MAX);
    let mut ears = JoinSet::new();
    ears.spawn(async move {
        loop {
            let word = framed::expect::<FromSender>(&mut recv).await;
            let over = word.is_err();
            if heard.send(word).await.is_err() || over {
                return;
            }
        }
    });
    (words, ears)
}

async fn discard(part: Part) {
    if let Err(error) = blocking(move || part.discard()).await.flatten() {
        tracing::debug!(%error, "a partial file could not be deleted");
    }
}
