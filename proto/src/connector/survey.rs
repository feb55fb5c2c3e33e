//! The survey: finding out what the network does to packets, once for each network, and telling the server in short.
//!
//! A [`Fingerprinter`] asks; this gives it sockets, and draws from its answer what peers need to know.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::machine::Connector;
use super::sockets::Owner;
use super::{Event, Output, Transmit};
use crate::addr::CandidateKind;
use crate::fingerprint::{
    self, Allocation, Fact, Fingerprint, FingerprintConfig, Fingerprinter, Learnt, Obstacle,
};
use crate::path::SocketId;
use crate::wire::Welcome;
use crate::wire::network::{Filtering, Mapping, Network, Ports};

/// After the registration the survey waits this long: first come the clock and the own address, which everybody needs.
const DELAY: Duration = Duration::from_millis(50);

/// After a change of the network it waits this long, because several changes come together.
const SETTLE: Duration = Duration::from_millis(500);

/// Surveys are at least so far apart unless the own addresses changed: a router that changes the port of the control
/// connection all the time must not cause questions all the time.
const APART: Duration = Duration::from_secs(60);

/// Where the survey stands.
#[derive(Debug, Default)]
pub(super) struct Survey {
    run: Option<Fingerprinter>,
    /// When the run wants to be called.
    wake: Option<Instant>,
    begin_at: Option<Instant>,
    last: Option<Instant>,
    /// The run checks facts that are in use: they hold until all of it is known.
    renews: bool,
    /// The server's addresses, IPv4 and IPv6, where there are any.
    servers: [Option<SocketAddr>; 2],
    /// All the places of it that it told itself, over the authenticated connection.
    others: Vec<SocketAddr>,
    /// Where the server saw this node when the survey was prepared.
    seen: Option<IpAddr>,
}

impl Survey {
    pub(super) fn due(&self) -> Option<Instant> {
        self.wake.into_iter().chain(self.begin_at).min()
    }
}

impl Connector {
    /// The server can be asked now: plan a survey, unless the network is known.
    pub(super) fn prepare_survey(
        &mut self,
        servers: &[(SocketId, SocketAddr)],
        welcome: &Welcome,
        now: Instant,
    ) {
        let (alternate, seen) = (welcome.alternate, welcome.reflexive.ip());
        if self
            .survey
            .seen
            .replace(seen)
            .is_some_and(|before| before != seen)
        {
            self.doubt_network(true, now);
        }
        let of = |v6| {
            servers
                .iter()
                .map(|(_, server)| *server)
                .find(|server| server.is_ipv6() == v6)
        };
        let servers = [of(false), of(true)];
        let port = Some(welcome.alternate_port).filter(|port| *port != 0);
        let ports = servers.map(|server| Some(SocketAddr::new(server?.ip(), port?)));
        self.survey.servers = servers;
        self.survey.others = servers
            .into_iter()
            .chain(ports)
            .chain([alternate])
            .flatten()
            .collect();
        if self.config.fingerprint && !self.knows_network() && self.survey.run.is_none() {
            self.survey.begin_at = Some(now + DELAY);
        }
    }

    /// The driver knows this network from before.
    pub(super) fn on_network(&mut self, known: &Fingerprint) {
        self.stop_survey();
        self.learn_network(known);
    }

    /// Addresses are others than before, or an attempt failed that should not have: what was known is not believed any more.
    pub(super) fn doubt_network(&mut self, moved: bool, now: Instant) {
        let free = self.survey.last.map(|last| last + APART);
        if let Some(free) = free.filter(|free| !moved && *free > now) {
            // Until then there is nothing better to go by.
            if self.config.fingerprint && self.control.is_registered() {
                self.survey.begin_at.get_or_insert(free);
            }
            return;
        }
        self.stop_survey();
        self.network = Network {
            guesses: self.config.guesses,
            ..Network::default()
        };
        if self.config.fingerprint && self.control.is_registered() {
            self.survey.begin_at = Some(now + SETTLE);
        }
    }

    /// The server is gone, and with it whom to ask.
    pub(super) fn stop_survey(&mut self) {
        self.survey.run = None;
        self.survey.wake = None;
        self.survey.begin_at = None;
        self.close_sockets_of_survey();
    }

    pub(super) fn keep_survey(&mut self, now: Instant) {
        if self.survey.begin_at.is_some_and(|at| at <= now) {
            self.survey.begin_at = None;
            self.survey.last = Some(now);
            self.survey.renews = self.knows_network();
            let [server_v4, server_v6] = self.survey.servers;
            let hosts = self.local.iter().filter(|own| own.kind == CandidateKind::Host);
            let config = FingerprintConfig {
                server_v4,
                server_v6,
                nat64: None,
                local: hosts.map(|own| own.addr.ip()).collect(),
                others: Some(self.survey.others.clone()),
            };
            let seed = self.seed.child("survey", self.rng.u64());
            self.survey.run = Some(Fingerprinter::new(config, &seed, now));
            self.drain_survey(now);
        } else if self.survey.wake.is_some_and(|at| at <= now) {
            self.feed_survey(fingerprint::Input::Timeout, now);
        }
    }

    pub(super) fn survey_opened(&mut self, socket: SocketId, local: SocketAddr, now: Instant) {
        self.feed_survey(fingerprint::Input::Opened { socket, local }, now);
    }

    pub(super) fn survey_not_opened(&mut self, socket: SocketId, now: Instant) {
        self.feed_survey(fingerprint::Input::NotOpened { socket }, now);
    }

    pub(super) fn survey_datagram(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Instant) {
        self.feed_survey(fingerprint::Input::Datagram { socket, from, bytes }, now);
    }

    fn feed_survey(&mut self, input: fingerprint::Input<'_>, now: Instant) {
        if let Some(run) = &mut self.survey.run {
            run.handle_input(input, now);
            self.drain_survey(now);
        }
    }

    fn drain_survey(&mut self, now: Instant) {
        while let Some(run) = &mut self.survey.run {
            match run.poll_output(now) {
                fingerprint::Output::Open { socket, towards } => {
                    let opened = self.open_socket(Owner::Survey(socket), towards.is_ipv6());
                    if let (None, Some(run)) = (opened, &mut self.survey.run) {
                        run.handle_input(fingerprint::Input::NotOpened { socket }, now);
                    }
                }
                fingerprint::Output::Transmit(transmit) => {
                    if let Some(socket) = self.sockets.of_survey(transmit.socket) {
                        self.push(Output::Transmit(Transmit { socket, ..transmit }));
                    }
                }
                fingerprint::Output::Learnt(fact) if decides(&fact) && !self.survey.renews => {
                    let so_far = run.so_far(now);
                    self.learn_network(&so_far);
                }
                fingerprint::Output::Learnt(_) => {}
                fingerprint::Output::Done(known) => {
                    self.stop_survey();
                    self.learn_network(&known);
                    self.event(Event::Fingerprint(known));
                }
                fingerprint::Output::Wait(until) => {
                    self.survey.wake = until;
                    return;
                }
            }
        }
    }

    fn knows_network(&self) -> bool {
        self.network.mapping != Mapping::Unknown
    }

    /// Tell the server; it renews the rounds that knew too little.
    fn learn_network(&mut self, known: &Fingerprint) {
        self.network = summary(known, self.config.guesses);
        self.update();
    }
}

/// Is this what plans hang on most? Then it is told before the rest is known: a mapping that needs no more, and whom its filter lets
/// in as far as one question tells; how ports are chosen, or that they are counted, although it takes a second and a half more to
/// know how fast.
fn decides(fact: &Learnt) -> bool {
    matches!(
        fact,
        Learnt::Mapping(Fact::Known(fingerprint::Mapping::EndpointIndependent))
            | Learnt::OtherPort { .. }
            | Learnt::Ports(Fact::Known(_))
            | Learnt::Counted { .. }
    )
}

/// What peers need to know of it.
fn summary(known: &Fingerprint, guesses: bool) -> Network {
    let v4 = &known.v4;
    let mapping = match (
        v4.translated.known(),
        v4.mapping.known(),
        v4.port_dependent.known(),
    ) {
        (Some(false), _, _) => Mapping::None,
        (_, Some(fingerprint::Mapping::EndpointIndependent), _) => Mapping::Independent,
        (_, Some(fingerprint::Mapping::AddressDependent), _) => Mapping::Address,
        (_, Some(fingerprint::Mapping::AddressAndPortDependent), _) => Mapping::AddressAndPort,
        // As far as one address of the server can tell.
        (_, None, Some(false)) => Mapping::Independent,
        (_, None, _) => Mapping::Unknown,
    };
    let filtering = match (v4.filtering.known(), v4.other_port_passes.known()) {
        (Some(fingerprint::Filtering::EndpointIndependent), _) => Filtering::Independent,
        (Some(fingerprint::Filtering::AddressDependent), _) => Filtering::Address,
        (Some(fingerprint::Filtering::AddressAndPortDependent), _) | (None, Some(false)) => {
            Filtering::AddressAndPort
        }
        // At the least; as far as one address of the server can tell, or until the other one is known not to pass.
        (None, Some(true)) => Filtering::Address,
        (None, None) => Filtering::Unknown,
    };
    Network {
        mapping,
        filtering,
        ports: known.ports.known().map_or(Ports::Unknown, ports),
        opener_ttl: v4.opener_ttl.known().unwrap_or(0),
        several_addresses: known.addresses.len() > 1,
        // A firewall that lets UDP pass only to the server looks like one that filters by port, except that the server's other
        // address is silent. There every guess is in vain.
        guesses: guesses && v4.mapping.obstacle() != Some(Obstacle::OtherSilent),
    }
}

fn ports(known: Allocation) -> Ports {
    let short = |step: i32| i16::try_from(step).unwrap_or(0);
    match known {
        Allocation::Preserving => Ports::Preserving,
        Allocation::PreserveFirst { step } => Ports::PreserveFirst {
            step: step.map_or(0, short),
        },
        Allocation::Counter { step, .. } if short(step) == 0 => Ports::Unknown,
        Allocation::Counter { step, rate } => Ports::Counter {
            step: short(step),
            rate: u16::try_from(rate.unwrap_or(0)).unwrap_or(u16::MAX),
        },
        Allocation::Block { low, high, .. } => Ports::Block { low, high },
        Allocation::HalfRange { from } => Ports::From(from),
        Allocation::Random => Ports::Random,
    }
}
