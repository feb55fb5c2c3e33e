//! Byte streams in one direction, as applications use them.
//!
//! What moves files is written against these two traits and not against QUIC, so that the same code runs over a pair of
//! streams in memory, where a thousand broken transfers take seconds.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream, VarInt};

use super::framed::FrameError;
use crate::session::{CODE_IN_PIECES, InOrder};

/// Runs of bytes with holes between them that a stream which is read in any order may consist of. quinn remembers each, and so does
/// [`Runs`]: about a megabyte a stream. A window of full packets of which every other one was lost is half as many; a sender that has
/// more makes them on purpose.
const RUNS_MAX: usize = 16 * 1024;

/// The end of a stream that is written to.
pub trait Outflow: Send + 'static {
    /// Write everything; waits while the other side takes no more.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), FrameError>> + Send;

    /// Nothing more will be written.
    fn finish(&mut self);

    /// Nothing more will be written, and what has not arrived need not: the other side is told so with this application error
    /// code instead of the end.
    fn abandon(&mut self, code: VarInt);

    /// Wait until the other side has everything or has stopped listening.
    fn settled(&mut self) -> impl Future<Output = ()> + Send;
}

/// The end of a stream that is read from.
pub trait Inflow: Send + 'static {
    /// Read some bytes, `None` at the end. Safe to cancel.
    fn read(&mut self, into: &mut [u8]) -> impl Future<Output = Result<Option<usize>, FrameError>> + Send;

    /// Take some bytes, in whatever order they come, and forget them: how many, `None` at the end. Safe to cancel; what is read
    /// later is not in order. `runs` are those of this stream so far; one of too many is an error, and stopped.
    fn discard(&mut self, runs: &mut Runs) -> impl Future<Output = Result<Option<usize>, FrameError>> + Send;

    /// Read no more, and tell the other side so with this application error code.
    fn refuse(&mut self, code: u32);
}

/// What was read of a stream in any order: runs without a hole, by their place.
#[derive(Debug, Default)]
pub struct Runs {
    /// From where to where; none touches another.
    runs: BTreeMap<u64, u64>,
}

impl Runs {
    /// `length` bytes from `from` on; no byte comes twice. `false`: these are more runs than a sender of whole packets makes.
    fn add(&mut self, from: u64, length: usize) -> bool {
        let to = from.saturating_add(length as u64);
        let to = self.runs.remove(&to).unwrap_or(to);
        match self.runs.range_mut(..from).next_back() {
            Some((_, end)) if *end == from => *end = to,
            _ => {
                self.runs.insert(from, to);
            }
        }
        self.runs.len() <= RUNS_MAX
    }
}

impl Outflow for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Result<(), FrameError> {
        Ok(self.write_chunk(bytes).await?)
    }

    fn finish(&mut self) {
        // Fails only on a stream that the other side stopped, and then nobody listens.
        let _ = Self::finish(self);
    }

    fn abandon(&mut self, code: VarInt) {
        // As above.
        let _ = self.reset(code);
    }

    async fn settled(&mut self) {
        // Either way nothing more can be done for what was written.
        let _ = self.stopped().await;
    }
}

impl Inflow for RecvStream {
    async fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, FrameError> {
        Self::read(self, into).await.map_err(FrameError::Read)
    }

    async fn discard(&mut self, runs: &mut Runs) -> Result<Option<usize>, FrameError> {
        let read = self
            .read_chunk(usize::MAX, false)
            .await
            .map_err(FrameError::Read)?;
        let Some(chunk) = read else { return Ok(None) };
        if !runs.add(chunk.offset, chunk.bytes.len()) {
            // Fails only on a stream that has ended.
            let _ = self.stop(CODE_IN_PIECES);
            return Err(FrameError::Read(ReadError::ClosedStream));
        }
        Ok(Some(chunk.bytes.len()))
    }

    fn refuse(&mut self, code: u32) {
        // Fails only on a stream that has ended.
        let _ = self.stop(VarInt::from_u32(code));
    }
}

impl Inflow for InOrder {
    async fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, FrameError> {
        Self::read(self, into).await.map_err(FrameError::Read)
    }

    async fn discard(&mut self, _: &mut Runs) -> Result<Option<usize>, FrameError> {
        let mut into = [0; 4096];
        Inflow::read(self, &mut into).await
    }

    fn refuse(&mut self, code: u32) {
        self.stop(VarInt::from_u32(code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet's worth of a stream.
    const PIECE: usize = 1_100;

    #[test]
    fn a_window_of_whole_packets_with_every_other_lost_is_borne_and_comes_together_again() {
        let mut runs = Runs::default();
        let packets = 16 * 1024 * 1024 / PIECE as u64;
        for lost in [0, 1] {
            for packet in (lost..packets).step_by(2) {
                assert!(runs.add(packet * PIECE as u64, PIECE), "packet {packet}");
            }
        }
        let whole = (0, packets * PIECE as u64);
        assert_eq!(runs.runs.into_iter().collect::<Vec<_>>(), [whole]);
    }

    #[test]
    fn single_bytes_at_every_other_place_are_soon_too_many() {
        let mut runs = Runs::default();
        let borne = (0..1 << 20).take_while(|n| runs.add(2 * n, 1)).count();
        assert_eq!(borne, RUNS_MAX);
        // A piece that fills a hole joins two.
        assert!(runs.add(1, 1));
    }
}
