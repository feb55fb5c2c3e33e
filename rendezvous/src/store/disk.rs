//! The database file (redb): one table of keys, one of names. Nothing else touches the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use knothole_proto::id::{Name, PeerId};
use knothole_proto::rendezvous::Record;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::private_files::{self, FileError};

/// What the file itself says about its contents.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Admitted keys.
const KEYS: TableDefinition<'_, &[u8; 32], ()> = TableDefinition::new("keys");
/// Name -> the key that holds it.
const NAMES: TableDefinition<'_, &str, &[u8; 32]> = TableDefinition::new("names");

/// Key in [`META`] of the number of this layout.
const FORMAT: &str = "format";
/// The layout above. A change that older servers would misread takes the next number.
const FORMAT_NUMBER: u64 = 1;

/// Memory for cached pages, in bytes. Everything is read once at start, so this only speeds up writes.
const CACHE: usize = 8 * 1024 * 1024;

/// An open database file.
pub(crate) struct Disk {
    file: PathBuf,
    /// `None` after a failed write: redb refuses everything after one, and the file must be opened again.
    database: Option<Database>,
}

impl Disk {
    pub(super) fn open(file: &Path, fresh: bool) -> Result<(Self, Vec<Record>), StoreError> {
        let there = file.try_exists().map_err(|source| FileError::io(file, source))?;
        if !there && !fresh {
            return Err(StoreError::Missing {
                file: file.to_owned(),
            });
        }
        if there && !fresh && is_empty(file)? {
            return Err(StoreError::Damaged {
                file: file.to_owned(),
                why: "it is empty".into(),
            });
        }
        private_files::ensure_file(file)?;
        let database = open_database(file)?;
        let records = prepare(&database)
            .and_then(|()| load(&database))
            .map_err(|why| why.into_error(file))?;
        let disk = Self {
            file: file.to_owned(),
            database: Some(database),
        };
        Ok((disk, records))
    }

    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(&self.file)?,
        };
        insert(&database, records).map_err(|why| why.into_error(&self.file))?;
        self.database = Some(database);
        Ok(())
    }
}

fn is_empty(file: &Path) -> Result<bool, FileError> {
    let meta = std::fs::metadata(file).map_err(|source| FileError::io(file, source))?;
    Ok(meta.len() == 0)
}

fn open_database(file: &Path) -> Result<Database, StoreError> {
    Builder::new()
        .set_cache_size(CACHE)
        // Reads the whole file, about 100 bytes a name; without it a damaged page may show itself as a crash later.
        .set_check_integrity_on_open(true)
        .create(file)
        .map_err(|why| match why {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
                file: file.to_owned(),
            },
            other => Trouble::Redb(other.into()).into_error(file),
        })
}

/// Make the tables of a new file, and refuse a layout that is not ours.
fn prepare(database: &Database) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get(FORMAT)?.map(|number| number.value());
        match format {
            None => {
                meta.insert(FORMAT, FORMAT_NUMBER)?;
            }
            Some(FORMAT_NUMBER) => {}
            Some(other) => return Err(Trouble::Format(other)),
        }
        transaction.open_table(KEYS)?;
        transaction.open_table(NAMES)?;
    }
    Ok(transaction.commit()?)
}

fn load(database: &Database) -> Result<Vec<Record>, Trouble> {
    let transaction = database.begin_read()?;
    let mut nameless = BTreeMap::new();
    for entry in transaction.open_table(KEYS)?.iter()? {
        nameless.insert(PeerId::from_bytes(*entry?.0.value()), ());
    }
    let mut records = Vec::new();
    for entry in transaction.open_table(NAMES)?.iter()? {
        let (name, peer) = entry?;
        let name: Name = name.value().parse().map_err(|_| Trouble::Name)?;
        let peer = PeerId::from_bytes(*peer.value());
        nameless.remove(&peer);
        records.push(Record {
            peer,
            name: Some(name),
        });
    }
    records.extend(nameless.into_keys().map(|peer| Record { peer, name: None }));
    Ok(records)
}

fn insert(database: &Database, records: &[Record]) -> Result<(), Trouble> {
    let transaction = database.begin_write()?;
    {
        let mut keys = transaction.open_table(KEYS)?;
        let mut names = transaction.open_table(NAMES)?;
        for record in records {
            keys.insert(record.peer.as_bytes(), ())?;
            if let Some(name) = &record.name {
                names.insert(name.as_str(), record.peer.as_bytes())?;
            }
        }
    }
    Ok(transaction.commit()?)
}

/// What may go wrong inside, before the file's name is known.
#[derive(Debug)]
enum Trouble {
    Redb(redb::Error),
    Format(u64),
    Name,
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

impl Trouble {
    fn into_error(self, file: &Path) -> StoreError {
        let file = file.to_owned();
        match self {
            Self::Redb(redb::Error::Io(source)) if source.kind() != std::io::ErrorKind::InvalidData => {
                StoreError::File(FileError::Io { path: file, source })
            }
            Self::Redb(error) => StoreError::Damaged {
                file,
                why: error.to_string(),
            },
            Self::Format(number) => StoreError::Format { file, number },
            Self::Name => StoreError::Damaged {
                file,
                why: "it holds a name that is not one".into(),
            },
        }
    }
}

/// The names cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There was a database here, and it is gone.
    #[error("{file:?} is missing, though this server ran before")]
    Missing {
        /// Where it should be.
        file: PathBuf,
    },
    /// The file is not a whole database.
    #[error("{file:?} is damaged: {why}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another process has it open.
    #[error("{file:?} is in use by another server")]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// Written by another version.
    #[error("{file:?} has layout {number}, which this version does not read")]
    Format {
        /// The file.
        file: PathBuf,
        /// Its layout's number.
        number: u64,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn record(key: u8, name: Option<&str>) -> Record {
        Record {
            peer: PeerId::from_bytes([key; 32]),
            name: name.map(|name| name.parse().unwrap()),
        }
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names");
        let (mut disk, records) = Disk::open(&file, true).unwrap();
        assert_eq!(records, []);
        let written = [record(1, Some("a")), record(1, Some("b")), record(2, None)];
        disk.write(&written).unwrap();
        drop(disk);
        let (_, records) = Disk::open(&file, false).unwrap();
        assert_eq!(records, written);
    }

    #[test]
    fn a_missing_or_empty_database_is_not_replaced_where_there_was_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names");
        assert!(matches!(
            Disk::open(&file, false),
            Err(StoreError::Missing { .. })
        ));
        fs::write(&file, "").unwrap();
        assert!(matches!(
            Disk::open(&file, false),
            Err(StoreError::Damaged { .. })
        ));
    }

    #[test]
    fn a_damaged_database_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names");
        private_files::create(&file, "this is no database at all").unwrap();
        assert!(matches!(Disk::open(&file, true), Err(StoreError::Damaged { .. })));
        assert_eq!(fs::read(&file).unwrap(), b"this is no database at all");
    }

    #[test]
    fn flipped_bytes_in_a_database_are_noticed_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names");
        let (mut disk, _) = Disk::open(&file, true).unwrap();
        disk.write(&[record(1, Some("some-name-to-find"))]).unwrap();
        drop(disk);
        let mut bytes = fs::read(&file).unwrap();
        let mut hits = 0;
        for at in 0..bytes.len() - 17 {
            if &bytes[at..at + 17] == b"some-name-to-find" {
                bytes[at] ^= 0x20;
                hits += 1;
            }
        }
        assert!(hits > 0);
        fs::write(&file, bytes).unwrap();
        assert!(matches!(
            Disk::open(&file, false),
            Err(StoreError::Damaged { .. })
        ));
    }

    #[test]
    fn a_second_server_cannot_open_the_same_database() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("names");
        let (_disk, _) = Disk::open(&file, true).unwrap();
        assert!(matches!(Disk::open(&file, true), Err(StoreError::InUse { .. })));
    }
}
