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
