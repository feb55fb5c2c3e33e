//! The connector itself: takes every input of a node in turn and says what is to be done.
//!
//! It is not a driver: sockets, the control connection and QUIC are elsewhere. To drive it: feed one
//! [`Input`], then call [`Connector::poll_output`] until it says [`Output::Wait`]; repeat. Feed [`Input::Timeout`]
//! when the moment named by the last `Wait` has come.

use std::collections::VecDeque;
use std::time::Instant;

use super::{ConnectorConfig, Input, Output};
use crate::seed::Seed;
use crate::wire::{AGENT_LEN_MAX, Hello, ToServer, Update};

/// See the module.
#[derive(Debug)]
pub struct Connector {
    config: ConnectorConfig,
    facts: Update,
    queue: VecDeque<Output>,
}

impl Connector {
    /// A connector that knows nobody yet: feed the peers and the own candidates before the control connection.
    pub fn new(config: ConnectorConfig, _seed: &Seed, _now: Instant) -> Self {
        Self {
            config,
            facts: Update::default(),
            queue: VecDeque::new(),
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input<'_>, _now: Instant) {
        match input {
            Input::ControlUp { .. } => {
                let mut agent = self.config.agent.clone();
                agent.truncate(AGENT_LEN_MAX);
                self.queue.push_back(Output::Control(ToServer::Hello(Hello {
                    instance: self.config.instance,
                    name: self.config.name.clone(),
                    token: self.config.token.clone(),
                    accepting: self.config.accepting,
                    agent,
                    facts: self.facts.clone(),
                })));
            }
            Input::LocalCandidates(candidates) => self.facts.candidates = candidates,
            _ => {}
        }
    }

    /// The next thing to do. Ends with [`Output::Wait`]; call until then.
    pub fn poll_output(&mut self, _now: Instant) -> Output {
        self.queue.pop_front().unwrap_or(Output::Wait(None))
    }
}
