//! Packet buffers that are used again. Two sizes: one that holds any packet, one for packets of a common MTU, so that
//! packets in flight over a long link do not hold 64 KiB each.

use super::packet::BUFFER_LEN;

/// Holds a packet of 1500 bytes with its virtio-net header.
const SMALL_LEN: usize = 2048;

/// Spare buffers kept: 16 MiB of large ones, 8 MiB of small ones. Fewer cost allocations under load over a long link,
/// more cost memory that nothing uses.
const SPARE_LARGE: usize = 256;
const SPARE_SMALL: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Pool {
    large: Vec<Vec<u8>>,
    small: Vec<Vec<u8>>,
}

impl Pool {
    /// A buffer of at least `length` bytes, its content arbitrary.
    pub(super) fn take(&mut self, length: usize) -> Vec<u8> {
        if length <= SMALL_LEN {
            self.small.pop().unwrap_or_else(|| vec![0; SMALL_LEN])
        } else {
            self.large.pop().unwrap_or_else(|| vec![0; BUFFER_LEN])
        }
    }

    /// A buffer that holds any packet.
    pub(super) fn take_largest(&mut self) -> Vec<u8> {
        self.take(BUFFER_LEN)
    }

    /// Would a packet of so many bytes fit into a smaller buffer than this?
    pub(super) fn wastes(length: usize, footprint: usize) -> bool {
        length <= SMALL_LEN && footprint > SMALL_LEN
    }

    pub(super) fn give(&mut self, buffer: Vec<u8>) {
        if buffer.len() == BUFFER_LEN && self.large.len() < SPARE_LARGE {
            self.large.push(buffer);
        } else if buffer.len() == SMALL_LEN && self.small.len() < SPARE_SMALL {
            self.small.push(buffer);
        }
    }
}
