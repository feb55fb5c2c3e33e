//! What sender and receiver of files say to each other: types and limits, no behaviour.
//!
//! One bidirectional stream of service [`SERVICE`] carries control: [`FromSender`] one way, [`FromReceiver`] the other,
//! each framed as `knothole_proto::wire::codec` does it. The bytes of files travel on a few unidirectional streams, each of
//! which begins with one [`DataHeader`] and then holds any number of [`Piece`]s, of any files in any order.
//!
//! ```text
//! sender                                   receiver
//!   Offer, Entries.., Entries(last) ->
//!                                          <- Plan, Have.., Wanted.., Wanted(last)   or   Decline
//!   pieces on data streams ->
//!   FileDone, FileFailed ->
//!                                          <- Results.., Again.., Progress..         or   Abort
//!   End ->
//!                                          <- Summary
//!   Thanks ->
//! ```
//!
//! Enums grow at their ends; indices are never used again for something else.

use serde::{Deserialize, Serialize};

use super::tree::Value;

/// Name of the service on which files are offered.
pub const SERVICE: &str = "send";

/// Version of this format, the first field of every [`Offer`]. A receiver declines versions that it does not know.
pub const FORMAT: u16 = 3;

/// Most entries of one transfer. Both sides keep the whole list until the end, about 150 bytes an entry: 40 MB.
pub const ENTRIES_MAX: u32 = 262_144;

/// Most bytes of all names of one transfer together; bounds the list when names are long.
pub const NAMES_LEN_MAX: usize = 16 * 1024 * 1024;

/// Most bytes in one page of entries, well below the limit of a message. Smaller pages cost more framing.
pub const PAGE_LEN_MAX: usize = 12 * 1024;

/// Longest target of a symbolic link in bytes (`PATH_MAX` of Linux); keeps an entry within one message.
pub const TARGET_LEN_MAX: usize = 4096;

/// Most runs in one page of wanted entries: 10 bytes each, below the limit of a message.
pub const RUNS_MAX: usize = 1024;

/// Most values in one page of what a receiver has: 32 bytes each, below the limit of a message.
pub const VALUES_MAX: usize = 384;

/// Most results in one message: 6 bytes each.
pub const RESULTS_MAX: usize = 1024;

/// Most chunks that are asked for again in one message.
pub const AGAIN_MAX: usize = 1024;

/// Most names in [`Offer::roots`]; the list of entries holds them all.
pub const ROOTS_SHOWN_MAX: usize = 16;

/// Most bytes of a [`Piece`]: one chunk of any file below 128 GiB. What is read from disk in one go and kept in memory.
pub const PIECE_LEN_MAX: u32 = 1024 * 1024;

/// Bytes that stand for the place on the sender's disk from which files come: more than chance confuses.
pub const ORIGIN_LEN: usize = 16;

/// Most data streams of a transfer at a time. Several files in flight hide the time that each one takes to be opened,
/// made and renamed; more than this many gain nothing on two to eight cores.
pub const STREAMS_MAX: usize = 4;

/// QUIC application error code: the receiver does not want the rest of this stream. Codes below 16 belong to the session
/// layer.
pub const STREAM_UNWANTED: u32 = 17;

/// QUIC application error code: the receiver gives up, and its last message on the control stream is not whole.
pub const STREAM_TORN: u32 = 20;

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
    /// 2: everything of this file that the receiver does not have was sent. Counts for files of several
    /// chunks; the value of an only chunk is this hash.
    FileDone {
        /// The entry.
        index: u32,
        /// BLAKE3 of the whole file, as it was read in this transfer.
        hash: Value,
        /// How many chunks were sent: those that the receiver did not have, and those that are others at the sender.
        chunks: u32,
    },
    /// 3: this file cannot be sent whole.
    FileFailed {
        /// The entry.
        index: u32,
        /// Why.
        why: SourceTrouble,
    },
    /// 4: nothing more comes.
    End,
    /// 5: the summary arrived; what was kept to resume this transfer can go.
    Thanks,
    /// 6: it is comparing chunks that the receiver has with its own, which may be all that happens for a while.
    Comparing,
    /// 7: second message. Files of the same names from elsewhere have another number, and are another transfer.
    Origin([u8; ORIGIN_LEN]),
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

/// A file, a folder or a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The folder that holds it: its number in the list counted from 1, and 0 for what lies at the top. A folder comes
    /// before what lies in it.
    pub parent: u32,
    /// One component of a path.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Length in bytes; 0 for all but files.
    pub size: u64,
    /// Permission bits as on the sender's disk; the receiver decides which of them count.
    pub mode: u32,
    /// Time of last modification in nanoseconds since 1970.
    pub modified_ns: i64,
    /// A number that is another one whenever the file may have changed at the sender. Says nothing else.
    pub stamp: u64,
}

impl Entry {
    /// Bytes of what a link says; 0 for all but links.
    pub(super) fn target_len(&self) -> usize {
        match &self.kind {
            Kind::Link { target } => target.len(),
            Kind::File | Kind::Folder => 0,
        }
    }
}

/// What an entry is. There are no devices or owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// 0: a regular file.
    File,
    /// 1: a folder.
    Folder,
    /// 2: a symbolic link, as data: it is made after everything else, and nobody follows it.
    Link {
        /// Relative, and within what is sent.
        target: String,
    },
}

/// Why a file could not be sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SourceTrouble {
    /// 0: it could not be opened or read.
    Unreadable,
    /// 1: it became shorter while it was sent.
    Shrank,
    /// 2: it changed while it was sent.
    Changed,
}

/// What a receiver says on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromReceiver {
    /// 0: send these; all of them but what [`FromReceiver::Have`] named before.
    Wanted {
        /// At most [`RUNS_MAX`], ascending, without overlap.
        runs: Vec<Run>,
        /// Are these the last ones?
        last: bool,
    },
    /// 1: no.
    Decline(Refused),
    /// 2: accepted; what is there of it from earlier attempts.
    Plan {
        /// Bytes of the files that are wanted, and of those that are there whole.
        bytes: u64,
        /// Bytes of that which are there.
        resumed: u64,
        /// Files that are there whole.
        files: u32,
    },
    /// 3: chunks of a wanted file that are there from an earlier attempt, with their values. The sender compares each with
    /// its own file and sends those that differ.
    Have {
        /// The entry.
        index: u32,
        /// The first chunk.
        first: u32,
        /// Its value and those of the chunks that follow it; at most [`VALUES_MAX`].
        values: Vec<Value>,
    },
    /// 4: what became of these files; at most [`RESULTS_MAX`].
    Results(Vec<(u32, Outcome)>),
    /// 5: these chunks of a file are not there after all; send them (again).
    Again {
        /// The entry.
        index: u32,
        /// At most [`AGAIN_MAX`], ascending.
        chunks: Vec<u32>,
    },
    /// 6: so many bytes are verified by now, those of earlier attempts included.
    Progress {
        /// So many.
        bytes: u64,
    },
    /// 7: it cannot go on; what arrived so far is kept.
    Abort(AbortReason),
    /// 8: everything was dealt with, and is safe on disk.
    Summary {
        /// Files that are in their place, verified, those of earlier attempts included.
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
    /// 2: what arrived is not what was sent, again and again; it was deleted.
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
    /// 4: the same sender began the same transfer anew.
    Replaced,
    /// 5: it heard nothing from the sender for too long.
    Stalled,
}

/// First message on each data stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataHeader {
    /// The transfer.
    pub transfer: TransferId,
}

/// Stands in front of bytes of a file on a data stream. Pieces of one chunk come in order, on one stream, with no pieces
/// of other chunks between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The entry.
    pub index: u32,
    /// Where in the file the bytes begin.
    pub offset: u64,
    /// How many there are, at most [`PIECE_LEN_MAX`].
    pub length: u32,
    /// Are they all zero? Then they do not follow.
    pub zeros: bool,
    /// The value of the chunk that ends with this piece; `None` if the chunk goes on.
    pub value: Option<Value>,
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

    fn entry(kind: Kind) -> Entry {
        Entry {
            parent: 1,
            name: "f".to_owned(),
            kind,
            size: 5,
            mode: 0o644,
            modified_ns: 1,
            stamp: 9,
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
        golden(&FromSender::Offer(offer), "000307020105010164");
        let target = "t".to_owned();
        for (kind, hex) in [
            (Kind::File, "00"),
            (Kind::Folder, "01"),
            (Kind::Link { target }, "020174"),
        ] {
            let entries = vec![entry(kind)];
            let message = FromSender::Entries { entries, last: true };
            golden(&message, &format!("0101010166{hex}05fba401020901"));
        }
        let hash = [9; 32];
        let chunks = 2;
        golden(
            &FromSender::FileDone {
                index: 3,
                hash,
                chunks,
            },
            &format!("0203{}02", "09".repeat(32)),
        );
        let troubles = [
            SourceTrouble::Unreadable,
            SourceTrouble::Shrank,
            SourceTrouble::Changed,
        ];
        for (number, why) in troubles.into_iter().enumerate() {
            golden(
                &FromSender::FileFailed { index: 3, why },
                &format!("0303{number:02x}"),
            );
        }
        golden(&FromSender::End, "04");
        golden(&FromSender::Thanks, "05");
        golden(&FromSender::Comparing, "06");
        golden(&FromSender::Origin([9; 16]), &format!("07{}", "09".repeat(16)));
    }

    #[test]
    fn the_bytes_on_a_data_stream_stay_as_they_are() {
        golden(
            &DataHeader {
                transfer: TransferId(7),
            },
            "07",
        );
        let piece = Piece {
            index: 3,
            offset: 1 << 20,
            length: 5,
            zeros: false,
            value: None,
        };
        golden(&piece, "03fc00001000050000");
        let ends = Piece {
            zeros: true,
            value: Some([9; 32]),
            ..piece
        };
        golden(&ends, &format!("03fc00001000050101{}", "09".repeat(32)));
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
        let (bytes, resumed, files) = (5, 4, 1);
        golden(
            &FromReceiver::Plan {
                bytes,
                resumed,
                files,
            },
            "02050401",
        );
        let (index, first, values) = (3, 1, vec![[9; 32]]);
        golden(
            &FromReceiver::Have { index, first, values },
            &format!("03030101{}", "09".repeat(32)),
        );
        let outcomes = [
            Outcome::Stored,
            Outcome::Kept,
            Outcome::HashMismatch,
            Outcome::Unwritable,
            Outcome::Incomplete,
        ];
        for (number, outcome) in outcomes.into_iter().enumerate() {
            golden(
                &FromReceiver::Results(vec![(3, outcome)]),
                &format!("040103{number:02x}"),
            );
        }
        let chunks = vec![7];
        golden(&FromReceiver::Again { index: 3, chunks }, "05030107");
        golden(&FromReceiver::Progress { bytes: 5 }, "0605");
        let reasons = [
            AbortReason::DiskFull,
            AbortReason::Stopped,
            AbortReason::Protocol,
            AbortReason::Disk,
            AbortReason::Replaced,
            AbortReason::Stalled,
        ];
        for (number, why) in reasons.into_iter().enumerate() {
            golden(&FromReceiver::Abort(why), &format!("07{number:02x}"));
        }
        golden(&FromReceiver::Summary { stored: 1, bytes: 5 }, "080105");
    }

    #[test]
    fn the_fullest_pages_and_the_longest_legal_entry_fit_a_message() {
        let target = "t".repeat(TARGET_LEN_MAX);
        let longest = Entry {
            parent: u32::MAX,
            name: "n".repeat(255),
            kind: Kind::Link { target },
            size: u64::MAX,
            mode: u32::MAX,
            modified_ns: i64::MIN,
            stamp: u64::MAX,
        };
        let entries = vec![longest];
        assert!(codec::encode_framed(&FromSender::Entries { entries, last: true }).is_ok());
        let run = Run {
            first: u32::MAX,
            count: u32::MAX,
        };
        let (index, first) = (u32::MAX, u32::MAX);
        for page in [
            FromReceiver::Wanted {
                runs: vec![run; RUNS_MAX],
                last: true,
            },
            FromReceiver::Have {
                index,
                first,
                values: vec![[9; 32]; VALUES_MAX],
            },
            FromReceiver::Results(vec![(index, Outcome::Incomplete); RESULTS_MAX]),
            FromReceiver::Again {
                index,
                chunks: vec![first; AGAIN_MAX],
            },
        ] {
            assert!(codec::encode_framed(&page).is_ok(), "{page:?}");
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_a_message_is_an_error_before_it_is_sent() {
        let name = "n".repeat(codec::MESSAGE_LEN_MAX);
        let entries = vec![Entry {
            name,
            ..entry(Kind::File)
        }];
        assert!(codec::encode_framed(&FromSender::Entries { entries, last: true }).is_err());
    }
}
