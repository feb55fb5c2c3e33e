//! Relay frames: a datagram for the other end of a channel, the same bytes into the server and out of it.
//!
//! ```text
//!  0       1      2           10
//!  | 0x05  | 0    | channel   | datagram ...
//!  | 1     | 1    | 8, BE     | 1 or more bytes
//! ```
//!
//! A frame names a channel, never an address: the server knows the two ends of each channel by their authenticated
//! control connections, and sends what comes from one end to the other. Because nothing is rewritten, a batch of
//! equal-sized frames that the kernel coalesced on receipt can be sent on in one piece.

use crate::id::ChannelId;

/// First byte of a relay frame.
pub const FIRST_BYTE: u8 = 5;

/// Bytes in front of the relayed datagram. QUIC's packets must be this much smaller than the path allows, so that
/// the same packet fits both ways of going.
pub const HEADER_LEN: usize = 10;

/// Write the header of a frame for `channel`.
pub fn header(channel: ChannelId) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0] = FIRST_BYTE;
    bytes[2..].copy_from_slice(&channel.0.to_be_bytes());
    bytes
}

/// Split a frame into its channel and the datagram in it; `None` if it is not a frame or holds nothing.
pub fn split(frame: &[u8]) -> Option<(ChannelId, &[u8])> {
    let (header, datagram) = frame.split_at_checked(HEADER_LEN)?;
    if header[0] != FIRST_BYTE || header[1] != 0 || datagram.is_empty() {
        return None;
    }
    let mut channel = [0; 8];
    channel.copy_from_slice(&header[2..]);
    Some((ChannelId(u64::from_be_bytes(channel)), datagram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_ten_bytes_and_the_datagram() {
        let frame = [header(ChannelId(0x0102_0304_0506_0708)).as_slice(), b"x"].concat();
        assert_eq!(frame, [5, 0, 1, 2, 3, 4, 5, 6, 7, 8, b'x']);
        assert_eq!(
            split(&frame),
            Some((ChannelId(0x0102_0304_0506_0708), b"x".as_slice()))
        );
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        for bad in [
            &[][..],
            &[5],
            &[5; 9],
            &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[4; 20],
        ] {
            assert_eq!(split(bad), None, "{bad:?}");
        }
    }
}
