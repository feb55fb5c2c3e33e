//! What survives a restart: admitted keys and the names they hold. Presence, sessions and nameplates never come here.
//!
//! [`Store::open`] gives everything that was stored, [`worker`] writes claims one group at a time off the runtime's
//! threads. A claim is reported as stored only when its transaction is on the disk.

mod disk;

use std::path::Path;

use knothole_proto::rendezvous::{ClaimId, Record, StoreFailed};
use tokio::sync::mpsc;
use tracing::error;

pub use disk::StoreError;

use disk::Disk;

/// Name of the database's file in the data directory.
pub(crate) const DATABASE_FILE: &str = "names.redb";

/// Claims that may wait for the disk. When it is full a claim is refused at once instead of waiting behind others.
const QUEUE: usize = 256;

/// Claims written in one transaction. A transaction costs a disk flush, so a crowd that registers shares it.
const GROUP_MAX: usize = 64;

/// One claim on its way to the disk.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) id: ClaimId,
    pub(crate) record: Record,
}

/// Where records go.
pub(crate) enum Store {
    /// Nowhere: for tests and demonstrations. A restart forgets everything.
    Memory,
    /// A database file.
    Disk(Disk),
}

impl Store {
    /// The database in `file` and all that it holds; `fresh` allows it to be made.
    ///
    /// # Errors
    /// Any [`StoreError`]. A database that is damaged, or missing where there was one, is never replaced.
    pub(crate) fn open(file: &Path, fresh: bool) -> Result<(Self, Vec<Record>), StoreError> {
        let (disk, records) = Disk::open(file, fresh)?;
        Ok((Self::Disk(disk), records))
    }

    fn write(&mut self, records: &[Record]) -> Result<(), StoreError> {
        match self {
            Self::Memory => Ok(()),
            Self::Disk(disk) => disk.write(records),
        }
    }
}

/// The channel over which claims reach the [`worker`].
pub(crate) fn queue() -> (mpsc::Sender<Claim>, mpsc::Receiver<Claim>) {
    mpsc::channel(QUEUE)
}

/// What became of a claim.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: ClaimId,
    pub(crate) result: Result<(), StoreFailed>,
}

/// Write claims as they come until their channel closes, and report each.
pub(crate) async fn worker<T>(mut store: Store, mut claims: mpsc::Receiver<Claim>, reports: mpsc::Sender<T>)
where
    T: From<Stored>,
{
    let mut group = Vec::new();
    while claims.recv_many(&mut group, GROUP_MAX).await > 0 {
        let (ids, records): (Vec<_>, Vec<_>) = group.drain(..).map(|claim| (claim.id, claim.record)).unzip();
        let written = tokio::task::spawn_blocking(move || {
            let result = store.write(&records);
            (store, result)
        });
        let result = match written.await {
            Ok((returned, result)) => {
                store = returned;
                result
            }
            // The write panicked or the runtime is stopping; the store is lost either way, and with it this task.
            Err(_) => return,
        };
        if let Err(why) = &result {
            error!(%why, claims = ids.len(), "names could not be stored");
        }
        for id in ids {
            let result = if result.is_ok() { Ok(()) } else { Err(StoreFailed) };
            // Whoever waited may be gone; the record is on disk all the same.
            let _ = reports.send(Stored { id, result }.into()).await;
        }
    }
}
