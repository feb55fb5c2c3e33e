//! Messages between two nodes' applications on a stream: length, version, codec, body.
//!
//! Both directions check the length before anything is allocated; a message that would be too long is an error at the
//! one who wants to send it.

use knothole_proto::wire::codec::{self, CodecError, LENGTH_PREFIX};
use serde::{Serialize, de::DeserializeOwned};

use super::flow::{Inflow, Outflow};

/// Send one message.
///
/// # Errors
/// [`FrameError::Codec`] if it is too long, [`FrameError::Write`] if the stream or the connection ended.
pub async fn write<T: Serialize>(send: &mut impl Outflow, message: &T) -> Result<(), FrameError> {
    send.write(codec::encode_framed(message)?.into()).await
}

/// The next message; `None` if the stream ended where one could have begun.
///
/// # Errors
/// Any [`FrameError`] but [`FrameError::Write`].
pub async fn read<T: DeserializeOwned + Serialize>(recv: &mut impl Inflow) -> Result<Option<T>, FrameError> {
    let mut prefix = [0; LENGTH_PREFIX];
    if !read_exact(recv, &mut prefix).await? {
        return Ok(None);
    }
    let mut bytes = vec![0; codec::announced_len(prefix)?];
    if !read_exact(recv, &mut bytes).await? {
        return Err(FrameError::Ended);
    }
    Ok(Some(codec::decode(&bytes)?))
}

/// The next message of those that must come.
///
/// # Errors
/// As [`read`], and [`FrameError::Ended`] if the stream ended.
pub async fn expect<T: DeserializeOwned + Serialize>(recv: &mut impl Inflow) -> Result<T, FrameError> {
    read(recv).await?.ok_or(FrameError::Ended)
}

/// `false` if the stream ended before the first byte.
async fn read_exact(recv: &mut impl Inflow, into: &mut [u8]) -> Result<bool, FrameError> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match recv.read(rest).await? {
            Some(read) => filled += read,
            None if filled == 0 => return Ok(false),
            None => return Err(FrameError::Ended),
        }
    }
    Ok(true)
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
