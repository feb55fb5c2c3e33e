//! What the receiver says on the control stream.
//!
//! A sender may be gone or take nothing, so nothing here waits for it without an end, and whoever waits may stop at any
//! moment. What was written of a message until then stays in the stream: behind it nothing is said any more, and the stream
//! is reset instead of ended.

use std::time::Duration;

use knothole_proto::wire::codec;
use quinn::VarInt;

use super::messages::{FromReceiver, RUNS_MAX, STREAM_TORN, VALUES_MAX};
use super::plan::Plan;
use super::tree::Value;
use crate::app::flow::Outflow;
use crate::app::framed::FrameError;

/// How long a sender may take to take the last message.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(30);

/// The same of one that began anew: it is most likely dead, and a new attempt waits for the place of this one.
const PARTING_TIMEOUT: Duration = Duration::from_secs(1);

/// The receiver's end of the control stream.
#[derive(Debug)]
pub(super) struct Voice<O> {
    out: O,
    /// Does the stream hold a part of a message, or may it?
    torn: bool,
}

/// Why something was not said. Nothing is to be said behind it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsaid {
    /// The stream or the connection ended, or there is no such message.
    #[error(transparent)]
    Lost(#[from] FrameError),
    /// The sender did not take it in time.
    #[error("the sender takes nothing any more")]
    Stalled,
}

impl<O: Outflow> Voice<O> {
    pub(super) fn new(out: O) -> Self {
        Self { out, torn: false }
    }

    /// Say what is there of an offer, and what is wanted of it. The sender may take `patience` for each message.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) async fn say_plan(&mut self, plan: &Plan, patience: Duration) -> Result<(), Unsaid> {
        let told = FromReceiver::Plan {
            bytes: plan.bytes,
            resumed: plan.resumed,
            files: plan.whole,
        };
        self.say(&told, patience).await?;
        for part in &plan.parts {
            for (first, values) in pages_of(&part.claims()) {
                let index = part.index;
                let have = FromReceiver::Have { index, first, values };
                self.say(&have, patience).await?;
            }
        }
        let mut pages = plan.wanted.chunks(RUNS_MAX).peekable();
        if pages.peek().is_none() {
            let nothing = FromReceiver::Wanted {
                runs: Vec::new(),
                last: true,
            };
            return self.say(&nothing, patience).await;
        }
        while let Some(page) = pages.next() {
            let wanted = FromReceiver::Wanted {
                runs: page.to_vec(),
                last: pages.peek().is_none(),
            };
            self.say(&wanted, patience).await?;
        }
        Ok(())
    }

    /// Say something; waits for at most `patience` while the sender takes nothing. May be cancelled, like whatever ends by
    /// an error: then it was the last that was said.
    ///
    /// # Errors
    /// [`Unsaid::Lost`], [`Unsaid::Stalled`].
    pub(super) async fn say(&mut self, word: &FromReceiver, patience: Duration) -> Result<(), Unsaid> {
        let bytes = codec::encode_framed(word).map_err(FrameError::from)?;
        if self.torn {
            return Err(Unsaid::Stalled);
        }
        self.torn = true;
        let written = tokio::time::timeout(patience, self.out.write(bytes.into())).await;
        written.map_err(|_| Unsaid::Stalled)??;
        self.torn = false;
        Ok(())
    }

    /// Say something as the last thing on this stream, and see that it gets there, if the other side still listens.
    pub(super) async fn last_word(mut self, word: &FromReceiver) {
        let said = async {
            self.say(word, LAST_WORD_TIMEOUT).await?;
            self.out.finish();
            self.out.settled().await;
            Ok::<(), Unsaid>(())
        };
        if !matches!(tokio::time::timeout(LAST_WORD_TIMEOUT, said).await, Ok(Ok(()))) {
            tracing::debug!("the sender did not take the last message");
        }
        self.end();
    }

    /// The same without seeing that it gets there.
    pub(super) async fn parting_word(mut self, word: &FromReceiver) {
        if self.say(word, PARTING_TIMEOUT).await.is_err() {
            tracing::debug!("the former attempt did not take the last message");
        }
        self.end();
    }

    /// Nothing more is said. The beginning of a message is taken back, so that nobody waits for the rest of it.
    pub(super) fn end(&mut self) {
        match self.torn {
            true => self.out.abandon(VarInt::from_u32(STREAM_TORN)),
            false => self.out.finish(),
        }
    }
}

/// Runs of chunks that follow each other, each short enough for a message.
fn pages_of(claims: &[(u32, Value)]) -> Vec<(u32, Vec<Value>)> {
    let mut pages: Vec<(u32, Vec<Value>)> = Vec::new();
    let mut next = None;
    for (chunk, value) in claims {
        match pages.last_mut() {
            Some((_, values)) if next == Some(*chunk) && values.len() < VALUES_MAX => values.push(*value),
            _ => pages.push((*chunk, vec![*value])),
        }
        next = chunk.checked_add(1);
    }
    pages
}
