//! Memory in which a socket receives in batches, and how much of it the kernel is given at a time.
//!
//! One call takes many datagrams: the kernel fills a buffer with each, or coalesces those of one flow into a long batch in one
//! buffer. Short ones cost least if a call takes many; long ones must still lie in the processor's cache when they are read
//! again, so after a long batch the next call is offered few buffers, and many again after a call without one.
//!
//! A driver takes [`ReceiveBuffers::offered`], gives it to the socket, and tells with [`ReceiveBuffers::saw`] what came. One
//! that can receive long batches elsewhere without a copy asks [`ReceiveBuffers::few`] first.

use std::io::IoSliceMut;
use std::ops::{Deref, DerefMut};

use crate::aligned::Aligned;

/// Buffers, and so the datagrams that come in one call where the kernel does not coalesce: as many as quinn's call takes. More
/// would never be filled, fewer cost a system call more often.
pub const BUFFERS: usize = 32;

/// Bytes of a buffer: the largest batch that the kernel coalesces, in whole cache lines. With less, the ends of such batches
/// would be cut off; more would never be filled.
pub const BUFFER_LEN: usize = 64 * 1024;

/// Buffers offered while the kernel fills them with long batches: 256 KiB lie in the cache of one processor, the 2 MiB of all
/// do not. More, and reading them again goes to memory; fewer, and a call takes less than it could.
const FEW: usize = 4;

/// Bytes from which on a batch is long. All buffers with shorter ones are below 512 KiB. More, and batches of middling length
/// leave the cache; less, and they cost more calls than they need.
const LONG: usize = 16 * 1024;

/// Buffers that sockets are read into, one socket at a time.
#[derive(Debug)]
pub struct ReceiveBuffers {
    memory: Aligned,
    offered: usize,
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self {
            memory: Aligned::zeroed(BUFFERS * BUFFER_LEN),
            offered: BUFFERS,
        }
    }
}

impl ReceiveBuffers {
    /// Those for the next call. Each begins with a cache line and has [`BUFFER_LEN`] bytes; what was received last is still in
    /// them.
    pub fn offered(&mut self) -> Offered<'_> {
        let mut buffers = self.memory.chunks_exact_mut(BUFFER_LEN).take(self.offered);
        Offered {
            slices: std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default())),
            count: self.offered,
        }
    }

    /// How many buffers the next call should have if it may have only few: the batch before was long.
    pub fn few(&self) -> Option<usize> {
        (self.offered == FEW).then_some(FEW)
    }

    /// A call filled buffers, the fullest with so many bytes.
    pub fn saw(&mut self, longest: usize) {
        self.offered = if longest >= LONG { FEW } else { BUFFERS };
    }
}

/// Buffers for one call.
#[derive(Debug)]
pub struct Offered<'a> {
    /// Only the first `count` have any bytes.
    slices: [IoSliceMut<'a>; BUFFERS],
    count: usize,
}

impl<'a> Deref for Offered<'a> {
    type Target = [IoSliceMut<'a>];

    fn deref(&self) -> &Self::Target {
        self.slices.get(..self.count).unwrap_or_default()
    }
}

impl DerefMut for Offered<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.slices.get_mut(..self.count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_buffers_are_offered_until_a_batch_is_long_and_again_when_none_is() {
        let mut buffers = ReceiveBuffers::default();
        assert_eq!(buffers.offered().len(), 32);
        let calls = [
            (100, 32),
            (16 * 1024 - 1, 32),
            (16 * 1024, 4),
            (65_535, 4),
            (16 * 1024 - 1, 32),
            (65_535, 4),
            (0, 32),
        ];
        for (longest, offered) in calls {
            buffers.saw(longest);
            assert_eq!(buffers.offered().len(), offered, "after {longest}");
            // Nothing was received; the rule stays.
            assert_eq!(buffers.offered().len(), offered, "still after {longest}");
            assert_eq!(buffers.few(), (offered == 4).then_some(4), "after {longest}");
        }
    }

    #[test]
    fn each_buffer_begins_with_a_cache_line_and_takes_the_longest_batch() {
        let mut buffers = ReceiveBuffers::default();
        for longest in [0, 65_535] {
            buffers.saw(longest);
            for buffer in buffers.offered().iter() {
                assert_eq!(buffer.len(), 65_536);
                assert_eq!(buffer.as_ptr().align_offset(64), 0);
            }
        }
    }

    #[test]
    fn buffers_are_apart_and_few_are_the_first_of_all() {
        let mut buffers = ReceiveBuffers::default();
        for (number, buffer) in (1..).zip(buffers.offered().iter_mut()) {
            buffer.fill(number);
        }
        for (longest, count) in [(65_535, 4), (0, 32)] {
            buffers.saw(longest);
            let offered = buffers.offered();
            let whole = (1..).zip(offered.iter());
            let whole = whole.filter(|(number, buffer)| buffer.iter().all(|byte| byte == number));
            assert_eq!(whole.count(), count);
        }
    }
}
