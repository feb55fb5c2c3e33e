//! Byte streams in one direction, as applications use them.
//!
//! What moves files is written against these two traits and not against QUIC, so that the same code runs over a pair of
//! streams in memory, where a thousand broken transfers take seconds.

use std::future::Future;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};

use super::framed::FrameError;
use crate::session::InOrder;

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
    /// later is not in order.
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

    async fn discard(&mut self) -> Result<Option<usize>, FrameError> {
        let read = self
            .read_chunk(usize::MAX, false)
            .await
            .map_err(FrameError::Read)?;
        Ok(read.map(|chunk| chunk.bytes.len()))
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

    async fn discard(&mut self) -> Result<Option<usize>, FrameError> {
        let mut into = [0; 4096];
        Inflow::read(self, &mut into).await
    }

    fn refuse(&mut self, code: u32) {
        self.stop(VarInt::from_u32(code));
    }
}
