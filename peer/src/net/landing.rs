//! Where datagrams land before QUIC gets them.
//!
//! QUIC's own buffers begin where the C library put them, which some processors fill three times as slowly as memory that
//! begins with a cache line ([`knothole_proto::aligned`]). A copy within the processor's cache costs a fifth of that.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use knothole_proto::receive_buffers::ReceiveBuffers;
use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;

/// Bytes that are copied in one go: the C library copies more than 2 KiB with the instruction that is slow here.
const COPIED: usize = 1024;

/// Buffers that the kernel fills.
#[derive(Debug, Default)]
pub(super) struct Landing(ReceiveBuffers);

impl Landing {
    /// Receive from a socket into the buffers of QUIC, as [`AsyncUdpSocket::poll_recv`] does.
    pub(super) fn poll_recv(
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

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

    /// Has batches of these lengths, each in the last buffer that it is offered; tells how many buffers that were.
    #[derive(Debug)]
    struct Script(Mutex<(Vec<usize>, Vec<usize>)>);

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
            let (lengths, offered) = &mut *self.0.lock().unwrap();
            offered.push(buffers.len());
            metas.fill(RecvMeta::default());
            metas[buffers.len() - 1].len = lengths.pop().unwrap();
            Poll::Ready(Ok(buffers.len()))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok("0.0.0.0:5668".parse().unwrap())
        }
    }

    #[test]
    fn after_a_long_batch_few_buffers_are_offered_and_never_more_than_quic_has() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let script = Script(Mutex::new((vec![100, 100, 60_000, 60_000, 100], Vec::new())));
        let (mut landing, mut memory) = (Landing::default(), vec![0; 40 * 1500]);
        // What QUIC cuts off was received nevertheless.
        for bufs in [40, 40, 40, 2, 40] {
            let mut bufs: Vec<_> = memory.chunks_mut(1500).take(bufs).map(IoSliceMut::new).collect();
            let mut metas = vec![RecvMeta::default(); bufs.len()];
            assert!(
                landing
                    .poll_recv(&script, &mut cx, &mut bufs, &mut metas)
                    .is_ready()
            );
        }
        assert_eq!(script.0.into_inner().unwrap().1, [32, 32, 4, 2, 32]);
    }
}
