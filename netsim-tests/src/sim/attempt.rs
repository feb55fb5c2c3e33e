//! One attempt: a server, two nodes behind two NATs, register, connect, until both sides know how it ends.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use knothole_proto::connector::Event;
use knothole_proto::path::{Path, Why};
use knothole_proto::seed::Seed;
use knothole_proto::wire::PathPolicy;

use super::app::TrafficStats;
use super::build::{NodeSpec, SERVER_IP, SERVER_IP6};
use super::check::{Rule, Violation};
use super::clock::epoch;
use super::server::ServerSpec;
use super::stranger::Mischief;
use super::topology::HostId;
use super::weather::Weather;
use super::world::World;
use crate::nat::{NatKind, Side};
use crate::oracle::{Expect, expect, reaches};

/// Registration takes two round trips, and under heavy loss a long time: when packets are lost in runs and repetitions
/// come every 8 s, one run can last for minutes.
const REGISTER_WITHIN: Duration = Duration::from_secs(300);

/// How long a side is watched that cannot reach the server: several of its repetitions.
const OUT_FOR: Duration = Duration::from_secs(20);

/// The server's addresses, one of each family.
const SERVERS: [IpAddr; 2] = [SERVER_IP, SERVER_IP6];

/// What the nodes know by then: the clock (three exchanges 100 ms apart) and the NAT.
const SETTLE: Duration = Duration::from_millis(700);

/// Time after which the caller asks again: the connector gives a question up after 5 s.
const ASK_AGAIN: Duration = Duration::from_millis(5_500);

/// How often it asks.
const ASK_TIMES: u32 = 8;

/// A direct path that must come about does so within this from the introduction (P9).
const DIRECT_WITHIN: Duration = Duration::from_secs(10);

/// Both sides are on one pair of addresses within this of being direct.
const AGREE_WITHIN: Duration = Duration::from_secs(3);

/// Most probes of one side in an attempt: a host's handful of candidates with nine probes each, and the answers.
const PROBES_MAX: u32 = 200;

/// A scenario for one attempt. Equal values give equal runs.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The NAT in front of the caller.
    pub a: &'static NatKind,
    /// The NAT in front of the callee.
    pub b: &'static NatKind,
    /// What the links are like.
    pub weather: Weather,
    /// Everything random comes from it.
    pub seed: u64,
    /// Does a stranger meddle?
    pub stranger: Option<Mischief>,
    /// Moment that all clocks count from; makes no difference.
    pub epoch: Instant,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Were both sides admitted by the server and introduced to each other?
    pub met: bool,
    /// Do both sides send straight to each other?
    pub direct: bool,
    /// From the wish to connect until both sides did.
    pub to_direct: Option<Duration>,
    /// Where each side's traffic ran in the end.
    pub paths: [Option<Path>; 2],
    /// Probes that each side sent.
    pub probes: [u32; 2],
    /// Most entries in any NAT.
    pub nat_entries: usize,
    /// Application traffic at each side.
    pub traffic: [TrafficStats; 2],
    /// Packets on all links, and how many of them were lost.
    pub packets: (u64, u64),
    /// Virtual time that the attempt took, registration included.
    pub took: Duration,
    /// Events in the trace.
    pub events: u64,
    /// Hash of all events.
    pub trace: [u8; 32],
}

/// An attempt that broke a rule, with what repeats it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The broken rule.
    pub violation: Violation,
    /// Seed of the attempt.
    pub seed: u64,
    /// The command that repeats it.
    pub command: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {}; repeat with: {}",
            self.seed, self.violation, self.command
        )
    }
}

impl Attempt {
    /// A scenario without a stranger.
    pub fn new(a: &'static NatKind, b: &'static NatKind, weather: Weather, seed: u64) -> Self {
        Self {
            a,
            b,
            weather,
            seed,
            stranger: None,
            epoch: epoch(),
        }
    }

    /// The same with a stranger.
    #[must_use]
    pub fn with_stranger(mut self, mischief: Mischief) -> Self {
        self.stranger = Some(mischief);
        self
    }

    /// What the two NATs allow.
    #[must_use]
    pub fn expect(&self) -> Expect {
        let [a, b] = self.sides();
        expect(&a, &b)
    }

    /// Does each side's network let it talk to the server?
    #[must_use]
    pub fn reaches(&self) -> [bool; 2] {
        self.sides().map(|side| reaches(&side, &SERVERS))
    }

    /// Runs it.
    ///
    /// # Errors
    /// The first rule that was broken, with the seed and the command that repeats it.
    pub fn run(&self) -> Result<Outcome, Failure> {
        self.run_in(&mut World::at(self.epoch, self.seed))
    }

    /// Runs it in a world that was made with the same seed, so that the caller can read its journal afterwards.
    ///
    /// # Errors
    /// As [`Attempt::run`].
    pub fn run_in(&self, world: &mut World) -> Result<Outcome, Failure> {
        self.play(world).map_err(|violation| Failure {
            violation,
            seed: self.seed,
            command: self.command(),
        })
    }

    /// The command that repeats it.
    #[must_use]
    pub fn command(&self) -> String {
        let (a, b, weather, seed) = (self.a.name, self.b.name, self.weather.name, self.seed);
        let stranger = self.stranger.map_or("none", Mischief::word);
        format!(
            "knothole-netsim soak --seeds 1 --seed {seed} --a {a} --b {b} --weather {weather} --stranger {stranger} --journal"
        )
    }

    fn play(&self, world: &mut World) -> Result<Outcome, Violation> {
        let [a, b] = self.build(world)?;
        world.pair(a, b)?;
        let reaches = self.reaches();
        if reaches.contains(&false) {
            return self.stay_out(world, [a, b], reaches);
        }
        let ready = |world: &World| world.is_registered(a) && world.is_registered(b);
        if !world.run_until(REGISTER_WITHIN, ready)? {
            return Err(late(world, a, "registration takes too long"));
        }
        world.run_for(SETTLE)?;
        let asked = world.now();
        self.meet(world, [a, b])?;
        let introduced = world.now();
        let expected = self.expect();
        let done = |world: &World| world.is_direct(a, b) || is_decided(world, [a, b], asked);
        world.run_until(DIRECT_WITHIN, done)?;
        if !world.is_direct(a, b) && expected == Expect::Must {
            // A lost round is healed by the next.
            let left = (introduced + DIRECT_WITHIN).saturating_sub(world.now());
            world.run_until(left, |world| world.is_direct(a, b))?;
        }
        let to_direct = world.is_direct(a, b).then(|| world.now() - asked);
        self.judge(world, [a, b], expected)?;
        Ok(outcome(world, [a, b], to_direct, true))
    }

    /// A side whose network keeps the server from it is never admitted.
    fn stay_out(
        &self,
        world: &mut World,
        hosts: [HostId; 2],
        reaches: [bool; 2],
    ) -> Result<Outcome, Violation> {
        world.run_for(OUT_FOR)?;
        for (host, reaches) in hosts.into_iter().zip(reaches) {
            if !reaches && world.is_registered(host) {
                return Err(late(
                    world,
                    host,
                    "registered through a network that lets no UDP pass",
                ));
            }
        }
        Ok(outcome(world, hosts, None, false))
    }

    /// The caller asks, again if no answer came, until both sides have a link.
    fn meet(&self, world: &mut World, [a, b]: [HostId; 2]) -> Result<(), Violation> {
        let met = |world: &World| world.path(a, b).is_some() && world.path(b, a).is_some();
        for _ in 0..ASK_TIMES {
            world.connect(a, b, PathPolicy::Auto)?;
            if world.run_until(ASK_AGAIN, met)? {
                return Ok(());
            }
        }
        Err(late(world, a, "no introduction"))
    }

    fn build(&self, world: &mut World) -> Result<[HostId; 2], Violation> {
        let mut rng = Seed::from_number(self.seed).child("weather", 0).rng();
        let (up, down) = self.weather.draw(&mut rng);
        world.add_server(ServerSpec::default(), up, down);
        let mut hosts = [HostId(0); 2];
        for (host, side) in hosts.iter_mut().zip(self.sides()) {
            let (up, down) = self.weather.draw(&mut rng);
            let site = world.add_site(&side.nats, up, down);
            let spec = NodeSpec {
                families: side.families,
                ..NodeSpec::default()
            };
            *host = world.add_node(site, spec)?;
        }
        if let Some(mischief) = self.stranger {
            world.let_stranger_in(mischief);
        }
        Ok(hosts)
    }

    fn sides(&self) -> [Side; 2] {
        [self.a, self.b].map(|kind| kind.side(&SERVERS))
    }

    fn judge(&self, world: &mut World, [a, b]: [HostId; 2], expected: Expect) -> Result<(), Violation> {
        let direct = world.is_direct(a, b);
        if expected == Expect::Must && !direct {
            let (one, two) = (world.path(a, b), world.path(b, a));
            return Err(late(
                world,
                a,
                &format!("no direct path, but {one:?} and {two:?}"),
            ));
        }
        if expected == Expect::Cannot
            && (direct
                || [world.path(a, b), world.path(b, a)]
                    .iter()
                    .flatten()
                    .any(Path::is_direct))
        {
            return Err(late(world, a, "a direct path where none is possible"));
        }
        if direct && !world.run_until(AGREE_WITHIN, |world| world.agree(a, b))? {
            let (one, two) = (world.path(a, b), world.path(b, a));
            return Err(late(
                world,
                a,
                &format!("no agreement between {one:?} and {two:?}"),
            ));
        }
        for (host, peer) in [(a, b), (b, a)] {
            let traffic = world.traffic(host, peer).unwrap_or_default();
            if traffic.unknown_source > 0 {
                let what = format!("{} datagrams from an address not named", traffic.unknown_source);
                return Err(late(world, host, &what));
            }
            let probes = world.probes_sent(host);
            if probes > PROBES_MAX && self.stranger.is_none() {
                return Err(late(world, host, &format!("{probes} probes")));
            }
        }
        Ok(())
    }
}

/// Has each side said that this round found nothing?
fn is_decided(world: &World, hosts: [HostId; 2], since: Duration) -> bool {
    let verdict = |(at, event): &(Duration, Event)| {
        let last = matches!(event, Event::Path { path: Path::Relay(why) | Path::None(why), .. } if *why != Why::Punching);
        (*at >= since && last) || matches!(event, Event::ConnectFailed { .. })
    };
    hosts.iter().all(|host| world.events(*host).iter().any(verdict))
}

fn late(world: &World, host: HostId, what: &str) -> Violation {
    super::check::violation(Rule::Liveness, world.now(), host, what.to_owned())
}

fn outcome(world: &World, [a, b]: [HostId; 2], to_direct: Option<Duration>, met: bool) -> Outcome {
    Outcome {
        met,
        direct: to_direct.is_some(),
        to_direct,
        paths: [world.path(a, b), world.path(b, a)],
        probes: [world.probes_sent(a), world.probes_sent(b)],
        nat_entries: world.nat_entries_max(),
        traffic: [
            world.traffic(a, b).unwrap_or_default(),
            world.traffic(b, a).unwrap_or_default(),
        ],
        packets: world.packets(),
        took: world.now(),
        events: world.events_handled(),
        trace: world.trace(),
    }
}
