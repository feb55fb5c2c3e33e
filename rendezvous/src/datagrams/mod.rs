//! What happens to each datagram that arrives: QUIC goes on to quinn, relay frames and STUN are dealt with here.
//!
//! [`Datagrams`] is shared by all sockets of the server. [`Datagrams::sort`] is called for each turn of receiving, on the
//! thread that received; it sends what must be sent and returns. It waits for nothing: a full socket drops.

mod counters;
mod outbox;
mod relay;
mod stun;

use std::net::SocketAddr;
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Instant;

use knothole_proto::wire::Kind;
use quinn::AsyncUdpSocket;
use quinn::udp::{RecvMeta, Transmit};

use outbox::Head;

pub(crate) use counters::Counters;
pub use counters::DatagramStats;
pub(crate) use outbox::Outbox;
pub(crate) use relay::{Relay, Via};
pub(crate) use stun::{Site, Stun};

/// Runs of frames shorter than this are joined with others, in bytes. Copying that much costs about as much as the call
/// into the kernel that it saves.
const JOIN_BELOW: usize = 16 * 1024;

/// What a socket is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Control, relay and STUN.
    Main,
    /// STUN alone.
    Discovery,
}

/// A socket to send through.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) socket: Arc<dyn AsyncUdpSocket>,
    pub(crate) local: SocketAddr,
    pub(crate) purpose: Purpose,
}

/// The part of the server that looks at datagrams.
#[derive(Debug)]
pub(crate) struct Datagrams {
    pub(crate) wires: Vec<Wire>,
    pub(crate) relay: Relay,
    pub(crate) stun: Stun,
    pub(crate) counters: Counters,
}

impl Datagrams {
    /// Deal with all that is not QUIC in the buffers that socket `number` received in one turn, and move the QUIC
    /// datagrams to the front of each; `meta.len` is what they take.
    pub(crate) fn sort<B>(
        &self,
        number: usize,
        buffers: &mut [B],
        metas: &mut [RecvMeta],
        outbox: &mut Outbox,
    ) where
        B: DerefMut<Target = [u8]>,
    {
        // A single buffer has nothing to be joined with.
        let joining = buffers.len() > 1;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            self.sort_one(number, buffer, meta, joining.then_some(&mut *outbox));
        }
        self.flush(outbox);
    }

    fn sort_one(
        &self,
        number: usize,
        buffer: &mut [u8],
        meta: &mut RecvMeta,
        mut outbox: Option<&mut Outbox>,
    ) {
        let Some(wire) = self.wires.get(number) else {
            meta.len = 0;
            return;
        };
        let stride = if meta.stride == 0 {
            meta.len.max(1)
        } else {
            meta.stride
        };
        let (mut at, mut kept) = (0, 0);
        let len = meta.len.min(buffer.len());
        // Nothing can be sent to port 0: an answer would only be an error.
        let end = if meta.addr.port() == 0 { 0 } else { len };
        while at < end {
            let next = (at + stride).min(end);
            let Some(datagram) = buffer.get(at..next) else {
                break;
            };
            at = match (Kind::of(datagram), wire.purpose) {
                (Kind::Quic, Purpose::Main) => {
                    if kept != at {
                        buffer.copy_within(at..next, kept);
                    }
                    kept += next - at;
                    next
                }
                (Kind::Relay, Purpose::Main) => {
                    let rest = buffer.get(at..end).unwrap_or_default();
                    at + self.forward(rest, stride, meta, outbox.as_deref_mut())
                }
                (Kind::Stun, _) => {
                    self.answer(number, datagram, meta);
                    next
                }
                _ => {
                    self.counters.unknown.add(1);
                    next
                }
            };
        }
        meta.len = kept;
    }

    /// Forward the run of frames of one channel at the front of `frames`; returns the bytes that it took.
    fn forward(&self, frames: &[u8], stride: usize, meta: &RecvMeta, outbox: Option<&mut Outbox>) -> usize {
        let len = relay::run(frames, stride);
        let Some(batch) = frames.get(..len) else {
            return frames.len();
        };
        let via = self
            .relay
            .route(batch, stride, meta.addr, Instant::now(), &self.counters);
        let Some(via) = via else { return len };
        let head = Head {
            via,
            ecn: meta.ecn,
            stride,
        };
        match outbox {
            // Too long to be worth a copy, but not to overtake what came before.
            Some(outbox) if len >= JOIN_BELOW => {
                self.flush(outbox);
                self.send(head, batch);
            }
            Some(outbox) => {
                if !outbox.add(head, batch) {
                    self.flush(outbox);
                    outbox.add(head, batch);
                }
            }
            None => self.send(head, batch),
        }
        len
    }

    fn flush(&self, outbox: &mut Outbox) {
        if let Some((head, batch)) = outbox.batch() {
            self.send(head, batch);
            outbox.clear();
        }
    }

    fn send(&self, head: Head, batch: &[u8]) {
        let Some(wire) = self.wires.get(head.via.wire) else {
            return;
        };
        // 1 where the network card cannot segment; quinn's socket finds out by itself.
        let together = wire.socket.max_transmit_segments().max(1);
        for chunk in batch.chunks(head.stride.saturating_mul(together)) {
            let transmit = Transmit {
                destination: head.via.to,
                ecn: head.ecn,
                contents: chunk,
                segment_size: (chunk.len() > head.stride).then_some(head.stride),
                src_ip: head.via.source,
            };
            if wire.socket.try_send(&transmit).is_err() {
                self.counters
                    .relay_full
                    .add(chunk.len().div_ceil(head.stride) as u64);
            }
        }
    }

    fn answer(&self, number: usize, request: &[u8], meta: &RecvMeta) {
        let Some(answer) = self
            .stun
            .answer(&self.wires, number, request, meta, Instant::now())
        else {
            return;
        };
        let Some(wire) = self.wires.get(answer.wire) else {
            return;
        };
        let transmit = Transmit {
            destination: answer.to,
            ecn: None,
            contents: &answer.bytes,
            segment_size: None,
            src_ip: answer.source,
        };
        if wire.socket.try_send(&transmit).is_err() {
            self.counters.stun_full.add(1);
        }
    }
}

#[cfg(test)]
mod tests;
