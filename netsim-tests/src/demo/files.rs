//! The file that is sent: made from a seed, so that it does not compress and differs from run to run only by choice.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::Stop;

/// Bytes made or read at a time: large enough that system calls do not count, small enough to stop quickly.
const BLOCK: usize = 1 << 20;

/// Write `size` bytes that nobody can guess or compress.
///
/// # Errors
/// What the file system says; `Interrupted` when stopped.
pub(super) fn make(path: &Path, size: u64, seed: u64, stop: &Stop) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut block = vec![0; BLOCK];
    let mut left = size;
    while left > 0 {
        stop.check()
            .map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
        rng.fill_bytes(&mut block);
        let take = usize::try_from(left.min(BLOCK as u64)).unwrap_or(BLOCK);
        file.write_all(&block[..take])?;
        left -= take as u64;
    }
    Ok(())
}

/// BLAKE3 of a file, in hexadecimal.
///
/// # Errors
/// What the file system says.
pub(super) fn hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK];
    loop {
        let read = file.read(&mut block)?;
        if read == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&block[..read]);
    }
}
