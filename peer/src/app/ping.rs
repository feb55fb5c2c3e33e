//! Asking the other side for a sign of life over the connection, and answering it.
//!
//! What is measured is the round trip of a small message over the path that the connection uses at that moment, through
//! everything that a program's bytes go through.

use std::time::{Duration, Instant};

use knothole_proto::path::Path;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

use super::framed::{self, FrameError};
use crate::session::{Connection, StreamError};

/// Name of the service that answers.
pub const SERVICE: &str = "ping";

/// A question, and word for word its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ping {
    /// Counts from 0.
    seq: u32,
}

/// An answered question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pong {
    /// Which one, from 0.
    pub seq: u32,
    /// From question to answer.
    pub rtt: Duration,
    /// The path when the answer came.
    pub path: Path,
    /// From the introduction of the two nodes to the moment this path was taken.
    pub since: Duration,
}

/// The asking side of one stream.
#[derive(Debug)]
pub struct Pinger {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    seq: u32,
}

impl Pinger {
    /// Open a stream to the peer's answering service.
    ///
    /// # Errors
    /// That the connection ended.
    pub async fn open(connection: &Connection) -> Result<Self, StreamError> {
        let (send, recv) = connection.open(SERVICE).await?;
        Ok(Self {
            connection: connection.clone(),
            send,
            recv,
            seq: 0,
        })
    }

    /// Ask once and wait for the answer, however long it takes.
    ///
    /// # Errors
    /// [`PingError`]; no further question can be asked then.
    pub async fn ping(&mut self) -> Result<Pong, PingError> {
        let question = Ping { seq: self.seq };
        let asked = Instant::now();
        framed::write(&mut self.send, &question).await?;
        let answer: Ping = framed::expect(&mut self.recv).await?;
        if answer != question {
            return Err(PingError::Protocol);
        }
        self.seq = self.seq.wrapping_add(1);
        let state = *self.connection.path().borrow();
        Ok(Pong {
            seq: question.seq,
            rtt: asked.elapsed(),
            path: state.path,
            since: state.after,
        })
    }
}

/// Answer on a stream until the other side has asked enough.
///
/// # Errors
/// [`FrameError`] if it broke off.
pub async fn answer(mut send: SendStream, mut recv: RecvStream) -> Result<(), FrameError> {
    while let Some(question) = framed::read::<Ping>(&mut recv).await? {
        framed::write(&mut send, &question).await?;
    }
    Ok(())
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// The stream broke off.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The answer is to another question.
    #[error("the other side does not keep to the protocol; are both of the same version?")]
    Protocol,
}
