//! Two punching agents and a network between them that a test describes by a function.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use knothole_proto::addr::{Candidate, CandidateKind, OfferedCandidate};
use knothole_proto::connector::Transmit;
use knothole_proto::id::{PairSecret, PeerId, SessionId};
use knothole_proto::path::SocketId;
use knothole_proto::punch::{Event, LocalSocket, PunchAgent, PunchConfig, Round, Setup};
use knothole_proto::seed::Seed;
use knothole_proto::wire::Role;
use knothole_proto::wire::probe::{Flags, Probe, ProbeKeys};

use crate::support::{addr, epoch, ms};

/// What becomes of a datagram: who gets it, from which source, after how long. `None`: lost.
pub(crate) type Net = Box<dyn FnMut(usize, &Transmit, Duration) -> Option<(usize, SocketAddr, Duration)>>;

pub(crate) struct Side {
    pub(crate) agent: PunchAgent,
    pub(crate) sent: Vec<(Duration, Transmit)>,
    pub(crate) got: Vec<(SocketId, SocketAddr, Vec<u8>)>,
    pub(crate) events: Vec<(Duration, Event)>,
}

/// For whom, on which socket, from where, what.
type Flight = (usize, SocketId, SocketAddr, Vec<u8>);

pub(crate) struct Duo {
    pub(crate) sides: [Side; 2],
    pub(crate) now: Duration,
    net: Net,
    flying: BTreeMap<(Duration, u64), Flight>,
    count: u64,
}

/// When the first round of every duo starts.
pub(crate) const START: Duration = Duration::from_millis(150);

/// Public addresses of the two sides, and their addresses inside.
pub(crate) const PUBLIC: [&str; 2] = ["5.0.0.1:1000", "6.0.0.1:2000"];
pub(crate) const INSIDE: [&str; 2] = ["192.168.1.2:1000", "192.168.1.3:2000"];

pub(crate) fn at(after: Duration) -> Instant {
    epoch() + after
}

pub(crate) fn ids() -> [PeerId; 2] {
    [PeerId::from_spki(b"one"), PeerId::from_spki(b"two")]
}

pub(crate) fn keys(session: u8, side: usize) -> ProbeKeys {
    let secret = PairSecret::from_bytes([7; 32]);
    ProbeKeys::new(
        &secret,
        SessionId::from_bytes([session; 16]),
        ids()[side],
        ids()[1 - side],
    )
}

pub(crate) fn offered(text: &str, kind: CandidateKind, attested: bool) -> OfferedCandidate {
    OfferedCandidate {
        candidate: Candidate {
            kind,
            addr: addr(text),
        },
        attested,
    }
}

/// The public address of a side, attested.
pub(crate) fn public(side: usize) -> Vec<OfferedCandidate> {
    vec![offered(PUBLIC[side], CandidateKind::Reflexive, true)]
}

/// Everything arrives after `delay`, from the address that belongs to the one it went to.
pub(crate) fn open(delay: Duration) -> Net {
    Box::new(move |side, transmit, _| {
        let other = 1 - side;
        if transmit.to == addr(PUBLIC[other]) {
            Some((other, addr(PUBLIC[side]), delay))
        } else if transmit.to == addr(INSIDE[other]) {
            Some((other, addr(INSIDE[side]), delay))
        } else {
            None
        }
    })
}

pub(crate) fn flags(bytes: &[u8]) -> Flags {
    Flags(bytes[2])
}

pub(crate) fn asks(bytes: &[u8]) -> bool {
    flags(bytes).has(Flags::ANSWER_ME)
}

impl Duo {
    /// Side 0 is the caller. `remote[n]` is what side n is told of the other.
    pub(crate) fn new(remote: [Vec<OfferedCandidate>; 2], net: Net) -> Self {
        Self::with(PunchConfig::default(), remote, net)
    }

    pub(crate) fn with(config: PunchConfig, remote: [Vec<OfferedCandidate>; 2], net: Net) -> Self {
        let side = |side: usize, remote: &[OfferedCandidate]| {
            let setup = Setup {
                keys: keys(1, side),
                role: [Role::Caller, Role::Callee][side],
                sockets: vec![
                    LocalSocket {
                        id: SocketId::V4,
                        v6: false,
                    },
                    LocalSocket {
                        id: SocketId::V6,
                        v6: true,
                    },
                ],
                local: vec![Candidate {
                    kind: CandidateKind::Host,
                    addr: addr(INSIDE[side]),
                }],
                round: Round {
                    number: 0,
                    start: at(START),
                    remote: remote.to_vec(),
                    orders: None,
                },
            };
            Side {
                agent: PunchAgent::new(config.clone(), setup, &Seed::from_number(side as u64), epoch()),
                sent: Vec::new(),
                got: Vec::new(),
                events: Vec::new(),
            }
        };
        let mut duo = Self {
            sides: [side(0, &remote[0]), side(1, &remote[1])],
            now: Duration::ZERO,
            net,
            flying: BTreeMap::new(),
            count: 0,
        };
        duo.drain();
        duo
    }

    pub(crate) fn set_net(&mut self, net: Net) {
        self.net = net;
    }

    /// Run until this moment, counted from the epoch.
    pub(crate) fn run(&mut self, until: Duration) {
        for _ in 0..1_000_000 {
            let timer = |side: &Side| {
                side.agent
                    .poll_timeout()
                    .map(|(at, _)| at.saturating_duration_since(epoch()))
            };
            let timers = self.sides.iter().filter_map(timer).min();
            let flight = self.flying.keys().next().map(|(at, _)| *at);
            let Some(next) = timers
                .into_iter()
                .chain(flight)
                .min()
                .filter(|next| *next <= until)
            else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self
                .flying
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let (side, socket, from, bytes) = entry.remove();
                self.feed(side, socket, from, &bytes);
            }
            for side in &mut self.sides {
                side.agent.handle_timeout(at(self.now));
            }
            self.drain();
        }
        panic!("the agents never came to rest");
    }

    /// A datagram arrives; says whether it was taken for an authentic probe.
    pub(crate) fn feed(&mut self, side: usize, socket: SocketId, from: SocketAddr, bytes: &[u8]) -> bool {
        let side = &mut self.sides[side];
        side.got.push((socket, from, bytes.to_vec()));
        let authentic = side.agent.handle_datagram(socket, from, bytes, at(self.now));
        self.drain();
        authentic
    }

    /// A probe that `side` could have sent, at the other one from this address.
    pub(crate) fn forge(&mut self, side: usize, from: &str, probe: &Probe) -> bool {
        let bytes = keys(1, side).seal(probe);
        let socket = if addr(from).is_ipv6() {
            SocketId::V6
        } else {
            SocketId::V4
        };
        self.feed(1 - side, socket, addr(from), &bytes)
    }

    pub(crate) fn drain(&mut self) {
        for index in 0..2 {
            while let Some(event) = self.sides[index].agent.poll_event() {
                self.sides[index].events.push((self.now, event));
            }
            while let Some(outgoing) = self.sides[index].agent.poll_transmit() {
                let transmit = outgoing.transmit;
                if let Some((to, from, delay)) = (self.net)(index, &transmit, self.now) {
                    self.count += 1;
                    let flight = (to, transmit.socket, from, transmit.bytes.clone());
                    self.flying.insert((self.now + delay, self.count), flight);
                }
                self.sides[index].sent.push((self.now, transmit));
            }
        }
    }

    /// The addresses that a side has locked one after the other, and when.
    pub(crate) fn locks(&self, side: usize) -> Vec<(Duration, SocketAddr)> {
        let locked = |(when, event): &(Duration, Event)| match event {
            Event::Locked { remote, .. } => Some((*when, *remote)),
            _ => None,
        };
        self.sides[side].events.iter().filter_map(locked).collect()
    }

    /// How many datagrams a side has sent to this address.
    pub(crate) fn sent_to(&self, side: usize, to: &str) -> usize {
        let to = addr(to);
        self.sides[side]
            .sent
            .iter()
            .filter(|(_, transmit)| transmit.to == to)
            .count()
    }

    /// Both lose what was sent and told so far.
    pub(crate) fn clear(&mut self) {
        for side in &mut self.sides {
            side.sent.clear();
            side.got.clear();
            side.events.clear();
        }
    }
}

/// A new round for one side.
pub(crate) fn round(number: u8, start: Duration, remote: Vec<OfferedCandidate>) -> Round {
    Round {
        number,
        start: at(start),
        remote,
        orders: None,
    }
}

pub(crate) fn probe(flags: Flags, nonce: u64, echo: u64) -> Probe {
    Probe {
        flags,
        round: 0,
        nonce,
        echo,
        observed: None,
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Milliseconds of a moment, for comparisons.
pub(crate) fn millis(when: Duration) -> u64 {
    u64::try_from((when + ms(0)).as_millis()).unwrap()
}
