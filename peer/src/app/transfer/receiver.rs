//! The receiving side of a transfer.
//!
//! [`Incoming::read`] takes the offer and checks the whole list; the caller decides, perhaps by asking a person; then
//! [`Incoming::decline`] or [`Incoming::receive`]. Each data stream has a task at the network and a thread at the disk
//! that writes and hashes; one loop matches what arrived with the hashes that the sender tells, and puts files in
//! their places. Whatever a sender does, at most the announced bytes are written.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};

use super::inbox::{Conflict, Inbox, Layout};
use super::incoming_file::blocking;
use super::manifest::{Builder, Manifest, ManifestError};
use super::messages::{FORMAT, FromReceiver, FromSender, Offer, Outcome, RUNS_MAX, Refused};
use super::receiving::Receiving;
use crate::app::framed::{self, FrameError};
use crate::app::{Bulk, Event, Listener};

/// How long a sender may take to tell its list, and to take the last message.
const WORD_TIMEOUT: Duration = Duration::from_secs(30);

/// An offer whose list was checked.
#[derive(Debug)]
pub struct Incoming {
    offer: Offer,
    manifest: Manifest,
    send: SendStream,
    recv: RecvStream,
}

/// How a transfer ended for the receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Files in their place, verified.
    pub stored: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not, by entry, and why.
    pub others: Vec<(u32, Outcome)>,
    /// From the yes to the end.
    pub took: Duration,
    /// Where what lies at the top of the list is now.
    pub places: Vec<PathBuf>,
    /// BLAKE3 of the file, if there was one file only.
    pub hash: Option<[u8; 32]>,
}

impl Incoming {
    /// Read an offer with its list. What cannot be accepted is declined here.
    ///
    /// # Errors
    /// Any of [`ReceiveError::Format`], [`ReceiveError::Manifest`], [`ReceiveError::Frame`], [`ReceiveError::Protocol`],
    /// [`ReceiveError::Stalled`].
    pub async fn read(mut send: SendStream, mut recv: RecvStream) -> Result<Self, ReceiveError> {
        let list = tokio::time::timeout(WORD_TIMEOUT, read_list(&mut recv)).await;
        match list.map_err(|_| ReceiveError::Stalled).flatten() {
            Ok((offer, manifest)) => Ok(Self {
                offer,
                manifest,
                send,
                recv,
            }),
            Err(error) => {
                let why = match error {
                    ReceiveError::Format(_) => Refused::Format,
                    _ => Refused::Names,
                };
                last_word(&mut send, &FromReceiver::Decline(why)).await;
                Err(error)
            }
        }
    }

    /// What is offered.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Say no.
    pub async fn decline(mut self, why: Refused) {
        last_word(&mut self.send, &FromReceiver::Decline(why)).await;
    }

    /// Say yes, and receive everything. When `stop` completes the transfer ends, and the sender is told.
    ///
    /// # Errors
    /// Any [`ReceiveError`]. What was stored stays; a file that was not complete stays as a partial file.
    pub async fn receive<B: Bulk>(
        mut self,
        bulk: &B,
        inbox: Arc<Inbox>,
        conflict: Conflict,
        listener: Arc<dyn Listener>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Received, ReceiveError> {
        let manifest = Arc::new(self.manifest);
        let (within, list) = (Arc::clone(&inbox), Arc::clone(&manifest));
        let prepared = blocking(move || within.prepare(&list, conflict)).await.flatten();
        let layout = match prepared {
            Ok(layout) => Arc::new(layout),
            Err(error) => {
                last_word(&mut self.send, &FromReceiver::Decline(Refused::Inbox)).await;
                return Err(ReceiveError::Inbox(error));
            }
        };
        say_wanted(&mut self.send, &layout).await?;
        listener.on(Event::Accepted {
            bytes: layout.wanted_bytes,
        });
        let place = Place {
            inbox,
            layout,
            manifest,
            conflict,
        };
        Receiving::new(self.offer.transfer, place, self.send, listener)
            .run(bulk, self.recv, stop)
            .await
    }
}

/// Where everything of one transfer goes.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) inbox: Arc<Inbox>,
    pub(super) layout: Arc<Layout>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) conflict: Conflict,
}

async fn read_list(recv: &mut RecvStream) -> Result<(Offer, Manifest), ReceiveError> {
    let FromSender::Offer(offer) = framed::expect(recv).await? else {
        return Err(ReceiveError::Protocol("the first message is not an offer"));
    };
    if offer.format != FORMAT {
        return Err(ReceiveError::Format(offer.format));
    }
    let mut builder = Builder::default();
    loop {
        let FromSender::Entries { entries, last } = framed::expect(recv).await? else {
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
            return Ok((offer, manifest));
        }
    }
}

async fn say_wanted(send: &mut SendStream, layout: &Layout) -> Result<(), FrameError> {
    let mut pages = layout.wanted.chunks(RUNS_MAX).peekable();
    if pages.peek().is_none() {
        let nothing = FromReceiver::Wanted {
            runs: Vec::new(),
            last: true,
        };
        return framed::write(send, &nothing).await;
    }
    while let Some(page) = pages.next() {
        let wanted = FromReceiver::Wanted {
            runs: page.to_vec(),
            last: pages.peek().is_none(),
        };
        framed::write(send, &wanted).await?;
    }
    Ok(())
}

/// Say something as the last thing on this stream, and see that it gets there, if the other side still listens.
pub(super) async fn last_word(send: &mut SendStream, message: &FromReceiver) {
    let said = async {
        framed::write(send, message).await?;
        // Fails only on a stream that was stopped, and then nobody listens.
        let _ = send.finish();
        let _ = send.stopped().await;
        Ok::<(), FrameError>(())
    };
    if tokio::time::timeout(WORD_TIMEOUT, said).await.is_err() {
        tracing::debug!("the sender did not take the last message");
    }
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
    /// No space is left. What was stored stays, and the file that did not fit stays as a partial file.
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
    /// The sender lives and sends nothing.
    #[error("the sender sends nothing any more")]
    Stalled,
    /// The sender did not do as it said.
    #[error("the sender does not keep to the protocol: {0}")]
    Protocol(&'static str),
}
