//! Messages to bytes and back: the only file that names the serializer.
//!
//! An encoded message is `version (1 byte) | codec (1 byte) | body`. Version is that of the message types, codec says
//! how the body is written; both are 1 today, and a receiver refuses others without reading on. On a stream each
//! message is preceded by its length as a 32-bit big-endian number.
//!
//! The body is bincode 2 in serde mode with its standard configuration (little-endian, variable-length integers).
//! A body has exactly one encoding: trailing bytes and non-canonical integers are refused. No length in the
//! input makes the decoder allocate more than the limit.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};

/// Version of the message types.
pub const VERSION: u8 = 1;

/// The number of this body format: bincode 2, standard configuration.
pub const CODEC_BINCODE_2: u8 = 1;

/// Largest encoded message in bytes, version and codec included. The largest legal control message (an update with
/// 16 candidates and 512 tags) takes about 9 KB. Raising it raises what every unauthenticated stream may buffer.
pub const MESSAGE_LEN_MAX: usize = 16 * 1024;

/// Bytes of the length in front of a message on a stream.
pub const LENGTH_PREFIX: usize = 4;

/// Version and codec.
const HEADER: usize = 2;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MESSAGE_LEN_MAX>> =
    bincode::config::standard().with_limit::<MESSAGE_LEN_MAX>();

/// Encode a message, without the length that precedes it on a stream.
///
/// # Errors
/// [`CodecError::TooLong`] if it would exceed [`MESSAGE_LEN_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![VERSION, CODEC_BINCODE_2];
    bincode::serde::encode_into_std_write(message, &mut bytes, CONFIG)
        .map_err(|_| CodecError::Unencodable)?;
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(CodecError::TooLong { len: bytes.len() });
    }
    Ok(bytes)
}

/// Encode a message as it stands on a stream: length, version, codec, body.
///
/// # Errors
/// As [`encode`].
pub fn encode_framed<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = encode(message)?;
    let len = u32::try_from(bytes.len()).map_err(|_| CodecError::TooLong { len: bytes.len() })?;
    let mut framed = Vec::with_capacity(LENGTH_PREFIX + bytes.len());
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(&bytes);
    Ok(framed)
}

/// The length announced in front of a message, checked before anything is allocated for it.
///
/// # Errors
/// [`CodecError::TooLong`] or [`CodecError::TooShort`].
pub fn announced_len(prefix: [u8; LENGTH_PREFIX]) -> Result<usize, CodecError> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > MESSAGE_LEN_MAX {
        return Err(CodecError::TooLong { len });
    }
    if len < HEADER {
        return Err(CodecError::TooShort);
    }
    Ok(len)
}

/// Decode one message, which must fill `bytes` exactly.
///
/// # Errors
/// Any [`CodecError`] but [`CodecError::Unencodable`]; the bytes come from a remote and the error tells what is wrong.
pub fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(CodecError::TooLong { len: bytes.len() });
    }
    let [version, codec, body @ ..] = bytes else {
        return Err(CodecError::TooShort);
    };
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    if *codec != CODEC_BINCODE_2 {
        return Err(CodecError::Codec(*codec));
    }
    let (message, used) =
        bincode::serde::decode_from_slice::<T, _>(body, CONFIG).map_err(|_| CodecError::Malformed)?;
    if used != body.len() {
        return Err(CodecError::TrailingBytes(body.len() - used));
    }
    if encode(&message)? != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(message)
}

/// Why bytes are not a message, or a value is not one that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Shorter than its header.
    #[error("message is shorter than its header")]
    TooShort,
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("message of {len} bytes exceeds the limit of {MESSAGE_LEN_MAX}")]
    TooLong {
        /// Its length in bytes, announced or real.
        len: usize,
    },
    /// Written for another version of the message types.
    #[error("message version {0} is not spoken here")]
    Version(u8),
    /// Written in a body format that is not known here.
    #[error("message codec {0} is not spoken here")]
    Codec(u8),
    /// The body is not one of the expected type.
    #[error("message body is malformed")]
    Malformed,
    /// Bytes follow the body.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
    /// The body says the same as another, shorter encoding.
    #[error("message is not in its canonical form")]
    NotCanonical,
    /// The value has a length that the format cannot carry.
    #[error("value cannot be encoded")]
    Unencodable,
}
