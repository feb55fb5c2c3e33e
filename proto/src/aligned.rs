//! Memory that the kernel fills quickly.
//!
//! Some processors copy many bytes with one instruction (`rep movsb`) and are slow at it where the target begins some bytes
//! behind a multiple of what the source begins at: AMD's Zen 3 took 0.6 s for a GiB read from the page cache into memory 8 or
//! 16 bytes behind the beginning of a page, 0.2 s anywhere else (`pread` of 256 KiB each, Linux 6.18). 16 bytes behind is
//! where the C library puts everything large.

use std::ops::{Deref, DerefMut};

/// Bytes to which memory is aligned: a cache line.
pub const LINE: usize = 64;

/// Bytes that begin with a cache line.
#[derive(Debug, Default)]
pub struct Aligned {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// So many zeros.
    pub fn zeroed(len: usize) -> Self {
        let storage = vec![0; len + LINE - 1];
        // The vector never grows, so it stays where it is.
        let start = storage.as_ptr().align_offset(LINE).min(LINE - 1);
        Self { storage, start, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.storage
            .get(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.storage
            .get_mut(self.start..self.start + self.len)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_length_begins_with_a_cache_line_wherever_it_is_moved() {
        let mut kept: Vec<Aligned> = [0, 1, 63, 64, 65, 4096, 65_535, 1 << 20]
            .into_iter()
            .map(|len| {
                let memory = Aligned::zeroed(len);
                assert_eq!(memory.len(), len);
                memory
            })
            .collect();
        kept.reverse();
        for memory in &mut kept {
            assert_eq!(memory.as_ptr().align_offset(LINE), 0);
            memory.fill(7);
            assert!(memory.iter().all(|byte| *byte == 7));
        }
        assert!(Aligned::default().is_empty());
    }
}
