//! What stands in front of every service stream: the name of the service that it wants.
//!
//! The opener writes one `StreamHello` as a framed message; the acceptor reads it before the application sees the
//! stream. Streams in one direction carry no header: they belong to a service that both sides already talk about.

use std::time::Duration;

use knothole_proto::wire::CodecError;
use knothole_proto::wire::codec::{self, LENGTH_PREFIX};
use quinn::{RecvStream, SendStream, VarInt};
use serde::{Deserialize, Serialize};

/// Longest name of a service in bytes: one DNS label, so that a name of a published service fits.
pub const SERVICE_LEN_MAX: usize = 64;

/// How long an opener may take to name the service. Slots for unnamed streams are few; a longer time lets a slow
/// peer hold them longer.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Application error code: no such service here, or not for this peer; the two look alike.
pub(crate) const CODE_NO_SERVICE: VarInt = VarInt::from_u32(1);

/// Application error code: the header of the stream is not one.
pub(crate) const CODE_BAD_HEADER: VarInt = VarInt::from_u32(2);

/// First message on a stream in two directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StreamHello {
    service: String,
}

/// Turn a stream away because nobody here offers that service to this peer.
pub fn refuse(mut send: SendStream, mut recv: RecvStream) {
    // Both fail only on a stream that is closed already, which is what is wanted.
    let _ = send.reset(CODE_NO_SERVICE);
    let _ = recv.stop(CODE_NO_SERVICE);
}

pub(crate) async fn write_hello(send: &mut SendStream, service: &str) -> Result<(), StreamError> {
    if !is_service(service) {
        return Err(StreamError::ServiceName);
    }
    let hello = StreamHello {
        service: service.to_owned(),
    };
    let bytes = codec::encode_framed(&hello)?;
    send.write_all(&bytes).await.map_err(|_| StreamError::Ended)
}

pub(crate) async fn read_hello(recv: &mut RecvStream) -> Result<String, StreamError> {
    let mut prefix = [0; LENGTH_PREFIX];
    recv.read_exact(&mut prefix)
        .await
        .map_err(|_| StreamError::Ended)?;
    let mut bytes = vec![0; codec::announced_len(prefix)?];
    recv.read_exact(&mut bytes)
        .await
        .map_err(|_| StreamError::Ended)?;
    let hello: StreamHello = codec::decode(&bytes)?;
    if !is_service(&hello.service) {
        return Err(StreamError::ServiceName);
    }
    Ok(hello.service)
}

fn is_service(name: &str) -> bool {
    !name.is_empty() && name.len() <= SERVICE_LEN_MAX && name.bytes().all(|c| c.is_ascii_graphic())
}

/// Why a stream could not be opened or accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection is over.
    #[error("the connection to the peer ended")]
    Connection(#[from] quinn::ConnectionError),
    /// The stream ended before it was usable.
    #[error("the stream ended early")]
    Ended,
    /// The header is no message.
    #[error("the stream's header is malformed")]
    Header(#[from] CodecError),
    /// Not 1 to 64 printable ASCII characters.
    #[error("a service name is 1 to 64 printable characters")]
    ServiceName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_is_short_and_printable() {
        assert!(is_service("file") && is_service("tcp:22") && is_service(&"x".repeat(64)));
        for bad in ["", "a b", "\u{1b}", "ä", &"x".repeat(65)] {
            assert!(!is_service(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_header_on_the_wire_is_length_version_codec_and_name() {
        let bytes = codec::encode_framed(&StreamHello {
            service: "echo".to_owned(),
        })
        .unwrap();
        assert_eq!(bytes, [0, 0, 0, 7, 1, 1, 4, b'e', b'c', b'h', b'o']);
    }
}
