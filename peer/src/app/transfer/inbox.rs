//! The folder that received files go to, and the only code that writes into it.
//!
//! Blocking; run it off the async threads. Everything is done relative to open handles of folders, one component at a
//! time, and no symbolic link is followed below the top: whoever swaps a folder for a link during a transfer gains
//! nothing. Names must be safe already ([`super::names`]). A file grows under a name of its own
//! (`NAME.knothole-part`) and takes its place in one step, which never replaces anything unless that was asked for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

use super::manifest::Manifest;
use super::messages::{Entry, Kind, Run};
use super::names::{NAME_LEN_MAX, PART_SUFFIX};

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

/// How many partial files of one name may be in use by running transfers at once.
const PARTS_MAX: u32 = 8;

/// An open folder for received files.
#[derive(Debug)]
pub struct Inbox {
    root: OwnedFd,
    path: PathBuf,
}

/// Where the entries of one manifest go.
#[derive(Debug)]
pub struct Layout {
    /// Folders at the top that got another name.
    roots: HashMap<String, String>,
    /// Entries that are to be sent.
    pub wanted: Vec<Run>,
    /// How many of them are files.
    pub wanted_files: u32,
    /// Bytes of those files.
    pub wanted_bytes: u64,
}

/// A file that is being received. Dropping it leaves the partial file where it is.
#[derive(Debug)]
pub struct Part {
    folder: OwnedFd,
    file: File,
    part_name: String,
    name: String,
    modified_ns: i64,
}

/// What became of a finished part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It lies under this name in its folder.
    Stored(String),
    /// Another file was there already and stays.
    Kept,
    /// It was not what was sent, and is deleted.
    Mismatch,
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
        })
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

    /// Make all folders of a manifest, and see which of its files are wanted.
    ///
    /// # Errors
    /// Of the file system; also if a file or link stands where a folder has to be.
    pub fn prepare(&self, manifest: &Manifest, conflict: Conflict) -> io::Result<Layout> {
        let mut layout = Layout {
            roots: HashMap::new(),
            wanted: Vec::new(),
            wanted_files: 0,
            wanted_bytes: 0,
        };
        for (index, entry) in (0..).zip(manifest.entries()) {
            match entry.kind {
                Kind::Folder => self.make_folder(entry, conflict, &mut layout)?,
                Kind::File if conflict == Conflict::Skip && self.is_taken(&layout, entry)? => {}
                Kind::File => {
                    layout.want(index);
                    layout.wanted_files += 1;
                    layout.wanted_bytes = layout.wanted_bytes.saturating_add(entry.size);
                }
            }
        }
        Ok(layout)
    }

    /// Begin to receive a file.
    ///
    /// # Errors
    /// Of the file system.
    pub fn begin(&self, layout: &Layout, entry: &Entry) -> io::Result<Part> {
        let (folder, name) = self.folder_of(layout, entry)?;
        // Whoever keeps a file private keeps it private here; nothing becomes executable on the way.
        let mode = Mode::from_raw_mode((entry.mode & 0o666) | 0o600);
        for number in 0..PARTS_MAX {
            let part_name = part_name(&name, number);
            if let Some(file) = open_part(folder.as_fd(), &part_name, mode)? {
                return Ok(Part {
                    folder,
                    file,
                    part_name,
                    name,
                    modified_ns: entry.modified_ns,
                });
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Bring the folders of a manifest to disk, so that the names in them survive a power cut.
    ///
    /// # Errors
    /// Of the file system.
    pub fn sync(&self, layout: &Layout, manifest: &Manifest) -> io::Result<()> {
        for entry in manifest.entries().iter().filter(|e| e.kind == Kind::Folder) {
            rustix::fs::fsync(self.walk(layout, &entry.path)?)?;
        }
        Ok(rustix::fs::fsync(&self.root)?)
    }

    /// Where an entry of the top lies in the end.
    pub fn shown_path(&self, layout: &Layout, entry: &Entry, stored: Option<&str>) -> PathBuf {
        let mut path = self.path.clone();
        path.extend(layout.renamed_path(&entry.path));
        if let Some(name) = stored {
            path.set_file_name(name);
        }
        path
    }

    fn make_folder(&self, entry: &Entry, conflict: Conflict, layout: &mut Layout) -> io::Result<()> {
        let (parent, name) = self.folder_of(layout, entry)?;
        let mode = Mode::from_raw_mode((entry.mode & 0o777) | 0o700);
        let fresh = entry.path.len() == 1 && conflict == Conflict::Rename;
        for number in 0..=NUMBERS_MAX {
            let numbered = numbered(&name, number);
            match rustix::fs::mkdirat(&parent, &*numbered, mode) {
                Ok(()) => {
                    if number > 0 {
                        layout.roots.insert(name, numbered);
                    }
                    return Ok(());
                }
                Err(Errno::EXIST) if fresh => {}
                Err(Errno::EXIST) => return open_folder(parent.as_fd(), &name).map(drop),
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn is_taken(&self, layout: &Layout, entry: &Entry) -> io::Result<bool> {
        let (folder, name) = self.folder_of(layout, entry)?;
        exists(folder.as_fd(), &name)
    }

    fn folder_of(&self, layout: &Layout, entry: &Entry) -> io::Result<(OwnedFd, String)> {
        let Some((name, parents)) = entry.path.split_last() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.walk(layout, parents)?, name.clone()))
    }

    fn walk(&self, layout: &Layout, path: &[String]) -> io::Result<OwnedFd> {
        let mut folder = self.root.try_clone()?;
        for name in layout.renamed_path(path) {
            folder = open_folder(folder.as_fd(), name)?;
        }
        Ok(folder)
    }
}

impl Layout {
    fn want(&mut self, index: u32) {
        match self.wanted.last_mut() {
            Some(run) if run.first + run.count == index => run.count += 1,
            _ => self.wanted.push(Run {
                first: index,
                count: 1,
            }),
        }
    }

    fn renamed_path<'a>(&'a self, path: &'a [String]) -> impl Iterator<Item = &'a str> {
        path.iter().enumerate().map(|(depth, name)| {
            let renamed = self.roots.get(name).filter(|_| depth == 0);
            renamed.unwrap_or(name).as_str()
        })
    }
}

impl Part {
    /// The file to write into.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Bring the bytes to disk and the file to its place.
    ///
    /// # Errors
    /// Of the file system; the partial file is then still there.
    pub fn place(self, conflict: Conflict) -> io::Result<Placed> {
        // A file system without times is no reason to lose the file.
        let _ = rustix::fs::futimens(&self.file, &times(self.modified_ns));
        self.file.sync_all()?;
        let folder = self.folder.as_fd();
        match conflict {
            Conflict::Overwrite => {
                rustix::fs::renameat(folder, &*self.part_name, folder, &*self.name)?;
                Ok(Placed::Stored(self.name))
            }
            Conflict::Skip => match rename_new(folder, &self.part_name, &self.name) {
                Err(Errno::EXIST) => {
                    self.discard()?;
                    Ok(Placed::Kept)
                }
                other => other.map(|()| Placed::Stored(self.name)).map_err(Into::into),
            },
            Conflict::Rename => {
                for number in 0..=NUMBERS_MAX {
                    let name = numbered(&self.name, number);
                    match rename_new(folder, &self.part_name, &name) {
                        Err(Errno::EXIST) => {}
                        other => return other.map(|()| Placed::Stored(name)).map_err(Into::into),
                    }
                }
                Err(io::ErrorKind::AlreadyExists.into())
            }
        }
    }

    /// Delete what arrived.
    ///
    /// # Errors
    /// Of the file system.
    pub fn discard(self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.folder,
            &*self.part_name,
            AtFlags::empty(),
        )?)
    }
}

/// Is this error one of a full disk or an exhausted quota?
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn open_folder(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn exists(folder: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A partial file that nobody else is writing: a new one, or one that an ended transfer left. `None`: in use, or not
/// a plain file.
fn open_part(folder: BorrowedFd<'_>, name: &str, mode: Mode) -> io::Result<Option<File>> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(folder, name, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Err(Errno::EXIST) => match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NOENT | Errno::ACCESS) => return Ok(None),
            other => other?,
        },
        other => other?,
    };
    if rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    // Between opening and locking, its former writer may have moved it to its place: then it is no longer ours to cut.
    let open = rustix::fs::fstat(&opened)?;
    let plain = FileType::from_raw_mode(open.st_mode) == FileType::RegularFile && open.st_nlink == 1;
    let same = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
        Err(Errno::NOENT) => false,
        Err(error) => return Err(error.into()),
    };
    if !plain || !same {
        return Ok(None);
    }
    rustix::fs::ftruncate(&opened, 0)?;
    Ok(Some(File::from(opened)))
}

/// Rename without replacing.
fn rename_new(folder: BorrowedFd<'_>, from: &str, to: &str) -> Result<(), Errno> {
    match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    // File systems without that flag: a hard link is as atomic, and fails if the name exists.
    match rustix::fs::linkat(folder, from, folder, to, AtFlags::empty()) {
        Ok(()) => return rustix::fs::unlinkat(folder, from, AtFlags::empty()),
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other,
    }
    // Without hard links either: claim the name with an empty file, which the rename then replaces.
    let claim = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(folder, to, claim, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::renameat(folder, from, folder, to)
}

/// `name (1).txt` for number 1; the name itself for 0. Cut so that it stays a legal name.
fn numbered(name: &str, number: u32) -> String {
    if number == 0 {
        return name.to_owned();
    }
    let (stem, ending) = match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= 16 => name.split_at(at),
        _ => (name, ""),
    };
    let tail = format!(" ({number}){ending}");
    format!("{}{tail}", cut(stem, NAME_LEN_MAX - tail.len()))
}

fn part_name(name: &str, number: u32) -> String {
    let tail = match number {
        0 => PART_SUFFIX.to_owned(),
        n => format!(".{n}{PART_SUFFIX}"),
    };
    if name.len() + tail.len() <= NAME_LEN_MAX {
        return format!("{name}{tail}");
    }
    // A cut name alone could be that of another file of the same transfer.
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let tail = format!("~{}{tail}", hash.get(..16).unwrap_or_default());
    format!("{}{tail}", cut(name, NAME_LEN_MAX - tail.len()))
}

/// The longest beginning of at most `len` bytes that ends between characters.
fn cut(text: &str, len: usize) -> &str {
    let end = (0..=len.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn times(modified_ns: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified_ns.div_euclid(1_000_000_000),
            tv_nsec: modified_ns.rem_euclid(1_000_000_000),
        },
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
