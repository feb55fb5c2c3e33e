//! Sorting one receive buffer: which of its datagrams go to QUIC, as whose, and with how many bytes cut off in front.
//!
//! With receive offload a buffer holds many datagrams, all from one source and of one size except a shorter last one,
//! but not all of one kind. QUIC takes buffers in the same form, so what one link gets out of a buffer is compacted to
//! its front; what further links get is copied out, which happens only when kinds are mixed.

use std::net::SocketAddr;

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Not for QUIC.
    Drop,
    /// For QUIC, without its first bytes, as if it came from this address.
    Pass { from: SocketAddr, skip: usize },
}

/// Datagrams of one source in one piece: `len` bytes, `stride` each but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) from: SocketAddr,
    pub(crate) stride: usize,
    pub(crate) len: usize,
}

impl Run {
    /// Can another datagram follow in this run?
    fn takes(&self, from: SocketAddr, len: usize) -> bool {
        self.from == from && len <= self.stride && self.len.is_multiple_of(self.stride)
    }
}

/// A buffer, sorted.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// What lies at the front of the buffer now; `None` if nothing was for QUIC.
    pub(crate) head: Option<Run>,
    /// Everything else, copied out.
    pub(crate) rest: Vec<(Run, Vec<u8>)>,
}

/// Ask for the fate of every datagram in `buffer`, in order and once each, and sort accordingly.
pub(crate) fn sort(buffer: &mut [u8], stride: usize, mut fate: impl FnMut(&[u8]) -> Fate) -> Sorted {
    let mut sorted = Sorted::default();
    let stride = if stride == 0 { buffer.len().max(1) } else { stride };
    let mut at = 0;
    while at < buffer.len() {
        let end = buffer.len().min(at + stride);
        if let Fate::Pass { from, skip } = fate(&buffer[at..end])
            && at + skip < end
        {
            take(buffer, at + skip..end, from, &mut sorted);
        }
        at = end;
    }
    sorted
}

fn take(buffer: &mut [u8], payload: std::ops::Range<usize>, from: SocketAddr, sorted: &mut Sorted) {
    let len = payload.len();
    let fresh = Run {
        from,
        stride: len,
        len,
    };
    match &mut sorted.head {
        None => {
            buffer.copy_within(payload, 0);
            sorted.head = Some(fresh);
        }
        // Once a second run has begun, nothing may join the first again: order within a link is kept.
        Some(head) if sorted.rest.is_empty() && head.takes(from, len) => {
            if payload.start != head.len {
                buffer.copy_within(payload, head.len);
            }
            head.len += len;
        }
        Some(_) => match sorted.rest.last_mut() {
            Some((run, bytes)) if run.takes(from, len) => {
                bytes.extend_from_slice(&buffer[payload]);
                run.len += len;
            }
            _ => sorted.rest.push((fresh, buffer[payload].to_vec())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram of a test: first byte says who it is for, the second is a serial number.
    fn datagram(kind: u8, serial: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![serial; len];
        bytes[0] = kind;
        bytes
    }

    fn source(kind: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, kind], 1))
    }

    /// Kind 0 is dropped; 1 and 2 pass whole; 3 passes without four bytes, as kind 1.
    fn fate(datagram: &[u8]) -> Fate {
        match datagram[0] {
            0 => Fate::Drop,
            3 => Fate::Pass {
                from: source(1),
                skip: 4,
            },
            kind => Fate::Pass {
                from: source(kind),
                skip: 0,
            },
        }
    }

    /// What QUIC would see: (source, datagram) in order.
    fn seen(mut buffer: Vec<u8>, stride: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let sorted = sort(&mut buffer, stride, fate);
        let head = sorted.head.map(|run| (run, buffer[..run.len].to_vec()));
        let mut seen = Vec::new();
        for (run, bytes) in head.into_iter().chain(sorted.rest) {
            assert_eq!(run.len, bytes.len());
            seen.extend(bytes.chunks(run.stride).map(|bytes| (run.from, bytes.to_vec())));
        }
        seen
    }

    #[test]
    fn a_uniform_buffer_stays_where_it_is() {
        let mut buffer = [datagram(1, 1, 8), datagram(1, 2, 8), datagram(1, 3, 5)].concat();
        let before = buffer.clone();
        let sorted = sort(&mut buffer, 8, fate);
        let run = Run {
            from: source(1),
            stride: 8,
            len: 21,
        };
        assert_eq!((sorted.head, sorted.rest.len()), (Some(run), 0));
        assert_eq!(buffer, before);
    }

    #[test]
    fn a_stranger_in_the_middle_is_cut_out() {
        let buffer = [
            datagram(1, 1, 8),
            datagram(0, 2, 8),
            datagram(1, 3, 8),
            datagram(0, 4, 3),
        ]
        .concat();
        assert_eq!(
            seen(buffer, 8),
            [(source(1), datagram(1, 1, 8)), (source(1), datagram(1, 3, 8))]
        );
    }

    #[test]
    fn headers_are_stripped_and_the_rest_moves_together() {
        let buffer = [datagram(3, 1, 12), datagram(3, 2, 12), datagram(3, 3, 9)].concat();
        let bytes = |serial, len| vec![serial; len];
        assert_eq!(
            seen(buffer, 12),
            [
                (source(1), bytes(1, 8)),
                (source(1), bytes(2, 8)),
                (source(1), bytes(3, 5))
            ]
        );
    }

    #[test]
    fn nothing_for_quic_leaves_nothing() {
        assert_eq!(seen([datagram(0, 1, 8), datagram(0, 2, 8)].concat(), 8), []);
        assert_eq!(seen(Vec::new(), 0), []);
        assert_eq!(
            seen(datagram(3, 1, 4), 4),
            [],
            "a header with nothing behind it is nothing"
        );
    }

    #[test]
    fn every_mixture_is_delivered_whole_and_in_the_order_of_each_source() {
        // All sequences of five kinds, with a last datagram of full or smaller size.
        for mixture in 0..4_usize.pow(5) {
            for last in [16, 7] {
                let mut buffer = Vec::new();
                let mut expected = Vec::new();
                for place in 0..5_u8 {
                    let kind = u8::try_from(mixture / 4_usize.pow(place.into()) % 4).unwrap();
                    let bytes = datagram(kind, place, if place == 4 { last } else { 16 });
                    if let Fate::Pass { from, skip } = fate(&bytes) {
                        expected.push((from, bytes[skip..].to_vec()));
                    }
                    buffer.extend_from_slice(&bytes);
                }
                assert_eq!(
                    seen(buffer, 16),
                    expected,
                    "mixture {mixture}, last of {last} bytes"
                );
            }
        }
    }
}
