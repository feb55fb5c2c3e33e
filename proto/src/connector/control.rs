//! The connector's dealings with the server: hello, registration, signs of life, the clock, STUN, loss and return.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::config::{CLOCK_BURST, CLOCK_BURST_SPACING, REFRESH_MAX, REFRESH_MIN};
use super::link::earlier;
use super::machine::Connector;
use super::{ConnectFailure, Event, Output};
use crate::path::SocketId;
use crate::wire::{AGENT_LEN_MAX, Hello, Refusal, ToServer, Welcome};

/// How long a node waits at most after its return to the server before it asks for its links, in milliseconds: all nodes
/// of a server that was restarted return at about the same time.
const RETURN_SPREAD_MS: u64 = 200;

/// Where this node stands with the server.
#[derive(Debug)]
pub(super) enum Control {
    /// No control connection, or none that the server wants.
    Down,
    /// Said hello.
    Greeting {
        stun: Vec<(SocketId, SocketAddr)>,
        sent_us: u64,
    },
    /// Admitted.
    Registered {
        refresh: Duration,
        next: Instant,
        /// Time exchanges left of the first burst.
        burst: u32,
        reflexive: SocketAddr,
    },
}

impl Control {
    pub(super) fn is_registered(&self) -> bool {
        matches!(self, Self::Registered { .. })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Registered { next, .. } => Some(*next),
            Self::Down | Self::Greeting { .. } => None,
        }
    }
}

impl Connector {
    pub(super) fn on_control_up(&mut self, stun: Vec<(SocketId, SocketAddr)>, now: Instant) {
        if !matches!(self.control, Control::Down) {
            self.on_control_down(now);
        }
        self.clock.reset();
        let mut end = self.config.agent.len().min(AGENT_LEN_MAX);
        while !self.config.agent.is_char_boundary(end) {
            end -= 1;
        }
        let facts = self.facts();
        self.told_facts = facts.clone();
        self.push(Output::Control(ToServer::Hello(Hello {
            instance: self.config.instance,
            name: self.config.name.clone(),
            token: self.config.token.clone(),
            accepting: self.config.accepting,
            agent: self.config.agent[..end].to_owned(),
            facts,
        })));
        self.control = Control::Greeting {
            stun,
            sent_us: self.clock.own(now),
        };
    }

    pub(super) fn on_control_down(&mut self, now: Instant) {
        self.control = Control::Down;
        self.nat.stop();
        self.stop_survey();
        while let Some(question) = self.questions.pop() {
            self.give_up(question, ConnectFailure::ServerLost, now);
        }
        self.lose_pairing();
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.lose_session(link, now);
        }
    }

    pub(super) fn on_welcome(&mut self, welcome: Welcome, now: Instant) {
        let Control::Greeting { stun, sent_us } = std::mem::replace(&mut self.control, Control::Down) else {
            return;
        };
        // Writing a new name to disk may have taken part of this round trip; later exchanges are better and win.
        self.clock.sample(sent_us, welcome.server, now);
        let refresh = Duration::from_millis(welcome.refresh_ms.into()).clamp(REFRESH_MIN, REFRESH_MAX);
        self.control = Control::Registered {
            refresh,
            next: now,
            burst: CLOCK_BURST,
            reflexive: welcome.reflexive,
        };
        self.event(Event::Registered {
            name: welcome.name.clone(),
            reflexive: welcome.reflexive,
            relay: welcome.relay,
        });
        self.update();
        self.keep_registered(now);
        let control_v6 = welcome.reflexive.is_ipv6();
        self.nat
            .begin(&stun, welcome.alternate_port, control_v6, &mut self.rng, now);
        self.send_stun(now);
        self.prepare_survey(&stun, &welcome, now);
        self.teach_agents();
        for link in self.links.values_mut().filter(|link| link.asks()) {
            let spread = Duration::from_millis(self.rng.below(RETURN_SPREAD_MS));
            link.backoff.restart(now + spread);
        }
    }

    pub(super) fn on_refused(&mut self, refusal: Refusal, now: Instant) {
        self.on_control_down(now);
        self.event(Event::Refused(refusal));
    }

    pub(super) fn on_observed(&mut self, seen: SocketAddr, now: Instant) {
        if let Control::Registered { reflexive, .. } = &mut self.control
            && std::mem::replace(reflexive, seen) != seen
        {
            self.on_network_change(now);
        }
    }

    /// Own or public addresses are others than before: tell the server, learn the NAT anew, look after the links.
    pub(super) fn on_network_change(&mut self, now: Instant) {
        self.doubt_network(true, now);
        self.update();
        self.nat.ask(&mut self.rng, now);
        self.send_stun(now);
        self.on_nat_news(now);
        self.teach_agents();
        self.renew_links(now);
    }

    pub(super) fn on_nat_news(&mut self, _now: Instant) {
        self.update();
        let verdict = self.nat.verdict(&self.local);
        if let Some((reflexive, nat)) = verdict.filter(|verdict| self.told_nat != Some(*verdict)) {
            self.told_nat = verdict;
            self.event(Event::Nat { reflexive, nat });
        }
    }

    pub(super) fn keep_registered(&mut self, now: Instant) {
        let Control::Registered {
            refresh, next, burst, ..
        } = &mut self.control
        else {
            return;
        };
        if *next > now {
            return;
        }
        *burst = burst.saturating_sub(1);
        let refresh_ms = u64::try_from(refresh.as_millis()).unwrap_or(u64::MAX);
        *next = match *burst {
            0 => now + earlier(refresh_ms, &mut self.rng),
            _ => now + CLOCK_BURST_SPACING,
        };
        let (sent_us, rtt_us) = (self.clock.own(now), self.clock.rtt_us());
        self.say(ToServer::Time { sent_us, rtt_us });
    }

    pub(super) fn send_stun(&mut self, now: Instant) {
        while let Some(transmit) = self.nat.poll_transmit(&mut self.rng, now) {
            self.push(Output::Transmit(transmit));
        }
    }

    pub(super) fn bye(&mut self) {
        self.say(ToServer::Bye);
        self.control = Control::Down;
        self.nat.stop();
        self.stop_survey();
    }
}
