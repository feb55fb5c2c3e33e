//! Steps: the ports of both sides are counted (Klinec and Matyas, SIN 2014; baby steps and giant steps).
//!
//! Each side sends from one fresh socket to one port of the peer after the other, so each packet takes the next port
//! outside. The caller steps through the peer's ports by one, the callee by two. If the counters have drifted by `a`
//! and `b` ports since they were read, and both begin `g` ports early, the callee's packet `a + b + 2g` and the
//! caller's packet `a + 2b + 3g` carry each other's addresses: exactly one pair, whatever the drift.

use std::net::SocketAddr;
use std::time::Instant;

use super::bracket::{moved, step_of};
use super::{Reading, Step, Stock};
use crate::path::SocketId;
use crate::punch::config::{STEPS_FLOWS, STEPS_GUARD, STEPS_SPACING};
use crate::wire::network::{Ports, Span};
use crate::wire::{Aim, Role};

#[derive(Debug)]
pub(super) struct Steps {
    socket: Option<SocketId>,
    /// The question whose answer counts: the second where there is one, because the first may have kept the inside port.
    counts: Option<SocketAddr>,
    told: bool,
    /// The peer's next port.
    peer: Option<u16>,
    burst: bool,
}

impl Steps {
    pub(super) fn new(stock: &mut Stock, now: Instant) -> Self {
        let socket = stock.orders.sockets.first().copied();
        let servers = stock.orders.stun.clone();
        let counts = servers.iter().take(2).next_back().copied();
        for (server, socket) in servers.into_iter().take(2).zip(socket.into_iter().cycle()) {
            stock.ask_at(now, socket, server);
        }
        Self {
            socket,
            counts,
            told: false,
            peer: None,
            burst: false,
        }
    }

    pub(super) fn handle_reading(&mut self, stock: &mut Stock, reading: Reading, now: Instant) {
        if Some(reading.server) != self.counts || std::mem::replace(&mut self.told, true) {
            return;
        }
        let own = stock.orders.own.ports;
        let ahead = i32::from(step_of(own)) * (1 + drift(own, reading.asked, stock.orders.second));
        let next = moved(reading.port, ahead);
        let spans = vec![Span {
            first: next,
            last: next,
        }];
        stock.steps.push_back(Step::Tell { spans, opened: false });
        self.fire(stock, now);
    }

    pub(super) fn handle_aim(&mut self, stock: &mut Stock, aim: &Aim, now: Instant) {
        if self.peer.is_none() {
            self.peer = aim.spans.first().map(|span| span.first);
            self.fire(stock, now);
        }
    }

    /// Once both know where the other's counter stands, the whole burst is planned: every flow, and every flow again,
    /// which finds its own mapping and moves no counter.
    fn fire(&mut self, stock: &mut Stock, now: Instant) {
        let (Some(socket), Some(peer), true, false) = (self.socket, self.peer, self.told, self.burst) else {
            return;
        };
        self.burst = true;
        let step = i32::from(step_of(stock.orders.peer.ports));
        let stride = match stock.role {
            Role::Caller => 1,
            Role::Callee => 2,
        };
        let ports = (0..STEPS_FLOWS).map(|flow| moved(peer, step * (stride * flow - STEPS_GUARD)));
        let start = stock.orders.second.max(now);
        let ports: Vec<u16> = ports.collect();
        stock.guess(socket, ports.iter().chain(&ports).copied(), start, STEPS_SPACING);
    }
}

/// Ports that others will surely have taken between the reading and the burst: the mean, less two standard deviations of a
/// Poisson process, because the steps find what is ahead and not what is behind.
fn drift(ports: Ports, read: Instant, burst: Instant) -> i32 {
    let Ports::Counter { rate, .. } = ports else {
        return 0;
    };
    let ms = burst.saturating_duration_since(read).as_millis();
    let mean = u128::from(rate) * ms / 1000;
    i32::try_from(mean.saturating_sub((4 * mean).isqrt())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::epoch;

    #[test]
    fn two_counters_meet_in_exactly_one_pair_whatever_their_drift() {
        for a in 0..10_i32 {
            for b in 0..10_i32 {
                // Flow i of the caller leaves from its base + a + i and goes to the callee's base + i - g.
                let meets = |i: i32, j: i32| i - STEPS_GUARD == b + j && 2 * j - STEPS_GUARD == a + i;
                let pairs: Vec<(i32, i32)> = (0..STEPS_FLOWS)
                    .flat_map(|i| (0..STEPS_FLOWS).map(move |j| (i, j)))
                    .filter(|(i, j)| meets(*i, *j))
                    .collect();
                assert_eq!(pairs, [(a + 2 * b + 3 * STEPS_GUARD, a + b + 2 * STEPS_GUARD)]);
            }
        }
    }

    #[test]
    fn the_base_moves_with_the_flows_of_others_but_never_past_them() {
        let now = epoch();
        let later = now + Duration::from_millis(300);
        let rate = |rate| Ports::Counter { step: 1, rate };
        assert_eq!(drift(rate(0), now, later), 0);
        assert_eq!(
            drift(rate(30), now, later),
            3,
            "nine expected, six of them unsure"
        );
        assert_eq!(drift(rate(100), now, later), 20);
        assert_eq!(drift(Ports::PreserveFirst { step: 1 }, now, later), 0);
    }
}
