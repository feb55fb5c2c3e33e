//! What a receiver knows of a transfer that was broken off, in a file that only grows.
//!
//! Each record is written after what it says is true on disk, so that a crash at any moment leaves a journal that claims
//! too little and never too much. A record has a checksum: the first one that is not whole ends the journal, whatever
//! follows. Bytes of this file are never trusted further than that; what they say of chunks is checked against the chunks.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use knothole_proto::wire::codec::{self, LENGTH_PREFIX};
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::inbox::Seen;
use super::tree::{Geometry, Value};

/// Version of the records. A journal of another version is begun anew.
const JOURNAL_FORMAT: u16 = 1;

/// Bytes of the checksum behind a record: enough against accidents, which are all that it is for.
const CHECK_LEN: usize = 8;

/// Largest journal that is read, in bytes. 262,144 files with long names take less than a quarter of it; a larger one is
/// damaged, or of no use.
const JOURNAL_LEN_MAX: u64 = 256 * 1024 * 1024;

/// Most values in one record, so that it fits a message.
pub(super) const VALUES_MAX: usize = 256;

/// Stands for the path of a file within its transfer.
pub(super) type PathKey = [u8; 16];

/// One thing that is so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record {
    /// 0: the first record.
    Begin { format: u16 },
    /// 1: a folder at the top was made under another name than the sender's.
    Root { name: String, stored: String },
    /// 2: there is a partial file of a file of this size. Chunks that are where they were before stay.
    Part { key: PathKey, size: u64 },
    /// 3: these chunks are in the partial file, and on disk.
    Chunks {
        key: PathKey,
        first: u32,
        values: Vec<Value>,
    },
    /// 4: this chunk is about to be overwritten.
    Lost { key: PathKey, chunk: u32 },
    /// 5: this file is whole and on disk. It is about to get, or has, this name in its folder.
    Stored {
        key: PathKey,
        stamp: u64,
        name: String,
        seen: Seen,
    },
}

/// A journal that is open for writing.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    length: u64,
    disk: Disk,
}

/// What all records together say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) roots: HashMap<String, String>,
    pub(super) parts: HashMap<PathKey, PartMemory>,
    pub(super) stored: HashMap<PathKey, StoredMemory>,
}

/// What is there of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartMemory {
    pub(super) size: u64,
    pub(super) values: BTreeMap<u32, Value>,
}

/// A file that was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredMemory {
    pub(super) stamp: u64,
    pub(super) name: String,
    pub(super) seen: Seen,
    /// The versions before it with their names, oldest first. One of them is still there if none after it came to its place.
    pub(super) former: Vec<(String, Seen)>,
}

impl Journal {
    /// Read what is in this file, and go on behind it.
    ///
    /// # Errors
    /// Of the file system. Damage is no error: what is behind it is forgotten.
    pub(super) fn open(file: File, disk: Disk) -> io::Result<(Self, Memory)> {
        let mut memory = Memory::default();
        let mut length = 0;
        if file.metadata()?.len() <= JOURNAL_LEN_MAX {
            let mut from = BufReader::new(&file);
            from.seek(SeekFrom::Start(0))?;
            while let Some((record, bytes)) = read_record(&mut from)? {
                let begins = matches!(
                    record,
                    Record::Begin {
                        format: JOURNAL_FORMAT
                    }
                );
                if begins != (length == 0) {
                    break;
                }
                memory.take(record);
                length += bytes;
            }
        }
        disk.set_len(&file, length)?;
        let mut journal = Self { file, length, disk };
        if length == 0 {
            let format = JOURNAL_FORMAT;
            journal.append(&[Record::Begin { format }])?;
        }
        Ok((journal, memory))
    }

    /// Write records, all or in part; [`Self::sync`] brings them to disk.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            let framed = codec::encode_framed(record).map_err(io::Error::other)?;
            bytes.extend_from_slice(&framed);
            bytes.extend_from_slice(&check(&framed));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.disk.write(&self.file, &bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// # Errors
    /// Of the file system.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.sync_file(&self.file)
    }
}

impl Memory {
    fn take(&mut self, record: Record) {
        match record {
            Record::Begin { .. } => {}
            Record::Root { name, stored } => drop(self.roots.insert(name, stored)),
            Record::Part { key, size } => {
                let part = self.parts.entry(key).or_insert_with(|| PartMemory {
                    size,
                    values: BTreeMap::new(),
                });
                part.resize(size);
            }
            Record::Chunks { key, first, values } => {
                if let Some(part) = self.parts.get_mut(&key) {
                    let chunks = Geometry::new(part.size).chunks();
                    part.values.extend((first..chunks).zip(values));
                }
            }
            Record::Lost { key, chunk } => {
                if let Some(part) = self.parts.get_mut(&key) {
                    part.values.remove(&chunk);
                }
            }
            Record::Stored {
                key,
                stamp,
                name,
                seen,
            } => {
                let mut former = Vec::new();
                if let Some(before) = self.stored.remove(&key) {
                    former = before.former;
                    // Told twice, under another name perhaps, it is still the same version.
                    if before.seen != seen {
                        former.push((before.name, before.seen));
                    }
                }
                let stored = StoredMemory {
                    stamp,
                    name,
                    seen,
                    former,
                };
                self.stored.insert(key, stored);
            }
        }
    }
}

impl PartMemory {
    /// The file has another length now: only chunks of the same place and length are still what they were.
    fn resize(&mut self, size: u64) {
        let (old, new) = (Geometry::new(self.size), Geometry::new(size));
        self.values
            .retain(|chunk, _| old.start(*chunk) == new.start(*chunk) && old.len(*chunk) == new.len(*chunk));
        self.size = size;
    }
}

fn check(framed: &[u8]) -> [u8; CHECK_LEN] {
    let mut check = [0; CHECK_LEN];
    blake3::Hasher::new()
        .update(framed)
        .finalize_xof()
        .fill(&mut check);
    check
}

/// The next record and how many bytes it takes; `None` where whole records end.
fn read_record(from: &mut impl Read) -> io::Result<Option<(Record, u64)>> {
    let mut framed = vec![0; LENGTH_PREFIX];
    if !fill(from, &mut framed)? {
        return Ok(None);
    }
    let prefix = framed.first_chunk().copied().unwrap_or_default();
    let Ok(length) = codec::announced_len(prefix) else {
        return Ok(None);
    };
    framed.resize(LENGTH_PREFIX + length, 0);
    let mut told = [0; CHECK_LEN];
    let (_, body) = framed.split_at_mut(LENGTH_PREFIX);
    if !fill(from, body)? || !fill(from, &mut told)? || told != check(&framed) {
        return Ok(None);
    }
    let record = framed.get(LENGTH_PREFIX..).map(codec::decode::<Record>);
    let bytes = (framed.len() + CHECK_LEN) as u64;
    Ok(record.and_then(Result::ok).map(|record| (record, bytes)))
}

fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn records() -> Vec<Record> {
        let key = [1; 16];
        vec![
            Record::Root {
                name: "d".to_owned(),
                stored: "d (1)".to_owned(),
            },
            Record::Part { key, size: 5 * MIB },
            Record::Chunks {
                key,
                first: 1,
                values: vec![[1; 32], [2; 32], [3; 32]],
            },
            Record::Lost { key, chunk: 2 },
            Record::Stored {
                key: [2; 16],
                stamp: 4,
                name: "f".to_owned(),
                seen: Seen {
                    inode: 5,
                    size: 3,
                    modified_ns: -1,
                },
            },
        ]
    }

    fn written() -> File {
        let file = tempfile::tempfile().unwrap();
        let (mut journal, memory) = Journal::open(file.try_clone().unwrap(), Disk::default()).unwrap();
        assert_eq!(memory, Memory::default());
        journal.append(&records()).unwrap();
        file
    }

    fn read(file: &File) -> Memory {
        Journal::open(file.try_clone().unwrap(), Disk::default())
            .unwrap()
            .1
    }

    #[test]
    fn what_was_written_is_known_again() {
        let memory = read(&written());
        assert_eq!(memory.roots["d"], "d (1)");
        let part = &memory.parts[&[1; 16]];
        assert_eq!(part.size, 5 * MIB);
        assert_eq!(part.values, BTreeMap::from([(1, [1; 32]), (3, [3; 32])]));
        assert_eq!(memory.stored[&[2; 16]].seen.inode, 5);
    }

    #[test]
    fn a_journal_that_is_cut_or_damaged_anywhere_says_less_and_nothing_else() {
        let whole = written();
        let length = whole.metadata().unwrap().len();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        whole.read_exact_at(&mut bytes, 0).unwrap();
        let full = read(&whole);
        let claims = |memory: &Memory| {
            let values = memory
                .parts
                .values()
                .map(|part| part.values.clone())
                .collect::<Vec<_>>();
            (memory.roots.len(), values, memory.stored.len())
        };
        for at in 0..bytes.len() {
            let (cut, flipped) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            cut.write_all_at(&bytes[..at], 0).unwrap();
            flipped.write_all_at(&bytes, 0).unwrap();
            flipped.write_all_at(&[bytes[at] ^ 0x10], at as u64).unwrap();
            for file in [cut, flipped] {
                let memory = read(&file);
                assert_ne!(memory, full, "byte {at}");
                let (roots, values, stored) = claims(&memory);
                assert!(roots <= 1 && stored == 0, "byte {at}");
                let known = records();
                for (chunk, value) in values.into_iter().flatten() {
                    let Record::Chunks { first, values, .. } = &known[2] else {
                        unreachable!()
                    };
                    assert_eq!(values[(chunk - first) as usize], value, "byte {at}");
                }
                // And it can be gone on with.
                let (mut journal, _) = Journal::open(file.try_clone().unwrap(), Disk::default()).unwrap();
                journal.append(&records()).unwrap();
                assert_eq!(read(&file).stored, full.stored);
            }
        }
    }

    #[test]
    fn a_file_of_another_length_keeps_the_chunks_that_did_not_move() {
        let key = [1; 16];
        let mut memory = Memory::default();
        let values = vec![[7; 32]; 5];
        let chunks = Record::Chunks {
            key,
            first: 0,
            values,
        };
        memory.take(Record::Part {
            key,
            size: 5 * MIB - 1,
        });
        memory.take(chunks.clone());
        memory.take(Record::Part { key, size: 9 * MIB });
        assert_eq!(
            memory.parts[&key].values.keys().copied().collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        memory.take(Record::Part { key, size: 2 * MIB });
        assert_eq!(memory.parts[&key].values.len(), 2);
        memory.take(Record::Part { key, size: 1 << 40 });
        assert_eq!(memory.parts[&key].values.len(), 0, "larger chunks");
        memory.take(Record::Part { key, size: 3 * MIB });
        memory.take(chunks);
        assert_eq!(memory.parts[&key].values.len(), 3, "no chunk behind the end");
    }
}
