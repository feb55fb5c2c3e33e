//! What this machine does for those who connect to it: answer pings, take files.
//!
//! Shared by `up` and `recv`. Only paired machines get here; each connection has a task, and each stream of it one.

mod offer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use knothole_proto::id::PeerId;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::context::{Context, PathTeller, is_attended};
use super::failure::Failure;
use super::output::{Output, path_fields};
use super::places::Places;
use super::seat::Seat;
use super::signals::Stop;
use crate::app::transfer::{Conflict, Limit, Running, SERVICE};
use crate::app::{ping, speed};
use crate::book::AddressBook;
use crate::session::{Connection, PathState, refuse};

/// Connections served at once; the server grants 32 sessions, each of which may carry a few.
const CONNECTIONS_MAX: usize = 64;

/// Streams of one connection served at once.
const STREAMS_MAX: usize = 32;

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
    /// How long the person may take to say yes.
    pub(super) until: Option<Instant>,
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
            until: None,
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
    /// It did not begin: the sender went away before it was accepted, or its connection was lost.
    Gone { lost: bool },
    /// It did not begin: something went wrong before anything was accepted.
    Failed(Failure),
    /// The same sender began it anew.
    Replaced,
    /// Its connection was lost in the middle; its sender may come back and go on.
    Lost(Lost),
    /// It came to an end, a good one or not.
    Taken(Result<(), Failure>),
}

/// A transfer whose connection was lost.
pub(super) struct Lost {
    /// With what it ends if nobody comes back.
    pub(super) failure: Failure,
    /// Files that are in their place.
    pub(super) stored: u32,
    /// All of its files.
    pub(super) files: u32,
}

/// A machine that serves.
pub(super) struct Host {
    output: Arc<Output>,
    stop: Stop,
    taking: Taking,
    book: Mutex<AddressBook>,
    links: Mutex<BTreeMap<u64, LinkInfo>>,
    next: AtomicU64,
    places: Places,
    seat: Arc<Seat>,
    running: Running,
    ended: mpsc::Sender<Ended>,
    /// One offer and its question at a time before the person.
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
            seat: Arc::new(Seat::new(taking.only_one)),
            taking,
            book: Mutex::new(book),
            links: Mutex::default(),
            next: AtomicU64::new(0),
            places: Places::new(),
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

    /// Let no transfer begin any more, and wait until none runs.
    pub(super) async fn wind_up(&self) {
        self.seat.close();
        self.seat.vacated().await;
    }

    /// Who is taking what.
    pub(super) fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.seat)
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
                                host.take(&connection, &peer, (send, recv), alone.is_ok()).await;
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
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Taken(Err(failure))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is replaced or changed in one step: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
