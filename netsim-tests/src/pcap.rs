//! Captures in the classic pcap format, which every tool that looks at packets reads. Writes only, to anything that
//! takes bytes; knows no network and no clock.
//!
//! The file begins with a header of 24 bytes; each packet has one of 16. All numbers are little-endian, times are in
//! nanoseconds, and packets begin with their IP header (`LINKTYPE_RAW`).

use std::io::{self, Write};
use std::time::Duration;

/// Magic number of files whose times are in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;

/// Version 2.4 of the format: major, then minor.
const VERSION: [u16; 2] = [2, 4];

/// Packets begin with an IPv4 or IPv6 header.
const LINKTYPE_RAW: u32 = 101;

/// Most bytes of one packet that any reader has to expect: the limit of the common tools, in bytes.
pub const SNAP_MAX: u32 = 262_144;

/// A capture being written.
#[derive(Debug)]
pub struct PcapWriter<W> {
    to: W,
    snap: u32,
}

impl<W: Write> PcapWriter<W> {
    /// Begins a file. Of each packet the first `snap` bytes are kept, at most [`SNAP_MAX`].
    ///
    /// # Errors
    ///
    /// Whatever `to` says.
    pub fn new(mut to: W, snap: u32) -> io::Result<Self> {
        let snap = snap.min(SNAP_MAX);
        let mut header = [0; 24];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..6].copy_from_slice(&VERSION[0].to_le_bytes());
        header[6..8].copy_from_slice(&VERSION[1].to_le_bytes());
        // Time zone and accuracy, eight bytes, are always zero.
        header[16..20].copy_from_slice(&snap.to_le_bytes());
        header[20..].copy_from_slice(&LINKTYPE_RAW.to_le_bytes());
        to.write_all(&header)?;
        Ok(Self { to, snap })
    }

    /// Adds one IP packet, seen so long after the epoch (1970 for real time, anything for a time of one's own). The
    /// format ends in 2106; later moments count as its last second.
    ///
    /// # Errors
    ///
    /// Whatever the writer says; the file is then cut off in the middle of a packet.
    pub fn packet(&mut self, at: Duration, ip: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        let length = u32::try_from(ip.len()).unwrap_or(u32::MAX);
        let kept = length.min(self.snap);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&seconds.to_le_bytes());
        header[4..8].copy_from_slice(&at.subsec_nanos().to_le_bytes());
        header[8..12].copy_from_slice(&kept.to_le_bytes());
        header[12..].copy_from_slice(&length.to_le_bytes());
        self.to.write_all(&header)?;
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        self.to.write_all(&ip[..kept.min(ip.len())])
    }

    /// Hands on what the writer holds back.
    ///
    /// # Errors
    ///
    /// Whatever the writer says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// The writer, without flushing it.
    pub fn into_inner(self) -> W {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_is_to_the_byte_what_the_format_says() {
        let mut capture = PcapWriter::new(Vec::new(), 6).unwrap();
        let at = Duration::new(0x0102_0304, 999_999_999);
        capture.packet(at, &[0x45, 0, 0, 4]).unwrap();
        capture.packet(Duration::from_nanos(1), &[7; 9]).unwrap();
        let expected: [&[u8]; 5] = [
            &[
                0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 101, 0, 0, 0,
            ],
            &[4, 3, 2, 1, 0xff, 0xc9, 0x9a, 0x3b, 4, 0, 0, 0, 4, 0, 0, 0],
            &[0x45, 0, 0, 4],
            &[0, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 9, 0, 0, 0],
            &[7; 6],
        ];
        assert_eq!(capture.into_inner(), expected.concat());
    }

    #[test]
    fn no_more_is_kept_than_readers_accept_and_time_stops_at_its_end() {
        let mut capture = PcapWriter::new(Vec::new(), u32::MAX).unwrap();
        capture.packet(Duration::from_secs(1 << 40), &[]).unwrap();
        let bytes = capture.into_inner();
        assert_eq!(bytes[16..20], SNAP_MAX.to_le_bytes());
        assert_eq!(bytes[24..28], [0xff; 4]);
    }

    #[test]
    fn a_full_disk_is_reported() {
        let mut room = [0; 30];
        let mut capture = PcapWriter::new(&mut room[..], 100).unwrap();
        let error = capture.packet(Duration::ZERO, &[1; 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
