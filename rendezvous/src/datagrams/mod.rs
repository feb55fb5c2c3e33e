//! What happens to each datagram that arrives: QUIC goes on to quinn, relay frames and STUN are dealt with here.
//!
//! [`Datagrams`] is shared by all sockets of the server. [`Datagrams::sort`] is called for each turn of receiving, by the
//! task that received; it sends what must be sent and returns. It waits for nothing: what finds its socket full, or a
//! limit reached, goes to the backlog, which [`Datagrams::let_out`] empties.
//!
//! At every address there are as many sockets as the server has workers, and a worker sends through its own.

mod backlog;
mod counters;
mod outbox;
mod relay;
mod stun;

use std::net::{IpAddr, SocketAddr};
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::{Duration, Instant};

use knothole_proto::rendezvous::{LaneId, RelayStats};
use knothole_proto::wire::Kind;
use quinn::AsyncUdpSocket;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use tokio::task::consume_budget;
use tokio::time::{sleep_until, timeout};

use backlog::{Held, Next};
use outbox::Head;
use relay::Decision;

pub(crate) use counters::{Counters, WorkerCounters};
pub use counters::{DatagramStats, WorkerStats};
pub(crate) use outbox::Outbox;
pub(crate) use relay::{Relay, Via};
pub(crate) use stun::{Site, Stun};

/// Runs of frames shorter than this are joined with others, in bytes. Copying that much costs about as much as the call
/// into the kernel that it saves.
const JOIN_BELOW: usize = 16 * 1024;

/// Longest wait for a socket that was full: it is tried again then whether or not the system said anything.
const FULL_MAX: Duration = Duration::from_millis(20);

/// What a socket is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Control, relay and STUN.
    Main,
    /// STUN alone.
    Discovery,
}

/// An address to send from.
#[derive(Debug)]
pub(crate) struct Wire {
    /// One for each worker, or a single one.
    pub(crate) sockets: Vec<Arc<dyn AsyncUdpSocket>>,
    pub(crate) local: SocketAddr,
    pub(crate) purpose: Purpose,
}

impl Wire {
    /// The socket that this worker uses.
    pub(crate) fn socket(&self, worker: usize) -> Option<&Arc<dyn AsyncUdpSocket>> {
        self.sockets.get(worker % self.sockets.len().max(1))
    }
}

/// Who received something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Number of the address.
    pub(crate) wire: usize,
    /// Which of the sockets there.
    pub(crate) worker: usize,
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
    /// Deal with all that is not QUIC in the buffers that were received in one turn, and move the QUIC datagrams to the
    /// front of each; `meta.len` is what they take.
    pub(crate) fn sort<B>(
        &self,
        place: Place,
        buffers: &mut [B],
        metas: &mut [RecvMeta],
        outbox: &mut Outbox,
        now: Instant,
    ) where
        B: DerefMut<Target = [u8]>,
    {
        self.counters
            .of(place.worker)
            .received_batches
            .add(buffers.len() as u64);
        // A single buffer has nothing to be joined with.
        let joining = buffers.len() > 1;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            self.sort_one(place, buffer, meta, joining.then_some(&mut *outbox), now);
        }
        self.flush(place, outbox, now);
    }

    /// Let out what waits, each at its moment. Never ends.
    pub(crate) async fn let_out(self: Arc<Self>) {
        let backlog = &self.relay.backlog;
        loop {
            match backlog.next(Instant::now()) {
                Next::Send(release) => {
                    let Held { head, worker, .. } = &release.payload;
                    let ecn = if release.mark {
                        Some(EcnCodepoint::Ce)
                    } else {
                        head.ecn
                    };
                    match self.send(*worker, Head { ecn, ..*head }, release.payload.rest()) {
                        Ok(()) => backlog.done(release),
                        Err(sent) => backlog.put_back(release, sent),
                    }
                    consume_budget().await;
                }
                Next::At(at) => {
                    tokio::select! {
                        () = sleep_until(at.into()) => {}
                        () = backlog.wake.notified() => {}
                    }
                }
                Next::Idle => backlog.wake.notified().await,
                Next::Socket(wire, worker) => {
                    let socket = self.wires.get(wire).and_then(|wire| wire.socket(worker));
                    if let Some(socket) = socket {
                        let mut poller = socket.clone().create_io_poller();
                        let writable = std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx));
                        // An error of waiting is as good as an answer: the next try shows.
                        let _ = timeout(FULL_MAX, writable).await;
                    }
                    backlog.socket_ready();
                }
            }
        }
    }

    /// Counters and gauges of the relay.
    pub(crate) fn relay_stats(&self) -> RelayStats {
        RelayStats {
            channels: self.relay.channels(),
            forwarded_bytes: self.counters.sum(|worker| &worker.forwarded_bytes),
            forwarded_frames: self.counters.sum(|worker| &worker.forwarded_frames),
            forwarded_batches: self.counters.sum(|worker| &worker.forwarded_batches),
            unknown_channel: self.counters.sum(|worker| &worker.unknown_channel),
            wrong_source: self.counters.sum(|worker| &worker.wrong_source),
            queue: self.relay.backlog.stats(),
        }
    }

    fn sort_one(
        &self,
        place: Place,
        buffer: &mut [u8],
        meta: &mut RecvMeta,
        mut outbox: Option<&mut Outbox>,
        now: Instant,
    ) {
        let Some(wire) = self.wires.get(place.wire) else {
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
        let end = if is_answerable(meta) { len } else { 0 };
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
                    at + self.forward(place, rest, stride, meta, outbox.as_deref_mut(), now)
                }
                (Kind::Stun, _) => {
                    self.answer(place, datagram, meta, now);
                    next
                }
                _ => {
                    self.counters.of(place.worker).unknown.add(1);
                    next
                }
            };
        }
        meta.len = kept;
    }

    /// Forward the run of frames of one channel at the front of `frames`; returns the bytes that it took.
    fn forward(
        &self,
        place: Place,
        frames: &[u8],
        stride: usize,
        meta: &RecvMeta,
        outbox: Option<&mut Outbox>,
        now: Instant,
    ) -> usize {
        let len = relay::run(frames, stride);
        let Some(batch) = frames.get(..len) else {
            return frames.len();
        };
        let counters = self.counters.of(place.worker);
        let head = |via, lane: LaneId| Head {
            via,
            ecn: meta.ecn,
            stride,
            lane,
        };
        match self.relay.route(batch, stride, meta.addr, counters, now) {
            Decision::Drop => {}
            Decision::Send(via, lane) => self.join(place, head(via, lane), batch, outbox, now),
            Decision::Wait(via, id, lane) => {
                // What came before must not be overtaken by what is let out.
                if let Some(outbox) = outbox {
                    self.flush(place, outbox, now);
                }
                let head = head(via, id);
                for piece in batch.chunks(self.relay.backlog.piece(stride)) {
                    if self
                        .relay
                        .backlog
                        .offer(id, &lane, head, place.worker, piece, now)
                    {
                        self.send_or_hold(place, head, piece, now);
                    }
                }
            }
        }
        len
    }

    /// Send a batch, or let it wait for others until the end of this turn.
    fn join(&self, place: Place, head: Head, batch: &[u8], outbox: Option<&mut Outbox>, now: Instant) {
        match outbox {
            // Too long to be worth a copy, but not to overtake what came before.
            Some(outbox) if batch.len() >= JOIN_BELOW => {
                self.flush(place, outbox, now);
                self.send_or_hold(place, head, batch, now);
            }
            Some(outbox) => {
                if !outbox.add(head, batch) {
                    self.flush(place, outbox, now);
                    outbox.add(head, batch);
                }
            }
            None => self.send_or_hold(place, head, batch, now),
        }
    }

    fn flush(&self, place: Place, outbox: &mut Outbox, now: Instant) {
        if let Some((head, batch)) = outbox.batch() {
            self.send_or_hold(place, head, batch, now);
            outbox.clear();
        }
    }

    /// Send what is paid for, or what the socket takes of it and the rest when it takes more.
    fn send_or_hold(&self, place: Place, head: Head, batch: &[u8], now: Instant) {
        let Err(sent) = self.send(place.worker, head, batch) else {
            return;
        };
        let rest = batch.get(sent..).unwrap_or_default();
        // The channel may have been closed meanwhile.
        let Some(lane) = self.relay.lane(head.lane) else {
            return;
        };
        for piece in rest.chunks(self.relay.backlog.piece(head.stride)) {
            self.relay
                .backlog
                .hold(head.lane, &lane, head, place.worker, piece, now);
        }
    }

    /// Send a batch.
    ///
    /// # Errors
    /// The bytes at its front that the socket took before it was full.
    fn send(&self, worker: usize, head: Head, batch: &[u8]) -> Result<(), usize> {
        let Some(wire) = self.wires.get(head.via.wire) else {
            return Ok(());
        };
        let Some(socket) = wire.socket(worker) else {
            return Ok(());
        };
        let counters = self.counters.of(worker);
        // 1 where the network card cannot segment; quinn's socket finds out by itself.
        let together = socket.max_transmit_segments().max(1);
        let mut sent = 0;
        for chunk in batch.chunks(head.stride.saturating_mul(together)) {
            let transmit = Transmit {
                destination: head.via.to,
                ecn: head.ecn,
                contents: chunk,
                segment_size: (chunk.len() > head.stride).then_some(head.stride),
                src_ip: head.via.source,
            };
            if socket.try_send(&transmit).is_err() {
                return Err(sent);
            }
            sent += chunk.len();
            counters.forwarded_bytes.add(chunk.len() as u64);
            counters
                .forwarded_frames
                .add(chunk.len().div_ceil(head.stride) as u64);
            counters.forwarded_batches.add(1);
        }
        Ok(())
    }

    fn answer(&self, place: Place, request: &[u8], meta: &RecvMeta, now: Instant) {
        let Some(answer) = self.stun.answer(&self.wires, place.wire, request, meta, now) else {
            return;
        };
        let wire = self.wires.get(answer.wire);
        let Some(socket) = wire.and_then(|wire| wire.socket(place.worker)) else {
            return;
        };
        let transmit = Transmit {
            destination: answer.to,
            ecn: None,
            contents: &answer.bytes,
            segment_size: None,
            src_ip: answer.source,
        };
        if socket.try_send(&transmit).is_err() {
            self.counters.of(place.worker).stun_full.add(1);
        }
    }
}

/// Can an answer leave for where this came from, and from where it went to? Not for port 0, and not from an address of many: the
/// kernel refuses that. The address of everybody in a subnet is not known here; what is sent from there is refused as well, and
/// `udp.rs` sees to it that nobody else suffers from that.
fn is_answerable(meta: &RecvMeta) -> bool {
    let of_one = match meta.dst_ip {
        Some(IpAddr::V4(ip)) => !ip.is_multicast() && !ip.is_broadcast(),
        Some(IpAddr::V6(ip)) => !ip.is_multicast(),
        None => true,
    };
    of_one && meta.addr.port() != 0
}

#[cfg(test)]
mod tests;
