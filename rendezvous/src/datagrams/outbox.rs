//! Joins relay frames that arrived one by one into batches, so that sending them is one call into the kernel.
//!
//! Where the kernel coalesces on receipt, batches arrive ready and are sent as they are. Where it does not (tunnel
//! devices, cards without receive offload) each frame would cost a call of its own, which is far dearer than copying
//! 1.4 KB. Nothing waits here: the driver empties it after each turn of receiving.

use knothole_proto::rendezvous::LaneId;
use quinn::udp::EcnCodepoint;

use super::relay::Via;

/// Longest batch in bytes: what fits a UDP datagram of the largest size, as segmentation offload is limited to.
const BATCH_LEN_MAX: usize = 65_000;

/// Frames that are waiting to be sent together.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    head: Option<Head>,
}

/// What all frames of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) via: Via,
    pub(super) ecn: Option<EcnCodepoint>,
    /// Length of each frame but the last, which may be shorter.
    pub(super) stride: usize,
    /// Of which lane the first of them is.
    pub(super) lane: LaneId,
}

impl Outbox {
    /// Add frames at the end; `false` if they do not go with what is there, which must be sent first.
    pub(super) fn add(&mut self, head: Head, frames: &[u8]) -> bool {
        let goes = match self.head {
            None => true,
            Some(there) => {
                let last_is_whole = self.bytes.len().is_multiple_of(there.stride);
                let one_that_is_no_longer = frames.len() <= head.stride && frames.len() <= there.stride;
                (there.via, there.ecn) == (head.via, head.ecn)
                    && last_is_whole
                    && (one_that_is_no_longer || head.stride == there.stride)
                    && self.bytes.len() + frames.len() <= BATCH_LEN_MAX
            }
        };
        if goes {
            self.head.get_or_insert(head);
            self.bytes.extend_from_slice(frames);
        }
        goes
    }

    /// What is there, if anything. [`Outbox::clear`] it when it was sent.
    pub(super) fn batch(&self) -> Option<(Head, &[u8])> {
        Some((self.head?, &self.bytes))
    }

    /// Forget what is there, and keep the memory.
    pub(super) fn clear(&mut self) {
        self.head = None;
        self.bytes.clear();
    }
}
