//! Where datagrams land before QUIC gets them.
//!
//! QUIC's own buffers begin where the C library put them, which some processors fill three times as slowly as memory that
//! begins with a cache line ([`knothole_proto::aligned`]). A copy within the processor's cache costs a fifth of that.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use knothole_proto::aligned::Aligned;
use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;

/// Buffers: so many datagrams come in one call where the kernel does not coalesce. quinn's own number.
const BUFFERS: usize = 32;

/// Bytes of each: the largest batch that the kernel coalesces, in whole cache lines.
const BUFFER_LEN: usize = 64 * 1024;

/// Buffers offered to the kernel while it fills them with long batches. What is received must still lie in the
/// processor's cache when it is copied; a few of the largest do, 2 MB of them do not.
const FEW: usize = 4;

/// Bytes from which on a batch is long.
const LONG: usize = 16 * 1024;

/// Bytes that are copied in one go: the C library copies more than 2 KiB with the instruction that is slow here.
const COPIED: usize = 1024;

/// Buffers that the kernel fills.
#[derive(Debug)]
pub(super) struct Landing {
    memory: Aligned,
    offered: usize,
}

impl Default for Landing {
    fn default() -> Self {
        Self {
            memory: Aligned::zeroed(BUFFERS * BUFFER_LEN),
            offered: BUFFERS,
        }
    }
}

impl Landing {
    /// Receive from a socket into the buffers of QUIC, as [`AsyncUdpSocket::poll_recv`] does.
    pub(super) fn poll_recv(
        &mut self,
        io: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut chunks = self.memory.chunks_exact_mut(BUFFER_LEN);
        let mut own: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let offered = self.offered.min(bufs.len()).min(metas.len());
        let Poll::Ready(received) = io.poll_recv(cx, &mut own[..offered], &mut metas[..offered]) else {
            return Poll::Pending;
        };
        let received = received?;
        let filled = bufs.iter_mut().zip(&own).zip(metas).take(received);
        let mut longest = 0;
        for ((to, from), meta) in filled {
            longest = longest.max(meta.len);
            // What is too long is cut off, as the kernel would.
            meta.len = meta.len.min(to.len());
            let pieces = from.get(..meta.len).unwrap_or_default().chunks(COPIED);
            for (to, from) in to.chunks_mut(COPIED).zip(pieces) {
                if let Some(to) = to.get_mut(..from.len()) {
                    to.copy_from_slice(from);
                }
            }
        }
        self.offered = if longest >= LONG { FEW } else { BUFFERS };
        Poll::Ready(Ok(received))
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use quinn::{Runtime, TokioRuntime};

    use super::*;

    #[tokio::test]
    async fn datagrams_reach_the_buffers_of_quic_whole_and_what_is_too_long_is_cut_off() {
        let [here, there] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = here.local_addr().unwrap();
        let io = TokioRuntime.wrap_udp_socket(here).unwrap();
        let mut landing = Landing::default();
        let mut memory = vec![0; 3 * 20_000];
        let mut seen = Vec::new();
        let lengths = [1, 1023, 1024, 1025, 1472, 17_000, 20_000, 20_001, 60_000, 300];
        for length in lengths {
            let datagram: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0]).collect();
            there.send_to(&datagram, to).unwrap();
            let mut bufs: Vec<_> = memory.chunks_mut(20_000).map(IoSliceMut::new).collect();
            let mut metas = [RecvMeta::default(); 3];
            let received =
                std::future::poll_fn(|cx| landing.poll_recv(io.as_ref(), cx, &mut bufs, &mut metas));
            let received = tokio::time::timeout(Duration::from_secs(5), received).await;
            assert_eq!(received.unwrap().unwrap(), 1);
            assert_eq!(metas[0].addr, there.local_addr().unwrap());
            assert_eq!(bufs[0][..metas[0].len], datagram[..length.min(20_000)]);
            seen.push(metas[0].len);
        }
        assert_eq!(seen, lengths.map(|length| length.min(20_000)));
    }
}
