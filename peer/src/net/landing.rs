//! Where datagrams land before QUIC gets them.
//!
//! QUIC's own buffers begin where the C library put them, which some processors fill three times as slowly as memory that
//! begins with a cache line ([`knothole_proto::aligned`]). Short datagrams land in memory of ours and are copied, which within
//! the processor's cache costs a fifth of that. Of long batches a call takes few, so they land in those of QUIC's buffers
//! that do begin with a cache line: [`PAYLOAD_MAX`] and [`segments`] are such that every fourth does.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use knothole_proto::aligned::LINE;
use knothole_proto::receive_buffers::ReceiveBuffers;
use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;

/// Bytes that are copied in one go: the C library copies more than 2 KiB with the instruction that is slow here.
const COPIED: usize = 1024;

/// Longest UDP payload that QUIC is told to take. What fits an Ethernet frame, 1472 bytes, and as much more as makes it an odd
/// multiple of 16. QUIC's buffers lie this times [`segments`] apart and the C library begins memory at multiples of 16, so
/// the beginnings of four buffers in a row fall on each quarter of a cache line once.
pub(crate) const PAYLOAD_MAX: u16 = 1488;

/// Datagrams for which each of QUIC's buffers is to have room where a batch may have `most`: an odd number.
pub(super) const fn segments(most: usize) -> usize {
    most | 1
}

/// Buffers that the kernel fills.
#[derive(Debug, Default)]
pub(super) struct Landing(ReceiveBuffers);

impl Landing {
    /// Receive from a socket into the buffers of QUIC, as [`AsyncUdpSocket::poll_recv`] does. The order of the buffers may
    /// change.
    pub(super) fn poll_recv(
        &mut self,
        io: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let in_place = self.0.few().map(|few| few.min(metas.len()));
        match in_place.filter(|few| aligned_first(bufs, *few)) {
            Some(few) => self.receive_in_place(io, cx, &mut bufs[..few], &mut metas[..few]),
            None => self.receive_and_copy(io, cx, bufs, metas),
        }
    }

    fn receive_in_place(
        &mut self,
        io: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(received) = io.poll_recv(cx, bufs, metas) else {
            return Poll::Pending;
        };
        let received = received?;
        let lengths = metas.iter().take(received).map(|meta| meta.len);
        self.0.saw(lengths.max().unwrap_or(0));
        Poll::Ready(Ok(received))
    }

    fn receive_and_copy(
        &mut self,
        io: &dyn AsyncUdpSocket,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut own = self.0.offered();
        let offered = own.len().min(bufs.len()).min(metas.len());
        let Poll::Ready(received) = io.poll_recv(cx, &mut own[..offered], &mut metas[..offered]) else {
            return Poll::Pending;
        };
        let received = received?;
        let filled = bufs.iter_mut().zip(own.iter()).zip(metas).take(received);
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
        self.0.saw(longest);
        Poll::Ready(Ok(received))
    }
}

/// Bring so many buffers that begin with a cache line to the front; `false` if there are not that many.
fn aligned_first(bufs: &mut [IoSliceMut<'_>], count: usize) -> bool {
    let mut found = 0;
    for at in 0..bufs.len() {
        if found == count {
            break;
        }
        if bufs[at].as_ptr().align_offset(LINE) == 0 {
            bufs.swap(found, at);
            found += 1;
        }
    }
    found == count
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use knothole_proto::aligned::Aligned;
    use quinn::udp::Transmit;
    use quinn::{Runtime, TokioRuntime, UdpPoller};

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

    /// Has batches of these lengths, each in the last buffer that it is offered, and notes what it is offered.
    #[derive(Debug)]
    struct Script {
        lengths: Mutex<Vec<usize>>,
        offers: Mutex<Vec<Vec<usize>>>,
    }

    impl Script {
        fn new(lengths: &[usize]) -> Self {
            Self {
                lengths: Mutex::new(lengths.iter().rev().copied().collect()),
                offers: Mutex::default(),
            }
        }

        /// Receive one batch after the other into buffers like these, each filled with its number.
        fn play(&self, memory: &mut [u8], buffer_len: usize) {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut landing = Landing::default();
            let lengths = self.lengths.lock().unwrap().clone();
            for length in lengths.into_iter().rev() {
                memory.fill(0);
                let mut bufs: Vec<_> = memory.chunks_exact_mut(buffer_len).map(IoSliceMut::new).collect();
                let mut metas = vec![RecvMeta::default(); bufs.len()];
                let received = landing.poll_recv(self, &mut cx, &mut bufs, &mut metas);
                let Poll::Ready(Ok(received)) = received else {
                    panic!("{received:?}")
                };
                let last = received - 1;
                let kept = length.min(buffer_len);
                assert_eq!(metas[last].len, kept);
                assert!(bufs[last][..kept].iter().all(|byte| *byte == 7));
                assert!(bufs[last][kept..].iter().all(|byte| *byte == 0));
            }
        }

        fn counts(&self) -> Vec<usize> {
            self.offers.lock().unwrap().iter().map(Vec::len).collect()
        }
    }

    impl AsyncUdpSocket for Script {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            buffers: &mut [IoSliceMut<'_>],
            metas: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            assert_eq!(buffers.len(), metas.len());
            let beginnings = buffers.iter().map(|buffer| buffer.as_ptr().addr());
            self.offers.lock().unwrap().push(beginnings.collect());
            let last = buffers.len() - 1;
            metas.fill(RecvMeta::default());
            metas[last].len = self.lengths.lock().unwrap().pop().unwrap();
            buffers[last][..metas[last].len].fill(7);
            Poll::Ready(Ok(buffers.len()))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok("0.0.0.0:5668".parse().unwrap())
        }
    }

    #[test]
    fn long_batches_land_in_buffers_of_quic_that_begin_with_a_cache_line_wherever_the_first_begins() {
        let buffer_len = usize::from(PAYLOAD_MAX) * segments(64);
        for behind in [0, 16, 32, 48] {
            let mut memory = Aligned::zeroed(behind + 32 * buffer_len);
            let memory = &mut memory[behind..];
            let beginnings: Vec<_> = memory
                .chunks_exact(buffer_len)
                .map(|buffer| buffer.as_ptr().addr())
                .collect();
            let script = Script::new(&[1000, 65_507, 20_000, 1000, 1000]);
            script.play(memory, buffer_len);
            assert_eq!(script.counts(), [32, 32, 4, 4, 32], "{behind}");
            for offer in &script.offers.lock().unwrap()[2..4] {
                assert!(offer.iter().all(|at| at % LINE == 0 && beginnings.contains(at)));
            }
        }
    }

    #[test]
    fn where_too_few_begin_with_a_cache_line_long_batches_are_copied_and_cut_off() {
        // 16 bytes behind the beginning of a line, all of them.
        let mut memory = Aligned::zeroed(16 + 40 * 6400);
        let script = Script::new(&[100, 100, 60_000, 60_000, 100, 100]);
        script.play(&mut memory[16..], 6400);
        // What QUIC cuts off was received nevertheless.
        assert_eq!(script.counts(), [32, 32, 32, 4, 4, 32]);
        assert!(
            script
                .offers
                .lock()
                .unwrap()
                .iter()
                .flatten()
                .all(|at| at % LINE == 0)
        );
    }

    #[test]
    fn no_more_buffers_are_offered_than_quic_has() {
        let mut memory = Aligned::zeroed(2 * 70_000);
        let script = Script::new(&[60_000, 60_000, 100]);
        script.play(&mut memory, 70_000);
        assert_eq!(script.counts(), [2; 3]);
    }
}
