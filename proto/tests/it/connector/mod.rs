//! The life of a node: registration, links, paths, loss and return, pairing; and what peers and servers cannot do to it.

mod anything;
mod guessing;
mod hostile;
mod links;
mod loss;
mod pairing;
mod registration;

use std::time::Duration;

use knothole_proto::addr::{Candidate, CandidateKind, OfferedCandidate};
use knothole_proto::connector::{
    Command, ConnectFailure, Event, Input, LinkEnd, LinkId, Nat, Output, PairEvent, PairFailure, Timer,
};
use knothole_proto::id::{ChannelId, Instance, Nameplate, PairTag, RequestId, SessionId};
use knothole_proto::pairing::Code;
use knothole_proto::path::{How, Path, SocketId, Why};
use knothole_proto::wire::{
    ConnectRefusal, FromServer, Introduction, PairEnd, PathPolicy, Refusal, Role, ServerTime, ToServer,
    Welcome,
};

use crate::support::{addr, ms};
use crate::town::{Citizen, Town, config, id, secret};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes with a direct path between them; node 0 called.
pub(super) fn met() -> Town {
    let mut town = Town::new(2);
    town.connect(0, 1, PathPolicy::Auto);
    town.run(5 * SECOND);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
    town
}

/// Two nodes whose datagrams to each other get lost; traffic runs through the relay.
pub(super) fn relayed() -> Town {
    let mut town = Town::new(2);
    town.passes = Box::new(|_, _| false);
    town.connect(0, 1, PathPolicy::Auto);
    town.run(4500 * ms(1));
    assert_eq!(town.path(0), Some(Path::Relay(Why::Silence)));
    town
}

pub(super) fn connects(town: &Town, index: usize) -> usize {
    town.citizens[index]
        .said
        .iter()
        .filter(|said| matches!(said, ToServer::Connect(_)))
        .count()
}

pub(super) fn events(town: &Town, index: usize) -> Vec<Event> {
    town.citizens[index]
        .events
        .iter()
        .map(|(_, event)| event.clone())
        .collect()
}

pub(super) fn down(town: &Town, index: usize) -> Option<(Duration, LinkEnd)> {
    town.citizens[index]
        .events
        .iter()
        .find_map(|(when, event)| match event {
            Event::LinkDown { why, .. } => Some((*when, *why)),
            _ => None,
        })
}
