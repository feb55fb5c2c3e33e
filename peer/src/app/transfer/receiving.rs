//! The loop of a transfer that was accepted.
//!
//! Hears the sender on the control stream and the threads at the disk, decides when a file is whole, asks again for what
//! is not right, and tells the sender what became of each file.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::arrival::receive_stream;
use super::desk::{Desk, Job, Notice, is_single, lock};
use super::inbox::is_disk_full;
use super::journal::Record;
use super::keeper;
use super::messages::{AGAIN_MAX, AbortReason, FromReceiver, FromSender, Outcome, RESULTS_MAX, STREAMS_MAX};
use super::part::Part;
use super::plan::{Plan, TAKEN, WANTED};
use super::receiver::{ReceiveError, Received, blocking};
use super::tree::Value;
use super::voice::{Unsaid, Voice};
use crate::app::flow::{Inflow, Outflow};
use crate::app::framed::{self, FrameError};
use crate::app::{Bulk, Event, Listener};
use crate::session::StreamError;

/// Data streams that are read at once; more than a sender opens, because streams of a transfer that ended before may
/// still wait to be turned away.
const STREAMS_READ_MAX: usize = STREAMS_MAX * 2;

/// How often the sender hears how far it is: often enough for a bar that moves smoothly.
const PROGRESS_EVERY: Duration = Duration::from_millis(150);

/// How many chunks of one file may be wrong on arrival before the file is given up. One is a memory error at either end;
/// this many are a broken machine.
const WRONG_MAX: usize = 16;

/// How long a sender may take to thank for the summary. Less than another attempt waits for the files of this one.
const THANKS_TIMEOUT: Duration = Duration::from_secs(5);

/// Words of the sender that may wait.
const WORDS_MAX: usize = 64;

/// A transfer under way.
pub(super) struct Receiving<O> {
    desk: Arc<Desk>,
    voice: Voice<O>,
    listener: Arc<dyn Listener>,
    started: Instant,
    /// Files without a verdict.
    open: u32,
    /// Hashes of files of several chunks, as the sender told them, and how many chunks it sent.
    told: HashMap<u32, (Value, u32)>,
    wrong: HashMap<u32, usize>,
    /// Verdicts that the sender does not know yet.
    results: Vec<(u32, Outcome)>,
    /// Those of files that were not asked for, and of links: told at the end.
    late: Vec<(u32, Outcome)>,
    parts: Vec<Arc<Part>>,
    /// Bytes of all files that are wanted or there.
    total: u64,
    /// Bytes of that which are there from earlier attempts.
    resumed: u64,
    /// Bytes that came now and are kept.
    kept: u64,
    told_progress: (Instant, u64),
    stored: u32,
    bytes: u64,
    others: Vec<(u32, Outcome)>,
    /// Files at the top, and the names they got.
    names: BTreeMap<u32, String>,
    hash: Option<Value>,
}

/// Why a transfer ended before its time.
pub(super) enum Stop {
    /// This side's disk.
    Disk(io::Error),
    /// The conversation broke off.
    Lost(FrameError),
    /// The sender sends nothing, or takes nothing.
    Stalled,
    /// This side was told to.
    Told,
    /// Another attempt takes over.
    Replaced,
    /// The sender does not keep to the protocol.
    Protocol(&'static str),
}

impl From<Unsaid> for Stop {
    fn from(unsaid: Unsaid) -> Self {
        match unsaid {
            Unsaid::Lost(error) => Self::Lost(error),
            Unsaid::Stalled => Self::Stalled,
        }
    }
}

/// What happened next.
enum Step<I> {
    Word(Option<Result<FromSender, FrameError>>),
    Stream(Result<I, StreamError>),
    StreamEnded(Result<(), JoinError>),
    Notice(Option<Notice>),
}

impl<O: Outflow> Receiving<O> {
    pub(super) fn new(
        desk: Arc<Desk>,
        plan: Plan,
        voice: Voice<O>,
        listener: Arc<dyn Listener>,
        started: Instant,
    ) -> Self {
        Self {
            desk,
            voice,
            listener,
            started,
            open: plan.wanted_files,
            told: HashMap::new(),
            wrong: HashMap::new(),
            results: Vec::new(),
            late: plan.others.clone(),
            parts: plan.parts,
            total: plan.bytes,
            resumed: plan.resumed,
            kept: 0,
            told_progress: (started, plan.resumed),
            stored: plan.whole,
            bytes: plan.whole_bytes,
            others: plan.others,
            names: plan.names.into_iter().collect(),
            hash: None,
        }
    }

    /// Receive everything, and tell the sender how it ended. `stop` ends it before its time.
    pub(super) async fn run<B: Bulk<Out = O>>(
        mut self,
        bulk: &B,
        recv: impl Inflow,
        mut notices: mpsc::Receiver<Notice>,
        stop: impl Future<Output = Stop> + Send,
    ) -> Result<Received, ReceiveError> {
        let closing = Closing(Arc::clone(&self.desk));
        let keeping = Arc::clone(&self.desk);
        let mut keeper = tokio::task::spawn_blocking(move || keeper::run(&keeping));
        let checking = (Arc::clone(&self.desk), std::mem::take(&mut self.parts));
        tokio::task::spawn_blocking(move || check(&checking.0, &checking.1));
        for (index, outcome) in &self.others {
            self.show(*index, *outcome);
        }
        let (mut words, ears) = listen(recv);
        let mut stop = std::pin::pin!(stop);
        let ended = self
            .run_to_end(bulk, &mut words, &mut notices, stop.as_mut())
            .await;
        drop(closing);
        self.hear_out(&mut keeper, &mut notices).await;
        let ended = match ended {
            Ok(()) => self.settle().await.map_err(Stop::Disk),
            Err(stop) => Err(stop),
        };
        match ended {
            Ok(()) => {
                self.sum_up(words, stop).await;
                drop(ears);
                Ok(self.received())
            }
            Err(stop) => Err(self.stop(stop).await),
        }
    }

    async fn run_to_end<B: Bulk<Out = O>>(
        &mut self,
        bulk: &B,
        words: &mut Words,
        notices: &mut mpsc::Receiver<Notice>,
        mut stop: Pin<&mut (impl Future<Output = Stop> + Send)>,
    ) -> Result<(), Stop> {
        let mut streams = JoinSet::new();
        let mut heard = 0;
        loop {
            let step = async {
                tokio::select! {
                    why = stop.as_mut() => Err(why),
                    word = words.recv() => Ok(Step::Word(word)),
                    stream = bulk.accept_uni(), if streams.len() < STREAMS_READ_MAX => Ok(Step::Stream(stream)),
                    Some(ended) = streams.join_next() => Ok(Step::StreamEnded(ended)),
                    notice = notices.recv() => Ok(Step::Notice(notice)),
                }
            };
            match tokio::time::timeout(self.desk.patience, step).await {
                Ok(Err(why)) => return Err(why),
                Ok(Ok(Step::Stream(Ok(stream)))) => {
                    streams.spawn(receive_stream(Arc::clone(&self.desk), stream));
                }
                Ok(Ok(step)) => {
                    // What is to be said may wait for a sender that takes nothing.
                    let over = tokio::select! {
                        biased;
                        taken = self.take(step, notices) => taken?,
                        why = stop.as_mut() => return Err(why),
                    };
                    if over {
                        return Ok(());
                    }
                }
                // A slow file is not a stalled one, and a slow disk of this side is no fault of the sender.
                Err(_) => match self.desk.heard.load(Ordering::Relaxed) {
                    now if now == heard && !self.desk.queue.is_busy() => return Err(Stop::Stalled),
                    now => heard = now,
                },
            }
        }
    }

    /// `true` when everything is done. Cancelled in the middle, the transfer is over.
    async fn take<I>(&mut self, step: Step<I>, notices: &mut mpsc::Receiver<Notice>) -> Result<bool, Stop> {
        match step {
            Step::Word(Some(Ok(word))) => return self.word(word).await,
            Step::Word(Some(Err(FrameError::Codec(_)))) => {
                return Err(Stop::Protocol("a message is malformed"));
            }
            Step::Word(Some(Err(error))) => return Err(Stop::Lost(error)),
            Step::Word(None) | Step::Stream(_) => return Err(Stop::Lost(FrameError::Ended)),
            Step::StreamEnded(Err(error)) => return Err(Stop::Disk(io::Error::other(error))),
            Step::StreamEnded(Ok(())) | Step::Notice(None) => {}
            Step::Notice(Some(notice)) => {
                self.notice(notice).await?;
                // Many small files give as many notices; their verdicts share messages.
                while self.results.len() < RESULTS_MAX
                    && let Ok(notice) = notices.try_recv()
                {
                    self.notice(notice).await?;
                }
                self.tell_results().await?;
                self.tell_progress().await?;
            }
        }
        Ok(false)
    }

    async fn word(&mut self, word: FromSender) -> Result<bool, Stop> {
        match word {
            FromSender::FileDone { index, hash, chunks } => {
                let entry = self.desk.manifest.entry(index);
                // A verdict may have crossed this word on the way.
                if entry.is_some_and(|entry| !is_single(entry)) && self.desk.state(index) == WANTED {
                    self.told.insert(index, (hash, chunks));
                    self.finish_if_whole(index).await?;
                }
            }
            FromSender::FileFailed { index, .. } => {
                if self.desk.resolve(index) {
                    // What arrived of it is in the journal; nothing more comes in this attempt.
                    self.desk.let_go(index);
                    self.verdict(index, Outcome::Incomplete);
                }
            }
            FromSender::Comparing => {}
            FromSender::End if self.open == 0 => {
                self.tell_results().await?;
                return Ok(true);
            }
            FromSender::End => return Err(Stop::Protocol("the end comes before all files")),
            _ => return Err(Stop::Protocol("a message that does not belong here")),
        }
        self.tell_results().await?;
        Ok(false)
    }

    async fn notice(&mut self, notice: Notice) -> Result<(), Stop> {
        match notice {
            Notice::Kept { index, bytes } => {
                self.kept += bytes;
                self.finish_if_whole(index).await?;
            }
            Notice::Replaced { bytes } => self.resumed = self.resumed.saturating_sub(bytes),
            Notice::Checked { index } => self.finish_if_whole(index).await?,
            Notice::Placed {
                index,
                outcome,
                name,
                hash,
            } => {
                let entry = self.desk.manifest.entry(index);
                let (size, single, at_top) =
                    entry.map_or((0, true, false), |e| (e.size, is_single(e), e.parent == 0));
                if outcome == Outcome::Stored {
                    self.bytes += size;
                    self.kept += if single { size } else { 0 };
                    self.hash = hash;
                }
                if let Some(name) = name.filter(|_| at_top) {
                    self.names.insert(index, name);
                }
                self.verdict(index, outcome);
            }
            Notice::Missing { index, chunks, bytes } => self.missing(index, &chunks, bytes).await?,
            Notice::Disk(error) => return Err(Stop::Disk(error)),
            Notice::Broken(why) => return Err(Stop::Protocol(why)),
        }
        Ok(())
    }

    /// Chunks that a journal claimed, or that came, are not what the sender has.
    async fn missing(&mut self, index: u32, chunks: &[u32], bytes: u64) -> Result<(), Stop> {
        self.resumed = self.resumed.saturating_sub(bytes);
        if bytes == 0 {
            let wrong = self.wrong.entry(index).or_default();
            *wrong += chunks.len();
            tracing::warn!("a chunk did not arrive as it was sent; it is asked for again");
            if *wrong > WRONG_MAX {
                return self.give_up(index).await;
            }
        }
        for page in chunks.chunks(AGAIN_MAX) {
            let chunks = page.to_vec();
            let again = FromReceiver::Again { index, chunks };
            self.say(&again).await?;
        }
        Ok(())
    }

    /// If all chunks of a file are kept and its hash is told, compare, and have it put in its place.
    async fn finish_if_whole(&mut self, index: u32) -> Result<(), Stop> {
        let Some((told, sent)) = self.told.get(&index).copied() else {
            return Ok(());
        };
        let Some(part) = self.desk.begun(index).filter(|part| part.is_whole(sent)) else {
            return Ok(());
        };
        if part.root() != Some(told) {
            return self.give_up(index).await;
        }
        // From here on nothing is to come for it.
        if self.desk.change(index, WANTED, TAKEN) {
            self.told.remove(&index);
            self.desk.queue.put_now(Job::Finish(part));
        }
        Ok(())
    }

    /// What is there of a file is of no use.
    async fn give_up(&mut self, index: u32) -> Result<(), Stop> {
        if !self.desk.resolve(index) {
            return Ok(());
        }
        let desk = Arc::clone(&self.desk);
        let forgotten = blocking(move || {
            let key = super::partial::path_key(&desk.manifest, index);
            desk.let_go(index);
            lock(&desk.journal).append(&[Record::Part { key, size: 0 }])?;
            match desk.partial.remove(&key) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        });
        forgotten.await.flatten().map_err(Stop::Disk)?;
        self.verdict(index, Outcome::HashMismatch);
        Ok(())
    }

    fn verdict(&mut self, index: u32, outcome: Outcome) {
        self.open = self.open.saturating_sub(1);
        self.told.remove(&index);
        if outcome == Outcome::Stored {
            self.stored += 1;
        } else {
            self.others.push((index, outcome));
            self.show(index, outcome);
        }
        self.results.push((index, outcome));
    }

    /// It is not in its place.
    fn show(&self, index: u32, outcome: Outcome) {
        let path = self.desk.manifest.joined(index);
        self.listener.on(Event::File { path, outcome });
    }

    async fn tell_results(&mut self) -> Result<(), Unsaid> {
        for page in std::mem::take(&mut self.results).chunks(RESULTS_MAX) {
            self.say(&FromReceiver::Results(page.to_vec())).await?;
        }
        Ok(())
    }

    async fn tell_progress(&mut self) -> Result<(), Unsaid> {
        let bytes = (self.resumed + self.kept).min(self.total);
        self.listener.on(Event::Progress {
            bytes,
            total: self.total,
        });
        let (at, told) = self.told_progress;
        if told == bytes || at.elapsed() < PROGRESS_EVERY {
            return Ok(());
        }
        self.told_progress = (Instant::now(), bytes);
        self.say(&FromReceiver::Progress { bytes }).await
    }

    async fn say(&mut self, word: &FromReceiver) -> Result<(), Unsaid> {
        self.voice.say(word, self.desk.patience).await
    }

    /// The keeper ends what it has; what it still says counts.
    async fn hear_out(&mut self, keeper: &mut JoinHandle<()>, notices: &mut mpsc::Receiver<Notice>) {
        let mut last = Vec::new();
        loop {
            tokio::select! {
                Some(notice) = notices.recv() => last.push(notice),
                _ = &mut *keeper => break,
            }
        }
        // Threads that still have something to tell hold what another attempt may be waiting for.
        notices.close();
        while let Ok(notice) = notices.try_recv() {
            last.push(notice);
        }
        for notice in last {
            if matches!(notice, Notice::Placed { .. }) {
                // Never fails: nothing is said or written for it.
                let _ = self.notice(notice).await;
            }
        }
    }

    /// Links, times of folders, and everything to disk.
    async fn settle(&mut self) -> io::Result<()> {
        let desk = Arc::clone(&self.desk);
        let failed = blocking(move || {
            let failed = desk.inbox.make_links(&desk.manifest, &desk.roots, desk.conflict);
            desk.inbox.settle(&desk.manifest, &desk.roots)?;
            Ok::<_, io::Error>(failed)
        });
        for index in failed.await.flatten()? {
            let outcome = Outcome::Unwritable;
            self.others.push((index, outcome));
            self.late.push((index, outcome));
            self.show(index, outcome);
        }
        Ok(())
    }

    /// The last words. When the sender has thanked for them, nothing needs to be kept for another attempt. A sender that does
    /// not take them is left to that one: everything is in its place.
    async fn sum_up(&mut self, mut words: Words, stop: Pin<&mut (impl Future<Output = Stop> + Send)>) {
        let said = tokio::select! {
            biased;
            said = self.say_summary() => said.is_ok(),
            _ = stop => false,
        };
        let thanked = said && {
            let thanks = tokio::time::timeout(THANKS_TIMEOUT, words.recv()).await;
            matches!(thanks, Ok(Some(Ok(FromSender::Thanks))))
        };
        // Last of all, although nothing more was to be said: the end carries the acknowledgement of the thanks, which the sender
        // waits for. By itself that would be delayed for 25 ms (RFC 9000, section 13.2.1).
        self.voice.end();
        let complete = self.others.iter().all(|(_, outcome)| *outcome == Outcome::Kept);
        if thanked && complete {
            let desk = Arc::clone(&self.desk);
            // A failure leaves a journal that says that everything is there.
            let _ = blocking(move || desk.partial.clear()).await;
        }
    }

    /// What became of links and of what was not asked for, and that this is all.
    async fn say_summary(&mut self) -> Result<(), Unsaid> {
        self.late.sort_unstable_by_key(|(index, _)| *index);
        self.results.append(&mut self.late);
        self.tell_results().await?;
        let (stored, bytes) = (self.stored, self.bytes);
        self.say(&FromReceiver::Summary { stored, bytes }).await
    }

    /// Tell the sender that it ended before its time.
    pub(super) async fn stop(self, stop: Stop) -> ReceiveError {
        let (stored, left, voice) = (self.stored, self.open, self.voice);
        // Another attempt may wait for the files, and the sender may be gone.
        drop(self.desk);
        let (reason, error) = match stop {
            Stop::Disk(error) if is_disk_full(&error) => {
                (AbortReason::DiskFull, ReceiveError::DiskFull { stored, left })
            }
            Stop::Disk(error) => (AbortReason::Disk, ReceiveError::Inbox(error)),
            Stop::Stalled => (AbortReason::Stalled, ReceiveError::Stalled),
            Stop::Told => (AbortReason::Stopped, ReceiveError::Stopped { stored, left }),
            Stop::Replaced => (AbortReason::Replaced, ReceiveError::Replaced),
            Stop::Protocol(why) => (AbortReason::Protocol, ReceiveError::Protocol(why)),
            Stop::Lost(error) => return ReceiveError::Interrupted { error, stored, left },
        };
        let word = FromReceiver::Abort(reason);
        match reason {
            AbortReason::Replaced => voice.parting_word(&word).await,
            _ => voice.last_word(&word).await,
        }
        error
    }

    fn received(self) -> Received {
        let desk = &self.desk;
        let manifest = &desk.manifest;
        let roots = manifest.indexed().filter(|(_, entry)| entry.parent == 0);
        let places = roots
            .filter_map(|(index, entry)| {
                let name = self.names.get(&index).map(String::as_str);
                let is_file = entry.kind == super::messages::Kind::File;
                let there = !is_file || name.is_some();
                there.then(|| desk.inbox.shown_path(manifest, &desk.roots, index, name))
            })
            .collect();
        Received {
            stored: self.stored,
            bytes: self.bytes,
            resumed: self.resumed,
            places,
            took: self.started.elapsed(),
            hash: self.hash.filter(|_| manifest.files() == 1),
            others: self.others,
        }
    }
}

/// Ends the threads of a transfer whose loop is over, or was dropped in the middle.
struct Closing(Arc<Desk>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

type Words = mpsc::Receiver<Result<FromSender, FrameError>>;

/// Read the control stream in a task of its own, because reading a message half is not to be undone.
fn listen(mut recv: impl Inflow) -> (Words, JoinSet<()>) {
    let (heard, words) = mpsc::channel(WORDS_MAX);
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

/// Compare what a journal claims of parts with what is in them.
fn check(desk: &Desk, parts: &[Arc<Part>]) {
    for part in parts {
        let index = part.index;
        let (chunks, bytes) = part.check(|| {
            desk.heard.fetch_add(1, Ordering::Relaxed);
            !desk.queue.is_closed()
        });
        if !chunks.is_empty() && !desk.tell(Notice::Missing { index, chunks, bytes }) {
            return;
        }
        if !desk.tell(Notice::Checked { index }) {
            return;
        }
    }
}
