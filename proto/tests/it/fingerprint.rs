//! The fingerprint of a network, against small NATs made for the purpose. The lab runs it against its own.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use knothole_proto::fingerprint::{
    Allocation, Class, Fact, Filtering, Fingerprint, FingerprintConfig, Fingerprinter, Hairpin, Input,
    Learnt, Mapping, Obstacle, Output, PACKETS_MAX, Reach, Sign,
};
use knothole_proto::path::SocketId;
use knothole_proto::seed::{Rng, Seed};
use knothole_proto::stun::{ServerSocket, StunConfig, StunPolicy, StunServer};
use knothole_proto::transmit::Transmit;

use super::support::{addr, epoch, ms};

const ONE_WAY: Duration = Duration::from_millis(20);
const LOCAL: &str = "192.168.1.7";

/// What decides about the external port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyed {
    Socket,
    Address,
    AddressAndPort,
}

/// A NAT in a few lines: no timeouts, one address.
struct Nat {
    keyed: Keyed,
    filtering: Filtering,
    counted: bool,
    hairpin: bool,
    /// How many hops the filter is away.
    hop: u8,
    ports: BTreeMap<(u16, SocketAddr), u16>,
    sent: Vec<(u16, SocketAddr)>,
    next: u16,
}

impl Nat {
    fn new(keyed: Keyed, filtering: Filtering) -> Self {
        Self {
            keyed,
            filtering,
            counted: keyed != Keyed::Socket,
            hairpin: false,
            hop: 1,
            ports: BTreeMap::new(),
            sent: Vec::new(),
            next: 7000,
        }
    }

    fn out(&mut self, local: u16, to: SocketAddr) -> u16 {
        let key = match self.keyed {
            Keyed::Socket => addr("0.0.0.0:0"),
            Keyed::Address => SocketAddr::new(to.ip(), 0),
            Keyed::AddressAndPort => to,
        };
        let next = &mut self.next;
        let counted = self.counted;
        let port = *self.ports.entry((local, key)).or_insert_with(|| {
            *next += 1;
            if counted { *next } else { local }
        });
        self.sent.push((port, to));
        port
    }

    fn inwards(&self, from: SocketAddr, port: u16) -> Option<u16> {
        let passes = |sent: &&(u16, SocketAddr)| {
            sent.0 == port
                && match self.filtering {
                    Filtering::EndpointIndependent => true,
                    Filtering::AddressDependent => sent.1.ip() == from.ip(),
                    Filtering::AddressAndPortDependent => sent.1 == from,
                }
        };
        self.sent.iter().find(passes)?;
        self.ports
            .iter()
            .find(|(_, external)| **external == port)
            .map(|((local, _), _)| *local)
    }
}

/// A server, a NAT or none, and the host.
struct World {
    nat: Option<Nat>,
    server: StunServer,
    places: Vec<(ServerSocket, SocketAddr)>,
    /// The server answers from where it was asked, whatever was wished.
    stubborn: bool,
    /// One in so many datagrams is lost; 0: none.
    loses_one_in: u64,
    rng: Rng,
    /// When the machine stands still, and for how long.
    stalls: Vec<(Duration, Duration)>,
    sockets: BTreeMap<SocketId, SocketAddr>,
    no_more_sockets_after: usize,
    on_the_way: VecDeque<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    local: &'static str,
    sent: Vec<(Instant, Transmit)>,
    learnt: Vec<(Instant, Learnt)>,
}

impl World {
    fn new(nat: Option<Nat>, places: &[(ServerSocket, &str)]) -> Self {
        let places: Vec<_> = places.iter().map(|(socket, at)| (*socket, addr(at))).collect();
        let config = StunConfig {
            policy: StunPolicy::Nodes,
            sockets: places.clone(),
        };
        Self {
            local: if nat.is_some() { LOCAL } else { "9.9.9.9" },
            nat,
            server: StunServer::new(config, &Seed::from_number(1), epoch()),
            places,
            stubborn: false,
            loses_one_in: 0,
            rng: Seed::from_number(2).rng(),
            stalls: Vec::new(),
            sockets: BTreeMap::new(),
            no_more_sockets_after: usize::MAX,
            on_the_way: VecDeque::new(),
            sent: Vec::new(),
            learnt: Vec::new(),
        }
    }

    fn send(&mut self, transmit: &Transmit, now: Instant) {
        self.sent.push((now, transmit.clone()));
        let local = self.sockets[&transmit.socket];
        let source = match &mut self.nat {
            Some(nat) if transmit.ttl.is_some_and(|ttl| ttl <= nat.hop) => return,
            Some(nat) => SocketAddr::new("9.9.9.9".parse().unwrap(), nat.out(local.port(), transmit.to)),
            None => local,
        };
        if transmit.ttl.is_some() || self.is_lost() {
            return;
        }
        if transmit.to.ip() == source.ip() {
            if self.nat.as_ref().is_some_and(|nat| nat.hairpin) {
                self.deliver(source, transmit.to, transmit.bytes.clone(), now + ms(1));
            }
            return;
        }
        let Some((on, at)) = self.places.iter().find(|(_, at)| *at == transmit.to).copied() else {
            return;
        };
        let Some(reply) = self.server.handle(on, source, &transmit.bytes, now) else {
            return;
        };
        let via = self
            .places
            .iter()
            .find(|(place, _)| *place == reply.via)
            .unwrap()
            .1;
        let from = if self.stubborn { at } else { via };
        if !self.is_lost() {
            self.deliver(from, reply.to, reply.bytes, now + ONE_WAY * 2);
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, at: Instant) {
        let local = match &self.nat {
            Some(nat) => nat.inwards(from, to.port()),
            None => Some(to.port()),
        };
        if let Some(port) = local {
            self.on_the_way.push_back((
                at,
                from,
                SocketAddr::new(self.local.parse().unwrap(), port),
                bytes,
            ));
        }
    }

    fn is_lost(&mut self) -> bool {
        self.loses_one_in != 0 && self.rng.below(self.loses_one_in) == 0
    }

    fn run(&mut self) -> Fingerprint {
        let config = FingerprintConfig {
            server_v4: Some(addr("5.5.5.1:5668")),
            local: vec![self.local.parse().unwrap()],
            ..FingerprintConfig::default()
        };
        let mut run = Fingerprinter::new(config, &Seed::from_number(3), epoch());
        self.drive(&mut run)
    }

    fn drive(&mut self, run: &mut Fingerprinter) -> Fingerprint {
        let mut now = epoch();
        for _ in 0..10_000 {
            match run.poll_output(now) {
                Output::Open { socket, .. } if self.sockets.len() >= self.no_more_sockets_after => {
                    run.handle_input(Input::NotOpened { socket }, now);
                }
                Output::Open { socket, .. } => {
                    let port = 40_000 + 7 * socket.0;
                    let local = SocketAddr::new(self.local.parse().unwrap(), port);
                    self.sockets.insert(socket, local);
                    run.handle_input(Input::Opened { socket, local }, now);
                }
                Output::Transmit(transmit) => self.send(&transmit, now),
                Output::Learnt(fact) => self.learnt.push((now, fact)),
                Output::Done(fingerprint) => return *fingerprint,
                Output::Wait(until) => {
                    self.on_the_way.make_contiguous().sort_by_key(|arrival| arrival.0);
                    let next = self.on_the_way.front().map(|arrival| arrival.0);
                    now = next.into_iter().chain(until).min().unwrap().max(now);
                    let still = |(from, time): &&(Duration, Duration)| {
                        (*from..*from + *time).contains(&(now - epoch()))
                    };
                    if let Some((from, time)) = self.stalls.iter().find(still) {
                        // It looks at the clock before it looks into its sockets.
                        now = epoch() + *from + *time;
                        run.handle_input(Input::Timeout, now);
                        continue;
                    }
                    if next.is_some_and(|next| next <= now)
                        && let Some((_, from, to, bytes)) = self.on_the_way.pop_front()
                        && let Some((socket, _)) = self.sockets.iter().find(|(_, local)| **local == to)
                    {
                        run.handle_input(
                            Input::Datagram {
                                socket: *socket,
                                from,
                                bytes: &bytes,
                            },
                            now,
                        );
                    }
                    run.handle_input(Input::Timeout, now);
                }
            }
        }
        panic!("the run does not end");
    }
}

const FOUR: [(ServerSocket, &str); 4] = [
    (ServerSocket::Main, "5.5.5.1:5668"),
    (ServerSocket::AlternatePort, "5.5.5.1:5669"),
    (ServerSocket::AlternateAddress, "5.5.5.2:5668"),
    (ServerSocket::AlternateBoth, "5.5.5.2:5669"),
];

fn home() -> Nat {
    Nat::new(Keyed::Socket, Filtering::AddressAndPortDependent)
}

fn symmetric() -> Nat {
    Nat::new(Keyed::AddressAndPort, Filtering::AddressAndPortDependent)
}

#[test]
fn the_first_fact_comes_after_one_round_trip() {
    let mut world = World::new(Some(home()), &FOUR);
    world.run();
    let (at, first) = &world.learnt[0];
    let expected = Learnt::Address {
        local: addr("192.168.1.7:40000"),
        reflexive: addr("9.9.9.9:40000"),
    };
    assert_eq!((first, *at - epoch()), (&expected, ONE_WAY * 2));
}

#[test]
fn a_home_router_is_known_in_full_with_some_forty_datagrams() {
    let mut world = World::new(Some(home()), &FOUR);
    let found = world.run();
    assert_eq!(found.class(), Class::PortRestricted);
    assert_eq!(found.v4.mapping, Fact::Known(Mapping::EndpointIndependent));
    assert_eq!(found.v4.opener_ttl, Fact::Known(2));
    assert_eq!(found.ports, Fact::Known(Allocation::Preserving));
    assert_eq!(found.hairpin, Fact::Known(Hairpin::Absent));
    assert_eq!(found.public_address(), Fact::Known(false));
    assert_eq!(found.carrier_nat(), Fact::NotTestable(Obstacle::NoSign));
    assert_eq!(found.v6.reach, Reach::NoLocalAddress);
    assert!((30..=45).contains(&found.packets), "{}", found.packets);
    assert!(found.took < ms(1600), "{:?}", found.took);
}

#[test]
fn datagrams_leave_two_milliseconds_apart() {
    for nat in [home(), symmetric()] {
        let mut world = World::new(Some(nat), &FOUR);
        world.run();
        let gaps = world.sent.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.min().unwrap() >= ms(2));
    }
}

#[test]
fn mapping_filtering_and_class_are_told_for_every_combination() {
    let filters = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    for filtering in filters {
        for (keyed, mapping) in [
            (Keyed::Socket, Mapping::EndpointIndependent),
            (Keyed::Address, Mapping::AddressDependent),
            (Keyed::AddressAndPort, Mapping::AddressAndPortDependent),
        ] {
            let found = World::new(Some(Nat::new(keyed, filtering)), &FOUR).run();
            assert_eq!(found.v4.mapping, Fact::Known(mapping));
            assert_eq!(found.v4.filtering, Fact::Known(filtering));
        }
    }
}

#[test]
fn a_counter_is_told_with_its_step_and_that_nobody_else_moves_it() {
    let found = World::new(Some(symmetric()), &FOUR).run();
    assert_eq!(found.class(), Class::SymmetricCounter);
    assert_eq!(
        found.ports,
        Fact::Known(Allocation::Counter {
            step: 1,
            rate: Some(0)
        })
    );
    assert_eq!(found.v4.opener_ttl, Fact::NotTestable(Obstacle::NoStablePort));
    assert_eq!(found.hairpin, Fact::NotTestable(Obstacle::NoStablePort));
}

#[test]
fn a_server_of_one_address_tells_what_it_can_and_the_rest_says_why() {
    let found = World::new(Some(home()), &FOUR[..2]).run();
    assert_eq!(
        found.v4.mapping,
        Fact::NotTestable(Obstacle::OneAddress),
        "it could go by address"
    );
    assert_eq!(found.v4.port_dependent, Fact::Known(false));
    assert_eq!(
        found.v4.filtering,
        Fact::Known(Filtering::AddressAndPortDependent),
        "closed to ports is closed"
    );
    assert_eq!(found.v4.opener_ttl, Fact::Known(2));
    assert_eq!(found.class(), Class::Cone);

    let found = World::new(Some(symmetric()), &FOUR[..2]).run();
    assert_eq!(found.v4.mapping, Fact::Known(Mapping::AddressAndPortDependent));
    assert_eq!(found.class(), Class::SymmetricCounter);

    let open = Nat::new(Keyed::Socket, Filtering::EndpointIndependent);
    let found = World::new(Some(open), &FOUR[..2]).run();
    assert_eq!(found.v4.other_port_passes, Fact::Known(true));
    assert_eq!(
        found.v4.filtering,
        Fact::NotTestable(Obstacle::OneAddress),
        "open to ports may be closed to others"
    );
    assert!(found.v4.opener_ttl.known().is_none());
}

#[test]
fn a_plain_stun_server_tells_the_address_and_the_ports() {
    let found = World::new(Some(home()), &FOUR[..1]).run();
    assert_eq!(found.v4.mapping, Fact::NotTestable(Obstacle::NoOtherAddress));
    assert_eq!(found.v4.filtering, Fact::NotTestable(Obstacle::NoOtherAddress));
    assert_eq!(found.v4.opener_ttl, Fact::NotTestable(Obstacle::NoOtherAddress));
    assert_eq!(found.hairpin, Fact::NotTestable(Obstacle::NoOtherAddress));
    assert_eq!(found.ports, Fact::Known(Allocation::Preserving));
    assert_eq!(found.class(), Class::Translated);
}

#[test]
fn silence_of_a_server_that_does_not_answer_from_elsewhere_is_not_taken_for_a_filter() {
    let mut world = World::new(
        Some(Nat::new(Keyed::Socket, Filtering::EndpointIndependent)),
        &FOUR,
    );
    world.stubborn = true;
    let found = world.run();
    assert_eq!(found.v4.mapping, Fact::Known(Mapping::EndpointIndependent));
    assert_eq!(found.v4.filtering, Fact::NotTestable(Obstacle::NotObeyed));
    assert_eq!(found.class(), Class::Cone);
}

#[test]
fn a_second_address_that_does_not_answer_is_named_as_the_reason() {
    let mut world = World::new(Some(home()), &FOUR);
    // The server believes in a second address that nobody routes to it.
    world.places.truncate(2);
    let found = world.run();
    assert_eq!(found.v4.mapping, Fact::NotTestable(Obstacle::OtherSilent));
    assert_eq!(found.v4.port_dependent, Fact::Known(false));
}

#[test]
fn a_public_address_is_told_from_a_translated_one_and_needs_no_nat_tests() {
    let found = World::new(None, &FOUR).run();
    assert_eq!(found.class(), Class::Open);
    assert_eq!(found.public_address(), Fact::Known(true));
    assert_eq!(found.hairpin, Fact::NotTestable(Obstacle::NotTranslated));
    assert_eq!(found.v4.opener_ttl, Fact::NotTestable(Obstacle::NothingFilters));
}

/// When, and what, a run said of the server's other port.
fn other_port(world: &World) -> Vec<(Duration, bool)> {
    let told = |(at, fact): &(Instant, Learnt)| match fact {
        Learnt::OtherPort { passes } => Some((*at - epoch(), *passes)),
        _ => None,
    };
    world.learnt.iter().filter_map(told).collect()
}

#[test]
fn whom_a_filter_lets_in_is_told_long_before_silence_is_sure() {
    for (filtering, expected) in [
        (Filtering::EndpointIndependent, true),
        (Filtering::AddressDependent, true),
        (Filtering::AddressAndPortDependent, false),
    ] {
        let mut world = World::new(Some(Nat::new(Keyed::Socket, filtering)), &FOUR);
        let found = world.run();
        let told = other_port(&world);
        assert_eq!(told.len(), 1, "{filtering:?}: {told:?}");
        assert!(told[0].0 < ms(200), "{filtering:?}: {told:?}");
        let sure = found.took > ms(1200);
        assert_eq!(
            sure,
            filtering != Filtering::EndpointIndependent,
            "{:?}",
            found.took
        );
        assert_eq!(told[0].1, expected, "{filtering:?}");
    }
}

#[test]
fn an_answer_that_comes_late_corrects_what_its_silence_told() {
    let mut corrected = 0;
    for seed in 0..60 {
        let mut world = World::new(Some(Nat::new(Keyed::Socket, Filtering::AddressDependent)), &FOUR);
        world.loses_one_in = 6;
        world.rng = Seed::from_number(seed).rng();
        let found = world.run();
        let told: Vec<bool> = other_port(&world).into_iter().map(|(_, passes)| passes).collect();
        if let (Some(last), Fact::Known(passes)) = (told.last(), found.v4.other_port_passes) {
            assert_eq!(*last, passes, "seed {seed}: {told:?}");
        }
        corrected += usize::from(told == [false, true]);
    }
    assert!(corrected > 5, "{corrected}");
}

#[test]
fn silence_tells_nothing_where_the_server_may_not_have_answered_or_the_port_changes_anyway() {
    let mut stubborn = World::new(Some(home()), &FOUR);
    stubborn.stubborn = true;
    for mut world in [stubborn, World::new(Some(symmetric()), &FOUR)] {
        world.run();
        assert_eq!(other_port(&world), []);
    }
}

#[test]
fn a_hairpin_and_a_filter_behind_another_router_are_seen() {
    let mut nat = home();
    (nat.hairpin, nat.hop) = (true, 2);
    let found = World::new(Some(nat), &FOUR).run();
    assert_eq!(found.hairpin, Fact::Known(Hairpin::External));
    assert_eq!(found.v4.opener_ttl, Fact::Known(3));
    assert_eq!(found.signs, [Sign::FilterAtHop(2)]);
}

#[test]
fn a_carrier_is_named_by_what_points_to_it() {
    let mut world = World::new(Some(home()), &FOUR);
    world.local = "100.64.3.4";
    let found = world.run();
    assert_eq!(found.signs, [Sign::SharedLocal("100.64.3.4".parse().unwrap())]);
    assert_eq!(found.carrier_nat(), Fact::Known(true));

    let mut world = World::new(Some(home()), &FOUR);
    let config = FingerprintConfig {
        server_v4: Some(addr("5.5.5.1:5668")),
        ..FingerprintConfig::default()
    };
    let mut run = Fingerprinter::new(config, &Seed::from_number(3), epoch());
    let router: IpAddr = "100.64.0.1".parse().unwrap();
    run.handle_input(Input::Hop { ttl: 2, router }, epoch());
    let found = world.drive(&mut run);
    assert_eq!(found.signs, [Sign::SharedHop { ttl: 2, router }]);
    assert_eq!(
        found.carrier_nat(),
        Fact::NotTestable(Obstacle::NoSign),
        "it points to one and proves none"
    );
}

#[test]
fn udp_is_blocked_when_nothing_came_for_a_second() {
    let mut world = World::new(Some(home()), &[]);
    let found = world.run();
    assert_eq!(
        (found.class(), found.udp_blocked),
        (Class::UdpBlocked, Fact::Known(true))
    );
    assert_eq!((found.packets, found.took), (4, ms(1000)));
    assert_eq!(world.learnt, [(epoch() + ms(1000), Learnt::UdpBlocked)]);
    assert_eq!(found.v4.mapping, Fact::NotTestable(Obstacle::NoAnswer));
}

#[test]
fn what_waits_in_the_sockets_of_a_machine_that_stood_still_is_not_taken_for_lost() {
    let counter =
        |found: &Fingerprint| matches!(found.ports, Fact::Known(Allocation::Counter { step: 1, .. }));
    for from in (0..600).step_by(5) {
        for (run, still, times) in [(80, 350, 20), (0, 1_500, 1)] {
            let mut world = World::new(Some(symmetric()), &FOUR);
            world.stalls = (0..times)
                .map(|n| (ms(from + n * (run + still)), ms(still)))
                .collect();
            let found = world.run();
            assert_eq!(
                found.udp_blocked,
                Fact::Known(false),
                "still for {still} ms from {from} on"
            );
            assert!(
                counter(&found),
                "still for {still} ms from {from} on: {:?}",
                found.ports
            );
        }
    }
}

#[test]
fn a_router_without_a_filter_is_not_taken_for_a_strict_one_because_the_machine_stood_still() {
    for from in (0..400).step_by(5) {
        let mut world = World::new(
            Some(Nat::new(Keyed::Socket, Filtering::EndpointIndependent)),
            &FOUR,
        );
        world.stalls = vec![(ms(from), ms(1_500))];
        let filtering = world.run().v4.filtering;
        assert!(
            filtering
                .known()
                .is_none_or(|known| known == Filtering::EndpointIndependent),
            "still from {from} on: {filtering:?}"
        );
    }
}

#[test]
fn without_anything_to_ask_it_ends_at_once_and_claims_nothing() {
    let mut run = Fingerprinter::new(FingerprintConfig::default(), &Seed::from_number(1), epoch());
    let Output::Done(found) = run.poll_output(epoch()) else {
        panic!("it does not end")
    };
    assert_eq!((found.class(), found.packets), (Class::Unknown, 0));
    assert!(found.udp_blocked.known().is_none());
    assert!(matches!(run.poll_output(epoch()), Output::Wait(None)));
}

#[test]
fn a_machine_that_can_open_few_sockets_learns_less_and_nothing_wrong() {
    let right = World::new(Some(home()), &FOUR).run();
    for sockets in 0..16 {
        let mut world = World::new(Some(home()), &FOUR);
        world.no_more_sockets_after = sockets;
        let found = world.run();
        agree(&found, &right);
        assert_eq!(found.v4.mapping.known().is_some(), sockets > 0);
        assert!(sockets >= 7 || found.ports.known().is_none());
    }
}

#[test]
fn a_third_of_the_datagrams_lost_makes_facts_unknown_but_not_wrong() {
    for (seed, nat) in (0..40).flat_map(|seed| [(seed, home as fn() -> Nat), (seed, symmetric)]) {
        let right = World::new(Some(nat()), &FOUR).run();
        let mut world = World::new(Some(nat()), &FOUR);
        world.loses_one_in = 6;
        world.rng = Seed::from_number(seed).rng();
        agree(&world.run(), &right);
    }
}

/// Whatever is known is right.
#[track_caller]
fn agree(found: &Fingerprint, right: &Fingerprint) {
    let same = |known: bool, equal: bool| assert!(!known || equal, "{found:#?}\nis not\n{right:#?}");
    same(
        found.v4.mapping.known().is_some(),
        found.v4.mapping == right.v4.mapping,
    );
    same(
        found.v4.filtering.known().is_some(),
        found.v4.filtering == right.v4.filtering,
    );
    same(
        found.v4.translated.known().is_some(),
        found.v4.translated == right.v4.translated,
    );
    same(
        found.v4.opener_ttl.known().is_some(),
        found.v4.opener_ttl == right.v4.opener_ttl,
    );
    same(found.ports.known().is_some(), found.ports == right.ports);
    same(found.hairpin.known().is_some(), found.hairpin == right.hairpin);
}

#[test]
fn a_server_that_lies_about_its_other_address_aims_hardly_anything_at_it() {
    let victim = "8.8.4.4:53";
    let lying = [
        (ServerSocket::Main, "5.5.5.1:5668"),
        (ServerSocket::AlternateBoth, victim),
    ];
    let mut world = World::new(Some(home()), &lying);
    world.places.truncate(1);
    let found = world.run();
    let aimed = world
        .sent
        .iter()
        .filter(|(_, transmit)| transmit.to.ip() == addr(victim).ip());
    assert!(
        aimed.count() <= 16,
        "two places, four questions, asked twice at the most"
    );
    assert_eq!(found.v4.mapping, Fact::NotTestable(Obstacle::OtherSilent));
}

#[test]
fn an_other_address_that_reaches_less_far_than_the_server_is_none() {
    for inside in [
        "10.0.0.1:5669",
        "127.0.0.1:5669",
        "169.254.169.254:80",
        "224.0.0.1:5669",
    ] {
        let lying = [
            (ServerSocket::Main, "5.5.5.1:5668"),
            (ServerSocket::AlternateBoth, inside),
        ];
        let mut world = World::new(Some(home()), &lying);
        let found = world.run();
        assert!(
            world
                .sent
                .iter()
                .all(|(_, transmit)| transmit.to.ip() != addr(inside).ip()),
            "{inside}"
        );
        assert_eq!(found.v4.mapping, Fact::NotTestable(Obstacle::NoOtherAddress));
    }
}

/// A driver that does everything wrong: sockets that come late or never, datagrams that are nonsense, twisted copies of
/// answers, time that jumps.
#[test]
fn no_input_makes_it_panic_run_on_or_send_without_bound() {
    for seed in 0..300 {
        let mut rng = Seed::from_number(seed).rng();
        let nat = if seed % 2 == 0 { home() } else { symmetric() };
        let mut world = World::new((seed % 5 != 0).then_some(nat), &FOUR);
        let config = FingerprintConfig {
            others: None,
            server_v4: Some(addr("5.5.5.1:5668")),
            server_v6: (seed % 3 == 0).then(|| addr("[2a05::1]:5668")),
            nat64: (seed % 7 == 0).then(|| addr("[64:ff9b::505:501]:5668")),
            local: vec![LOCAL.parse().unwrap()],
        };
        let mut run = Fingerprinter::new(config, &Seed::from_number(seed), epoch());
        let (mut now, mut sent, mut done) = (epoch(), 0, 0);
        while now < epoch() + ms(30_000) {
            match run.poll_output(now) {
                Output::Transmit(transmit) => {
                    sent += 1;
                    if rng.below(4) != 0 && world.sockets.contains_key(&transmit.socket) {
                        world.send(&transmit, now);
                    }
                }
                Output::Open { socket, .. } => {
                    let local = SocketAddr::new(LOCAL.parse().unwrap(), 40_000 + socket.0);
                    world.sockets.insert(socket, local);
                    match rng.below(8) {
                        0 => run.handle_input(Input::NotOpened { socket }, now),
                        1 => {}
                        _ => run.handle_input(Input::Opened { socket, local }, now),
                    }
                }
                Output::Done(_) => done += 1,
                Output::Learnt(_) => {}
                Output::Wait(_) => {
                    now += ms(rng.below(40) + 1);
                    disturb(&mut run, &mut world, &mut rng, now);
                }
            }
        }
        assert_eq!(done, 1, "seed {seed}");
        assert!(sent <= u32::from(PACKETS_MAX), "seed {seed}: {sent}");
    }
}

/// Some datagrams as they may come from anywhere.
fn disturb(run: &mut Fingerprinter, world: &mut World, rng: &mut Rng, now: Instant) {
    let (from, mut bytes) = match world.on_the_way.pop_front() {
        Some((_, from, _, bytes)) => (from, bytes),
        None => (addr("5.5.5.1:5668"), rng.bytes::<64>().to_vec()),
    };
    if rng.below(3) == 0 {
        let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
        bytes[at] ^= u8::try_from(rng.below(255) + 1).unwrap();
    }
    let number = u16::try_from(rng.below(30)).unwrap();
    run.handle_input(
        Input::Datagram {
            socket: SocketId(number),
            from,
            bytes: &bytes,
        },
        now,
    );
    if rng.below(10) == 0 {
        run.handle_input(
            Input::Hop {
                ttl: bytes[0],
                router: from.ip(),
            },
            now,
        );
    }
    run.handle_input(Input::Timeout, now);
}
