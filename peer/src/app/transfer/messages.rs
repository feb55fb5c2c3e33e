//! What sender and receiver of files say to each other: types and limits, no behaviour.
//!
//! One bidirectional stream of service [`SERVICE`] carries control: [`FromSender`] one way, [`FromReceiver`] the other,
//! each framed as `knothole_proto::wire::codec` does it. The bytes of each file travel on a unidirectional stream of
//! their own that begins with one framed [`DataHeader`].
//!
//! ```text
//! sender                                   receiver
//!   Offer, Entries, Entries(last) ->
//!                                          <- Wanted.., Wanted(last)   or   Decline
//!   per file: data stream, FileDone ->
//!                                          <- FileResult per file      or   Abort
//!   End ->
//!                                          <- Summary
//! ```
//!
//! Enums grow at their ends; indices are never used again for something else.

use serde::{Deserialize, Serialize};

/// Name of the service on which files are offered.
pub const SERVICE: &str = "send";

/// Version of this format, the first field of every [`Offer`]. A receiver declines versions that it does not know.
pub const FORMAT: u16 = 1;

/// Most entries of one transfer. A receiver keeps the whole list (about 300 bytes an entry) until the end: 40 MB.
pub const ENTRIES_MAX: u32 = 131_072;

/// Most bytes of all paths of one transfer together; bounds the receiver's list when names are long.
pub const PATHS_LEN_MAX: usize = 16 * 1024 * 1024;

/// Most bytes in one page of entries, well below the limit of a message. Smaller pages cost more framing.
pub const PAGE_LEN_MAX: usize = 12 * 1024;

/// Most runs in one page of wanted entries: 10 bytes each, below the limit of a message.
pub const RUNS_MAX: usize = 1024;

/// Most names in [`Offer::roots`]; the list of entries holds them all.
pub const ROOTS_SHOWN_MAX: usize = 16;

/// Most files whose data was sent and whose result is still out. Bounds open files and unmatched hashes at the
/// receiver; enough to hide the time that it takes to bring small files safely to disk.
pub const OUTSTANDING_MAX: usize = 64;

/// QUIC application error code: the sender has given up this stream. Codes below 16 belong to the session layer.
pub const STREAM_CANCELLED: u32 = 16;

/// QUIC application error code: the receiver does not want the rest of this stream.
pub const STREAM_UNWANTED: u32 = 17;

/// Drawn by the sender; ties data streams to their control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferId(pub u64);

/// What a sender says on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSender {
    /// 0: first message.
    Offer(Offer),
    /// 1: the next entries, in order.
    Entries {
        /// At most [`PAGE_LEN_MAX`] bytes of them.
        entries: Vec<Entry>,
        /// Are these the last ones?
        last: bool,
    },
    /// 2: all bytes of this file were sent.
    FileDone {
        /// The entry.
        index: u32,
        /// BLAKE3 of the whole file.
        hash: [u8; 32],
    },
    /// 3: this file cannot be sent whole; forget what came of it.
    FileFailed {
        /// The entry.
        index: u32,
        /// Why.
        why: SourceTrouble,
    },
    /// 4: nothing more comes.
    End,
}

/// What somebody wants to send. The layout of this message is the same in all versions of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// [`FORMAT`].
    pub format: u16,
    /// The transfer.
    pub transfer: TransferId,
    /// Number of entries that follow, folders included.
    pub entries: u32,
    /// How many of them are files.
    pub files: u32,
    /// Bytes of all files together.
    pub bytes: u64,
    /// The first names of what is sent, for a person to judge.
    pub roots: Vec<String>,
}

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Components of its relative path. The folder that holds it comes before it.
    pub path: Vec<String>,
    /// What it is.
    pub kind: Kind,
    /// Length in bytes; 0 for a folder.
    pub size: u64,
    /// Permission bits as on the sender's disk; the receiver decides which of them count.
    pub mode: u32,
    /// Time of last modification in nanoseconds since 1970.
    pub modified_ns: i64,
}

/// What an entry is. There are no links, devices or owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// 0: a regular file.
    File,
    /// 1: a folder.
    Folder,
}

/// Why a file could not be sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SourceTrouble {
    /// 0: it could not be opened or read.
    Unreadable,
    /// 1: it became shorter while it was sent.
    Shrank,
}

/// What a receiver says on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromReceiver {
    /// 0: accepted; send these.
    Wanted {
        /// At most [`RUNS_MAX`], ascending, without overlap.
        runs: Vec<Run>,
        /// Are these the last ones?
        last: bool,
    },
    /// 1: no.
    Decline(Refused),
    /// 2: what became of this file.
    FileResult {
        /// The entry.
        index: u32,
        /// What.
        outcome: Outcome,
    },
    /// 3: it cannot go on; what arrived so far is kept.
    Abort(AbortReason),
    /// 4: everything was dealt with.
    Summary {
        /// Files that are in their place, verified.
        stored: u32,
        /// Their bytes.
        bytes: u64,
    },
}

/// `count` entries from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Index of the first.
    pub first: u32,
    /// How many, at least 1.
    pub count: u32,
}

/// Why an offer was declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refused {
    /// 0: the person said no.
    Person,
    /// 1: another version of the format.
    Format,
    /// 2: a name or the list of entries is not acceptable.
    Names,
    /// 3: the folder for received files cannot be used.
    Inbox,
    /// 4: busy with other transfers.
    Busy,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// 0: in its place, its hash compared.
    Stored,
    /// 1: one of that name was there already, and stays.
    Kept,
    /// 2: what arrived is not what was sent; it was deleted.
    HashMismatch,
    /// 3: it could not be written.
    Unwritable,
    /// 4: the sender could not send it whole.
    Incomplete,
}

/// Why a receiver stopped a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AbortReason {
    /// 0: no space is left on its disk.
    DiskFull,
    /// 1: stopped by its person.
    Stopped,
    /// 2: the sender did not do as it said.
    Protocol,
    /// 3: its disk does not take what is written.
    Disk,
}

/// First message on each data stream; `length` bytes of the file from `offset` on follow, and then the stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataHeader {
    /// The transfer.
    pub transfer: TransferId,
    /// The entry.
    pub index: u32,
    /// Where in the file the bytes begin.
    pub offset: u64,
    /// How many bytes follow.
    pub length: u64,
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use knothole_proto::wire::codec;
    use serde::de::DeserializeOwned;

    use super::*;

    #[track_caller]
    fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T, hex: &str) {
        let bytes = codec::encode(message).unwrap();
        // Version and codec, then the body.
        assert_eq!(HEXLOWER.encode(&bytes), format!("0101{hex}"), "{message:?}");
        assert_eq!(codec::decode::<T>(&bytes).as_ref(), Ok(message));
    }

    fn entry() -> Entry {
        Entry {
            path: vec!["d".to_owned(), "f".to_owned()],
            kind: Kind::File,
            size: 5,
            mode: 0o644,
            modified_ns: 1,
        }
    }

    #[test]
    fn the_bytes_of_every_message_of_the_sender_stay_as_they_are() {
        let offer = Offer {
            format: FORMAT,
            transfer: TransferId(7),
            entries: 2,
            files: 1,
            bytes: 5,
            roots: vec!["d".to_owned()],
        };
        golden(&FromSender::Offer(offer), "000107020105010164");
        golden(
            &FromSender::Entries {
                entries: vec![entry()],
                last: true,
            },
            "010102016401660005fba4010201",
        );
        let hash = [9; 32];
        golden(
            &FromSender::FileDone { index: 3, hash },
            &format!("0203{}", "09".repeat(32)),
        );
        for (why, byte) in [(SourceTrouble::Unreadable, "00"), (SourceTrouble::Shrank, "01")] {
            golden(&FromSender::FileFailed { index: 3, why }, &format!("0303{byte}"));
        }
        golden(&FromSender::End, "04");
        let header = DataHeader {
            transfer: TransferId(7),
            index: 3,
            offset: 0,
            length: 5,
        };
        golden(&header, "07030005");
    }

    #[test]
    fn the_bytes_of_every_message_of_the_receiver_stay_as_they_are() {
        let runs = vec![Run { first: 0, count: 2 }];
        golden(&FromReceiver::Wanted { runs, last: true }, "0001000201");
        let refused = [
            Refused::Person,
            Refused::Format,
            Refused::Names,
            Refused::Inbox,
            Refused::Busy,
        ];
        for (number, why) in refused.into_iter().enumerate() {
            golden(&FromReceiver::Decline(why), &format!("01{number:02x}"));
        }
        let outcomes = [
            Outcome::Stored,
            Outcome::Kept,
            Outcome::HashMismatch,
            Outcome::Unwritable,
            Outcome::Incomplete,
        ];
        for (number, outcome) in outcomes.into_iter().enumerate() {
            golden(
                &FromReceiver::FileResult { index: 3, outcome },
                &format!("0203{number:02x}"),
            );
        }
        let reasons = [
            AbortReason::DiskFull,
            AbortReason::Stopped,
            AbortReason::Protocol,
            AbortReason::Disk,
        ];
        for (number, why) in reasons.into_iter().enumerate() {
            golden(&FromReceiver::Abort(why), &format!("03{number:02x}"));
        }
        golden(&FromReceiver::Summary { stored: 1, bytes: 5 }, "040105");
    }

    #[test]
    fn the_longest_legal_entry_and_the_fullest_page_of_runs_fit_a_message() {
        let longest = Entry {
            path: vec!["n".repeat(63); 64],
            size: u64::MAX,
            mode: u32::MAX,
            modified_ns: i64::MIN,
            ..entry()
        };
        let entries = vec![longest];
        assert!(codec::encode_framed(&FromSender::Entries { entries, last: true }).is_ok());
        let run = Run {
            first: u32::MAX,
            count: u32::MAX,
        };
        let runs = vec![run; RUNS_MAX];
        assert!(codec::encode_framed(&FromReceiver::Wanted { runs, last: true }).is_ok());
    }

    #[test]
    fn an_entry_that_does_not_fit_a_message_is_an_error_before_it_is_sent() {
        let entries = vec![Entry {
            path: vec!["n".repeat(20_000)],
            ..entry()
        }];
        let encoded = codec::encode_framed(&FromSender::Entries { entries, last: true });
        assert!(matches!(encoded, Err(codec::CodecError::TooLong { .. })));
    }
}
