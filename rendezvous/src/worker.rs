//! A worker: reads one socket for as long as the server runs, and has each datagram dealt with.
//!
//! It owns its buffers and reuses them, so what it forwards costs no allocation. Receiving never fails: an error of one
//! datagram must not end a server, so errors are counted and the next datagram is read.

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::Instant;

use knothole_proto::aligned::Aligned;
use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;
use tokio::task::{consume_budget, yield_now};
use tracing::debug;

use crate::datagrams::{Datagrams, Outbox, Place};
use crate::inbox::ToInbox;

/// Buffers of a worker: so many datagrams come in one call where the kernel does not coalesce, as many as the call takes.
const BUFFERS: usize = 32;

/// Bytes of each: the largest batch that the kernel coalesces, in whole cache lines.
const BUFFER_LEN: usize = 64 * 1024;

/// Buffers offered to the kernel while it fills them with long batches. What is received must still lie in the
/// processor's cache when it is sent on; a few of the largest do, 2 MB of them do not.
const FEW: usize = 4;

/// Bytes from which on a batch is long.
const LONG: usize = 16 * 1024;

/// Receive errors in a row before others get their turn, so that an error that stays cannot spin.
const ERRORS_IN_A_ROW: usize = 16;

/// What a worker works with.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) socket: Arc<dyn AsyncUdpSocket>,
    pub(crate) place: Place,
    pub(crate) datagrams: Arc<Datagrams>,
    /// Where QUIC goes; a socket without it speaks none.
    pub(crate) quic: Option<ToInbox>,
}

impl Worker {
    /// Receive and deal with it. Never ends.
    pub(crate) async fn work(self) {
        let mut storage = Aligned::zeroed(BUFFERS * BUFFER_LEN);
        let mut chunks = storage.chunks_exact_mut(BUFFER_LEN);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let mut metas = [RecvMeta::default(); BUFFERS];
        let mut outbox = Outbox::default();
        let (mut offered, mut errors) = (BUFFERS, 0);
        loop {
            let received = poll_fn(|cx| {
                self.socket
                    .poll_recv(cx, &mut buffers[..offered], &mut metas[..offered])
            })
            .await;
            match received {
                Ok(count) => {
                    errors = 0;
                    let (buffers, metas) = (&mut buffers[..count], &mut metas[..count]);
                    let long = metas.iter().any(|meta| meta.len >= LONG);
                    offered = if long { FEW } else { BUFFERS };
                    self.deal_with(buffers, metas, &mut outbox);
                }
                Err(why) => {
                    self.counters().receive_errors.add(1);
                    debug!(%why, "receiving failed; going on");
                    errors += 1;
                    if errors % ERRORS_IN_A_ROW == 0 {
                        yield_now().await;
                    }
                }
            }
            consume_budget().await;
        }
    }

    fn deal_with(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta], outbox: &mut Outbox) {
        self.datagrams
            .sort(self.place, buffers, metas, outbox, Instant::now());
        let Some(quic) = &self.quic else { return };
        for (buffer, meta) in buffers.iter().zip(metas) {
            let left = buffer.get(..meta.len).unwrap_or_default();
            if !left.is_empty() && !quic.put(*meta, left) {
                self.counters()
                    .control_full
                    .add(left.len().div_ceil(meta.stride.max(1)) as u64);
            }
        }
    }

    fn counters(&self) -> &crate::datagrams::WorkerCounters {
        self.datagrams.counters.of(self.place.worker)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io;
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use knothole_proto::rendezvous::RelayConfig;
    use quinn::UdpPoller;
    use quinn::udp::Transmit;
    use tokio::sync::mpsc;

    use super::*;
    use crate::datagrams::{Counters, DatagramStats, Purpose, Relay, Stun, Wire};
    use crate::inbox::inbox;

    /// Gives what it was given, and then nothing.
    #[derive(Debug)]
    struct Script(Mutex<VecDeque<Option<Vec<u8>>>>);

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
            let Some(next) = self.0.lock().unwrap().pop_front() else {
                return Poll::Pending;
            };
            let Some(bytes) = next else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
            };
            buffers[0][..bytes.len()].copy_from_slice(&bytes);
            metas[0] = RecvMeta {
                addr: "198.51.100.1:1000".parse().unwrap(),
                len: bytes.len(),
                stride: 100,
                ..RecvMeta::default()
            };
            Poll::Ready(Ok(1))
        }

        fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
            Ok("0.0.0.0:5668".parse().unwrap())
        }
    }

    /// What comes of these receive calls, and the QUIC that got through.
    async fn work(script: impl IntoIterator<Item = Option<Vec<u8>>>) -> (DatagramStats, u64, Vec<usize>) {
        let socket = Arc::new(Script(Mutex::new(script.into_iter().collect())));
        let wire = Wire {
            sockets: vec![socket.clone()],
            local: socket.local_addr().unwrap(),
            purpose: Purpose::Main,
        };
        let (moved, _) = mpsc::channel(1);
        let datagrams = Arc::new(Datagrams {
            wires: vec![wire],
            relay: Relay::new(RelayConfig::new(0), moved, Instant::now()),
            stun: Stun::default(),
            counters: Counters::new(1),
        });
        let (quic, mut taken) = inbox();
        let worker = Worker {
            socket,
            place: Place { wire: 0, worker: 0 },
            datagrams: datagrams.clone(),
            quic: Some(quic),
        };
        // It never ends; the script is over long before, also on a busy machine.
        let _ = tokio::time::timeout(Duration::from_secs(1), worker.work()).await;
        let mut got = Vec::new();
        let mut buffer = vec![0; BUFFER_LEN];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(meta) = taken.poll(&mut cx, &mut buffer) {
            got.push(meta.len);
        }
        let received = datagrams.counters.workers()[0].received_batches;
        (datagrams.counters.read(), received, got)
    }

    fn quic(len: usize) -> Option<Vec<u8>> {
        Some(vec![0x40; len])
    }

    #[tokio::test]
    async fn an_error_of_receiving_is_counted_and_ends_nothing() {
        let errors = std::iter::repeat_n(None, 3 * ERRORS_IN_A_ROW);
        let (dropped, received, got) = work(errors.chain([quic(100), None, quic(200)])).await;
        assert_eq!(dropped.receive_errors, 3 * ERRORS_IN_A_ROW as u64 + 1);
        assert_eq!((received, got), (2, vec![100, 200]));
    }

    #[tokio::test]
    async fn quic_that_comes_faster_than_it_is_read_is_counted_by_the_datagram() {
        // 4 MiB of it wait.
        let (dropped, received, got) = work((0..70).map(|_| quic(65_000))).await;
        assert_eq!((received, got.len()), (70, 64));
        assert_eq!(dropped.control_full, 6 * 650);
        assert_eq!((dropped.unknown, dropped.receive_errors), (0, 0));
    }
}
