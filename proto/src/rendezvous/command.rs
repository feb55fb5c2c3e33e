//! What the registry and its driver say to each other besides messages.

use crate::id::{ChannelId, Name, PeerId};
use crate::wire::FromServer;

/// A control connection, numbered by the driver; numbers are never used twice in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A write to disk that the registry waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId(pub u64);

/// What survives a restart: a key that was admitted, and the name it holds if it asked for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub peer: PeerId,
    /// Its name; a key holds at most 16, one record each.
    pub name: Option<Name>,
}

/// What the registry wants done. Commands are to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send this message on that control connection.
    Send {
        /// The connection.
        conn: ConnId,
        /// The message.
        message: FromServer,
    },
    /// Close that control connection once what was sent before is delivered.
    Close {
        /// The connection.
        conn: ConnId,
    },
    /// Write this record so that it survives a crash, then call `handle_stored`.
    Store {
        /// To be returned.
        claim: ClaimId,
        /// What to write.
        record: Record,
    },
    /// Forward relay frames of this channel between the datagram addresses of these two connections.
    OpenChannel {
        /// The channel.
        channel: ChannelId,
        /// Its two ends.
        ends: [ConnId; 2],
    },
    /// Stop forwarding frames of this channel.
    CloseChannel {
        /// The channel.
        channel: ChannelId,
    },
}

/// The driver could not write a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFailed;
