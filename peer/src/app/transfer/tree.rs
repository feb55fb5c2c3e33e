//! How a file is cut into chunks, and how the hashes of its chunks become the hash of the file.
//!
//! BLAKE3 is a binary tree over leaves of 1 KiB. A chunk here is a whole subtree of that tree, so that it has a hash of
//! its own (a chaining value) which can be checked when the chunk arrives, and the values of all chunks give the very
//! hash that `b3sum` prints for the file. The chunk is what is verified, recorded and sent again; what is kept in memory
//! is one value a chunk, at most 4 MiB a file, because chunks grow with the file.

use blake3::hazmat::{self, HasherExt, Mode};

/// A hash of a file or of a part of it.
pub type Value = [u8; 32];

/// Smallest chunk in bytes. Smaller ones cost more values and larger journals; larger ones lose more when a transfer
/// breaks off in the middle of one. A file up to this length is one chunk.
pub const CHUNK_LEN_MIN: u64 = 1024 * 1024;

/// Most chunks of a file. Files of more than 128 GiB have larger chunks: 8 MiB at 1 TiB, 128 MiB at 16 TiB.
pub const CHUNKS_MAX: u64 = 131_072;

/// A file of some length, cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    chunk_len: u64,
}

impl Geometry {
    /// Of a file of so many bytes.
    pub fn new(size: u64) -> Self {
        let smallest = size.div_ceil(CHUNKS_MAX).max(CHUNK_LEN_MIN);
        Self {
            size,
            // At most 2^47 for any size.
            chunk_len: smallest.next_power_of_two(),
        }
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of chunks; an empty file has one, of no bytes.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.size.div_ceil(self.chunk_len).max(1)).unwrap_or(u32::MAX)
    }

    /// Is the whole file one chunk?
    pub fn is_single(&self) -> bool {
        self.size <= self.chunk_len
    }

    /// Where a chunk begins.
    pub fn start(&self, chunk: u32) -> u64 {
        u64::from(chunk).saturating_mul(self.chunk_len).min(self.size)
    }

    /// Bytes of a chunk; 0 for one that is not in the file.
    pub fn len(&self, chunk: u32) -> u64 {
        (self.size - self.start(chunk)).min(self.chunk_len)
    }

    /// The chunk that begins at or contains this byte.
    pub fn chunk_at(&self, offset: u64) -> u32 {
        u32::try_from(offset / self.chunk_len).unwrap_or(u32::MAX)
    }

    /// Begin to hash a chunk.
    pub fn hasher(&self, chunk: u32) -> ChunkHasher {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(self.start(chunk));
        ChunkHasher {
            hasher,
            single: self.is_single(),
        }
    }

    /// The hash of the file, if the values of all chunks are there.
    pub fn root(&self, values: &[Value]) -> Option<Value> {
        match values {
            [only] if self.is_single() => Some(*only),
            _ if values.len() != self.chunks() as usize => None,
            values => {
                let (left, right) = values.split_at_checked(left_count(values.len()))?;
                let root = hazmat::merge_subtrees_root(&merge(left), &merge(right), Mode::Hash);
                Some(*root.as_bytes())
            }
        }
    }
}

/// Hashes one chunk.
#[derive(Debug)]
pub struct ChunkHasher {
    hasher: blake3::Hasher,
    single: bool,
}

impl ChunkHasher {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The value of the chunk; of the only chunk of a file, the hash of the file.
    pub fn value(&self) -> Value {
        if self.single {
            *self.hasher.finalize().as_bytes()
        } else {
            self.hasher.finalize_non_root()
        }
    }
}

/// The left part of a tree holds the largest power of two that leaves something for the right part.
fn left_count(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

fn merge(values: &[Value]) -> Value {
    match values {
        [] => [0; 32],
        [only] => *only,
        values => {
            let (left, right) = values.split_at(left_count(values.len()));
            hazmat::merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn values(bytes: &[u8]) -> (Geometry, Vec<Value>) {
        let geometry = Geometry::new(bytes.len() as u64);
        let of = |chunk| {
            let start = usize::try_from(geometry.start(chunk)).unwrap();
            let end = start + usize::try_from(geometry.len(chunk)).unwrap();
            let mut hasher = geometry.hasher(chunk);
            for piece in bytes[start..end].chunks(300_001) {
                hasher.update(piece);
            }
            hasher.value()
        };
        (geometry, (0..geometry.chunks()).map(of).collect())
    }

    #[test]
    fn the_values_of_the_chunks_give_plain_blake3_of_the_file() {
        let mut bytes = vec![0; 9 * 1024 * 1024 + 5];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let mib = 1024 * 1024;
        for len in [
            0,
            1,
            1024,
            mib - 1,
            mib,
            mib + 1,
            2 * mib,
            3 * mib,
            4 * mib + 1,
            5 * mib,
            7 * mib + 1023,
            8 * mib,
            bytes.len(),
        ] {
            let (geometry, values) = values(&bytes[..len]);
            let plain = *blake3::hash(&bytes[..len]).as_bytes();
            assert_eq!(geometry.root(&values), Some(plain), "{len} bytes");
            assert_eq!(geometry.root(&values[1..]), None);
        }
    }

    #[test]
    fn chunks_cover_every_file_without_gaps_up_to_the_largest_number() {
        for size in [
            0,
            1,
            MIB,
            MIB + 1,
            128 << 30,
            (128 << 30) + 1,
            1 << 40,
            16 << 40,
            u64::MAX,
        ] {
            let geometry = Geometry::new(size);
            let chunks = geometry.chunks();
            assert!(u64::from(chunks) <= CHUNKS_MAX && chunks >= 1, "{size}");
            let last = chunks - 1;
            assert_eq!(geometry.start(last) + geometry.len(last), size);
            assert!(chunks == 1 || geometry.start(1) == geometry.len(0));
            assert_eq!(geometry.chunk_at(geometry.start(last)), last);
            assert_eq!(geometry.len(chunks), 0);
        }
        assert_eq!(Geometry::new(1 << 40).len(0), 8 * MIB);
        assert_eq!(Geometry::new(128 << 30).len(0), MIB);
    }
}
