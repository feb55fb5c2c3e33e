//! One QUIC stream over a plain UDP socket, with the settings of connections between nodes: what the QUIC library can do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use knothole::session::reference::{Reference, ReferenceError};
use quinn::{ConnectionError, ReadError, VarInt};

use super::{BLOCK, Received, SILENCE, Tally};

/// The sender's word that its time is over.
const OVER: VarInt = VarInt::from_u32(0);

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
}

/// Receives one connection's first stream to its end; says when somebody may connect.
///
/// # Errors
/// [`QuicError`].
pub fn receive(end: &Reference, listen: SocketAddr, ready: &mut dyn FnMut()) -> Result<Received, QuicError> {
    runtime()?.block_on(async {
        let endpoint = end.listen(listen)?;
        ready();
        let incoming = tokio::time::timeout(SILENCE, endpoint.accept());
        let incoming = incoming.await.ok().flatten().ok_or(QuicError::Nobody)?;
        let connection = incoming.await.map_err(ReferenceError::from)?;
        let mut stream = connection.accept_uni().await.map_err(ReferenceError::from)?;
        let mut tally = Tally::default();
        loop {
            match stream.read_chunk(BLOCK, true).await {
                Ok(Some(chunk)) => tally.count(chunk.bytes.len(), Instant::now()),
                Ok(None) => break,
                Err(ReadError::ConnectionLost(ConnectionError::ApplicationClosed(close)))
                    if close.error_code == OVER =>
                {
                    break;
                }
                Err(error) => return Err(QuicError::Stream(error.to_string())),
            }
        }
        Ok(tally.end())
    })
}

/// Sends for a time, then ends the connection at once: what is in flight at that moment counts for nobody.
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
            let start = Instant::now();
            while start.elapsed() < time {
                stream.write_chunk(block.clone()).await?;
            }
            Ok::<_, quinn::WriteError>(())
        };
        // A window that never opens again is no reason to wait beyond the time.
        if let Ok(Err(error)) = tokio::time::timeout(time, sending).await {
            return Err(QuicError::Stream(error.to_string()));
        }
        connection.close(OVER, b"");
        endpoint.wait_idle().await;
        Ok(())
    })
}

/// The kind that the program `knothole` runs on.
fn runtime() -> Result<tokio::runtime::Runtime, QuicError> {
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
    fn a_stream_is_counted_until_its_sender_says_that_it_is_over() {
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
        let receiver = std::thread::spawn(move || receive(&receiver, at, &mut || ready.send(()).unwrap()));
        is_ready.recv().unwrap();
        send(&sender, at, Duration::from_millis(300)).unwrap();
        let received = receiver.join().unwrap().unwrap();
        assert!(received.bytes > BLOCK as u64, "{received:?}");
        assert!(received.seconds > 0.0 && received.seconds < 30.0, "{received:?}");
        assert_eq!(received.bins.iter().sum::<u64>(), received.bytes);
    }
}
