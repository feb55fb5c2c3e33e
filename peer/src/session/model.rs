//! A congestion controller that measures what the path carries instead of filling its queue until something is lost.
//!
//! Two numbers describe a path: the rate at which it delivers, and its round trip while no queue stands in it. Their
//! product is what must be in flight for full speed; more only waits, or is dropped. The ideas are those of BBR version 3
//! (draft-ietf-ccwg-bbr) and HyStart++ (RFC 9406), expressed in nothing but a window: quinn paces by itself.
//! `docs/congestion.md` says why and shows what it does. It knows nothing of QUIC, and reads no clock.

use std::time::{Duration, Instant};

/// First window, in packets (RFC 9002 section 7.2).
const INITIAL_PACKETS: u64 = 10;

/// Smallest window, in packets, while anything arrives: fewer than `transport::ACK_EVERY`, and what quinn keeps free for
/// the next, would wait for the delayed acknowledgement (25 ms) each time.
const MINIMUM_PACKETS: u64 = 8;

/// Window after persistent congestion, in packets (RFC 9002 section 7.6.2).
const COLLAPSED_PACKETS: u64 = 2;

/// A round is one round trip, but at least this long: a shorter one measures the scheduler of this machine.
const ROUND_MIN: Duration = Duration::from_millis(2);

/// Rounds whose best rate is believed: a cycle of probing (BBR: two cycles) and a little. More would keep up a rate
/// longer that the path no longer has.
const RATE_ROUNDS: usize = 10;

/// A round whose window was filled less than this, in percent, says how much there was to send, not what the path bears.
const USED_PERCENT: u64 = 85;

/// Slow start doubles up to this many packets a round, then adds at least as many: what is sent above the rate of the
/// path before the first loss is heard of is about one round's growth. Fewer: longer until a path of 100 Mbit/s is full.
const GROWTH_MIN_PACKETS: u64 = 384;

/// Slow start adds no more than this many packets a round: quinn closes a connection whose stream has more than 1024
/// gaps, and a round's growth may be lost. Fewer: longer until a wide path is full.
const GROWTH_MAX_PACKETS: u64 = 768;

/// Losses in a window of up to this many packets, twice the doubled first one, make slow start begin again, once: they may be a bad
/// moment, and to leave slow start there would cost 5 s until a gigabit over 100 ms is full. More: a narrow link drops more twice.
const AGAIN_PACKETS: u64 = 40;

/// Slow start ends after this many rounds in a row without a better rate (BBR).
const FLAT_ROUNDS: u32 = 3;

/// A rate is better if it is at least this many percent of the best before; slow start adds 8 % a round at the least
/// below 9000 packets.
const BETTER_PERCENT: u64 = 105;

/// Largest share of lost bytes that is taken for noise, in per mille: BBR's loss threshold. A higher one pushes into
/// the drops of short queues, a lower one stands still on radio.
const NOISE_PER_MILLE: u64 = 20;

/// Losses of so many packets are noise whatever their share: with a small window every loss is a large share.
const NOISE_PACKETS: u64 = 3;

/// The share is taken over at least this many packets, more than one round on a slow path.
const TALLY_PACKETS: u64 = 100;

/// What one round of congestion may take from the window at most, in percent of it that stays: CUBIC's and BBR's beta.
const BETA_PERCENT: u64 = 70;

/// And what it takes at least: what was measured of a burst may be more than the path bears.
const STEP_PERCENT: u64 = 95;

/// What waits in the queue while cruising, as a part of the round trip: without it the measured rate would only fall.
const SLACK_PART: u32 = 20;

/// On short paths the queue holds this much time at least, less a quarter of the round trip: timers and schedulers
/// are late by milliseconds, and quinn sends in bursts of two.
const SLACK_MIN: Duration = Duration::from_millis(4);

/// Packets on top: an acknowledgement comes for every five (`transport::ACK_EVERY`), and one is being sent.
const SLACK_PACKETS: u64 = 6;

/// Cruising lasts this many rounds, then more is tried.
const CRUISE_ROUNDS: u32 = 6;

/// ... and at least this long: on a short path a probe every few rounds would lose packets all the time.
const CRUISE_MIN: Duration = Duration::from_millis(500);

/// Where losses set a bound, a round of cruising lifts it by this part: a cycle may win what its probe lost, and no
/// more. Faster, and short queues drop packets between the probes too.
const CREEP_PART: u64 = 100;

/// A probe adds this part of the window in its first round; what it loses at a full queue is half of that.
const PROBE_PART: u64 = 8;

/// And this part in later ones, which there are only while the rate grows.
const PROBE_FASTER_PART: u64 = 4;

/// A probe adds no more than this many packets a round; the cost of more is as for slow start, but comes every cycle.
const PROBE_MAX_PACKETS: u64 = 512;

/// After a probe the window is this share of what the path holds, in percent, for a round, so that its queue is gone
/// and the round trip that is left is the path's own and other senders'.
const DRAIN_PERCENT: u64 = 90;

/// The smallest round trip is believed this long (BBR: ten seconds, and then it looks again).
const MIN_RTT_AGE: Duration = Duration::from_secs(10);

/// The share of what the path holds, in percent, to which the window falls for a round to see the round trip again.
const LOOK_PERCENT: u64 = 50;

/// What the controller is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Growing until the path is full.
    Startup,
    /// Letting the own queue run off, for a round.
    Drain,
    /// The same, deeper: the smallest round trip has not been seen for long.
    Look,
    /// Staying where the path is just full.
    Cruise,
    /// Trying more.
    Probe,
}

/// What was counted since the round began.
#[derive(Clone, Debug)]
struct Round {
    begun: Instant,
    acked: u64,
    /// Smallest round trip.
    rtt: Option<Duration>,
    /// Largest number of bytes in flight.
    peak: u64,
    app_limited: bool,
    /// Growth of the window so far.
    grown: u64,
    /// Congestion was answered in this round.
    answered: bool,
}

impl Round {
    fn begin(now: Instant, in_flight: u64) -> Self {
        Self {
            begun: now,
            acked: 0,
            rtt: None,
            peak: in_flight,
            app_limited: false,
            grown: 0,
            answered: false,
        }
    }
}

/// The controller of one path.
#[derive(Clone, Debug)]
pub(super) struct Model {
    mtu: u64,
    mode: Mode,
    /// When the mode began, and how many rounds it has lasted.
    since: Instant,
    rounds: u32,
    window: u64,
    /// Bytes in flight above which too much was lost.
    bound: u64,
    /// Rates of the last rounds in bytes per second, the newest at `newest`.
    rates: [u64; RATE_ROUNDS],
    newest: usize,
    /// Slow start has begun again.
    again: bool,
    /// The best rate of slow start, and how many rounds since.
    full: (u64, u32),
    /// The smallest round trip, and when it was seen.
    smallest: Option<(Duration, Instant)>,
    /// The round trip that was left when this sender's own queue had run off: others may hold one.
    shared: Option<Duration>,
    round: Round,
    /// Rate at which the probe began.
    probed_from: u64,
    /// Acknowledged and lost bytes of late.
    tally: (u64, u64),
    /// When congestion was answered last: what was sent before is what that answer was about.
    answered_at: Option<Instant>,
}

impl Model {
    /// A controller that knows nothing of its path. `mtu` is a packet's size in bytes.
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            mode: Mode::Startup,
            since: now,
            rounds: 0,
            window: INITIAL_PACKETS * mtu,
            bound: u64::MAX,
            rates: [0; RATE_ROUNDS],
            newest: 0,
            again: false,
            full: (0, 0),
            smallest: None,
            shared: None,
            round: Round::begin(now, 0),
            probed_from: 0,
            tally: (0, 0),
            answered_at: None,
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u64 {
        self.window.max(COLLAPSED_PACKETS * self.mtu)
    }

    /// The window that a new path begins with, in bytes.
    pub(super) fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.mtu
    }

    /// Packets have another size now.
    pub(super) fn on_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
    }

    /// A packet left; `in_flight` counts its bytes too.
    pub(super) fn on_sent(&mut self, in_flight: u64) {
        self.round.peak = self.round.peak.max(in_flight);
    }

    /// A packet of `bytes`, sent at `sent`, arrived, with `in_flight` left on the way.
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        in_flight: u64,
        app_limited: bool,
    ) {
        let rtt = now.saturating_duration_since(sent);
        self.round.rtt = Some(self.round.rtt.map_or(rtt, |least| least.min(rtt)));
        if self.smallest.is_none_or(|(least, _)| rtt <= least) {
            self.smallest = Some((rtt, now));
        }
        self.round.acked = self.round.acked.saturating_add(bytes);
        self.round.app_limited |= app_limited;
        self.tally.0 = self.tally.0.saturating_add(bytes);
        // A window of which less than half is used has proven nothing (RFC 9002 section 7.8).
        if !app_limited && in_flight.saturating_mul(2) >= self.window {
            self.grow(bytes);
        }
        if self.mode == Mode::Startup && self.is_prompt() && self.queue() {
            self.full_pipe(now);
        }
        if sent >= self.round.begun && now.saturating_duration_since(self.round.begun) >= ROUND_MIN {
            self.end_round(now, in_flight);
        }
    }

    /// Packets were lost, the last of them sent at `sent`; no bytes: a router marked one (RFC 3168). That one has arrived, so it went
    /// through [`Self::on_ack`] before and may have ended the round.
    pub(super) fn on_loss(&mut self, now: Instant, sent: Instant, bytes: u64, persistent: bool) {
        if persistent {
            *self = Self {
                window: COLLAPSED_PACKETS * self.mtu,
                smallest: self.smallest,
                answered_at: Some(now),
                ..Self::new(now, u16::try_from(self.mtu).unwrap_or(u16::MAX))
            };
            return;
        }
        if self.answered_at.is_some_and(|at| sent < at) {
            return;
        }
        self.tally.1 = self.tally.1.saturating_add(bytes);
        if self.round.answered {
            return;
        }
        if bytes > 0 && !self.too_much_lost() {
            return;
        }
        let early = self.mode == Mode::Startup && self.window <= AGAIN_PACKETS * self.mtu;
        if bytes > 0 && early && !std::mem::replace(&mut self.again, true) {
            self.begin_again(now);
        } else {
            self.answer(now);
        }
    }

    /// Half as much, and slow start goes on.
    fn begin_again(&mut self, now: Instant) {
        self.window = (self.window / 2).max(MINIMUM_PACKETS * self.mtu);
        self.full = (0, 0);
        self.begin_answered(now);
    }

    /// A round in which losses are no news: they were answered.
    fn begin_answered(&mut self, now: Instant) {
        self.round = Round {
            answered: true,
            ..Round::begin(now, 0)
        };
        self.tally = (0, 0);
        self.answered_at = Some(now);
    }

    fn too_much_lost(&self) -> bool {
        let (acked, lost) = self.tally;
        // A burst of losses at the beginning of a round is seen in relation to the whole of it.
        let total = (acked + lost).max(self.window);
        lost > NOISE_PACKETS * self.mtu + total / 1000 * NOISE_PER_MILLE
    }

    /// Congestion: no more than what arrives, but not less than beta of what was tried.
    fn answer(&mut self, now: Instant) {
        let arrives = self.product(self.arriving(now), self.least() + self.slack() / 2);
        let floor = if self.mode == Mode::Startup {
            0
        } else {
            percent(self.window, BETA_PERCENT)
        };
        let ceiling = percent(self.window, STEP_PERCENT);
        self.bound = arrives.max(floor).min(ceiling).max(MINIMUM_PACKETS * self.mtu);
        let rate = self.arriving(now).max(percent(self.rate(), BETA_PERCENT));
        self.rates = [rate; RATE_ROUNDS];
        self.enter(Mode::Drain, now);
        self.begin_answered(now);
        self.window = self.window.min(self.bound);
    }

    /// What arrives at present, in bytes per second: in this round, once it is old enough to tell.
    fn arriving(&self, now: Instant) -> u64 {
        let (last, age) = (
            self.rates[self.newest],
            now.saturating_duration_since(self.round.begun),
        );
        if age >= self.least() / 2 && age > Duration::ZERO {
            per_second(self.round.acked, age).max(if self.mode == Mode::Startup { last } else { 0 })
        } else {
            last
        }
    }

    fn grow(&mut self, acked: u64) {
        let limit = match self.mode {
            Mode::Startup => (self.window / 4)
                .clamp(GROWTH_MIN_PACKETS * self.mtu, GROWTH_MAX_PACKETS * self.mtu)
                .min(self.window),
            Mode::Probe if self.rounds == 0 => (self.window / PROBE_PART).min(PROBE_MAX_PACKETS * self.mtu),
            Mode::Probe => (self.window / PROBE_FASTER_PART).min(PROBE_MAX_PACKETS * self.mtu),
            Mode::Drain | Mode::Look | Mode::Cruise => return,
        }
        .min(GROWTH_MAX_PACKETS * self.mtu);
        // Spread over the round, not at its beginning: acknowledged bytes come evenly.
        let share = u128::from(acked) * u128::from(limit) / u128::from(self.window.max(1));
        let step = u64::try_from(share)
            .unwrap_or(u64::MAX)
            .min(limit.saturating_sub(self.round.grown));
        self.round.grown += step;
        self.window = self.window.saturating_add(step);
        self.bound = self.bound.max(self.window);
    }

    /// Are there samples without the time by which an acknowledgement may be delayed? Not of the few packets that an application
    /// with little to send, or a window that was narrower when they were sent, has on the way.
    fn is_prompt(&self) -> bool {
        let at_begin = self.window.saturating_sub(self.round.grown);
        !self.round.app_limited && at_begin >= MINIMUM_PACKETS * self.mtu
    }

    /// Does the round trip show a queue (RFC 9406 section 4.2)?
    fn queue(&self) -> bool {
        let least = self.least();
        let limit = least + (least / 8).clamp(Duration::from_millis(4), Duration::from_millis(16));
        // The first packets of a round still queue behind the last of the round before.
        self.round.acked >= self.window / 4 && self.round.rtt.is_some_and(|rtt| rtt > limit)
    }

    fn full_pipe(&mut self, now: Instant) {
        let rate = self.arriving(now).max(self.rate());
        self.rates[self.newest] = rate;
        self.enter(Mode::Drain, now);
        self.window = self.product(self.rate(), self.least());
    }

    fn enter(&mut self, mode: Mode, now: Instant) {
        self.mode = mode;
        self.since = now;
        self.rounds = 0;
    }

    fn end_round(&mut self, now: Instant, in_flight: u64) {
        let round = std::mem::replace(&mut self.round, Round::begin(now, in_flight));
        let rate = per_second(round.acked, now.saturating_duration_since(round.begun));
        let limited = round.app_limited || round.peak < percent(self.window, USED_PERCENT);
        let best = self.rate();
        if !limited || rate > best {
            self.newest = (self.newest + 1) % RATE_ROUNDS;
            self.rates[self.newest] = rate;
        }
        if self.tally.0 + self.tally.1 >= TALLY_PACKETS * self.mtu {
            self.tally = (0, 0);
        }
        self.rounds = self.rounds.saturating_add(1);
        match self.mode {
            Mode::Startup if !limited => self.judge_startup(now, rate),
            Mode::Startup => {}
            Mode::Drain | Mode::Look if self.rounds >= 2 => {
                self.drained(now, round.rtt.filter(|_| !round.app_limited))
            }
            Mode::Drain | Mode::Look => {}
            Mode::Cruise => {
                // A bound that was set too low by an unlucky burst comes loose by itself.
                self.bound = self.bound.saturating_add(self.bound / CREEP_PART);
                self.cruised(now, limited, round.app_limited);
            }
            Mode::Probe => self.judge_probe(now, rate),
        }
        self.set_window();
    }

    fn judge_startup(&mut self, now: Instant, rate: u64) {
        if rate >= percent(self.full.0, BETTER_PERCENT) {
            self.full = (rate, 0);
            return;
        }
        self.full.1 += 1;
        if self.full.1 >= FLAT_ROUNDS {
            self.full_pipe(now);
        }
    }

    /// The own queue is gone; the round trip that is left, if one was seen, is what others make of it. Where the application had
    /// little to send it is not seen: few packets are acknowledged late.
    fn drained(&mut self, now: Instant, rtt: Option<Duration>) {
        if self.mode == Mode::Look {
            // After a look in vain the old one is believed as long again, else each short burst would begin with half a window.
            let seen = rtt.unwrap_or_else(|| self.least());
            self.smallest = Some((seen, now));
        }
        self.shared = rtt.or(self.shared);
        self.enter(Mode::Cruise, now);
    }

    fn cruised(&mut self, now: Instant, limited: bool, app_limited: bool) {
        let stale = self
            .smallest
            .is_some_and(|(_, seen)| now.saturating_duration_since(seen) >= MIN_RTT_AGE);
        if stale && !app_limited {
            self.enter(Mode::Look, now);
        } else if !limited
            && self.rounds >= CRUISE_ROUNDS
            && now.saturating_duration_since(self.since) >= CRUISE_MIN
        {
            self.probed_from = self.rate();
            self.enter(Mode::Probe, now);
        }
    }

    /// Two rounds after it began, a probe has shown what it brings.
    fn judge_probe(&mut self, now: Instant, rate: u64) {
        if rate >= percent(self.probed_from, BETTER_PERCENT) {
            self.probed_from = rate;
        } else if self.rounds >= 2 {
            self.enter(Mode::Drain, now);
        }
    }

    fn set_window(&mut self) {
        let held = self.product(self.rate(), self.least());
        let target = match self.mode {
            Mode::Startup | Mode::Probe => return,
            Mode::Drain => percent(self.product(self.rate(), self.foreign()), DRAIN_PERCENT),
            Mode::Look => percent(held, LOOK_PERCENT),
            Mode::Cruise => self.cruise_target(),
        };
        self.window = target.min(self.bound).max(MINIMUM_PACKETS * self.mtu);
    }

    fn cruise_target(&self) -> u64 {
        self.product(self.rate(), self.foreign() + self.slack()) + SLACK_PACKETS * self.mtu
    }

    /// Time that the own queue lasts while cruising.
    fn slack(&self) -> Duration {
        let least = self.least();
        (least / SLACK_PART).max(SLACK_MIN.saturating_sub(least / 4))
    }

    /// The round trip to fill: the smallest, and the queue that others keep, up to as much again.
    fn foreign(&self) -> Duration {
        let least = self.least();
        self.shared.unwrap_or(least).clamp(least, least * 2)
    }

    /// The smallest round trip; none as long as nothing is known.
    pub(super) fn least(&self) -> Duration {
        self.smallest.map_or(Duration::ZERO, |(least, _)| least)
    }

    fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    fn product(&self, rate: u64, time: Duration) -> u64 {
        u64::try_from(u128::from(rate) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let nanos = time.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

fn percent(of: u64, share: u64) -> u64 {
    (of / 100).saturating_mul(share)
}

#[cfg(test)]
mod tests;
