//! Every change that the receiving side makes to a disk, one function each.
//!
//! Blocking, and without any judgement: names are safe already, folders are open handles. That all changes pass through
//! here lets a test end the world between any two of them, and take back what was not synced.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// Access to the disk.
#[derive(Clone, Default)]
pub(super) struct Disk {
    #[cfg(test)]
    pub(super) fate: Option<std::sync::Arc<dyn Fate>>,
}

/// One change.
#[cfg_attr(not(test), allow(dead_code))] // only tests look at them
pub(super) enum Act<'a> {
    MakeFolder(BorrowedFd<'a>, &'a str),
    Create(BorrowedFd<'a>, &'a str),
    Link(BorrowedFd<'a>, &'a str),
    Write(&'a File, &'a [u8], u64),
    SetLen(&'a File, u64),
    SyncFile(&'a File),
    SyncFolder(BorrowedFd<'a>),
    SyncAll,
    /// From a name in a folder to one in another; replacing what is there only if `true`.
    Rename([(BorrowedFd<'a>, &'a str); 2], bool),
    Remove(BorrowedFd<'a>, &'a str, AtFlags),
}

/// Decides for a test what becomes of a change.
#[cfg(test)]
pub(super) trait Fate: Send + Sync {
    /// Shall it be done? `false`: it only looks so.
    fn decide(&self, act: &Act<'_>) -> io::Result<bool>;
}

/// A name in a folder.
pub(super) type Named<'a> = (BorrowedFd<'a>, &'a str);

impl Disk {
    pub(super) fn make_folder(&self, (parent, name): Named<'_>, mode: u32) -> io::Result<()> {
        if self.may(&Act::MakeFolder(parent, name))? {
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode))?;
        }
        Ok(())
    }

    /// A file that was not there before; the mask of the process takes from `mode`.
    pub(super) fn create(&self, (folder, name): Named<'_>, mode: u32) -> io::Result<File> {
        self.may(&Act::Create(folder, name))?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode))?;
        Ok(File::from(file))
    }

    pub(super) fn make_link(&self, (folder, name): Named<'_>, target: &str) -> io::Result<()> {
        if self.may(&Act::Link(folder, name))? {
            rustix::fs::symlinkat(target, folder, name)?;
        }
        Ok(())
    }

    pub(super) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.may(&Act::Write(file, bytes, offset))? {
            file.write_all_at(bytes, offset)?;
        }
        Ok(())
    }

    pub(super) fn set_len(&self, file: &File, length: u64) -> io::Result<()> {
        if self.may(&Act::SetLen(file, length))? {
            file.set_len(length)?;
        }
        Ok(())
    }

    pub(super) fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.may(&Act::SyncFile(file))? {
            file.sync_data()?;
        }
        Ok(())
    }

    pub(super) fn sync_folder(&self, folder: BorrowedFd<'_>) -> io::Result<()> {
        if self.may(&Act::SyncFolder(folder))? {
            rustix::fs::fsync(folder)?;
        }
        Ok(())
    }

    /// Everything on the file system that holds this folder.
    pub(super) fn sync_all(&self, folder: BorrowedFd<'_>) -> io::Result<()> {
        if self.may(&Act::SyncAll)? {
            rustix::fs::syncfs(folder)?;
        }
        Ok(())
    }

    pub(super) fn replace(&self, from: Named<'_>, to: Named<'_>) -> io::Result<()> {
        if self.may(&Act::Rename([from, to], true))? {
            rustix::fs::renameat(from.0, from.1, to.0, to.1)?;
        }
        Ok(())
    }

    /// Rename without replacing; [`io::ErrorKind::AlreadyExists`] if the new name is taken.
    pub(super) fn rename(&self, from: Named<'_>, to: Named<'_>) -> io::Result<()> {
        if self.may(&Act::Rename([from, to], false))? {
            rename_new(from, to)?;
        }
        Ok(())
    }

    pub(super) fn remove(&self, (folder, name): Named<'_>) -> io::Result<()> {
        self.unlink((folder, name), AtFlags::empty())
    }

    /// An empty folder.
    pub(super) fn remove_folder(&self, (folder, name): Named<'_>) -> io::Result<()> {
        self.unlink((folder, name), AtFlags::REMOVEDIR)
    }

    fn unlink(&self, (folder, name): Named<'_>, flags: AtFlags) -> io::Result<()> {
        if self.may(&Act::Remove(folder, name, flags))? {
            rustix::fs::unlinkat(folder, name, flags)?;
        }
        Ok(())
    }

    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))] // in a test it decides
    fn may(&self, act: &Act<'_>) -> io::Result<bool> {
        #[cfg(test)]
        if let Some(fate) = &self.fate {
            return fate.decide(act);
        }
        let _ = act;
        Ok(true)
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

/// Set the time of last modification. A file system without times is no reason to lose a file, so nothing is reported.
pub(super) fn set_modified(file: impl AsFd, modified_ns: i64) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified_ns.div_euclid(1_000_000_000),
            tv_nsec: modified_ns.rem_euclid(1_000_000_000),
        },
    };
    let _ = rustix::fs::futimens(file, &times);
}

fn rename_new(from: Named<'_>, to: Named<'_>) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    // File systems without that flag: a hard link is as atomic, and fails if the name exists.
    match rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty()) {
        Ok(()) => return rustix::fs::unlinkat(from.0, from.1, AtFlags::empty()),
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    // Without hard links either: claim the name with an empty file, which the rename then replaces.
    let claim = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(to.0, to.1, claim, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::renameat(from.0, from.1, to.0, to.1)
}
