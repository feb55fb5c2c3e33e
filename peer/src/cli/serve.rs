//! What this machine does for those who connect to it: answer pings, take files.
//!
//! Shared by `up` and `recv`. Only paired machines get here; each connection has a task, and each stream of it one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use knothole_proto::id::PeerId;
use quinn::{RecvStream, SendStream};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::context::{Context, PathTeller, ask, is_attended};
use super::failure::{Failure, code};
use super::output::{Output, path_fields, size};
use super::seat::{Seat, Seated};
use super::signals::Stop;
use super::transfer::{Done, Teller, amount, name_some};
use crate::app::transfer::manifest::Manifest;
use crate::app::transfer::{
    Conflict, Inbox, Incoming, Limit, ReceiveError, Received, Refused, Running, SERVICE, STALL_TIMEOUT, Terms,
};
use crate::app::{ping, speed};
use crate::book::AddressBook;
use crate::session::{Connection, PathState, refuse};
use crate::untrusted::Untrusted;

/// Connections served at once; the server grants 32 sessions, each of which may carry a few.
const CONNECTIONS_MAX: usize = 64;

/// Streams of one connection served at once.
const STREAMS_MAX: usize = 32;

/// Transfers received at once, each with up to 16 MiB in memory.
const TRANSFERS_MAX: usize = 4;

/// How long a transfer may wait for one of those places.
const PLACE_PATIENCE: Duration = Duration::from_secs(10);

/// Ends of transfers that may wait to be seen. Whoever ends when there are more waits too, so that none is lost.
const ENDED_MAX: usize = 16;

/// How files are taken.
pub(super) struct Taking {
    folder: PathBuf,
    conflict: Conflict,
    ask: bool,
    /// Most bytes a second.
    pub(super) limit: Option<Limit>,
    /// Nobody but this one may connect.
    pub(super) only: Option<PeerId>,
    /// One transfer is taken, and whoever else sends is told that this machine is busy.
    pub(super) only_one: bool,
    /// One file, which goes on to stdout when it is whole.
    pub(super) to_stdout: bool,
}

impl Taking {
    /// Into this folder; a person at the terminal is asked unless `yes`.
    pub(super) fn new(folder: PathBuf, conflict: Conflict, yes: bool) -> Self {
        Self {
            folder,
            conflict,
            ask: !yes && is_attended(),
            limit: None,
            only: None,
            only_one: false,
            to_stdout: false,
        }
    }

    /// Is the person asked?
    pub(super) fn asks(&self) -> bool {
        self.ask
    }
}

/// How a transfer ended.
pub(super) enum Ended {
    /// It did not begin: it is not wanted.
    Declined,
    /// It did not begin: another one is under way.
    Busy,
    /// It did not begin: something went wrong before anything was accepted.
    Failed(Failure),
    /// The same sender began it anew.
    Replaced,
    /// It came to an end, a good one or not.
    Taken(Result<(), Failure>),
}

/// A machine that serves.
pub(super) struct Host {
    output: Arc<Output>,
    stop: Stop,
    taking: Taking,
    book: Mutex<AddressBook>,
    links: Mutex<BTreeMap<u64, LinkInfo>>,
    next: AtomicU64,
    transfers: Semaphore,
    seat: Seat,
    running: Running,
    ended: mpsc::Sender<Ended>,
    /// One question at a time to the person.
    asking: tokio::sync::Mutex<()>,
}

struct LinkInfo {
    peer: String,
    id: PeerId,
    path: watch::Receiver<PathState>,
}

impl Host {
    /// A host, and where the ends of transfers can be seen.
    pub(super) fn new(context: &Context, book: AddressBook, taking: Taking) -> (Self, mpsc::Receiver<Ended>) {
        let (ended, seen) = mpsc::channel(ENDED_MAX);
        let host = Self {
            output: Arc::clone(&context.output),
            stop: context.stop.clone(),
            seat: Seat::new(taking.only_one),
            taking,
            book: Mutex::new(book),
            links: Mutex::default(),
            next: AtomicU64::new(0),
            transfers: Semaphore::new(TRANSFERS_MAX),
            running: Running::default(),
            ended,
            asking: tokio::sync::Mutex::default(),
        };
        (host, seen)
    }

    /// Serve this connection in a task of `connections`.
    pub(super) fn spawn(self: &Arc<Self>, connections: &mut JoinSet<()>, connection: Connection) {
        if self.taking.only.is_some_and(|only| only != connection.peer()) {
            connection.close();
            return;
        }
        if connections.len() >= CONNECTIONS_MAX {
            tracing::warn!("too many connections; one more is closed");
            connection.close();
            return;
        }
        connections.spawn(Arc::clone(self).serve(connection));
    }

    /// Know these machines from now on.
    pub(super) fn set_book(&self, book: AddressBook) {
        *lock(&self.book) = book;
    }

    /// Wait until no transfer runs.
    pub(super) async fn idle(&self) {
        // Fails only when the semaphore is closed, which nobody does.
        let all = u32::try_from(TRANSFERS_MAX).unwrap_or(u32::MAX);
        drop(self.transfers.acquire_many(all).await);
    }

    /// Is a transfer under way or over that is the only one to be taken?
    pub(super) fn is_taken(&self) -> bool {
        self.seat.is_taken()
    }

    /// The connections, for programs.
    pub(super) fn links(&self) -> Vec<Value> {
        let links = lock(&self.links);
        links
            .values()
            .map(|link| {
                let mut fields = path_fields(&link.path.borrow().path);
                fields.insert("peer".to_owned(), json!(link.peer));
                fields.insert("id".to_owned(), json!(link.id.to_string()));
                Value::Object(fields)
            })
            .collect()
    }

    async fn serve(self: Arc<Self>, connection: Connection) {
        let id = connection.peer();
        let petname = lock(&self.book)
            .by_id(id)
            .map(|contact| contact.petname.as_str().to_owned());
        let peer = petname.unwrap_or_else(|| id.short());
        self.output
            .talk(format_args!("{peer} ({}) connected", id.short()));
        self.output
            .event("connected", json!({ "peer": peer, "id": id.to_string() }));
        let _teller = PathTeller::start(&connection, &peer, &self.output);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let info = LinkInfo {
            peer: peer.clone(),
            id,
            path: connection.path(),
        };
        lock(&self.links).insert(number, info);
        self.serve_streams(&connection, &peer).await;
        lock(&self.links).remove(&number);
        self.output.talk(format_args!("{peer} disconnected"));
        self.output
            .event("disconnected", json!({ "peer": peer, "id": id.to_string() }));
    }

    async fn serve_streams(self: &Arc<Self>, connection: &Connection, peer: &str) {
        // Data streams belong to the connection: two transfers on one would take each other's.
        let alone = Arc::new(tokio::sync::Mutex::new(()));
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                stream = connection.accept() => {
                    let Ok((service, send, recv)) = stream else { break };
                    let busy = streams.len() >= STREAMS_MAX;
                    match service.as_str() {
                        ping::SERVICE if !busy => {
                            streams.spawn(async move {
                                if let Err(error) = ping::answer(send, recv).await {
                                    tracing::debug!(%error, "a ping broke off");
                                }
                            });
                        }
                        speed::SERVICE if !busy => {
                            streams.spawn(async move {
                                if let Err(error) = speed::answer(send, recv).await {
                                    tracing::debug!(%error, "a measurement broke off");
                                }
                            });
                        }
                        SERVICE if !busy => {
                            let (host, connection) = (Arc::clone(self), connection.clone());
                            let (peer, alone) = (peer.to_owned(), Arc::clone(&alone));
                            streams.spawn(async move {
                                let alone = alone.try_lock();
                                host.take(&connection, &peer, send, recv, alone.is_ok()).await;
                            });
                        }
                        _ => refuse(send, recv),
                    }
                }
                Some(_) = streams.join_next() => {}
            }
        }
        // A transfer notices by itself that the connection is gone, and says what it leaves behind.
        while streams.join_next().await.is_some() {}
    }

    /// One offered transfer, from offer to end.
    async fn take(
        &self,
        connection: &Connection,
        peer: &str,
        send: SendStream,
        recv: RecvStream,
        alone: bool,
    ) {
        let end = match Incoming::read(send, recv).await {
            Ok(incoming) => {
                let names = names(incoming.manifest());
                let seated = if alone {
                    self.seat.enter(connection.peer(), names)
                } else {
                    None
                };
                match seated {
                    Some(seated) => {
                        let taken = self.take_offer(connection, peer, incoming, &seated).await;
                        end_of(taken, &seated)
                    }
                    None => {
                        incoming.decline(Refused::Busy).await;
                        Ended::Busy
                    }
                }
            }
            Err(error) => Ended::Failed(error.into()),
        };
        match &end {
            Ended::Failed(Failure { message, .. }) | Ended::Taken(Err(Failure { message, .. })) => {
                self.output.talk(format_args!("from {peer}: {message}"));
            }
            Ended::Replaced => {
                self.output
                    .talk(format_args!("from {peer}: the sender began anew"));
            }
            Ended::Busy => {
                self.output.talk(format_args!(
                    "from {peer}: declined, because another transfer is under way"
                ));
            }
            Ended::Declined | Ended::Taken(Ok(())) => {}
        }
        // Fails if nobody looks, as in a host that only serves on.
        let _ = self.ended.send(end).await;
    }

    /// How it ended, unless everything is there.
    async fn take_offer(
        &self,
        connection: &Connection,
        peer: &str,
        incoming: Incoming<SendStream, RecvStream>,
        seated: &Seated<'_>,
    ) -> Result<(), Ended> {
        // The connection of a sender that was killed may hold a place until it is surely dead; a new attempt of it waits.
        let place = tokio::time::timeout(PLACE_PATIENCE, self.transfers.acquire()).await;
        let Ok(Ok(_place)) = place else {
            incoming.decline(Refused::Busy).await;
            return Err(Ended::Busy);
        };
        let manifest = incoming.manifest();
        let (files, bytes) = (manifest.files(), manifest.bytes());
        let name = name_some(manifest.roots().map(|entry| entry.name.as_str()));
        if self.taking.to_stdout && (files, manifest.entries().len()) != (1, 1) {
            self.output.talk(format_args!(
                "{peer} sends {name}; only one file can go to stdout"
            ));
            incoming.decline(Refused::Inbox).await;
            return Err(Ended::Declined);
        }
        self.tell_offer(peer, &name, manifest);
        let Some(inbox) = self.open_inbox(bytes).await else {
            incoming.decline(Refused::Inbox).await;
            let message = format!("cannot write to {}", self.taking.folder.display());
            let hint = "a folder that you may write to, with -o or --inbox";
            return Err(Failure::new(code::OTHER, message, hint).into());
        };
        if self.taking.ask && !self.agrees(peer).await {
            incoming.decline(Refused::Person).await;
            return Err(Ended::Declined);
        }
        let teller = Arc::new(Teller {
            output: Arc::clone(&self.output),
            name: name.clone(),
            peer: peer.to_owned(),
            path: connection.path(),
            // Others may send at the same time.
            label: peer.to_owned(),
            meter: OnceLock::new(),
        });
        let terms = Terms {
            sender: *connection.peer().as_bytes(),
            conflict: self.taking.conflict,
            limit: self.taking.limit.clone(),
            running: self.running.clone(),
            patience: STALL_TIMEOUT,
        };
        let received = incoming
            .receive(connection, inbox, terms, teller, self.stop.wait())
            .await?;
        if !seated.finish() {
            return Err(Ended::Replaced);
        }
        if self.taking.to_stdout {
            write_out(&received.places).await?;
        }
        self.tell_received(connection, peer, &name, &received)?;
        Ok(())
    }

    fn tell_offer(&self, peer: &str, name: &str, manifest: &Manifest) {
        let (files, bytes) = (manifest.files(), manifest.bytes());
        for renamed in manifest.renamed() {
            let (from, to) = (Untrusted(&renamed.offered), Untrusted(&renamed.stored));
            self.output.talk(format_args!("stored as {to}: {from}"));
        }
        self.output.event(
            "offer",
            json!({ "peer": peer, "files": files, "bytes": bytes, "name": name }),
        );
        self.output
            .talk(format_args!("{peer} sends {name}: {}", amount(files, bytes)));
    }

    async fn agrees(&self, peer: &str) -> bool {
        let _one_at_a_time = self.asking.lock().await;
        let question = format!("take it from {peer} into {}?", self.taking.folder.display());
        tokio::select! {
            agreed = ask(&self.output, &question) => agreed,
            () = self.stop.wait() => false,
        }
    }

    async fn open_inbox(&self, bytes: u64) -> Option<Arc<Inbox>> {
        let folder = self.taking.folder.clone();
        let opened = tokio::task::spawn_blocking(move || Inbox::open(&folder)).await;
        let inbox = match opened {
            Ok(Ok(inbox)) => inbox,
            Ok(Err(error)) => {
                self.output.talk(format_args!(
                    "cannot open {}: {error}",
                    self.taking.folder.display()
                ));
                return None;
            }
            Err(_) => return None,
        };
        if let Some(free) = inbox.free_bytes().filter(|free| *free < bytes) {
            self.output.talk(format_args!(
                "only {} are free there; the rest will not fit",
                size(free)
            ));
        }
        Some(Arc::new(inbox))
    }

    fn tell_received(
        &self,
        connection: &Connection,
        peer: &str,
        name: &str,
        received: &Received,
    ) -> Result<(), Failure> {
        Done {
            verb: "received",
            name,
            files: received.stored,
            bytes: received.bytes,
            resumed: received.resumed,
            took: received.took,
            path: connection.path().borrow().path,
            file: received.places.first().map(PathBuf::as_path),
            others: &received.others,
            unreadable: 0,
            hash: received.hash,
            peer,
            of_several: false,
            to_stdout: !self.taking.to_stdout,
        }
        .tell(&self.output)
    }
}

impl From<ReceiveError> for Ended {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Replaced => Self::Replaced,
            error @ (ReceiveError::Frame(_) | ReceiveError::Busy) => Self::Failed(error.into()),
            error => Self::Taken(Err(error.into())),
        }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Taken(Err(failure))
    }
}

/// What is at the top of a list.
fn names(manifest: &Manifest) -> Vec<String> {
    manifest.roots().map(|entry| entry.name.clone()).collect()
}

/// How an attempt ended. One that failed is no end while another one of the same transfer is under way.
fn end_of(taken: Result<(), Ended>, seated: &Seated<'_>) -> Ended {
    match taken {
        Ok(()) => Ended::Taken(Ok(())),
        Err(Ended::Failed(_) | Ended::Taken(Err(_))) if seated.is_followed() => Ended::Replaced,
        Err(Ended::Taken(result)) => {
            seated.finish();
            Ended::Taken(result)
        }
        Err(end) => end,
    }
}

/// A whole file to stdout.
async fn write_out(places: &[PathBuf]) -> Result<(), Failure> {
    let Some(place) = places.first().cloned() else {
        return Ok(());
    };
    let written = tokio::task::spawn_blocking(move || {
        let mut stdout = std::io::stdout().lock();
        std::io::copy(&mut std::fs::File::open(place)?, &mut stdout)?;
        stdout.flush()
    });
    match written.await.map_err(std::io::Error::other).flatten() {
        Ok(()) => Ok(()),
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let message = format!("cannot write to stdout: {error}");
            Err(Failure::new(code::OTHER, message, "-o DIR"))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced or changed in one step: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
