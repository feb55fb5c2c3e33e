//! A worker: reads one socket for as long as the server runs, and has each datagram dealt with.
//!
//! It owns its buffers and reuses them, so what it forwards costs no allocation. Receiving never fails: an error of one
//! datagram must not end a server, so errors are counted and the next datagram is read.

use std::future::poll_fn;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::Instant;

use knothole_proto::receive_buffers::{BUFFERS, ReceiveBuffers};
use quinn::AsyncUdpSocket;
use quinn::udp::RecvMeta;
use tokio::task::{consume_budget, yield_now};
use tracing::debug;

use crate::datagrams::{Datagrams, Outbox, Place};
use crate::inbox::ToInbox;

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
        let mut buffers = ReceiveBuffers::default();
        let mut metas = [RecvMeta::default(); BUFFERS];
        let mut outbox = Outbox::default();
        let mut errors = 0;
        loop {
            let mut offered = buffers.offered();
            let metas = &mut metas[..offered.len()];
            let received = poll_fn(|cx| self.socket.poll_recv(cx, &mut offered, metas)).await;
            match received {
                Ok(count) => {
                    errors = 0;
                    let metas = &mut metas[..count];
                    let longest = metas.iter().map(|meta| meta.len).max();
                    self.deal_with(&mut offered[..count], metas, &mut outbox);
                    buffers.saw(longest.unwrap_or_default());
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

    use knothole_proto::receive_buffers::BUFFER_LEN;
    use knothole_proto::rendezvous::RelayConfig;
    use quinn::UdpPoller;
    use quinn::udp::Transmit;
    use tokio::sync::mpsc;

    use super::*;
    use crate::datagrams::{Counters, DatagramStats, Purpose, Relay, Stun, Wire};
    use crate::inbox::inbox;

    /// Gives what it was given, and then nothing.
    #[derive(Debug)]
    struct Script {
        calls: Mutex<VecDeque<Option<Vec<u8>>>>,
        /// How many buffers each call was offered.
        offered: Mutex<Vec<usize>>,
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
            let Some(next) = self.calls.lock().unwrap().pop_front() else {
                return Poll::Pending;
            };
            assert_eq!(buffers.len(), metas.len());
            self.offered.lock().unwrap().push(buffers.len());
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

    /// What came of receive calls.
    struct Came {
        stats: DatagramStats,
        received: u64,
        /// Lengths of the QUIC that got through.
        quic: Vec<usize>,
        offered: Vec<usize>,
    }

    async fn work(script: impl IntoIterator<Item = Option<Vec<u8>>>) -> Came {
        let socket = Arc::new(Script {
            calls: Mutex::new(script.into_iter().collect()),
            offered: Mutex::default(),
        });
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
            socket: socket.clone(),
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
        Came {
            stats: datagrams.counters.read(),
            received: datagrams.counters.workers()[0].received_batches,
            quic: got,
            offered: socket.offered.lock().unwrap().clone(),
        }
    }

    fn quic(len: usize) -> Option<Vec<u8>> {
        Some(vec![0x40; len])
    }

    #[tokio::test]
    async fn an_error_of_receiving_is_counted_and_ends_nothing() {
        let errors = std::iter::repeat_n(None, 3 * ERRORS_IN_A_ROW);
        let came = work(errors.chain([quic(100), None, quic(200)])).await;
        assert_eq!(came.stats.receive_errors, 3 * ERRORS_IN_A_ROW as u64 + 1);
        assert_eq!((came.received, came.quic), (2, vec![100, 200]));
    }

    #[tokio::test]
    async fn after_a_long_batch_few_buffers_are_offered_until_one_is_short() {
        // What is dealt with here counts as what goes on.
        let dropped = Some(vec![0x3f; 60_000]);
        let came = work([quic(100), quic(60_000), None, dropped, quic(100), quic(100)]).await;
        assert_eq!(came.offered, [32, 32, 4, 4, 4, 32]);
        assert_eq!(came.quic, [100, 60_000, 100, 100]);
    }

    #[tokio::test]
    async fn quic_that_comes_faster_than_it_is_read_is_counted_by_the_datagram() {
        // 4 MiB of it wait.
        let came = work((0..70).map(|_| quic(65_000))).await;
        assert_eq!((came.received, came.quic.len()), (70, 64));
        assert_eq!(came.stats.control_full, 6 * 650);
        assert_eq!((came.stats.unknown, came.stats.receive_errors), (0, 0));
    }
}
