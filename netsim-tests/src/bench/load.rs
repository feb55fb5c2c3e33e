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

/// Has memory for so many bytes of files below `dir` at hand. A virtual machine gives memory back that nobody uses, and
/// getting it again costs whoever touches it first as much as the copy itself, which is nobody's merit or fault.
pub(super) fn warm(dir: &Path, bytes: u64) -> io::Result<()> {
    let path = dir.join("warm");
    let filled = fill(&path, bytes);
    // Also what was filled in vain.
    fs::remove_file(path)?;
    filled
}

fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let (mut file, block) = (fs::File::create(path)?, vec![1; BLOCK]);
    let mut left = bytes;
    while left > 0 {
        let take = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        file.write_all(&block[..take])?;
        left -= take as u64;
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
    fn memory_is_made_ready_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        warm(dir.path(), 3_000_001).unwrap();
        assert_eq!(count(dir.path()).unwrap(), (0, 0));
    }

    #[test]
    fn nothing_is_made_that_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        Cargo::make(dir.path(), None, None).unwrap();
        assert_eq!(count(dir.path()).unwrap(), (0, 0));
    }
}
