//! Bracket: where ports are counted, the ports of a few openers lie between a reading before and a reading after them.
//!
//! All leave within milliseconds, each from a fresh socket, so every one takes the next port. Whatever other machines open
//! behind the same box in that time only widens the bracket: at a hundred flows a second by half a port.

use std::time::{Duration, Instant};

use super::{LOWEST_PORT, Reading, Shot, Stock, What};
use crate::punch::config::{
    BRACKET_EDGE, BRACKET_FIRST, BRACKET_OPENERS, BRACKET_PASSES_MS, BRACKET_PROBES_MAX, BRACKET_SPACING,
    BRACKET_WAIT, GUESS_BURST_SPACING,
};
use crate::punch::tactics::Step;
use crate::wire::network::{Ports, SPANS_MAX, Span};

/// Fresh sockets: the openers, and a reading before and after.
pub(super) const SOCKETS: usize = BRACKET_OPENERS + 2;

#[derive(Debug)]
pub(super) struct Bracket {
    before: Option<u16>,
    after: Option<u16>,
    told: bool,
    /// When what is known is told, whether or not both readings are there.
    tell_at: Instant,
}

impl Bracket {
    pub(super) fn new(stock: &mut Stock, start: Instant) -> Self {
        let sockets = stock.orders.sockets.clone();
        let server = stock.orders.stun.first().copied();
        let last = sockets.len().saturating_sub(1);
        let mut at = start;
        for (number, socket) in sockets.into_iter().enumerate() {
            let what = match server {
                Some(server) if number == 0 || number == last => What::Question { server },
                _ => stock.opener(number),
            };
            stock.shots.push_back(Shot { at, socket, what });
            at += BRACKET_SPACING;
        }
        Self {
            before: None,
            after: None,
            told: false,
            tell_at: start + BRACKET_WAIT,
        }
    }

    pub(super) fn handle_reading(&mut self, stock: &mut Stock, reading: Reading, now: Instant) {
        if stock.orders.sockets.first() == Some(&reading.socket) {
            self.before = Some(reading.port);
        } else if stock.orders.sockets.last() == Some(&reading.socket) {
            self.after = Some(reading.port);
        }
        if self.before.is_some() && self.after.is_some() {
            self.tell_at = now;
        }
    }

    pub(super) fn handle_time(&mut self, stock: &mut Stock, now: Instant) {
        if self.told || now < self.tell_at {
            return;
        }
        // With one reading lost for good the other bounds one side, and the number of openers the other one.
        let reach = i32::from(step_of(stock.orders.own.ports))
            * i32::try_from(SOCKETS + BRACKET_EDGE).unwrap_or(i32::MAX);
        let span = match (self.before, self.after) {
            (Some(first), Some(last)) => Span { first, last },
            (Some(first), None) => Span {
                first,
                last: moved(first, reach),
            },
            (None, Some(last)) => Span {
                first: moved(last, -reach),
                last,
            },
            (None, None) => return self.wait_on(now),
        };
        self.told = true;
        stock.steps.push_back(Step::Tell {
            spans: vec![span],
            opened: true,
        });
    }

    pub(super) fn due(&self) -> Option<Instant> {
        (!self.told).then_some(self.tell_at)
    }

    fn wait_on(&mut self, now: Instant) {
        self.tell_at = now + Duration::from_millis(100);
        // The questions have given up by the end of the round; so does this, with the round.
    }
}

/// The peer has told its readings: probe what lies between. `false` if they tell nothing.
pub(super) fn probe_between(stock: &mut Stock, spans: &[Span], now: Instant) -> bool {
    let step = step_of(stock.orders.peer.ports);
    let mut ports: Vec<u16> = Vec::new();
    for span in spans.iter().take(SPANS_MAX) {
        ports.extend(steps_between(*span, step));
    }
    ports.truncate(BRACKET_PROBES_MAX);
    if ports.is_empty() {
        return false;
    }
    let passes = (BRACKET_PROBES_MAX / ports.len()).max(1);
    for (pass, ms) in BRACKET_PASSES_MS.iter().take(passes).enumerate() {
        let at = now + Duration::from_millis(*ms);
        let count = if pass == 0 { BRACKET_FIRST } else { ports.len() };
        stock.guess(
            stock.main,
            ports.iter().take(count).copied(),
            at,
            GUESS_BURST_SPACING,
        );
    }
    stock.sort();
    true
}

/// The distance of two counted ports in a row; 1 where it is not known.
pub(super) fn step_of(ports: Ports) -> i16 {
    match ports {
        Ports::Counter { step, .. } | Ports::PreserveFirst { step } if step != 0 => step,
        _ => 1,
    }
}

/// Every port that a counter with this step takes between two readings, both excluded, and one more behind the last: the
/// step may be half of what it was taken for. A counter that passed its end begins anew at its lowest port.
fn steps_between(span: Span, step: i16) -> impl Iterator<Item = u16> {
    let (first, last) = (i32::from(span.first), i32::from(span.last));
    let around = match step > 0 {
        true if last < first => last - first + RANGE,
        false if last > first => last - first - RANGE,
        _ => last - first,
    };
    let count = (around / i32::from(step)).clamp(0, 4 * i32::try_from(BRACKET_PROBES_MAX).unwrap_or(0));
    (1..=count).map(move |number| moved(span.first, number * i32::from(step)))
}

/// Ports from the lowest one on: a counter runs round them.
const RANGE: i32 = 65536 - LOWEST_PORT as i32;

/// The port so far on, around the end of the range.
pub(super) fn moved(port: u16, by: i32) -> u16 {
    let lowest = i32::from(LOWEST_PORT);
    let place = (i32::from(port) - lowest + by).rem_euclid(RANGE);
    u16::try_from(place + lowest).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(first: u16, last: u16, step: i16) -> Vec<u16> {
        steps_between(Span { first, last }, step).collect()
    }

    #[test]
    fn a_bracket_holds_every_port_that_the_counter_took() {
        assert_eq!(between(2000, 2004, 1), [2001, 2002, 2003, 2004]);
        assert_eq!(between(2000, 2008, 2), [2002, 2004, 2006, 2008]);
        assert_eq!(between(2000, 1997, -1), [1999, 1998, 1997]);
        assert!(between(2000, 2000, 1).is_empty());
    }

    #[test]
    fn a_counter_that_passed_its_end_goes_on_at_the_lowest_port() {
        assert_eq!(between(65534, 1025, 1), [65535, 1024, 1025]);
        assert_eq!(between(1025, 65534, -1), [1024, 65535, 65534]);
    }

    #[test]
    fn a_bracket_that_is_no_bracket_is_bounded() {
        assert!(between(1024, 65535, 1).len() <= 4 * BRACKET_PROBES_MAX);
    }
}
