//! An established, authenticated connection to a peer, whatever path it runs on.
//!
//! A handle, not a machine: cloning is cheap, and dropping the last clone closes the connection together with its
//! streams. Path changes never surface as errors here; watch [`Connection::path`] to see them.

use std::sync::Arc;
use std::time::Duration;

use knothole_proto::connector::Effort;
use knothole_proto::id::{Name, PeerId};
use knothole_proto::path::Path;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::in_order::InOrder;
use super::stream::{self, CODE_BAD_HEADER, HELLO_TIMEOUT, StreamError};
use super::window::Room;
use crate::driver::LinkUse;

/// Streams whose header was read and which the application has not taken yet, per connection. Beyond it the headers
/// of further streams stay unread, which holds their opener back.
const READY_STREAMS_MAX: usize = 64;

/// Application error code with which a node that is done closes a connection.
pub(crate) const CODE_DONE: VarInt = VarInt::from_u32(0);

/// Application error code: the link under the connection was closed.
pub(crate) const CODE_LINK_DOWN: VarInt = VarInt::from_u32(3);

/// Where a connection runs at a moment, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathState {
    /// The path.
    pub path: Path,
    /// Time from the introduction of the two nodes to the moment this path was taken.
    pub after: Duration,
    /// What it took until then.
    pub effort: Effort,
}

/// A connection to one peer. Clones are handles of the same connection.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

impl Connection {
    pub(crate) fn new(quic: quinn::Connection, link: LinkUse) -> Self {
        let (ready, incoming) = mpsc::channel(READY_STREAMS_MAX);
        tokio::spawn(serve_streams(quic.clone(), link.down(), ready));
        Self {
            inner: Arc::new(Inner {
                room: Room::new(quic.clone()),
                quic,
                link,
                incoming: Mutex::new(incoming),
            }),
        }
    }

    /// The peer's key, proven in the handshake.
    pub fn peer(&self) -> PeerId {
        self.inner.link.peer()
    }

    /// The name that the peer holds at the server, if it holds one.
    pub fn peer_name(&self) -> Option<&Name> {
        self.inner.link.peer_name()
    }

    /// Did this side open the connection?
    pub fn is_caller(&self) -> bool {
        self.inner.quic.side() == quinn::Side::Client
    }

    /// The path it runs on, now and after every change.
    pub fn path(&self) -> watch::Receiver<PathState> {
        self.inner.link.path()
    }

    /// Open a stream in two directions to a service of the peer. That nobody offers the service shows as a reset of
    /// the stream, not here.
    ///
    /// # Errors
    /// [`StreamError::ServiceName`] for a name that cannot be sent, otherwise that the connection ended.
    pub async fn open(&self, service: &str) -> Result<(SendStream, RecvStream), StreamError> {
        let (mut send, recv) = self.inner.quic.open_bi().await?;
        stream::write_hello(&mut send, service).await?;
        Ok((send, recv))
    }

    /// The next stream that the peer opened, with the service it wants. Turn it away with [`super::refuse`].
    ///
    /// # Errors
    /// That the connection ended.
    pub async fn accept(&self) -> Result<(String, SendStream, RecvStream), StreamError> {
        match self.inner.incoming.lock().await.recv().await {
            Some(ready) => Ok(ready),
            None => Err(StreamError::Connection(self.inner.quic.closed().await)),
        }
    }

    /// Open a stream in one direction, without a header, for the bulk data of a service that is already open.
    ///
    /// # Errors
    /// That the connection ended.
    pub async fn open_uni(&self) -> Result<SendStream, StreamError> {
        Ok(self.inner.quic.open_uni().await?)
    }

    /// The next stream in one direction that the peer opened. For much data take [`Connection::accept_bulk`].
    ///
    /// # Errors
    /// That the connection ended.
    pub async fn accept_uni(&self) -> Result<RecvStream, StreamError> {
        Ok(self.inner.quic.accept_uni().await?)
    }

    /// As [`Connection::accept_uni`], for much data: it bears more losses on long paths, and as long as it lives no more
    /// than the path needs is on its way to this node.
    ///
    /// # Errors
    /// That the connection ended.
    pub async fn accept_bulk(&self) -> Result<InOrder, StreamError> {
        let stream = self.inner.quic.accept_uni().await?;
        Ok(InOrder::new(stream, self.inner.room.read()))
    }

    /// Smoothed round trip of the connection.
    pub fn rtt(&self) -> Duration {
        self.inner.quic.rtt()
    }

    /// Counters of the QUIC connection.
    pub fn stats(&self) -> quinn::ConnectionStats {
        self.inner.quic.stats()
    }

    /// Close at once. Data that the peer has not acknowledged is lost; wait for `SendStream::stopped` before.
    pub fn close(&self) {
        self.inner.quic.close(CODE_DONE, b"");
    }

    /// As [`Connection::close`], with a code and a reason for the peer.
    pub(crate) fn close_with(&self, code: VarInt, reason: &[u8]) {
        self.inner.quic.close(code, reason);
    }

    /// Wait until the connection is over, and why.
    pub async fn closed(&self) -> quinn::ConnectionError {
        self.inner.quic.closed().await
    }

    /// Why the connection is over; `None` while it lives.
    pub fn close_reason(&self) -> Option<quinn::ConnectionError> {
        self.inner.quic.close_reason()
    }
}

struct Inner {
    quic: quinn::Connection,
    room: Room,
    link: LinkUse,
    incoming: Mutex<mpsc::Receiver<ReadyStream>>,
}

type ReadyStream = (String, SendStream, RecvStream);

impl Drop for Inner {
    fn drop(&mut self) {
        self.quic.close(CODE_DONE, b"");
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.link)
    }
}

/// Read the headers of incoming streams, each in its own task so that a slow one holds up no other.
async fn serve_streams(
    quic: quinn::Connection,
    mut link_down: watch::Receiver<bool>,
    ready: mpsc::Sender<ReadyStream>,
) {
    let slots = Arc::new(Semaphore::new(READY_STREAMS_MAX));
    let accept_all = async {
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            let Ok((send, recv)) = quic.accept_bi().await else {
                return;
            };
            tokio::spawn(serve_stream(send, recv, slot, ready.clone()));
        }
    };
    tokio::select! {
        () = accept_all => {}
        _ = link_down.wait_for(|down| *down) => quic.close(CODE_LINK_DOWN, b"link down"),
    }
}

async fn serve_stream(
    mut send: SendStream,
    mut recv: RecvStream,
    slot: OwnedSemaphorePermit,
    ready: mpsc::Sender<ReadyStream>,
) {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, stream::read_hello(&mut recv)).await;
    if let Ok(Ok(service)) = hello {
        // Fails only when every handle of the connection is gone, and the stream with it.
        let _ = ready.send((service, send, recv)).await;
    } else {
        // Both fail only on a stream that is closed already.
        let _ = send.reset(CODE_BAD_HEADER);
        let _ = recv.stop(CODE_BAD_HEADER);
    }
    drop(slot);
}
