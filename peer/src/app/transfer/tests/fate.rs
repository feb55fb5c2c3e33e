//! A disk that can stop at any change, and forget what was not synced.
//!
//! The changes are made for real, in a real folder; what a power cut would take back is remembered, and taken back on
//! demand. Metadata is lost from the end, as a file system with a journal loses it; the data of each file likewise, with its
//! last write torn. A sync is only noted.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir};

use super::super::disk::{Act, Fate};
use super::Dice;

/// The disk of one life of a receiver.
pub(crate) struct Life {
    state: Mutex<State>,
    stash: PathBuf,
}

struct State {
    left: u64,
    dead: bool,
    changes: Vec<Change>,
    dice: Dice,
}

/// What would be taken back.
enum Change {
    Data {
        file: File,
        inode: u64,
        offset: u64,
        old: Vec<u8>,
        old_len: u64,
        len: u64,
    },
    Made {
        folder: OwnedFd,
        name: String,
        is_folder: bool,
    },
    Renamed {
        from: (OwnedFd, String),
        to: (OwnedFd, String),
    },
    Removed {
        folder: OwnedFd,
        name: String,
        stashed: PathBuf,
    },
}

impl Life {
    /// It ends before the change of this number. `stash`: a folder on the same disk for what is removed.
    pub(crate) fn new(changes: u64, stash: &Path, dice: Dice) -> Self {
        Self {
            state: Mutex::new(State {
                left: changes,
                dead: false,
                changes: Vec::new(),
                dice,
            }),
            stash: stash.to_owned(),
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.lock().unwrap().dead
    }

    /// Nothing more is done.
    pub(crate) fn end(&self) {
        self.state.lock().unwrap().dead = true;
    }

    /// Take back what was not synced, as far as chance wants.
    pub(crate) fn cut_power(&self) {
        let mut state = self.state.lock().unwrap();
        state.dead = true;
        let changes = std::mem::take(&mut state.changes);
        let (data, names): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::Data { .. }));
        let mut files: BTreeMap<u64, Vec<Change>> = BTreeMap::new();
        for change in data {
            if let Change::Data { inode, .. } = &change {
                files.entry(*inode).or_default().push(change);
            }
        }
        for changes in files.into_values() {
            let kept = state.dice.below(changes.len() as u64 + 1);
            for (at, change) in changes.into_iter().enumerate().rev() {
                match at as u64 {
                    at if at > kept => change.take_back(),
                    at if at == kept => change.tear(&mut state.dice),
                    _ => {}
                }
            }
        }
        let kept = state.dice.below(names.len() as u64 + 1);
        for (at, change) in names.into_iter().enumerate().rev() {
            if at as u64 >= kept {
                change.take_back();
            }
        }
    }

    fn stashed(&self) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        self.stash
            .join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Out of the way, but not gone.
    fn remove(&self, state: &mut State, folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let stashed = self.stashed();
        rustix::fs::renameat(folder, name, rustix::fs::CWD, &stashed)?;
        let name = name.to_owned();
        let folder = folder.try_clone_to_owned()?;
        state.changes.push(Change::Removed {
            folder,
            name,
            stashed,
        });
        Ok(())
    }
}

impl Fate for Life {
    fn decide(&self, act: &Act<'_>) -> io::Result<bool> {
        let mut state = self.state.lock().unwrap();
        if state.dead {
            return Err(io::Error::other("killed"));
        }
        if state.left == 0 {
            state.dead = true;
            if let Act::Write(file, bytes, offset) = act {
                // Half of a write may be there.
                let half = state.dice.below(bytes.len() as u64 + 1);
                let bytes = &bytes[..usize::try_from(half).unwrap()];
                state
                    .changes
                    .push(Change::data(file, *offset, bytes.len() as u64)?);
                file.write_all_at(bytes, *offset)?;
            }
            return Err(io::Error::other("killed"));
        }
        state.left -= 1;
        self.note(&mut state, act)
    }
}

impl Life {
    /// Remember how to take a change back.
    fn note(&self, state: &mut State, act: &Act<'_>) -> io::Result<bool> {
        let made = |folder: &BorrowedFd<'_>, name: &str, is_folder| {
            io::Result::Ok(Change::Made {
                folder: folder.try_clone_to_owned()?,
                name: name.to_owned(),
                is_folder,
            })
        };
        match act {
            Act::MakeFolder(folder, name) | Act::Create(folder, name) | Act::Link(folder, name) => {
                if !there(*folder, name) {
                    state
                        .changes
                        .push(made(folder, name, matches!(act, Act::MakeFolder(..)))?);
                }
            }
            Act::Write(file, bytes, offset) => {
                state
                    .changes
                    .push(Change::data(file, *offset, bytes.len() as u64)?);
            }
            Act::SetLen(file, length) => {
                let old_len = file.metadata()?.len();
                let from = old_len.min(*length);
                state
                    .changes
                    .push(Change::data(file, from, old_len.max(*length) - from)?);
            }
            Act::SyncFile(file) => {
                let synced = file.metadata()?.ino();
                state
                    .changes
                    .retain(|change| !matches!(change, Change::Data { inode, .. } if *inode == synced));
                return Ok(false);
            }
            Act::SyncFolder(folder) => {
                let synced = inode(*folder);
                state.changes.retain(|change| !change.is_in(synced));
                return Ok(false);
            }
            Act::SyncAll => {
                state.changes.clear();
                return Ok(false);
            }
            Act::Rename([from, to], replaces) => {
                let taken = there(to.0, to.1);
                if taken && *replaces {
                    self.remove(state, to.0, to.1)?;
                }
                if !taken || *replaces {
                    let named = |named: &(BorrowedFd<'_>, &str)| {
                        io::Result::Ok((named.0.try_clone_to_owned()?, named.1.to_owned()))
                    };
                    state.changes.push(Change::Renamed {
                        from: named(from)?,
                        to: named(to)?,
                    });
                }
            }
            Act::Remove(folder, name, flags) => {
                if flags.contains(AtFlags::REMOVEDIR) && !is_empty(*folder, name) {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                self.remove(state, *folder, name)?;
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Change {
    /// Bytes are about to be written there.
    fn data(file: &File, offset: u64, len: u64) -> io::Result<Self> {
        let meta = file.metadata()?;
        let there = meta.len().saturating_sub(offset).min(len);
        let mut old = vec![0; usize::try_from(there).unwrap()];
        file.read_exact_at(&mut old, offset)?;
        Ok(Self::Data {
            file: file.try_clone()?,
            inode: meta.ino(),
            offset,
            old,
            old_len: meta.len(),
            len,
        })
    }

    fn is_in(&self, folder: u64) -> bool {
        match self {
            Self::Data { .. } => false,
            Self::Made { folder: at, .. } | Self::Removed { folder: at, .. } => inode(at.as_fd()) == folder,
            Self::Renamed { from, to } => [from, to].iter().any(|(at, _)| inode(at.as_fd()) == folder),
        }
    }

    fn take_back(self) {
        match self {
            Self::Data {
                file,
                offset,
                old,
                old_len,
                ..
            } => {
                file.write_all_at(&old, offset).unwrap();
                file.set_len(old_len).unwrap();
            }
            Self::Made {
                folder,
                name,
                is_folder,
            } => {
                let flags = if is_folder {
                    AtFlags::REMOVEDIR
                } else {
                    AtFlags::empty()
                };
                match rustix::fs::unlinkat(&folder, &*name, flags) {
                    // Its move elsewhere, or what is in it, is on disk, and itself with it.
                    Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY) => {}
                    Err(error) => panic!("{name} cannot be taken back: {error}"),
                }
            }
            Self::Renamed { from, to } => rustix::fs::renameat(&to.0, &*to.1, &from.0, &*from.1).unwrap(),
            Self::Removed {
                folder,
                name,
                stashed,
            } => {
                rustix::fs::renameat(rustix::fs::CWD, &stashed, &folder, &*name).unwrap();
            }
        }
    }

    /// Only its beginning is on disk.
    fn tear(self, dice: &mut Dice) {
        if let Self::Data {
            file,
            offset,
            old,
            old_len,
            len,
            ..
        } = self
        {
            let kept = dice.below(len + 1);
            let lost = usize::try_from(kept.min(old.len() as u64)).unwrap();
            file.write_all_at(&old[lost..], offset + lost as u64).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length.min(old_len.max(offset + kept))).unwrap();
        }
    }
}

fn inode(folder: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(folder).unwrap().st_ino
}

fn there(folder: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn is_empty(folder: BorrowedFd<'_>, name: &str) -> bool {
    let Ok(folder) = super::super::inbox::open_folder((folder, name)) else {
        return true;
    };
    let names: HashSet<Vec<u8>> = Dir::read_from(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
        .collect();
    names.len() <= 2
}
