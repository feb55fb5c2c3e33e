//! One control connection: the first stream that the node opens, read and written until either side ends it.
//!
//! What is read goes to the hub, one message at a time; when the hub is busy the node's stream waits. What the hub
//! says comes through a bounded queue; a node that does not read until the queue is full loses its connection.

use std::time::Duration;

use knothole_proto::rendezvous::ConnId;
use knothole_proto::wire::codec::{self, CodecError, LENGTH_PREFIX};
use knothole_proto::wire::{FromServer, ToServer, decode};
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, trace};

use super::hub::ToHub;

/// Messages that may wait for one node. A node gets a handful a minute; a hundred introductions at once still fit.
pub(super) const OUTGOING: usize = 128;

/// How long a node may take to open its stream. It does so in its first packet; the registry has the same patience.
const STREAM_WITHIN: Duration = Duration::from_secs(10);

/// How long the last words to a node may take to arrive: a few round trips, so that a node that is gone holds nothing.
const FAREWELL: Duration = Duration::from_secs(2);

/// QUIC application error codes of a closing server.
pub(crate) mod codes {
    use quinn::VarInt;

    /// The server said why in its last message, or the node said goodbye.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// The node did not read what it was sent.
    pub(crate) const SLOW: VarInt = VarInt::from_u32(1);
    /// The server stopped before it could say so.
    pub(crate) const STOPPED: VarInt = VarInt::from_u32(2);
}

/// What the hub has for one connection.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Say this.
    Message(FromServer),
    /// End it when everything before was delivered.
    Close,
}

/// Serve an established connection until its end.
pub(super) async fn serve(
    id: ConnId,
    connection: &Connection,
    hub: &mpsc::Sender<ToHub>,
    outgoing: mpsc::Receiver<Outgoing>,
) {
    let code = tokio::select! {
        code = talk(id, connection, hub, outgoing) => code,
        why = connection.closed() => {
            debug!(conn = id.0, %why, "control connection lost");
            return;
        }
    };
    connection.close(code, b"");
}

async fn talk(
    id: ConnId,
    connection: &Connection,
    hub: &mpsc::Sender<ToHub>,
    outgoing: mpsc::Receiver<Outgoing>,
) -> VarInt {
    let Ok(Ok((send, receive))) = timeout(STREAM_WITHIN, connection.accept_bi()).await else {
        return codes::DONE;
    };
    tokio::select! {
        () = read(id, receive, hub) => codes::DONE,
        () = write(send, outgoing) => codes::DONE,
    }
}

/// Hand over messages until the node ends its stream. After garbage it waits for the hub to end the connection.
async fn read(id: ConnId, mut stream: RecvStream, hub: &mpsc::Sender<ToHub>) {
    loop {
        match next(&mut stream).await {
            Ok(Some(message)) => {
                trace!(conn = id.0, ?message, "from node");
                if hub.send(ToHub::Message { id, message }).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(why) => {
                debug!(conn = id.0, %why, "a node sent what is not a message");
                if hub.send(ToHub::Garbage { id }).await.is_err() {
                    return;
                }
                return std::future::pending().await;
            }
        }
    }
}

/// The next message; `None` at the end of the stream.
async fn next(stream: &mut RecvStream) -> Result<Option<ToServer>, CodecError> {
    let mut prefix = [0; LENGTH_PREFIX];
    match stream.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0) | ReadExactError::ReadError(_)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(CodecError::TooShort),
    }
    let mut bytes = vec![0; codec::announced_len(prefix)?];
    match stream.read_exact(&mut bytes).await {
        Ok(()) => decode(&bytes).map(Some),
        Err(ReadExactError::ReadError(_)) => Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => Err(CodecError::TooShort),
    }
}

/// Write messages until the hub ends the connection, then wait until the last was delivered.
async fn write(mut stream: SendStream, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing::Message(message)) = outgoing.recv().await {
        let Ok(bytes) = codec::encode_framed(&message) else {
            debug!(?message, "a message could not be encoded; it is not sent");
            continue;
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
    if stream.finish().is_ok() {
        let _ = timeout(FAREWELL, stream.stopped()).await;
    }
}
