//! Is the used path still alive? Counts silence and says when to probe and when to give up; sends nothing itself.
//!
//! Four clocks run: idleness (a mapping in a NAT expires), consent (nothing may be sent for longer than 30 s
//! without an authenticated answer, RFC 7675), a flow that fell silent (whoever only answers would notice nothing), and
//! unanswered traffic (something is wrong now). The first three ask in a patient series, the last checks quickly.

use std::time::{Duration, Instant};

use super::config::{
    CHECK_EVERY, CHECKS, CONSENT, DESERTED_AFTER, HUSH_AFTER, KEEPALIVE_RETRY_MS, SUSPECT_AFTER,
};

#[derive(Debug)]
pub(super) struct Upkeep {
    interval: Duration,
    /// When the last datagram left, and when the last one arrived, as far as is known.
    sent: Instant,
    received: Instant,
    /// When an own nonce last came back.
    consent: Instant,
    /// Did what arrived last belong to a flow: was it close behind something else?
    flowing: bool,
    /// Since when traffic has been going out without anything coming in.
    unanswered: Option<Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quiet,
    Asking { tries: usize, next: Instant },
    Checking { checks: u32, next: Instant },
}

/// What is to be done about the used path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Probe it.
    Probe,
    /// Probe it, and the other paths that were proven: it may be lost soon.
    ProbeAll,
    /// It is dead.
    Lost,
}

impl Upkeep {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            sent: now,
            received: now,
            consent: now,
            flowing: false,
            unanswered: None,
            state: State::Quiet,
        }
    }

    /// An own nonce came back on the used path.
    pub(super) fn on_echo(&mut self, now: Instant) {
        self.received = now;
        self.consent = now;
        self.unanswered = None;
        self.state = State::Quiet;
    }

    /// A probe left on the used path.
    pub(super) fn on_probe(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Traffic of the layer above. What comes in ends a suspicion but gives no consent: it is not known here whether
    /// it was authentic.
    pub(super) fn on_traffic(&mut self, sent: bool, received: bool, now: Instant) {
        if sent {
            self.sent = now;
            self.unanswered.get_or_insert(now);
        }
        if received {
            self.flowing = now.saturating_duration_since(self.received) < HUSH_AFTER;
            self.received = now;
            self.unanswered = None;
            if matches!(self.state, State::Checking { .. }) {
                self.state = State::Quiet;
            }
        }
    }

    /// The peer's traffic comes through the relay. It may have lost the direct path, or not have got it yet.
    pub(super) fn on_relayed(&mut self, now: Instant) {
        if now.saturating_duration_since(self.received) >= DESERTED_AFTER {
            self.suspect(now);
        }
    }

    /// There is a reason from outside to doubt the path.
    pub(super) fn suspect(&mut self, now: Instant) {
        if !matches!(self.state, State::Checking { .. }) {
            self.state = State::Checking { checks: 0, next: now };
        }
    }

    pub(super) fn due(&self) -> Instant {
        let suspicion = self.unanswered.map(|since| since + SUSPECT_AFTER);
        let calm = match self.state {
            State::Checking { next, .. } => return next,
            State::Asking { next, .. } => next,
            State::Quiet => {
                let idle = self.sent.min(self.received) + self.interval;
                let hush = self.flowing.then(|| self.received + HUSH_AFTER);
                hush.map_or(idle, |hush| hush.min(idle))
                    .min(self.consent + CONSENT)
            }
        };
        suspicion.map_or(calm, |suspicion| suspicion.min(calm))
    }

    pub(super) fn on_time(&mut self, now: Instant) -> Verdict {
        if now < self.due() {
            return Verdict::Fine;
        }
        let suspicious = self.unanswered.is_some_and(|since| now >= since + SUSPECT_AFTER);
        if suspicious {
            self.suspect(now);
        }
        match self.state {
            State::Quiet => self.ask(0, now),
            State::Asking { tries, .. } => self.ask(tries, now),
            State::Checking { checks: CHECKS, .. } => Verdict::Lost,
            State::Checking { checks, .. } => {
                self.state = State::Checking {
                    checks: checks + 1,
                    next: now + CHECK_EVERY,
                };
                Verdict::ProbeAll
            }
        }
    }

    fn ask(&mut self, tries: usize, now: Instant) -> Verdict {
        let Some(wait) = KEEPALIVE_RETRY_MS.get(tries) else {
            return Verdict::Lost;
        };
        self.flowing = false;
        self.state = State::Asking {
            tries: tries + 1,
            next: now + Duration::from_millis(*wait),
        };
        if tries == 0 {
            Verdict::Probe
        } else {
            Verdict::ProbeAll
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const MS: Duration = Duration::from_millis(1);

    fn run(upkeep: &mut Upkeep, epoch: Instant, until: Duration) -> Vec<(u128, Verdict)> {
        let mut done = Vec::new();
        while upkeep.due() <= epoch + until {
            let now = upkeep.due();
            let verdict = upkeep.on_time(now);
            done.push(((now - epoch).as_millis(), verdict));
            if verdict == Verdict::Lost {
                break;
            }
        }
        done
    }

    #[test]
    fn an_idle_path_is_asked_three_times_and_then_lost() {
        let epoch = testing::epoch();
        let mut upkeep = Upkeep::new(15_000 * MS, epoch);
        let done = run(&mut upkeep, epoch, 60_000 * MS);
        assert_eq!(
            done,
            [
                (15_000, Verdict::Probe),
                (16_000, Verdict::ProbeAll),
                (18_000, Verdict::ProbeAll),
                (22_000, Verdict::Lost)
            ]
        );
    }

    #[test]
    fn traffic_that_is_not_answered_is_suspected_after_a_second_and_lost_after_two() {
        let epoch = testing::epoch();
        let mut upkeep = Upkeep::new(15_000 * MS, epoch);
        upkeep.on_traffic(true, true, epoch);
        upkeep.on_traffic(true, false, epoch + 100 * MS);
        let done = run(&mut upkeep, epoch, 60_000 * MS);
        let times: Vec<_> = done.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [1100, 1350, 1600, 1850, 2100]);
        assert_eq!(done[4].1, Verdict::Lost);
    }

    #[test]
    fn a_path_that_the_peer_left_for_the_relay_is_checked_at_once_and_a_new_one_is_not() {
        let epoch = testing::epoch();
        let mut upkeep = Upkeep::new(15_000 * MS, epoch);
        upkeep.on_relayed(epoch + 400 * MS);
        assert_eq!(upkeep.due(), epoch + 15_000 * MS, "what was under way comes in");
        upkeep.on_relayed(epoch + 600 * MS);
        let done = run(&mut upkeep, epoch, 60_000 * MS);
        assert_eq!(done.first(), Some(&(600, Verdict::ProbeAll)));
        assert_eq!(done.last(), Some(&(1_600, Verdict::Lost)));
    }

    #[test]
    fn a_flow_that_falls_silent_is_asked_about_once_and_a_lone_packet_is_not() {
        let epoch = testing::epoch();
        let mut upkeep = Upkeep::new(15_000 * MS, epoch);
        for ms in [5_000, 5_100, 5_200] {
            upkeep.on_traffic(true, true, epoch + MS * ms);
        }
        let done = run(&mut upkeep, epoch, 7_200 * MS);
        assert_eq!(done, [(7_200, Verdict::Probe)]);
        upkeep.on_echo(epoch + 7_220 * MS);
        assert_eq!(upkeep.due(), epoch + 20_200 * MS, "the idle interval again");
        upkeep.on_traffic(true, true, epoch + 12_000 * MS);
        assert_eq!(
            upkeep.due(),
            epoch + 27_000 * MS,
            "a keepalive of QUIC is no flow"
        );
    }

    #[test]
    fn traffic_alone_never_stands_for_consent() {
        let epoch = testing::epoch();
        let mut upkeep = Upkeep::new(15_000 * MS, epoch);
        let mut lost = None;
        for ms in 0..60_000u32 {
            let now = epoch + MS * ms;
            upkeep.on_traffic(true, true, now);
            if upkeep.on_time(now) == Verdict::Lost {
                lost = Some(ms);
                break;
            }
        }
        assert_eq!(lost, Some(27_000), "below the 30 s of RFC 7675");
    }
}
