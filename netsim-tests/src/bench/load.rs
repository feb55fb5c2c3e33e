//! The files that are sent, and a look at what arrived. Contents come from a seed and do not compress.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Bytes of each file of the folder: one page, as in a tree of sources.
pub const SMALL: usize = 4096;

/// Files to a subfolder: no folder of a real tree holds 20,000.
const TO_A_FOLDER: u32 = 200;

/// What Linux says of a file system in memory (`TMPFS_MAGIC`).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Bytes made at a time.
const BLOCK: usize = 1 << 20;

/// What is there to be sent.
#[derive(Clone, Debug)]
pub(super) struct Cargo {
    /// The large file.
    pub(super) file: PathBuf,
    /// Its bytes.
    pub(super) size: u64,
    /// The folder of small ones.
    pub(super) folder: PathBuf,
    /// How many these are.
    pub(super) files: u32,
}

impl Cargo {
    /// Makes both below `dir`; either only if it is wanted.
    pub(super) fn make(dir: &Path, size: Option<u64>, files: Option<u32>) -> io::Result<Self> {
        let cargo = Self {
            file: dir.join("large.bin"),
            size: size.unwrap_or(0),
            folder: dir.join("tree"),
            files: files.unwrap_or(0),
        };
        let mut rng = ChaCha8Rng::seed_from_u64(cargo.size ^ u64::from(cargo.files));
        if size.is_some() {
            cargo.make_file(&mut rng)?;
        }
        if files.is_some() {
            cargo.make_folder(&mut rng)?;
        }
        Ok(cargo)
    }

    /// Bytes of the folder's files.
    pub(super) fn folder_bytes(&self) -> u64 {
        u64::from(self.files) * SMALL as u64
    }

    fn make_file(&self, rng: &mut ChaCha8Rng) -> io::Result<()> {
        let mut file = fs::File::create(&self.file)?;
        let mut block = vec![0; BLOCK];
        let mut left = self.size;
        while left > 0 {
            rng.fill_bytes(&mut block);
            let take = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            file.write_all(&block[..take])?;
            left -= take as u64;
        }
        Ok(())
    }

    fn make_folder(&self, rng: &mut ChaCha8Rng) -> io::Result<()> {
        let mut block = [0; SMALL];
        for number in 0..self.files {
            let folder = self.folder.join(format!("{:03}", number / TO_A_FOLDER));
            if number % TO_A_FOLDER == 0 {
                fs::create_dir_all(&folder)?;
            }
            rng.fill_bytes(&mut block);
            fs::write(folder.join(format!("{number:05}")), block)?;
        }
        Ok(())
    }
}

/// Memory for files, at hand until this is dropped.
///
/// A virtual machine gives memory back that nobody uses, and getting it again costs whoever touches it first six times as much as the
/// copy itself, which is nobody's merit or fault. It gives back whole large blocks, at once. So of every two pages that are filled
/// here one is freed and one kept: what is free between is too small to be given back, and what the next file gets.
#[derive(Debug)]
pub(super) struct Warm {
    kept: PathBuf,
}

impl Warm {
    /// Memory for so many bytes of files below `dir`; none if there is no room for them twice, or if `dir` is on a disk.
    pub(super) fn up(dir: &Path, bytes: u64) -> io::Result<Self> {
        let warm = Self {
            kept: dir.join("kept"),
        };
        if rustix::fs::statfs(dir)?.f_type == TMPFS {
            let free = dir.join("free");
            let filled = fill([&warm.kept, &free], bytes);
            // Also what was filled in vain.
            fs::remove_file(free)?;
            match filled {
                // What is kept would be missing for what arrives.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => fs::remove_file(&warm.kept)?,
                filled => filled?,
            }
        }
        Ok(warm)
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.kept);
    }
}

/// Fills both, page by page in turns.
fn fill([kept, free]: [&Path; 2], bytes: u64) -> io::Result<()> {
    let mut files = [fs::File::create(kept)?, fs::File::create(free)?];
    for _ in 0..bytes.div_ceil(SMALL as u64) {
        for file in &mut files {
            file.write_all(&[1; SMALL])?;
        }
    }
    Ok(())
}

/// Files and bytes below a folder, links not followed.
pub(super) fn count(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let below = count(&entry.path())?;
            (files, bytes) = (files + below.0, bytes + below.1);
        } else if kind.is_file() {
            (files, bytes) = (files + 1, bytes + entry.metadata()?.len());
        }
    }
    Ok((files, bytes))
}

/// Removes what is in a folder and leaves the folder, which is made if it is not there.
pub(super) fn empty(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let cargo = Cargo::make(dir.path(), Some(3_000_001), Some(401)).unwrap();
        assert_eq!(fs::metadata(&cargo.file).unwrap().len(), 3_000_001);
        assert_eq!(count(&cargo.folder).unwrap(), (401, 401 * 4096));
        assert_eq!(cargo.folder_bytes(), 401 * 4096);
        empty(&cargo.folder).unwrap();
        assert_eq!(count(&cargo.folder).unwrap(), (0, 0));
        assert!(cargo.folder.is_dir());
    }

    #[test]
    fn memory_is_kept_ready_and_nothing_is_left() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let warm = Warm::up(dir.path(), 3_000_001).unwrap();
        assert_eq!(count(dir.path()).unwrap(), (1, 733 * 4096));
        drop(warm);
        assert_eq!(count(dir.path()).unwrap(), (0, 0));
    }

    #[test]
    fn nothing_is_made_that_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        Cargo::make(dir.path(), None, None).unwrap();
        assert_eq!(count(dir.path()).unwrap(), (0, 0));
    }
}
