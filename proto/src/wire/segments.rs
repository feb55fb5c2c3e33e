//! One receive buffer, many datagrams: walking what the kernel coalesced.
//!
//! With receive offload (UDP GRO) a buffer of `len` bytes holds datagrams of `stride` bytes each, the last of which
//! may be shorter. Each has its own first byte, so each must be looked at.

/// The datagrams in a received buffer, in order. A stride of 0 means one datagram.
pub fn segments(buffer: &[u8], stride: usize) -> impl Iterator<Item = &[u8]> {
    let stride = if stride == 0 { buffer.len().max(1) } else { stride };
    buffer.chunks(stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_datagram_may_be_shorter() {
        let buffer = [1, 2, 3, 4, 5];
        assert_eq!(
            segments(&buffer, 2).collect::<Vec<_>>(),
            [&[1, 2][..], &[3, 4], &[5]]
        );
        assert_eq!(segments(&buffer, 5).count(), 1);
        assert_eq!(segments(&buffer, 0).count(), 1);
        assert_eq!(segments(&[], 0).count(), 0);
    }
}
