//! QUIC on its way from the workers to the endpoint: a bounded queue of received buffers.
//!
//! What finds it full is dropped, as it would be by the kernel if the endpoint did not read; QUIC sends it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use quinn::udp::RecvMeta;
use tokio::sync::mpsc;

/// Buffers that may wait. A thousand nodes that speak at once fit in; it takes an endpoint a few milliseconds.
const BUFFERS_MAX: usize = 1024;

/// Bytes that may wait: what a socket's own buffer holds, about.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// The end where workers put things in.
#[derive(Clone, Debug)]
pub(crate) struct ToInbox {
    queue: mpsc::Sender<(RecvMeta, Vec<u8>)>,
    waiting: Arc<AtomicUsize>,
}

/// The end from which the endpoint takes.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: mpsc::Receiver<(RecvMeta, Vec<u8>)>,
    waiting: Arc<AtomicUsize>,
}

/// A queue.
pub(crate) fn inbox() -> (ToInbox, Inbox) {
    let (to, from) = mpsc::channel(BUFFERS_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    let to = ToInbox {
        queue: to,
        waiting: waiting.clone(),
    };
    (to, Inbox { queue: from, waiting })
}

impl ToInbox {
    /// Put datagrams in; `false` if there is no room.
    pub(crate) fn put(&self, meta: RecvMeta, datagrams: &[u8]) -> bool {
        let len = datagrams.len();
        if self.waiting.fetch_add(len, Ordering::Relaxed) + len > BYTES_MAX
            || self.queue.try_send((meta, datagrams.to_vec())).is_err()
        {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
            return false;
        }
        true
    }
}

impl Inbox {
    /// Take datagrams into `buffer`; the answer tells how many bytes, and of what length each datagram is.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<RecvMeta> {
        let Poll::Ready(Some((meta, datagrams))) = self.queue.poll_recv(cx) else {
            return Poll::Pending;
        };
        self.waiting.fetch_sub(datagrams.len(), Ordering::Relaxed);
        // A buffer that is too small for all gets as many whole datagrams as fit.
        let len = if datagrams.len() <= buffer.len() {
            datagrams.len()
        } else {
            let stride = meta.stride.max(1);
            buffer.len() / stride * stride
        };
        let (Some(to), Some(from)) = (buffer.get_mut(..len), datagrams.get(..len)) else {
            return Poll::Ready(RecvMeta { len: 0, ..meta });
        };
        to.copy_from_slice(from);
        Poll::Ready(RecvMeta { len, ..meta })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn meta(stride: usize) -> RecvMeta {
        RecvMeta {
            stride,
            ..RecvMeta::default()
        }
    }

    #[tokio::test]
    async fn what_is_put_in_comes_out_in_order() {
        let (to, mut inbox) = inbox();
        assert!(to.put(meta(3), b"abcabc") && to.put(meta(1), b"x"));
        let mut buffer = [0; 10];
        let first = poll_fn(|cx| inbox.poll(cx, &mut buffer)).await;
        assert_eq!((&buffer[..first.len], first.stride), (&b"abcabc"[..], 3));
        let second = poll_fn(|cx| inbox.poll(cx, &mut buffer)).await;
        assert_eq!((&buffer[..second.len], second.stride), (&b"x"[..], 1));
    }

    #[tokio::test]
    async fn a_small_buffer_gets_whole_datagrams() {
        let (to, mut inbox) = inbox();
        assert!(to.put(meta(3), b"abcdefgh"));
        let mut buffer = [0; 7];
        let got = poll_fn(|cx| inbox.poll(cx, &mut buffer)).await;
        assert_eq!(&buffer[..got.len], b"abcdef");
    }

    #[tokio::test]
    async fn neither_buffers_nor_bytes_pile_up() {
        let (to, mut inbox) = inbox();
        let put = (0..10_000).filter(|_| to.put(meta(1), b"x")).count();
        assert_eq!(put, BUFFERS_MAX);
        let mut buffer = vec![0; 64 * 1024];
        for _ in 0..put {
            poll_fn(|cx| inbox.poll(cx, &mut buffer)).await;
        }
        let large = vec![0; 64 * 1024];
        let put = (0..10_000).filter(|_| to.put(meta(1_000), &large)).count();
        assert_eq!(put, BYTES_MAX / large.len());
    }
}
