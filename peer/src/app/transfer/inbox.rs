//! The folder that received files go to, and how things get their places in it.
//!
//! Blocking; run it off the async threads. Everything is done relative to open handles of folders, one component at a
//! time, and no symbolic link is followed below the top: whoever swaps a folder for a link during a transfer gains
//! nothing. Names must be safe already ([`super::names`]). A file takes its place in one step, whole and verified, which
//! never replaces anything unless that was asked for, or an earlier attempt of the same transfer had put it there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, Named, set_modified};
use super::manifest::Manifest;
use super::messages::{Entry, Kind};
use super::names::numbered;

/// What happens when something of that name is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// The new one gets a number: `name (1).txt`.
    #[default]
    Rename,
    /// The old one stays and the new one is not sent.
    Skip,
    /// The new one replaces the old one.
    Overwrite,
}

/// How many numbers are tried for a name before giving up; a folder with more of the same name is a loop somewhere.
const NUMBERS_MAX: u32 = 999;

/// Up to so many folders are synced one by one at the end; beyond it one call for the whole file system is cheaper.
const FOLDERS_SYNCED_MAX: usize = 16;

/// An open folder for received files.
#[derive(Debug)]
pub struct Inbox {
    root: OwnedFd,
    path: PathBuf,
    disk: Disk,
}

/// Names that folders at the top got here, by the sender's names for them.
pub(super) type Roots = HashMap<String, String>;

/// Open handles of the folders of a manifest. The one used last is kept, because files come folder by folder.
#[derive(Debug)]
pub(super) struct Folders<'a> {
    inbox: &'a Inbox,
    manifest: &'a Manifest,
    roots: &'a Roots,
    last: Option<(u32, OwnedFd)>,
}

/// A plain file as it stands in a folder: which one it is, and whether somebody touched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified_ns: i64,
}

impl Seen {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::fstat(file)?))
    }

    fn from_stat(stat: &Stat) -> Self {
        let seconds = stat.st_mtime.saturating_mul(1_000_000_000);
        Self {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: seconds.saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        }
    }
}

/// Where a finished file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// To this name, which nothing has.
    New(String),
    /// To this name, in place of what has it.
    Replace(String),
    /// Nowhere: what is there stays.
    Kept,
}

impl Choice {
    /// The name, if it gets one.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::New(name) | Self::Replace(name) => Some(name),
            Self::Kept => None,
        }
    }
}

impl Inbox {
    /// Open the folder at this path, made if it is missing. The path itself may lead over links: its owner chose it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self {
            root: rustix::fs::open(path, flags, Mode::empty())?,
            path: path.canonicalize()?,
            disk: Disk::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn with_disk(self, disk: Disk) -> Self {
        Self { disk, ..self }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that an ordinary user may still write there.
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.root).ok()?;
        stat.f_bavail.checked_mul(stat.f_frsize)
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Make all folders of a manifest. `known`: names that folders at the top got in earlier attempts; `note` is told of new
    /// ones before they are made.
    ///
    /// # Errors
    /// Of the file system; also if a file or link stands where a folder has to be.
    pub(super) fn make_folders(
        &self,
        manifest: &Manifest,
        conflict: Conflict,
        known: &Roots,
        mut note: impl FnMut(&str, &str) -> io::Result<()>,
    ) -> io::Result<Roots> {
        let mut roots = Roots::new();
        for entry in manifest.roots().filter(|entry| entry.kind == Kind::Folder) {
            let stored = match known.get(&entry.name) {
                Some(stored) => self.make_again(entry, stored)?,
                None => self.make_root(entry, conflict, |stored| note(&entry.name, stored))?,
            };
            roots.insert(entry.name.clone(), stored);
        }
        let mut folders = Folders::new(self, manifest, &roots);
        let below = manifest.entries().iter().filter(|entry| entry.parent != 0);
        for entry in below.filter(|entry| entry.kind == Kind::Folder) {
            let folder = folders.get(entry.parent)?;
            match self.disk.make_folder((folder, &entry.name), folder_mode(entry)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    drop(open_folder((folder, &entry.name))?);
                }
                made => made?,
            }
        }
        drop(folders);
        Ok(roots)
    }

    /// Make the links of a manifest; returns those that could not be made.
    pub(super) fn make_links(&self, manifest: &Manifest, roots: &Roots, conflict: Conflict) -> Vec<u32> {
        let mut folders = Folders::new(self, manifest, roots);
        let mut failed = Vec::new();
        for (index, entry) in manifest.indexed() {
            let Kind::Link { target } = &entry.kind else {
                continue;
            };
            let folder = folders.get(entry.parent);
            let made = folder.and_then(|folder| self.make_link((folder, &entry.name), target, conflict));
            if let Err(error) = made {
                tracing::warn!(%error, "a link cannot be made");
                failed.push(index);
            }
        }
        failed
    }

    /// Give the folders their times, and bring them to disk, so that the names in them survive a power cut.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn settle(&self, manifest: &Manifest, roots: &Roots) -> io::Result<()> {
        let mut folders = Folders::new(self, manifest, roots);
        let mut count = 0;
        for (index, entry) in manifest.indexed().rev() {
            if entry.kind == Kind::Folder {
                set_modified(folders.get(index + 1)?, entry.modified_ns);
                count += 1;
            }
        }
        if count > FOLDERS_SYNCED_MAX {
            return self.disk.sync_all(self.root());
        }
        for (index, entry) in manifest.indexed() {
            if entry.kind == Kind::Folder {
                self.disk.sync_folder(folders.get(index + 1)?)?;
            }
        }
        self.disk.sync_folder(self.root())
    }

    /// Which name a finished file is to get in its folder. `ours`: the file that an earlier attempt put there; it may be
    /// replaced.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn choose(
        &self,
        (folder, name): Named<'_>,
        conflict: Conflict,
        ours: Option<&(String, Seen)>,
    ) -> io::Result<Choice> {
        if let Some((own, seen)) = ours
            && look((folder, own))? == Some(*seen)
        {
            return Ok(Choice::Replace(own.clone()));
        }
        if conflict == Conflict::Overwrite {
            return Ok(Choice::Replace(name.to_owned()));
        }
        for number in 0..=NUMBERS_MAX {
            let name = numbered(name, number);
            if !exists((folder, &name))? {
                return Ok(Choice::New(name));
            }
            if conflict == Conflict::Skip {
                return Ok(Choice::Kept);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Give a finished file the name that was chosen for it.
    ///
    /// # Errors
    /// Of the file system; the file is then still where it was. [`io::ErrorKind::AlreadyExists`] if somebody took the name
    /// meanwhile.
    pub(super) fn place(&self, from: Named<'_>, folder: BorrowedFd<'_>, choice: &Choice) -> io::Result<()> {
        match choice {
            Choice::New(name) => self.disk.rename(from, (folder, name)),
            Choice::Replace(name) => self.disk.replace(from, (folder, name)),
            Choice::Kept => self.disk.remove(from),
        }
    }

    /// Where an entry lies in the end; `stored` if it got another name.
    pub(super) fn shown_path(
        &self,
        manifest: &Manifest,
        roots: &Roots,
        index: u32,
        stored: Option<&str>,
    ) -> PathBuf {
        let mut names = manifest.path(index).into_iter();
        let mut path = self.path.clone();
        if let Some(root) = names.next() {
            path.push(roots.get(root).map_or(root, String::as_str));
        }
        path.extend(names);
        if let Some(name) = stored {
            path.set_file_name(name);
        }
        path
    }

    /// A folder at the top, under the first free name if it may not be one that is there.
    fn make_root(
        &self,
        entry: &Entry,
        conflict: Conflict,
        mut note: impl FnMut(&str) -> io::Result<()>,
    ) -> io::Result<String> {
        let mode = folder_mode(entry);
        for number in 0..=NUMBERS_MAX {
            let name = numbered(&entry.name, number);
            let here = (self.root(), name.as_str());
            let taken = exists(here)?;
            if taken && conflict != Conflict::Rename {
                open_folder(here)?;
            } else if taken {
                continue;
            }
            note(&name)?;
            match self.disk.make_folder(here, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && taken => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            return Ok(name);
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// A folder at the top that an earlier attempt had made, or was about to.
    fn make_again(&self, entry: &Entry, stored: &str) -> io::Result<String> {
        match self.disk.make_folder((self.root(), stored), folder_mode(entry)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                drop(open_folder((self.root(), stored))?);
            }
            made => made?,
        }
        Ok(stored.to_owned())
    }

    fn make_link(&self, (folder, name): Named<'_>, target: &str, conflict: Conflict) -> io::Result<()> {
        for number in 0..=NUMBERS_MAX {
            let name = numbered(name, number);
            let here = (folder, name.as_str());
            match self.disk.make_link(here, target) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
            let same = rustix::fs::readlinkat(folder, &*name, Vec::new())
                .is_ok_and(|there| there.to_bytes() == target.as_bytes());
            if same || conflict == Conflict::Skip {
                return Ok(());
            }
            if conflict == Conflict::Overwrite {
                self.disk.remove(here)?;
                return self.disk.make_link(here, target);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl<'a> Folders<'a> {
    pub(super) fn new(inbox: &'a Inbox, manifest: &'a Manifest, roots: &'a Roots) -> Self {
        Self {
            inbox,
            manifest,
            roots,
            last: None,
        }
    }

    /// The folder of this number, as [`Entry::parent`] counts; 0 is the top.
    pub(super) fn get(&mut self, number: u32) -> io::Result<BorrowedFd<'_>> {
        if number == 0 {
            return Ok(self.inbox.root());
        }
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            self.last = Some((number, self.open(number)?));
        }
        let last = self.last.as_ref().map(|(_, folder)| folder.as_fd());
        last.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn open(&self, number: u32) -> io::Result<OwnedFd> {
        let mut names = self.manifest.path(number - 1).into_iter();
        let root = names.next().unwrap_or_default();
        let stored = self.roots.get(root).map_or(root, String::as_str);
        let mut folder = open_folder((self.inbox.root(), stored))?;
        for name in names {
            folder = open_folder((folder.as_fd(), name))?;
        }
        Ok(folder)
    }
}

/// Is this error one of a full disk or an exhausted quota?
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Open a folder that is no link.
pub(super) fn open_folder((parent, name): Named<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Open a file that is no link, to read it.
pub(super) fn open_read((folder, name): Named<'_>) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into())
}

/// Is there anything of this name?
pub(super) fn exists((folder, name): Named<'_>) -> io::Result<bool> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The plain file of this name, if there is one.
pub(super) fn look((folder, name): Named<'_>) -> io::Result<Option<Seen>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            Ok(Some(Seen::from_stat(&stat)))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn folder_mode(entry: &Entry) -> u32 {
    (entry.mode & 0o777) | 0o700
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
