//! The receiving side of a transfer.
//!
//! [`Incoming::read`] takes the offer and checks the whole list; the caller decides, perhaps by asking a person; then
//! [`Incoming::decline`] or [`Incoming::receive`]. What earlier attempts left is looked for and gone on with. Whatever a
//! sender does, at most the announced bytes are written.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::desk::{Desk, Notice, PLACES, Queue};
use super::inbox::{Conflict, Inbox};
use super::journal::{Journal, Memory, Record};
use super::limit::Limit;
use super::manifest::{Builder, Manifest, ManifestError};
use super::messages::{
    AbortReason, FORMAT, FromReceiver, FromSender, ORIGIN_LEN, Offer, Outcome, Refused, STREAM_UNWANTED,
    TransferId,
};
use super::partial::{Partial, TransferKey};
use super::plan::{Plan, Planner};
use super::receiving::{Receiving, Stop};
use super::running::Running;
use super::tree::Value;
use super::voice::Voice;
use crate::app::flow::{Inflow, Outflow};
use crate::app::framed::{self, FrameError};
use crate::app::{Bulk, Event, Listener};

/// How long a sender may take for the next page of its list.
const WORD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it may take for the whole list: the longest, of some 20 MB, at 300 kbit/s. Longer, and a sender that drips keeps a place.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a sender that is turned away may take to hear it. Longer, and one that hears nothing keeps streams from others.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long nothing at all may happen in a transfer, and how long a sender may take to take a message. A dead connection shows
/// itself earlier; this is for a sender that lives and does nothing, such as one whose disk hangs.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long is waited for another attempt of the same transfer to put its files away.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// Notices that may wait for the loop of a transfer.
const NOTICES_MAX: usize = 1024;

/// An offer whose list was checked, and the streams on which it came.
#[derive(Debug)]
pub struct Incoming<O, I> {
    offer: Offer,
    origin: [u8; ORIGIN_LEN],
    manifest: Manifest,
    voice: Voice<O>,
    recv: I,
}

/// Under which terms an offer is taken.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Key of the sender; what it left unfinished is known by it.
    pub sender: [u8; 32],
    /// What happens when something of a name is there already.
    pub conflict: Conflict,
    /// Most bytes a second.
    pub limit: Option<Limit>,
    /// What else this program receives.
    pub running: Running,
    /// How long nothing at all may happen: [`STALL_TIMEOUT`].
    pub patience: Duration,
}

/// How a transfer ended for the receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Files in their place, verified, those of earlier attempts included.
    pub stored: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were there from earlier attempts and did not have to come again.
    pub resumed: u64,
    /// Files that are not in their place, by entry, and why.
    pub others: Vec<(u32, Outcome)>,
    /// From the yes to the end.
    pub took: Duration,
    /// Where what lies at the top of the list is now.
    pub places: Vec<PathBuf>,
    /// BLAKE3 of the file, if there was one file only and it came now.
    pub hash: Option<Value>,
}

/// Say no to a sender without looking at what it offers.
pub async fn turn_away(send: impl Outflow, mut recv: impl Inflow, why: Refused) {
    recv.refuse(STREAM_UNWANTED);
    let word = FromReceiver::Decline(why);
    let said = Voice::new(send).last_word(&word);
    if tokio::time::timeout(TURN_AWAY_TIMEOUT, said).await.is_err() {
        tracing::debug!("a sender did not take that it is turned away");
    }
}

impl<O: Outflow, I: Inflow> Incoming<O, I> {
    /// Read an offer with its list. What cannot be accepted is declined here.
    ///
    /// # Errors
    /// Any of [`ReceiveError::Format`], [`ReceiveError::Manifest`], [`ReceiveError::Frame`], [`ReceiveError::Protocol`],
    /// [`ReceiveError::Stalled`].
    pub async fn read(send: O, mut recv: I) -> Result<Self, ReceiveError> {
        let voice = Voice::new(send);
        let list = tokio::time::timeout(LIST_TIMEOUT, read_list(&mut recv)).await;
        match list.map_err(|_| ReceiveError::Stalled).flatten() {
            Ok((offer, origin, manifest)) => Ok(Self {
                offer,
                origin,
                manifest,
                voice,
                recv,
            }),
            Err(error) => {
                let word = match error {
                    ReceiveError::Format(_) => FromReceiver::Decline(Refused::Format),
                    ReceiveError::Manifest(_) => FromReceiver::Decline(Refused::Names),
                    ReceiveError::Stalled => FromReceiver::Abort(AbortReason::Stalled),
                    _ => FromReceiver::Abort(AbortReason::Protocol),
                };
                voice.last_word(&word).await;
                Err(error)
            }
        }
    }

    /// What is offered.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Say no.
    pub async fn decline(self, why: Refused) {
        self.voice.last_word(&FromReceiver::Decline(why)).await;
    }

    /// Say yes, and receive everything that is not there. When `stop` completes the transfer ends, and the sender is told.
    ///
    /// # Errors
    /// Any [`ReceiveError`]. What was stored stays, and what arrived of other files is kept for another attempt.
    pub async fn receive<B: Bulk<Out = O>>(
        mut self,
        bulk: &B,
        inbox: Arc<Inbox>,
        terms: Terms,
        listener: Arc<dyn Listener>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Received, ReceiveError> {
        let key = TransferKey::of(&terms.sender, &self.origin, &self.manifest);
        let turn = terms.running.enter(key);
        let (notices, heard) = mpsc::channel(NOTICES_MAX);
        let transfer = self.offer.transfer;
        let prepared = prepare((transfer, key), inbox, self.manifest, terms, notices).await;
        let (desk, plan) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                let busy = error.kind() == io::ErrorKind::ResourceBusy;
                let (why, error) = match busy {
                    true => (Refused::Busy, ReceiveError::Busy),
                    false => (Refused::Inbox, ReceiveError::Inbox(error)),
                };
                self.voice.last_word(&FromReceiver::Decline(why)).await;
                return Err(error);
            }
        };
        let started = Instant::now();
        let stop = async {
            tokio::select! {
                () = stop => Stop::Told,
                () = turn.replaced() => Stop::Replaced,
            }
        };
        let mut stop = std::pin::pin!(stop);
        let said = tokio::select! {
            biased;
            said = self.voice.say_plan(&plan, desk.patience) => said.map_err(Stop::from),
            why = stop.as_mut() => Err(why),
        };
        let (bytes, resumed) = (plan.bytes, plan.resumed);
        let receiving = Receiving::new(Arc::new(desk), plan, self.voice, Arc::clone(&listener), started);
        match said {
            Ok(()) => {}
            Err(Stop::Lost(error)) => return Err(error.into()),
            Err(why) => return Err(receiving.stop(why).await),
        }
        listener.on(Event::Accepted { bytes, resumed });
        receiving.run(bulk, self.recv, heard, stop).await
    }
}

/// Look for what is there and make the folders.
async fn prepare(
    (transfer, key): (TransferId, TransferKey),
    inbox: Arc<Inbox>,
    manifest: Manifest,
    terms: Terms,
    notices: mpsc::Sender<Notice>,
) -> io::Result<(Desk, Plan)> {
    let give_up = Instant::now() + LOCK_PATIENCE;
    let (partial, journal, memory) = loop {
        let within = Arc::clone(&inbox);
        match blocking(move || Partial::open(&within, key)).await.flatten() {
            // Not found: whoever had it before removed it at this moment.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::NotFound
                ) && Instant::now() < give_up =>
            {
                tokio::time::sleep(LOCK_LOOK).await;
            }
            opened => break opened?,
        }
    };
    blocking(move || {
        plan(
            transfer,
            inbox,
            manifest,
            terms,
            notices,
            (partial, journal, memory),
        )
    })
    .await
    .flatten()
}

fn plan(
    transfer: TransferId,
    inbox: Arc<Inbox>,
    manifest: Manifest,
    terms: Terms,
    notices: mpsc::Sender<Notice>,
    (partial, mut journal, memory): (Partial, Journal, Memory),
) -> io::Result<(Desk, Plan)> {
    let roots = inbox.make_folders(&manifest, terms.conflict, &memory.roots, |name, stored| {
        journal.append(&[Record::Root {
            name: name.to_owned(),
            stored: stored.to_owned(),
        }])?;
        journal.sync()
    })?;
    let planner = Planner {
        inbox: &inbox,
        manifest: &manifest,
        roots: &roots,
        partial: &partial,
        conflict: terms.conflict,
        memory,
    };
    let mut plan = planner.plan(&mut journal)?;
    let parts: HashMap<_, _> = plan
        .parts
        .iter()
        .map(|part| (part.index, Arc::clone(part)))
        .collect();
    let desk = Desk {
        transfer,
        states: std::mem::take(&mut plan.states),
        ours: std::mem::take(&mut plan.ours),
        inbox,
        manifest: Arc::new(manifest),
        roots,
        partial,
        journal: Mutex::new(journal),
        conflict: terms.conflict,
        parts: Mutex::new(parts),
        making: Mutex::new(()),
        places: Arc::new(Semaphore::new(PLACES)),
        queue: Queue::default(),
        notices,
        limit: terms.limit,
        heard: AtomicU64::new(0),
        patience: terms.patience,
    };
    Ok((desk, plan))
}

async fn read_list(recv: &mut impl Inflow) -> Result<(Offer, [u8; ORIGIN_LEN], Manifest), ReceiveError> {
    let FromSender::Offer(offer) = next_word(recv).await? else {
        return Err(ReceiveError::Protocol("the first message is not an offer"));
    };
    if offer.format != FORMAT {
        return Err(ReceiveError::Format(offer.format));
    }
    let FromSender::Origin(origin) = next_word(recv).await? else {
        return Err(ReceiveError::Protocol("the second message is not the origin"));
    };
    let mut builder = Builder::default();
    loop {
        let FromSender::Entries { entries, last } = next_word(recv).await? else {
            return Err(ReceiveError::Protocol("the list of entries breaks off"));
        };
        if entries.is_empty() && !last {
            return Err(ReceiveError::Protocol("a page of the list is empty"));
        }
        for entry in entries {
            builder.push(entry)?;
        }
        if last {
            let manifest = builder.finish()?;
            manifest.matches(&offer)?;
            return Ok((offer, origin, manifest));
        }
    }
}

async fn next_word(recv: &mut impl Inflow) -> Result<FromSender, ReceiveError> {
    let word = tokio::time::timeout(WORD_TIMEOUT, framed::expect(recv)).await;
    Ok(word.map_err(|_| ReceiveError::Stalled)??)
}

/// Run work that touches the disk off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| io::Error::other(format!("a task ended early: {error}")))
}

/// Why a transfer did not come about or did not run to its end, seen from the receiver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The sender speaks another version of the format.
    #[error("the sender speaks version {0} of the transfer format, this side {FORMAT}")]
    Format(u16),
    /// The list is not acceptable.
    #[error("refused: {0}")]
    Manifest(#[from] ManifestError),
    /// The folder for received files cannot be used.
    #[error("cannot write to the folder for received files: {0}")]
    Inbox(io::Error),
    /// Another process receives the same transfer into the same folder.
    #[error("another process is receiving these files into the same folder")]
    Busy,
    /// No space is left. What was stored stays, and what arrived of other files is kept.
    #[error("the disk is full")]
    DiskFull {
        /// Files that are in their place.
        stored: u32,
        /// Files that are not.
        left: u32,
    },
    /// The conversation broke off before anything was accepted.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The conversation broke off in the middle. What was stored stays.
    #[error("the transfer broke off: {error}")]
    Interrupted {
        /// How.
        error: FrameError,
        /// Files that are in their place.
        stored: u32,
        /// Files that are not.
        left: u32,
    },
    /// This side was told to stop.
    #[error("stopped")]
    Stopped {
        /// Files that are in their place.
        stored: u32,
        /// Files that are not.
        left: u32,
    },
    /// The same sender began the same transfer anew.
    #[error("the sender began anew")]
    Replaced,
    /// The sender lives, and sends nothing or takes nothing of what is said to it.
    #[error("the sender does nothing any more")]
    Stalled,
    /// The sender did not do as it said.
    #[error("the sender does not keep to the protocol: {0}")]
    Protocol(&'static str),
}
