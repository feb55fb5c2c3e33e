//! Batches that QUIC hands out one after the other, joined into one call to the system.
//!
//! QUIC gives a socket ten datagrams at a time, a kernel takes more than forty: each call less saves one way through its
//! network stack, at the receiver too, where segments that were sent together arrive together. Only full batches are held
//! back, and only until the thread that made them has nothing else to do; whatever is less than a full batch takes along
//! what waits before it.
//!
//! This is the buffer and its rules; [`super::socket`] sends it.

use std::net::SocketAddr;

use knothole_proto::path::SocketId;
use quinn::udp::{EcnCodepoint, Transmit};

/// Datagrams of a full batch: what quinn hands out at most (its `MAX_TRANSMIT_SEGMENTS`). If that becomes more, batches of
/// this many still count as full; if it becomes less, nothing is ever joined.
const FULL_BATCH: usize = 10;

/// Most datagrams of a bundle: Linux's `UDP_MAX_SEGMENTS`.
const SEGMENTS_MAX: usize = 64;

/// Most bytes of a bundle: of an IPv4 packet, 65,535, less the headers of IP without options and UDP.
const LEN_MAX: usize = 65_535 - 20 - 8;

/// Where a bundle goes, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct To {
    pub(super) socket: SocketId,
    pub(super) remote: SocketAddr,
    /// Bytes of each datagram.
    pub(super) segment: usize,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// A batch as QUIC hands it out, and what goes in front of each of its datagrams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) header: &'a [u8],
    pub(super) contents: &'a [u8],
    /// Bytes of each datagram without the header; the last one may have fewer.
    pub(super) segment: usize,
}

/// What waits to be sent.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    to: Option<To>,
    bytes: Vec<u8>,
    additions: u64,
}

impl Batch<'_> {
    fn datagrams(&self) -> usize {
        self.contents.len().div_ceil(self.segment.max(1))
    }

    /// Bytes on the way, headers included.
    fn len(&self) -> usize {
        self.contents.len() + self.datagrams() * self.header.len()
    }

    /// Is there likely more to come, that can be joined to it?
    pub(super) fn is_full(&self) -> bool {
        self.datagrams() >= FULL_BATCH && self.contents.len().is_multiple_of(self.segment.max(1))
    }
}

impl Bundle {
    /// So many times something was added; `None` while nothing waits.
    pub(super) fn additions(&self) -> Option<u64> {
        self.to.map(|_| self.additions)
    }

    /// Can this be joined to what waits?
    pub(super) fn takes(&self, to: &To, batch: &Batch<'_>) -> bool {
        let Some(own) = &self.to else {
            return self.fits(to.segment, batch);
        };
        // The last datagram of a bundle may be shorter than the others, and then it is the last.
        let same_cut = own.segment == to.segment || (batch.datagrams() == 1 && to.segment < own.segment);
        let open = self.bytes.len().is_multiple_of(own.segment.max(1));
        let same_way = (own.socket, own.remote, own.ecn) == (to.socket, to.remote, to.ecn);
        open && same_way && same_cut && self.fits(own.segment, batch)
    }

    /// Is there room for as much again?
    pub(super) fn has_room(&self, batch: &Batch<'_>) -> bool {
        self.to.is_none_or(|to| self.fits(to.segment, batch))
    }

    /// Join it. The caller has asked whether it [`Bundle::takes`] it.
    pub(super) fn add(&mut self, to: To, batch: &Batch<'_>) {
        self.to.get_or_insert(to);
        self.additions = self.additions.wrapping_add(1);
        if batch.header.is_empty() {
            self.bytes.extend_from_slice(batch.contents);
            return;
        }
        for datagram in batch.contents.chunks(batch.segment.max(1)) {
            self.bytes.extend_from_slice(batch.header);
            self.bytes.extend_from_slice(datagram);
        }
    }

    /// What waits, ready to be sent.
    pub(super) fn transmit(&self) -> Option<(SocketId, Transmit<'_>)> {
        let to = self.to?;
        let transmit = Transmit {
            destination: to.remote,
            ecn: to.ecn,
            contents: &self.bytes,
            segment_size: (self.bytes.len() > to.segment).then_some(to.segment),
            src_ip: None,
        };
        Some((to.socket, transmit))
    }

    /// It was sent, or nobody wants it any more.
    pub(super) fn clear(&mut self) {
        self.to = None;
        self.bytes.clear();
    }

    fn fits(&self, segment: usize, batch: &Batch<'_>) -> bool {
        let len = self.bytes.len() + batch.len();
        len <= LEN_MAX && len.div_ceil(segment.max(1)) <= SEGMENTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(segment: usize) -> To {
        To {
            socket: SocketId::V4,
            remote: SocketAddr::from(([203, 0, 113, 7], 5)),
            segment,
            ecn: Some(EcnCodepoint::Ect0),
        }
    }

    fn batch(contents: &[u8], segment: usize) -> Batch<'_> {
        Batch {
            header: &[],
            contents,
            segment,
        }
    }

    #[test]
    fn as_many_full_batches_are_joined_as_the_system_takes() {
        let contents = [7; 14_420];
        let full = batch(&contents, 1442);
        assert!(full.is_full());
        let mut bundle = Bundle::default();
        let mut added = 0;
        while bundle.takes(&to(1442), &full) {
            bundle.add(to(1442), &full);
            added += 1;
            assert_eq!(bundle.additions(), Some(added));
        }
        assert_eq!(
            (added, bundle.has_room(&full)),
            (4, false),
            "40 datagrams, 57,680 bytes"
        );
        let small = [7; 12_000];
        let mut bundle = Bundle::default();
        while bundle.takes(&to(800), &batch(&small[..8_000], 800)) {
            bundle.add(to(800), &batch(&small[..8_000], 800));
        }
        let (_, transmit) = bundle.transmit().unwrap();
        assert_eq!(transmit.contents.len(), 6 * 8_000, "60 of 64 datagrams");
    }

    #[test]
    fn every_datagram_gets_its_header_and_the_cut_grows_by_it() {
        let mut bundle = Bundle::default();
        let batch = Batch {
            header: b"hh",
            contents: b"aaabbbc",
            segment: 3,
        };
        assert!(!batch.is_full());
        bundle.add(to(5), &batch);
        let (_, transmit) = bundle.transmit().unwrap();
        assert_eq!(transmit.contents, b"hhaaahhbbbhhc");
        assert_eq!(transmit.segment_size, Some(5));
        bundle.clear();
        assert!(bundle.transmit().is_none() && bundle.additions().is_none());
    }

    #[test]
    fn only_what_goes_the_same_way_and_ends_the_bundle_is_joined() {
        let contents = [1; 10_000];
        let mut bundle = Bundle::default();
        bundle.add(to(1000), &batch(&contents, 1000));
        let last = batch(&contents[..300], 300);
        assert!(bundle.takes(&to(300), &last), "a shorter last one");
        assert!(
            !bundle.takes(&to(300), &batch(&contents[..600], 300)),
            "two shorter ones"
        );
        assert!(
            !bundle.takes(&to(1100), &batch(&contents[..1100], 1100)),
            "a longer one"
        );
        let other = To {
            remote: SocketAddr::from(([203, 0, 113, 8], 5)),
            ..to(1000)
        };
        assert!(!bundle.takes(&other, &batch(&contents, 1000)));
        let marked = To {
            ecn: None,
            ..to(1000)
        };
        assert!(!bundle.takes(&marked, &batch(&contents, 1000)));
        assert!(
            !batch(&contents[..9_999], 1000).is_full(),
            "its last one is shorter"
        );
    }
}
