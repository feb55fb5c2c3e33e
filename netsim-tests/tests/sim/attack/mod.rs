//! What a malicious peer, a malicious server and a spoofing stranger try with a node: to make it flood somebody, to move its
//! path, to make it believe in a path that works one way. One real connector, and everybody around it played by hand.

mod peer;
mod rig;
mod server;
mod stranger;

use std::net::SocketAddr;
use std::time::Duration;

use knothole_proto::addr::{Candidate, CandidateKind, OfferedCandidate};
use knothole_proto::wire::network::{Filtering, Mapping, Network, Ports};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Somebody who has nothing to do with any of it.
fn victim() -> SocketAddr {
    SocketAddr::from(([66, 6, 6, 6], 6000))
}

/// An address as the server passes it on.
fn offered(addr: SocketAddr, attested: bool) -> OfferedCandidate {
    let kind = CandidateKind::Reflexive;
    OfferedCandidate {
        candidate: Candidate { kind, addr },
        attested,
    }
}

/// The networks that anybody may claim to be in, and one that says nothing.
fn networks() -> [Network; 6] {
    let hard = |ports| Network {
        mapping: Mapping::AddressAndPort,
        filtering: Filtering::AddressAndPort,
        ports,
        opener_ttl: 2,
        several_addresses: false,
        guesses: true,
    };
    let easy = Network {
        mapping: Mapping::Independent,
        ..hard(Ports::Preserving)
    };
    [
        Network {
            guesses: true,
            ..Network::default()
        },
        easy,
        hard(Ports::Random),
        hard(Ports::Block {
            low: 1,
            high: u16::MAX,
        }),
        hard(Ports::Counter {
            step: 1,
            rate: u16::MAX,
        }),
        hard(Ports::PreserveFirst { step: i16::MIN }),
    ]
}

/// Every claim for both sides.
fn pairs() -> impl Iterator<Item = [Network; 2]> {
    let all = networks();
    all.into_iter().flat_map(move |one| all.map(|other| [one, other]))
}
