//! What the connector remembers of one link, and which path follows from it. No decisions.

use std::time::Instant;

use super::Timer;
use super::config::{BACKOFF_JITTER_PERCENT, ROUND_BACKOFF_MS};
use crate::id::{ChannelId, Instance, Name, PairTag, PeerId, SessionId};
use crate::path::{Path, Why};
use crate::plan::Plan;
use crate::punch::PunchAgent;
use crate::seed::Rng;
use crate::wire::{Network, PathPolicy, Role};

#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) peer: PeerId,
    pub(super) instance: Instance,
    pub(super) peer_name: Option<Name>,
    pub(super) tag: PairTag,
    pub(super) role: Role,
    /// The application of this node asked for the link, so this node asks the server for it after a loss.
    pub(super) wanted: Option<PathPolicy>,
    pub(super) policy: PathPolicy,
    /// The session that the server knows; `None` after it ended there.
    pub(super) session: Option<SessionId>,
    /// The session whose keys are in use, also after it ended at the server.
    pub(super) keyed: SessionId,
    /// The one before, until its keys expire.
    pub(super) keyed_before: Option<SessionId>,
    pub(super) channel: Option<ChannelId>,
    /// `None` if the policy allows no direct path.
    pub(super) agent: Option<PunchAgent>,
    /// The path that the agent has locked.
    pub(super) direct: Option<Path>,
    /// Why there is none.
    pub(super) why: Why,
    /// The path that was told last.
    pub(super) told: Option<Path>,
    pub(super) introduced: Instant,
    /// The peer said that it is done with this link.
    pub(super) left: bool,
    pub(super) backoff: Backoff,
    /// The round of the session that is under way, or was the last one.
    pub(super) round: u8,
    /// The peer's network, as the server knew it then.
    pub(super) peer_network: Network,
    /// Enough was known of both networks then.
    pub(super) informed: bool,
    /// It is not the first try.
    pub(super) again: bool,
    /// What both sides do in it.
    pub(super) plan: Plan,
    /// When its introduction came.
    pub(super) round_begun: Instant,
    /// Probes that had been sent before it.
    pub(super) probes_before: u32,
    /// The server was told how it ended.
    pub(super) reported: bool,
    pub(super) sockets_opened: u32,
    /// Without any path or session since the time that this allows for.
    pub(super) orphan_at: Option<Instant>,
}

impl LinkState {
    /// The path that traffic is to take.
    pub(super) fn path(&self) -> Path {
        match (self.direct, self.channel) {
            (Some(direct), _) => direct,
            (None, Some(_)) if self.policy != PathPolicy::DirectOnly => Path::Relay(self.why),
            (None, _) => Path::None(self.why),
        }
    }

    /// When something is to be done about it, and what.
    pub(super) fn due(&self) -> Option<(Instant, Timer)> {
        let punch = self.agent.as_ref().and_then(PunchAgent::poll_timeout);
        [
            punch.map(|(at, timer)| (at, Timer::Punch(timer))),
            self.backoff.due().map(|at| (at, Timer::Round)),
            self.orphan_at.map(|at| (at, Timer::Orphan)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Is it for this node to ask the server for another round?
    pub(super) fn asks(&self) -> bool {
        !self.left && (self.role == Role::Caller || (self.session.is_none() && self.wanted.is_some()))
    }

    /// Nothing is left that could carry traffic or bring a path about.
    pub(super) fn is_orphan(&self) -> bool {
        self.session.is_none() && self.direct.is_none()
    }
}

/// When to ask the server for another round.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    step: usize,
    at: Option<Instant>,
}

impl Backoff {
    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }

    /// Ask at this moment, and begin the pauses anew.
    pub(super) fn restart(&mut self, at: Instant) {
        self.step = 0;
        self.at = Some(at);
    }

    /// Ask after the next pause.
    pub(super) fn pause(&mut self, rng: &mut Rng, now: Instant) {
        let last = ROUND_BACKOFF_MS.last().copied().unwrap_or_default();
        let ms = ROUND_BACKOFF_MS.get(self.step).copied().unwrap_or(last);
        self.step += 1;
        self.at = Some(now + earlier(ms, rng));
    }

    /// Ask no more, until told otherwise.
    pub(super) fn stop(&mut self) {
        self.step = 0;
        self.at = None;
    }

    /// It was asked; the answer decides what follows.
    pub(super) fn asked(&mut self) {
        self.at = None;
    }
}

/// This many milliseconds, less a little.
pub(super) fn earlier(ms: u64, rng: &mut Rng) -> std::time::Duration {
    let us = ms.saturating_mul(1000);
    std::time::Duration::from_micros(us - rng.below(us * BACKOFF_JITTER_PERCENT / 100))
}
