//! Captures in the world in memory: what a host sends and receives as a pcap file, with virtual time and with the IP and
//! UDP headers that the world leaves out.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use super::topology::{HostId, Packet};
use super::world::World;
use crate::inet::{IpHeader, UDP, fold, low16, put16, sum};
use crate::pcap::{PcapWriter, SNAP_MAX};

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

impl World {
    /// Writes what a host sends and receives from now on to `to`, in the pcap format. Times count from the start of the
    /// world, which therefore begins in 1970; ports and addresses are those that the host itself sees.
    ///
    /// # Errors
    ///
    /// Whatever `to` says about the beginning of the file.
    pub fn capture(&mut self, host: HostId, to: impl Write + Send + 'static) -> io::Result<()> {
        let to: Box<dyn Write + Send> = Box::new(to);
        let file = PcapWriter::new(to, SNAP_MAX)?;
        self.captures.0.push(Running {
            host,
            file,
            written: 0,
            failure: None,
        });
        Ok(())
    }

    /// Ends all captures; how many packets were written?
    ///
    /// # Errors
    ///
    /// The first thing that any of the writers complained about.
    pub fn end_captures(&mut self) -> io::Result<u64> {
        let mut written = 0;
        for mut running in std::mem::take(&mut self.captures.0) {
            running.failure.map_or_else(|| running.file.flush(), Err)?;
            written += running.written;
        }
        Ok(written)
    }
}

/// The captures that run.
#[derive(Default)]
pub(super) struct Captures(Vec<Running>);

struct Running {
    host: HostId,
    file: PcapWriter<Box<dyn Write + Send>>,
    written: u64,
    failure: Option<io::Error>,
}

impl Captures {
    /// A host sends or receives this.
    pub(super) fn see(&mut self, host: HostId, packet: &Packet, now: Duration) {
        let captures = self.0.iter_mut().filter(|running| running.host == host);
        for running in captures.filter(|running| running.failure.is_none()) {
            match running.file.packet(now, &datagram(packet)) {
                Ok(()) => running.written += 1,
                Err(error) => running.failure = Some(error),
            }
        }
    }
}

impl fmt::Debug for Captures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} captures", self.0.len())
    }
}

/// The packet as it would be on a wire.
fn datagram(packet: &Packet) -> Vec<u8> {
    let flow = packet.flow;
    let header = IpHeader {
        src: flow.src.ip(),
        dst: flow.dst.ip(),
        protocol: UDP,
        ttl: packet.ttl,
        class: 0,
    };
    let (at, length) = (header.len(), UDP_HEADER + packet.bytes.len());
    let mut bytes = vec![0; at + length];
    header.write(&mut bytes, length);
    put16(&mut bytes, at, flow.src.port());
    put16(&mut bytes, at + 2, flow.dst.port());
    put16(&mut bytes, at + 4, low16(length));
    bytes[at + UDP_HEADER..].copy_from_slice(&packet.bytes);
    let check = !fold(header.pseudo(length) + sum(&bytes[at..]));
    put16(&mut bytes, at + 6, if check == 0 { 0xffff } else { check });
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::topology::Origin;
    use super::*;

    #[test]
    fn headers_are_made_up_with_right_lengths_and_checksums() {
        let packet = |src: &str, dst: &str| {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            Packet::new(Origin::Host(HostId(0)), src, dst, Some(7), b"hello".to_vec())
        };
        let v4 = datagram(&packet("192.168.1.10:5000", "5.5.5.1:3478"));
        assert_eq!(v4.len(), 33);
        assert_eq!((v4[8], v4[9]), (7, 17));
        assert_eq!(fold(sum(&v4[..20])), 0xffff);
        assert_eq!(fold(sum(&v4[12..20]) + 17 + 13 + sum(&v4[20..])), 0xffff);
        assert_eq!(v4[20..26], [0x13, 0x88, 0x0d, 0x96, 0, 13]);
        let v6 = datagram(&packet("[2a01:1::10]:5000", "[2a01:2::20]:3478"));
        assert_eq!(v6.len(), 53);
        assert_eq!((v6[6], v6[7]), (17, 7));
        assert_eq!(fold(sum(&v6[8..40]) + 17 + 13 + sum(&v6[40..])), 0xffff);
    }
}
