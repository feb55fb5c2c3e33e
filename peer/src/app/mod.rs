//! What people do over a connection: move files, measure it.
//!
//! Applications see nodes and connections and nothing below. They neither print nor ask nor exit: what happens goes to
//! a [`Listener`], what needs a person's answer is a value that the caller acts on.

pub mod flow;
pub mod framed;
#[cfg(test)]
mod memory;
pub mod ping;
pub mod speed;
pub mod transfer;

use std::future::Future;

use flow::{Inflow, Outflow};
use quinn::SendStream;

use crate::session::{Connection, InOrder, StreamError};

/// Hears what an application does while it does it. Called from many tasks; must return at once.
pub trait Listener: Send + Sync + 'static {
    /// Something happened.
    fn on(&self, event: Event);
}

/// Something happened that a person or a script may want to see. Strings of the other side are untrusted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The offer is with the other side; it decides.
    Offered,
    /// The other side takes it.
    Accepted {
        /// Bytes of the files that are taken.
        bytes: u64,
        /// So many of them are there already from an earlier attempt.
        resumed: u64,
    },
    /// Bytes of files that are verified at the receiver so far, those of earlier attempts included.
    Progress {
        /// So many.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// A file did not come to its place.
    File {
        /// Its path, untrusted.
        path: String,
        /// What became of it.
        outcome: transfer::Outcome,
    },
}

/// The part of a connection that bulk data needs: streams in one direction.
pub trait Bulk: Clone + Send + Sync + 'static {
    /// The end of a stream that is written to.
    type Out: Outflow;
    /// The end of a stream that is read from.
    type In: Inflow;

    /// Open a stream.
    fn open_uni(&self) -> impl Future<Output = Result<Self::Out, StreamError>> + Send;

    /// The next stream that the other side opened. Safe to cancel.
    fn accept_uni(&self) -> impl Future<Output = Result<Self::In, StreamError>> + Send;
}

impl Bulk for Connection {
    type Out = SendStream;
    type In = InOrder;

    async fn open_uni(&self) -> Result<SendStream, StreamError> {
        Self::open_uni(self).await
    }

    async fn accept_uni(&self) -> Result<InOrder, StreamError> {
        self.accept_bulk().await
    }
}
