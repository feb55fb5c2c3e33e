//! Files and directories that only their owner may read: keys, tokens, the database.
//!
//! Written so that a crash leaves either the whole file or none. Files that others can read are refused on reading,
//! because what they hold must be taken as known to others.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Longest file read here, in bytes. A key takes 120; the bound keeps a wrong path (a device, a log) from filling memory.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// Permission bits of group and others; none of them may be set.
const OTHERS: u32 = 0o077;

/// Make the directory with mode 0700 if it is missing. One that is there and empty is closed to others; one that holds
/// something and is open to others is refused, because what it holds may have been read or replaced.
///
/// # Errors
/// [`FileError::Io`] or [`FileError::TooOpen`].
pub(crate) fn ensure_dir(dir: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| FileError::io(dir, source))?;
    if is_empty(dir)? {
        let close = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        close.map_err(|source| FileError::io(dir, source))?;
    }
    refuse_open(dir, "700")
}

/// Would [`ensure_dir`] take this directory, which is there?
///
/// # Errors
/// [`FileError::Io`] or [`FileError::TooOpen`].
pub(crate) fn check_dir(dir: &Path) -> Result<(), FileError> {
    if is_empty(dir)? {
        return Ok(());
    }
    refuse_open(dir, "700")
}

/// Refuse a file that others may read.
///
/// # Errors
/// [`FileError::Io`] or [`FileError::TooOpen`].
pub(crate) fn check_file(file: &Path) -> Result<(), FileError> {
    refuse_open(file, "600")
}

/// The text in a private file.
///
/// # Errors
/// [`FileError`].
pub(crate) fn read(file: &Path) -> Result<String, FileError> {
    check_file(file)?;
    let mut text = String::new();
    File::open(file)
        .and_then(|open| open.take(FILE_LEN_MAX).read_to_string(&mut text))
        .map_err(|source| FileError::io(file, source))?;
    Ok(text)
}

/// Write a private file that must not exist yet: to a neighbour first, synced, then renamed.
///
/// # Errors
/// [`FileError::Io`].
pub(crate) fn create(file: &Path, text: &str) -> Result<(), FileError> {
    let partial = file.with_extension("partial");
    let written = || -> io::Result<()> {
        if file.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        fs::rename(&partial, file)?;
        match file.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    written().map_err(|source| FileError::io(file, source))
}

/// Make an empty private file unless one is there, and refuse one that others may read.
///
/// # Errors
/// [`FileError`].
pub(crate) fn ensure_file(file: &Path) -> Result<(), FileError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .map_err(|source| FileError::io(file, source))?;
    check_file(file)
}

fn is_empty(dir: &Path) -> Result<bool, FileError> {
    let mut entries = fs::read_dir(dir).map_err(|source| FileError::io(dir, source))?;
    Ok(entries.next().is_none())
}

fn refuse_open(path: &Path, wanted: &'static str) -> Result<(), FileError> {
    let meta = fs::metadata(path).map_err(|source| FileError::io(path, source))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(FileError::TooOpen {
        path: path.to_owned(),
        mode,
        wanted,
    })
}

/// A private file or directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Group or others have rights to it.
    #[error("{path:?} is open to other users (mode {mode:o}); run: chmod {wanted} {path:?}")]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The mode it should have.
        wanted: &'static str,
    },
    /// The file system refused.
    #[error("{path:?}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FileError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_written_whole_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        create(&file, "one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&file, "two"), Err(FileError::Io { .. })));
        assert_eq!(read(&file).unwrap(), "one");
    }

    #[test]
    fn what_others_can_read_is_refused_with_the_command_that_helps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        create(&file, "one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&file).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = ensure_dir(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_missing_or_empty_directory_becomes_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        ensure_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        check_dir(&inner).unwrap();
        ensure_dir(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
