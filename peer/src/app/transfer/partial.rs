//! The private folder that holds what arrived of one transfer until it is whole.
//!
//! It lies in the inbox, on the same file system as the places that its files will take, and only its owner can look into
//! it. One process at a time has it: the journal in it is locked. What nobody came back for is removed after a week.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rustix::fs::{Dir, FlockOperation, Mode, OFlags};

use super::disk::{Disk, Named};
use super::inbox::{Inbox, exists, open_folder};
use super::journal::{Journal, Memory, PathKey};
use super::manifest::Manifest;
use super::messages::ORIGIN_LEN;

/// The folder of all partial transfers, in the inbox. Hidden names at the top of a transfer are made visible, so nobody can
/// send a file into it.
pub(super) const FOLDER: &str = ".knothole-partial";

/// Name of the journal in the folder of a transfer.
const JOURNAL: &str = "journal";

/// How long a transfer that broke off can be resumed: long enough for a holiday weekend, short enough that forgotten ones
/// do not fill disks.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Which transfer it is: the same sender, sending the same names from the same place on its disk. A second command for the same
/// files has the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TransferKey([u8; 8]);

/// The folder of one transfer.
#[derive(Debug)]
pub(super) struct Partial {
    all: OwnedFd,
    folder: OwnedFd,
    name: String,
    disk: Disk,
    _lock: File,
}

impl TransferKey {
    pub(super) fn of(sender: &[u8; 32], origin: &[u8; ORIGIN_LEN], manifest: &Manifest) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("knothole 1 transfer");
        hasher.update(sender);
        hasher.update(origin);
        for root in manifest.roots() {
            hasher.update(root.name.as_bytes());
            hasher.update(b"/");
        }
        let mut key = [0; 8];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }
}

/// The key of an entry's path.
pub(super) fn path_key(manifest: &Manifest, index: u32) -> PathKey {
    let mut hasher = blake3::Hasher::new();
    for name in manifest.path(index) {
        hasher.update(name.as_bytes());
        hasher.update(b"/");
    }
    let mut key = [0; 16];
    hasher.finalize_xof().fill(&mut key);
    key
}

impl Partial {
    /// Open what is there of a transfer, or begin it.
    ///
    /// # Errors
    /// Of the file system; [`io::ErrorKind::ResourceBusy`] if a process is receiving it now.
    pub(super) fn open(inbox: &Inbox, key: TransferKey) -> io::Result<(Self, Journal, Memory)> {
        let disk = inbox.disk().clone();
        let name = HEXLOWER.encode(&key.0);
        let (all, new_all) = open_or_make(&disk, (inbox.root(), FOLDER))?;
        sweep(&disk, all.as_fd(), &name);
        let (folder, new) = open_or_make(&disk, (all.as_fd(), &name))?;
        let here = (folder.as_fd(), JOURNAL);
        let file = match open_plain(here)? {
            Some(file) => file,
            None => disk.create(here, 0o600)?,
        };
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        locked.map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))?;
        if !exists(here)? {
            // Its former owner was about to remove it.
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let lock = file.try_clone()?;
        let (journal, memory) = Journal::open(file, disk.clone())?;
        if new {
            journal.sync()?;
            disk.sync_folder(folder.as_fd())?;
            disk.sync_folder(all.as_fd())?;
        }
        if new_all {
            disk.sync_folder(inbox.root())?;
        }
        let partial = Self {
            all,
            folder,
            name,
            disk,
            _lock: lock,
        };
        Ok((partial, journal, memory))
    }

    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// A new file for this path; one that was there is gone.
    pub(super) fn create(&self, key: &PathKey, mode: u32) -> io::Result<File> {
        let name = file_name(key);
        let here = (self.folder(), name.as_str());
        // Whoever keeps a file private keeps it private here; bits that change who a program runs as are not taken.
        let mode = (mode & 0o777) | 0o600;
        match self.disk.create(here, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(here)?;
                self.disk.create(here, mode)
            }
            created => created,
        }
    }

    /// The file for this path, if there is one.
    pub(super) fn open_file(&self, key: &PathKey) -> io::Result<Option<File>> {
        open_plain((self.folder(), &file_name(key)))
    }

    pub(super) fn remove(&self, key: &PathKey) -> io::Result<()> {
        self.disk.remove((self.folder(), &file_name(key)))
    }

    /// Remove everything of this transfer. What cannot be removed now goes with the next sweep.
    pub(super) fn clear(&self) {
        if let Err(error) = clear(&self.disk, (self.all.as_fd(), &self.name), self.folder()) {
            tracing::debug!(%error, "a partial transfer could not be removed");
        }
        self.remove_if_last();
    }

    /// Remove the folder of all partial transfers; fails while others are in it.
    fn remove_if_last(&self) {
        if let Ok(inbox) = rustix::fs::openat(
            &self.all,
            "..",
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            let _ = self.disk.remove_folder((inbox.as_fd(), FOLDER));
        }
    }
}

/// Name of the file for a path in [`Partial::folder`].
pub(super) fn file_name(key: &PathKey) -> String {
    HEXLOWER.encode(key)
}

fn open_or_make(disk: &Disk, here: Named<'_>) -> io::Result<(OwnedFd, bool)> {
    let new = match disk.make_folder(here, 0o700) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        made => {
            made?;
            true
        }
    };
    Ok((open_folder(here)?, new))
}

fn open_plain((folder, name): Named<'_>) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Remove partial transfers that nobody came back for.
fn sweep(disk: &Disk, all: BorrowedFd<'_>, but: &str) {
    let Ok(entries) = Dir::read_from(all) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name.starts_with('.') || name == but {
            continue;
        }
        if let Err(error) = remove_if_old(disk, (all, name)) {
            tracing::debug!(%error, "an old partial transfer could not be removed");
        }
    }
}

fn remove_if_old(disk: &Disk, here: Named<'_>) -> io::Result<()> {
    let folder = open_folder(here)?;
    let journal = open_plain((folder.as_fd(), JOURNAL))?;
    // A folder without a journal is being made or being removed at this moment, or is left from a crash then.
    let seen = match &journal {
        Some(journal) => journal.metadata()?,
        None => File::from(folder.try_clone()?).metadata()?,
    };
    let age = SystemTime::now()
        .duration_since(seen.modified()?)
        .unwrap_or_default();
    if age < KEPT {
        return Ok(());
    }
    if let Some(journal) = &journal
        && rustix::fs::flock(journal, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Ok(());
    }
    clear(disk, here, folder.as_fd())
}

fn clear(disk: &Disk, here: Named<'_>, folder: BorrowedFd<'_>) -> io::Result<()> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | ".." | JOURNAL) => {}
            Ok(name) => disk.remove((folder, name))?,
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    // The journal last: without it nothing says what the rest was.
    match disk.remove((folder, JOURNAL)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    disk.remove_folder(here)?;
    Ok(())
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.remove_if_last();
    }
}
