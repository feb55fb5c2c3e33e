//! One QUIC stream over a plain UDP socket, with the settings of connections between nodes: what the QUIC library can do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use knothole::session::reference::{Reference, ReferenceError};
use quinn::{Connection, ConnectionError, Endpoint, ReadError, RecvStream, VarInt, WriteError};

use super::{BLOCK, Received, SILENCE, Tally};

/// The word that the time is over.
pub(super) const OVER: VarInt = VarInt::from_u32(0);

/// How long a stream may stand still around the end of its time: a few round trips of the longest links.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The connection.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Threads of the runtime.
    #[error("no runtime ({0})")]
    Runtime(#[source] io::Error),
    /// Nobody connected.
    #[error("nobody connected in time")]
    Nobody,
    /// The stream broke.
    #[error("the stream broke ({0})")]
    Stream(String),
    /// The program `tar` at one end.
    #[error("tar failed ({0})")]
    Tar(#[source] io::Error),
}

/// Receives one connection's first stream for this time from its first byte on, then ends it; says when somebody may connect.
///
/// The receiver ends it because its word is heard: the way back is free, while the sender's is full.
///
/// # Errors
/// [`QuicError`].
pub fn receive(
    end: &Reference,
    listen: SocketAddr,
    time: Duration,
    ready: &mut dyn FnMut(),
) -> Result<Received, QuicError> {
    runtime()?.block_on(async {
        let endpoint = end.listen(listen)?;
        ready();
        let (connection, mut stream) = accept(&endpoint).await?;
        let mut tally = Tally::default();
        let counting = async {
            while let Some(chunk) = stream.read_chunk(BLOCK, true).await? {
                let now = Instant::now();
                tally.count(chunk.bytes.len(), now);
                if tally.first.is_some_and(|first| now - first >= time) {
                    break;
                }
            }
            Ok::<_, ReadError>(())
        };
        // A stream that stands still at the end of its time is no reason to wait.
        if let Ok(Err(error)) = tokio::time::timeout(time + STANDSTILL, counting).await {
            return Err(broke(error));
        }
        connection.close(OVER, b"");
        endpoint.wait_idle().await;
        Ok(tally.end())
    })
}

/// Sends until the receiver has had enough, or for this time and a little more.
///
/// # Errors
/// [`QuicError`].
pub fn send(end: &Reference, to: SocketAddr, time: Duration) -> Result<(), QuicError> {
    runtime()?.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (endpoint, connection) = end.dial(any, to).await?;
        let mut stream = connection.open_uni().await.map_err(ReferenceError::from)?;
        let block = Bytes::from(vec![7; BLOCK]);
        let sending = async {
            loop {
                stream.write_chunk(block.clone()).await?;
            }
        };
        let sent: Result<Result<(), WriteError>, _> =
            tokio::time::timeout(time + STANDSTILL * 2, sending).await;
        match sent {
            Err(_) | Ok(Ok(())) => {}
            Ok(Err(WriteError::ConnectionLost(ConnectionError::ApplicationClosed(close))))
                if close.error_code == OVER => {}
            Ok(Err(error)) => return Err(QuicError::Stream(error.to_string())),
        }
        connection.close(OVER, b"");
        endpoint.wait_idle().await;
        Ok(())
    })
}

/// The first connection, and its first stream.
pub(super) async fn accept(endpoint: &Endpoint) -> Result<(Connection, RecvStream), QuicError> {
    let incoming = tokio::time::timeout(SILENCE, endpoint.accept());
    let incoming = incoming.await.ok().flatten().ok_or(QuicError::Nobody)?;
    let connection = incoming.await.map_err(ReferenceError::from)?;
    let stream = connection.accept_uni().await.map_err(ReferenceError::from)?;
    Ok((connection, stream))
}

/// A broken stream with its causes: the outermost only says that the connection is lost.
pub(super) fn broke(error: impl std::error::Error) -> QuicError {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    QuicError::Stream(words)
}

/// As tokio makes it when nobody says anything, with as many threads as processors.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, QuicError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(QuicError::Runtime)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::mpsc::channel;

    use knothole::Identity;
    use knothole::session::reference::Controller;

    use super::*;

    #[test]
    fn a_stream_is_counted_for_its_time_and_then_ended_for_both() {
        let [a, b] = [(); 2].map(|()| Identity::generate().unwrap());
        let end = |identity: &Identity, peer: &Identity| Reference {
            identity: identity.clone(),
            peer: peer.peer_id(),
            controller: Controller::Own,
            window: None,
        };
        let (sender, receiver) = (end(&a, &b), end(&b, &a));
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let (ready, is_ready) = channel();
        let time = Duration::from_millis(300);
        let receiver =
            std::thread::spawn(move || receive(&receiver, at, time, &mut || ready.send(()).unwrap()));
        is_ready.recv().unwrap();
        send(&sender, at, time).unwrap();
        let received = receiver.join().unwrap().unwrap();
        assert!(received.bytes > BLOCK as u64, "{received:?}");
        assert!(received.seconds >= 0.3 && received.seconds < 3.0, "{received:?}");
        assert_eq!(received.bins.iter().sum::<u64>(), received.bytes);
    }
}
