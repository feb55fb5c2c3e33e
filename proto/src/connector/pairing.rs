//! The connector's part in pairing: from a code to a shared secret over a nameplate at the server.

use std::time::{Duration, Instant};

use super::machine::Connector;
use super::{Event, PairEvent, PairFailure};
use crate::id::Nameplate;
use crate::pairing::{Code, PairAgent, PairSide};
use crate::wire::{PairEnd, ToServer};

/// The server opens or finds a nameplate at once; 10 s are several lost packets.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Once both sides are there no person is involved: three messages each way.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest that a nameplate is waited at, whatever the server says.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// One pairing.
#[derive(Debug)]
pub(super) struct Pairing {
    state: State,
    deadline: Instant,
}

#[derive(Debug)]
enum State {
    Opening,
    Waiting(Code),
    Joining(Code),
    Exchanging(Nameplate, Box<PairAgent>),
}

impl Pairing {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    fn nameplate(&self) -> Option<Nameplate> {
        match &self.state {
            State::Opening => None,
            State::Waiting(code) | State::Joining(code) => Some(code.nameplate()),
            State::Exchanging(nameplate, _) => Some(*nameplate),
        }
    }
}

impl Connector {
    pub(super) fn pair_open(&mut self, now: Instant) {
        self.pair_cancel();
        if !self.control.is_registered() {
            return self.fail_pairing(PairFailure::ServerLost);
        }
        self.pairing = Some(Pairing {
            state: State::Opening,
            deadline: now + SERVER_TIMEOUT,
        });
        self.say(ToServer::PairOpen);
    }

    pub(super) fn pair_join(&mut self, code: Code, now: Instant) {
        let nameplate = code.nameplate();
        let own = |pairing: &Pairing| {
            matches!(pairing.state, State::Waiting(_)) && pairing.nameplate() == Some(nameplate)
        };
        if self.pairing.as_ref().is_some_and(own) {
            self.pair_cancel();
            return self.fail_pairing(PairFailure::Nameplate(nameplate));
        }
        self.pair_cancel();
        if !self.control.is_registered() {
            return self.fail_pairing(PairFailure::ServerLost);
        }
        self.pairing = Some(Pairing {
            state: State::Joining(code),
            deadline: now + SERVER_TIMEOUT,
        });
        self.say(ToServer::PairJoin { nameplate });
    }

    pub(super) fn pair_cancel(&mut self) {
        if let Some(nameplate) = self.pairing.take().and_then(|pairing| pairing.nameplate()) {
            self.say(ToServer::PairLeave { nameplate });
        }
    }

    pub(super) fn on_pair_opened(&mut self, nameplate: Nameplate, ttl_ms: u32, now: Instant) {
        let code = Code::generate(nameplate, &mut self.rng);
        let ttl = Duration::from_millis(ttl_ms.into()).min(WAIT_MAX);
        match &mut self.pairing {
            Some(pairing) if matches!(pairing.state, State::Opening) => {
                *pairing = Pairing {
                    state: State::Waiting(code.clone()),
                    deadline: now + ttl + SERVER_TIMEOUT,
                };
                self.event(Event::Pair(PairEvent::Code { code, ttl }));
            }
            // Cancelled before it was there.
            _ => self.say(ToServer::PairLeave { nameplate }),
        }
    }

    pub(super) fn on_pair_joined(&mut self, nameplate: Nameplate, now: Instant) {
        let Some(pairing) = self
            .pairing
            .as_mut()
            .filter(|pairing| pairing.nameplate() == Some(nameplate))
        else {
            return;
        };
        let (code, side) = match &pairing.state {
            State::Waiting(code) => (code, PairSide::Opener),
            State::Joining(code) => (code, PairSide::Joiner),
            State::Opening | State::Exchanging(..) => return,
        };
        let seed = self.seed.child("pairing", self.rng.u64());
        let agent = PairAgent::new(code, side, self.config.own, self.config.name.clone(), &seed);
        *pairing = Pairing {
            state: State::Exchanging(nameplate, Box::new(agent)),
            deadline: now + EXCHANGE_TIMEOUT,
        };
        self.event(Event::Pair(PairEvent::Joined));
        self.drain_pairing();
    }

    pub(super) fn on_pair_message(&mut self, nameplate: Nameplate, body: &[u8]) {
        if let Some(Pairing {
            state: State::Exchanging(at, agent),
            ..
        }) = &mut self.pairing
            && *at == nameplate
        {
            agent.handle_message(body);
            self.drain_pairing();
        }
    }

    pub(super) fn on_pair_ended(&mut self, nameplate: Nameplate, why: PairEnd) {
        // A nameplate that could not be opened has no number.
        let ended = |pairing: &Pairing| pairing.nameplate().is_none_or(|own| own == nameplate);
        if self.pairing.as_ref().is_some_and(ended) {
            self.pairing = None;
            self.fail_pairing(PairFailure::Ended(why));
        }
    }

    pub(super) fn lose_pairing(&mut self) {
        if self.pairing.take().is_some() {
            self.fail_pairing(PairFailure::ServerLost);
        }
    }

    pub(super) fn expire_pairing(&mut self, now: Instant) {
        let Some(pairing) = self.pairing.as_ref().filter(|pairing| pairing.deadline <= now) else {
            return;
        };
        let why = match pairing.state {
            State::Opening | State::Joining(_) => PairFailure::ServerLost,
            State::Waiting(_) | State::Exchanging(..) => PairFailure::Ended(PairEnd::Expired),
        };
        self.pair_cancel();
        self.fail_pairing(why);
    }

    fn drain_pairing(&mut self) {
        let Some(Pairing {
            state: State::Exchanging(nameplate, agent),
            ..
        }) = &mut self.pairing
        else {
            return;
        };
        let nameplate = *nameplate;
        let (body, outcome) = (agent.poll_message(), agent.poll_outcome());
        if let Some(body) = body {
            self.say(ToServer::PairMessage { nameplate, body });
        }
        let Some(outcome) = outcome else {
            return;
        };
        self.pair_cancel();
        match outcome {
            Ok(paired) => self.event(Event::Pair(PairEvent::Paired {
                peer: paired.peer,
                name: paired.name,
                secret: paired.secret,
            })),
            Err(_) => self.fail_pairing(PairFailure::WrongCode),
        }
    }

    fn fail_pairing(&mut self, why: PairFailure) {
        self.event(Event::Pair(PairEvent::Failed(why)));
    }
}
