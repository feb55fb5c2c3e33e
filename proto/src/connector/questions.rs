//! Questions to the server that wait for their answers.

use std::collections::BTreeMap;
use std::time::Instant;

use super::LinkId;
use super::config::{QUESTION_TIMEOUT, QUESTIONS_MAX};
use crate::id::{PeerId, RequestId};
use crate::wire::PathPolicy;

/// What was asked, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// The application wants a link.
    Connect {
        request: RequestId,
        peer: PeerId,
        policy: PathPolicy,
    },
    /// The connector wants another round on a link.
    Round(LinkId),
    /// The application wants to know a key.
    Lookup(RequestId),
}

/// Keyed by the number on the wire, which is this node's own count: the application's numbers may repeat.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<RequestId, (Instant, Question)>,
    next: u32,
}

impl Questions {
    /// The number to ask with; `None` if too many questions wait.
    pub(super) fn ask(&mut self, question: Question, now: Instant) -> Option<RequestId> {
        if self.open.len() >= QUESTIONS_MAX {
            return None;
        }
        self.next = self.next.wrapping_add(1);
        let number = RequestId(self.next);
        self.open.insert(number, (now + QUESTION_TIMEOUT, question));
        Some(number)
    }

    pub(super) fn answered(&mut self, number: RequestId) -> Option<Question> {
        self.open.remove(&number).map(|(_, question)| question)
    }

    pub(super) fn is_asked(&self, link: LinkId) -> bool {
        self.open
            .values()
            .any(|(_, question)| *question == Question::Round(link))
    }

    /// One that was not answered in time.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Question> {
        let late = self.open.iter().find(|(_, (until, _))| *until <= now);
        let number = late.map(|(number, _)| *number)?;
        self.answered(number)
    }

    /// Any one of them, to be given up.
    pub(super) fn pop(&mut self) -> Option<Question> {
        self.open.pop_first().map(|(_, (_, question))| question)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.open.values().map(|(until, _)| *until).min()
    }
}
