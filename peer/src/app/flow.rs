//! Byte streams in one direction, as applications use them.
//!
//! What moves files is written against these two traits and not against QUIC, so that the same code runs over a pair of
//! streams in memory, where a thousand broken transfers take seconds.

use std::future::Future;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};

use super::framed::FrameError;

/// Pieces taken from a stream at once where they are not copied, one to a packet: fewer lock the connection more often, which
/// costs its other tasks time.
const CHUNKS: usize = 64;

/// The end of a stream that is written to.
pub trait Outflow: Send + 'static {
    /// Write everything; waits while the other side takes no more.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), FrameError>> + Send;

    /// Nothing more will be written.
    fn finish(&mut self);

    /// Wait until the other side has everything or has stopped listening.
    fn settled(&mut self) -> impl Future<Output = ()> + Send;
}

/// The end of a stream that is read from.
pub trait Inflow: Send + 'static {
    /// Read some bytes, `None` at the end. Safe to cancel.
    fn read(&mut self, into: &mut [u8]) -> impl Future<Output = Result<Option<usize>, FrameError>> + Send;

    /// Read some bytes and forget them: how many, `None` at the end. Safe to cancel.
    fn discard(&mut self) -> impl Future<Output = Result<Option<usize>, FrameError>> + Send;

    /// Read no more, and tell the other side so with this application error code.
    fn refuse(&mut self, code: u32);
}

impl Outflow for SendStream {
    async fn write(&mut self, bytes: Bytes) -> Result<(), FrameError> {
        Ok(self.write_chunk(bytes).await?)
    }

    fn finish(&mut self) {
        // Fails only on a stream that the other side stopped, and then nobody listens.
        let _ = Self::finish(self);
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

    async fn discard(&mut self) -> Result<Option<usize>, FrameError> {
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        let read = self.read_chunks(&mut chunks).await.map_err(FrameError::Read)?;
        Ok(read.map(|read| chunks.iter().take(read).map(Bytes::len).sum()))
    }

    fn refuse(&mut self, code: u32) {
        // Fails only on a stream that has ended.
        let _ = self.stop(VarInt::from_u32(code));
    }
}
