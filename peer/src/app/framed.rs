//! Messages between two nodes' applications on a stream: length, version, codec, body.
//!
//! Both directions check the length before anything is allocated; a message that would be too long is an error at the
//! one who wants to send it.

use knothole_proto::wire::codec::{self, CodecError, LENGTH_PREFIX};
use quinn::{ReadExactError, RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};

/// Send one message.
///
/// # Errors
/// [`FrameError::Codec`] if it is too long, [`FrameError::Write`] if the stream or the connection ended.
pub async fn write<T: Serialize>(send: &mut SendStream, message: &T) -> Result<(), FrameError> {
    let bytes = codec::encode_framed(message)?;
    send.write_all(&bytes).await?;
    Ok(())
}

/// The next message; `None` if the stream ended where one could have begun.
///
/// # Errors
/// Any [`FrameError`] but [`FrameError::Write`].
pub async fn read<T: DeserializeOwned + Serialize>(recv: &mut RecvStream) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; LENGTH_PREFIX];
    match recv.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut bytes = vec![0; codec::announced_len(prefix)?];
    recv.read_exact(&mut bytes).await?;
    Ok(Some(codec::decode(&bytes)?))
}

/// The next message of those that must come.
///
/// # Errors
/// As [`read`], and [`FrameError::Ended`] if the stream ended.
pub async fn expect<T: DeserializeOwned + Serialize>(recv: &mut RecvStream) -> Result<T, FrameError> {
    read(recv).await?.ok_or(FrameError::Ended)
}

/// Why a message could not be sent or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The other side ended the stream, within a message or where another had to come.
    #[error("the other side ended the conversation early")]
    Ended,
    /// The stream was reset or the connection lost while reading.
    #[error("the conversation broke off: {0}")]
    Read(#[source] quinn::ReadError),
    /// The stream was stopped or the connection lost while writing.
    #[error("the conversation broke off: {0}")]
    Write(#[from] quinn::WriteError),
    /// Not a message, or one that is too long.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<ReadExactError> for FrameError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Ended,
            ReadExactError::ReadError(error) => Self::Read(error),
        }
    }
}
