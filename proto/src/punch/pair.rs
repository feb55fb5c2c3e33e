//! One own socket and one remote address: what was sent and heard there, and what that proves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Consent;
use super::config::{
    FIND_PAUSE, NONCE_LIFETIME, NONCES_PER_PAIR, PROOF_FRESH, SCHEDULE_UNATTESTED_MS, UNATTESTED_WINDOW,
};
use crate::path::{How, SocketId};

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) socket: SocketId,
    pub(super) remote: SocketAddr,
    pub(super) how: How,
    /// The server vouches for the remote IP address.
    pub(super) attested: bool,
    /// Learnt from a probe. What is heard from there may be a copy that somebody sent on from an address of his own,
    /// so it proves less than what is heard from an address that was offered.
    pub(super) learnt: bool,
    /// An own nonce came back at some time: whoever is there has the peer's answers.
    answered: bool,
    /// It was told that the peer's datagrams come from there.
    pub(super) announced: bool,
    /// The last nonce that came from there; 0 if none did.
    pub(super) to_echo: u64,
    /// When the last authentic probe came from there.
    pub(super) heard: Option<Instant>,
    /// When the first one did since the proof was last forgotten.
    found: Option<Instant>,
    /// When the last own nonce came back: this side's half of the proof.
    pub(super) echoed: Option<Instant>,
    /// When the peer last said that its nonce came back: the other half.
    pub(super) peer_echoed: Option<Instant>,
    rtt: Option<Rtt>,
    /// When the first of the last probes to the address left while nobody vouched for it, and how many did.
    unvouched: Option<(Instant, usize)>,
    nonces: [Option<Sent>; NONCES_PER_PAIR],
    next_nonce: usize,
    /// When the last probe left.
    tried: Option<Instant>,
    schedule: Schedule,
}

/// An own nonce on its way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    at: Instant,
    /// It asked for an answer, so its echo comes without delay.
    asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Rtt {
    shortest: Duration,
    /// Measured by a question; otherwise it holds the peer's pause before its next probe as well.
    exact: bool,
}

/// When the pair is to be probed: moments relative to a base.
#[derive(Debug)]
struct Schedule {
    steps: &'static [u64],
    base: Instant,
    next: usize,
    due: Option<Instant>,
}

impl Pair {
    pub(super) fn offered(
        socket: SocketId,
        remote: SocketAddr,
        how: How,
        attested: bool,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            remote,
            how,
            attested,
            learnt: false,
            answered: false,
            announced: false,
            to_echo: 0,
            heard: None,
            found: None,
            echoed: None,
            peer_echoed: None,
            rtt: None,
            unvouched: None,
            nonces: [None; NONCES_PER_PAIR],
            next_nonce: 0,
            tried: None,
            schedule: Schedule {
                steps: &[],
                base: now,
                next: 0,
                due: None,
            },
        }
    }

    pub(super) fn learnt(
        socket: SocketId,
        remote: SocketAddr,
        how: How,
        attested: bool,
        now: Instant,
    ) -> Self {
        Self {
            learnt: true,
            ..Self::offered(socket, remote, how, attested, now)
        }
    }

    pub(super) fn is(&self, socket: SocketId, remote: SocketAddr) -> bool {
        self.socket == socket && self.remote == remote
    }

    /// Both directions work and both sides know.
    pub(super) fn is_proven(&self) -> bool {
        self.echoed.is_some() && self.peer_echoed.is_some()
    }

    /// Proven, and not long ago.
    pub(super) fn is_freshly_proven(&self, now: Instant) -> bool {
        let fresh =
            |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) <= PROOF_FRESH);
        self.peer_echoed.is_some() && fresh(self.echoed)
    }

    /// The peer was heard there for the first time a moment ago, and what completes the proof is on its way.
    pub(super) fn is_being_proven(&self, now: Instant) -> bool {
        let lately = self.found.is_some_and(|at| now < at + FIND_PAUSE);
        lately && !self.is_proven() && !self.is_on_trial() && self.due().is_some()
    }

    /// An authentic probe came from there.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
        self.found.get_or_insert(now);
    }

    pub(super) fn forget_proof(&mut self) {
        self.found = None;
        self.echoed = None;
        self.peer_echoed = None;
        self.nonces = [None; NONCES_PER_PAIR];
    }

    /// Learnt from a probe that may have been a copy: nobody vouches for it, and nothing was proven.
    pub(super) fn is_on_trial(&self) -> bool {
        self.learnt && !self.answered && !self.attested
    }

    pub(super) fn consent(&self) -> Consent {
        let heard = self.heard.is_some() && (self.attested || !self.learnt);
        match (self.answered || heard, self.attested) {
            (true, _) => Consent::Heard,
            (false, true) => Consent::Attested,
            (false, false) => Consent::Claimed,
        }
    }

    /// May a probe leave now? Counts it.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        if self.consent() != Consent::Claimed {
            return true;
        }
        let (since, sent) = match self.unvouched {
            Some((since, sent)) if now < since + UNATTESTED_WINDOW => (since, sent),
            _ => (now, 0),
        };
        self.unvouched = Some((since, sent + 1));
        sent < SCHEDULE_UNATTESTED_MS.len()
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.shortest)
    }

    /// Did a probe leave within this time?
    pub(super) fn was_tried_since(&self, now: Instant, within: Duration) -> bool {
        self.tried.is_some_and(|at| now < at + within)
    }

    /// A probe left.
    pub(super) fn sent(&mut self, nonce: u64, asked: bool, now: Instant) {
        self.nonces[self.next_nonce] = Some(Sent {
            nonce,
            at: now,
            asked,
        });
        self.next_nonce = (self.next_nonce + 1) % NONCES_PER_PAIR;
        self.tried = Some(now);
    }

    /// The peer echoed `nonce`. Is it one of ours that was not echoed before? Each proves something once.
    pub(super) fn take_echo(&mut self, nonce: u64, now: Instant) -> bool {
        let ours = |sent: &&mut Option<Sent>| sent.is_some_and(|sent| sent.nonce == nonce);
        let Some(sent) = self.nonces.iter_mut().find(ours).and_then(Option::take) else {
            return false;
        };
        let took = now.saturating_duration_since(sent.at);
        if took > NONCE_LIFETIME {
            return false;
        }
        self.rtt = match self.rtt {
            Some(rtt) if rtt.exact && !sent.asked => Some(rtt),
            Some(rtt) if rtt.exact == sent.asked => Some(Rtt {
                shortest: rtt.shortest.min(took),
                exact: rtt.exact,
            }),
            _ => Some(Rtt {
                shortest: took,
                exact: sent.asked,
            }),
        };
        self.echoed = Some(now);
        self.answered = true;
        true
    }

    /// Probe at these moments (milliseconds after `base`) from now on.
    pub(super) fn schedule(&mut self, steps: &'static [u64], base: Instant) {
        let due = steps.first().map(|ms| base + Duration::from_millis(*ms));
        self.schedule = Schedule {
            steps,
            base,
            next: 0,
            due,
        };
    }

    pub(super) fn stop(&mut self) {
        self.schedule.due = None;
    }

    /// When the next scheduled probe is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.schedule.due
    }

    /// The probe that was due is sent: on to the next one, that much later than planned. Steps that were missed
    /// because nobody called in time are left out, not made up for.
    pub(super) fn advance(&mut self, jitter: Duration, now: Instant) {
        let schedule = &mut self.schedule;
        loop {
            schedule.next += 1;
            let step = schedule.steps.get(schedule.next);
            let due = step.map(|ms| schedule.base + Duration::from_millis(*ms) + jitter);
            if due.is_none_or(|due| due > now) {
                schedule.due = due;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    fn offered(now: Instant) -> Pair {
        let remote = "5.5.5.5:5".parse().unwrap();
        Pair::offered(SocketId::V4, remote, How::Punched, true, now)
    }

    #[test]
    fn a_nonce_proves_once_and_not_for_ever() {
        let now = epoch();
        let mut pair = offered(now);
        pair.sent(7, true, now);
        pair.sent(8, true, now);
        assert!(!pair.take_echo(0, now));
        assert!(!pair.take_echo(9, now));
        assert!(pair.take_echo(7, now + Duration::from_millis(30)));
        assert!(!pair.take_echo(7, now + Duration::from_millis(31)));
        assert!(!pair.take_echo(8, now + NONCE_LIFETIME + Duration::from_millis(1)));
        assert_eq!(pair.rtt(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn a_measured_round_trip_replaces_one_with_a_pause_in_it() {
        let now = epoch();
        let mut pair = offered(now);
        pair.sent(1, false, now);
        assert!(pair.take_echo(1, now + Duration::from_millis(20)));
        pair.sent(2, true, now);
        assert!(pair.take_echo(2, now + Duration::from_millis(30)));
        assert_eq!(pair.rtt(), Some(Duration::from_millis(30)));
        pair.sent(3, false, now);
        assert!(pair.take_echo(3, now + Duration::from_millis(10)));
        assert_eq!(pair.rtt(), Some(Duration::from_millis(30)));
    }
}
