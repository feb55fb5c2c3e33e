//! One attempt: a server, two nodes behind two NATs, register, connect, until both sides know how it ends.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use knothole_proto::connector::Event;
use knothole_proto::path::{Path, Why};
use knothole_proto::punch::Plan;
use knothole_proto::seed::Seed;
use knothole_proto::wire::PathPolicy;

use super::build::{NodeSpec, SERVER_IP, SERVER_IP6, SiteId};
use super::changes::live_through;
use super::check::Violation;
use super::clock::epoch;
use super::cold::start_anew;
use super::late::Skew;
use super::outcome::{Before, Outcome, outcome};
use super::place::{Pair, Place, Situation, sides};
use super::recovery::late;
use super::server::ServerSpec;
use super::stranger::Mischief;
use super::topology::HostId;
use super::weather::Weather;
use super::world::World;
use crate::nat::NatKind;
use crate::oracle::{Expect, reaches};

/// Registration takes two round trips, and under heavy loss a long time: when packets are lost in runs and repetitions
/// come every 8 s, one run can last for minutes.
const REGISTER_WITHIN: Duration = Duration::from_secs(300);

/// How long a side is watched that cannot reach the server: several of its repetitions.
const OUT_FOR: Duration = Duration::from_secs(20);

/// The server's addresses, one of each family: what a firewall with a list of services knows. It does not know the second ones.
const SERVERS: [IpAddr; 2] = [SERVER_IP, SERVER_IP6];

/// What the nodes know by then: the clock (three exchanges 100 ms apart) and the NAT.
const SETTLE: Duration = Duration::from_millis(700);

/// Finding out what the network does takes 1.5 to 3 s from the registration on; whoever has not found out by now goes without.
const FINGERPRINT_WITHIN: Duration = Duration::from_secs(5);

/// Then the server is told, which takes at most a tenth of a second where nothing gets lost.
const TELL: Duration = Duration::from_millis(200);

/// After a path is found its proof is repeated for so long.
const FOLLOW_UP: Duration = Duration::from_secs(1);

/// Time after which the caller asks again: the connector gives a question up after 5 s.
const ASK_AGAIN: Duration = Duration::from_millis(5_500);

/// How often it asks.
const ASK_TIMES: u32 = 8;

/// A direct path that must come about does so within this from the introduction (P9).
const DIRECT_WITHIN: Duration = Duration::from_secs(10);

/// The same where only a private address leads to the peer, or where losses come in runs of seconds: such an address gets two
/// probes in a round, and fresh ports take several messages in a row, which bursts of loss swallow; the rounds lie further
/// and further apart.
const DIRECT_LATE_WITHIN: Duration = Duration::from_secs(120);

/// Both sides are on one pair of addresses within this of being direct.
const AGREE_WITHIN: Duration = Duration::from_secs(3);

/// Most probes of one side in a round that guesses no ports: a host's handful of candidates with nine probes each, and the
/// answers. Where nothing gets lost between two that must meet it is over after a few of them.
const PROBES_MAX: u32 = 200;

/// The same for two counters: 128 flows twice, and what else is tried at the same time.
const STEPS_MAX: u32 = 300 + PROBES_MAX;

/// The same where ports are guessed.
const GUESSES_MAX: u32 = 1_536;

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
    /// Where the two are, seen from each other.
    pub place: Place,
    /// Does a timeline of changes follow, after which all must be well again?
    pub changes: bool,
    /// A side (0: the caller, 1: the callee) that starts every round so much later than the other.
    pub skew: Option<(usize, Duration)>,
    /// Does the caller ask right after its start, so that it knows nothing of its network? In half of the cases the callee has
    /// not been there for long either.
    pub cold: bool,
    /// Has every machine much else to do, so that its programs are late?
    pub busy: bool,
    /// Moment that all clocks count from; makes no difference.
    pub epoch: Instant,
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
    /// A scenario at two ends of the internet, without a stranger and without changes.
    pub fn new(a: &'static NatKind, b: &'static NatKind, weather: Weather, seed: u64) -> Self {
        Self {
            a,
            b,
            weather,
            seed,
            stranger: None,
            place: Place::Apart,
            changes: false,
            skew: None,
            cold: false,
            busy: false,
            epoch: epoch(),
        }
    }

    /// The same with a stranger.
    #[must_use]
    pub fn with_stranger(mut self, mischief: Mischief) -> Self {
        self.stranger = Some(mischief);
        self
    }

    /// What the NATs allow before anything changes.
    #[must_use]
    pub fn expect(&self) -> Expect {
        self.situation().expect()
    }

    /// Does each side's network let it talk to the server?
    #[must_use]
    pub fn reaches(&self) -> [bool; 2] {
        self.situation().whole().map(|side| reaches(&side, &SERVERS))
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
        self.play(world).map_err(|violation| self.failure(violation))
    }

    /// Runs the first part, until both sides know how it ends, and holds nothing against the oracle. For whoever wants to
    /// know how often something comes about, not whether it may.
    ///
    /// # Errors
    /// The first rule that was broken; that the two did not find each other counts as one.
    pub fn observe(&self, world: &mut World) -> Result<Outcome, Failure> {
        let ended = self.build(world).and_then(|pair| self.meet(world, &pair));
        ended.map_err(|violation| self.failure(violation))
    }

    /// Runs the first part for so long whatever the two say meanwhile, or until they are direct, and a second more, so that all
    /// that it costs is counted; and holds nothing against the oracle.
    ///
    /// # Errors
    /// As [`Attempt::observe`].
    pub fn watch(&self, world: &mut World, patience: Duration) -> Result<Outcome, Failure> {
        let pair = self.build(world).map_err(|violation| self.failure(violation))?;
        let ended = self.meet_within(world, &pair, |world, _| {
            let [a, b] = pair.hosts;
            world.run_until(patience, |world| world.is_direct(a, b))
        });
        ended.map_err(|violation| self.failure(violation))
    }

    /// The command that repeats it.
    #[must_use]
    pub fn command(&self) -> String {
        let (a, b, weather, seed) = (self.a.name, self.b.name, self.weather.name, self.seed);
        let stranger = self.stranger.map_or("none", Mischief::word);
        let (place, changes) = (self.place.word(), if self.changes { "random" } else { "none" });
        let skew = self.skew.map_or(String::new(), |(side, by)| {
            let late = ["a", "b"][side.min(1)];
            format!("--late {late} --skew-ms {} ", by.as_millis())
        });
        let (cold, busy) = (
            if self.cold { "--cold " } else { "" },
            if self.busy { "--busy " } else { "" },
        );
        format!(
            "knothole-netsim soak --seeds 1 --seed {seed} --a {a} --b {b} --weather {weather} --stranger {stranger} \
             --place {place} --changes {changes} {skew}{cold}{busy}--journal"
        )
    }

    fn failure(&self, violation: Violation) -> Failure {
        Failure {
            violation,
            seed: self.seed,
            command: self.command(),
        }
    }

    fn play(&self, world: &mut World) -> Result<Outcome, Violation> {
        let mut pair = self.build(world)?;
        let ended = self.meet(world, &pair)?;
        if !ended.met {
            return Ok(ended);
        }
        self.judge(world, pair.hosts, &ended)?;
        if self.changes {
            live_through(world, &mut pair, self.seed)?;
        }
        Ok(ended.at_the_end(world, pair.hosts))
    }

    /// From nothing until both sides know how it ends.
    fn meet(&self, world: &mut World, pair: &Pair) -> Result<Outcome, Violation> {
        let [a, b] = pair.hosts;
        self.meet_within(world, pair, |world, asked| {
            let introduced = world.now();
            let done = |world: &World| world.is_direct(a, b) || is_decided(world, [a, b], asked);
            world.run_until(DIRECT_WITHIN, done)?;
            if !world.is_direct(a, b) && self.expect() <= Expect::Likely {
                // A lost round is healed by the next.
                let within = match self.place {
                    Place::OneNetwork | Place::OneCarrier(_) => DIRECT_LATE_WITHIN,
                    _ if self.weather.name == Weather::STORM.name => DIRECT_LATE_WITHIN,
                    Place::Apart | Place::BehindCarrier => DIRECT_WITHIN,
                };
                let left = (introduced + within).saturating_sub(world.now());
                world.run_until(left, |world| world.is_direct(a, b))?;
            }
            Ok(false)
        })
    }

    /// From nothing until both have met, and then as long as `go_on` goes on, which is told when they were asked to meet.
    /// If it says that they are direct, it is counted for a second more.
    fn meet_within(
        &self,
        world: &mut World,
        pair: &Pair,
        go_on: impl FnOnce(&mut World, Duration) -> Result<bool, Violation>,
    ) -> Result<Outcome, Violation> {
        let [a, b] = pair.hosts;
        world.pair(a, b)?;
        let reaches = self.reaches();
        if reaches.contains(&false) {
            return self.stay_out(world, [a, b], reaches);
        }
        self.settle(world, pair)?;
        let before = Before::now(world, [a, b]);
        let asked = world.now();
        self.ask(world, [a, b])?;
        let settle = go_on(world, asked)?;
        let to_direct = world.is_direct(a, b).then(|| world.now() - asked);
        if settle {
            world.run_for(FOLLOW_UP)?;
        }
        Ok(outcome(world, [a, b], &before, to_direct, true))
    }

    /// Both register and find out what they can.
    fn settle(&self, world: &mut World, pair: &Pair) -> Result<(), Violation> {
        let [a, b] = pair.hosts;
        let ready = |world: &World| world.is_registered(a) && world.is_registered(b);
        if !world.run_until(REGISTER_WITHIN, ready)? {
            return Err(late(world, a, "registration takes too long"));
        }
        world.run_for(SETTLE)?;
        let knows = |host: HostId, world: &World| {
            let known = |(_, event): &(Duration, Event)| matches!(event, Event::Fingerprint(_));
            world.events(host).iter().any(known)
        };
        world.run_until(FINGERPRINT_WITHIN, |world| knows(a, world) && knows(b, world))?;
        world.run_for(TELL)?;
        if self.cold {
            start_anew(world, pair.hosts, self.seed)?;
        }
        if let Some((side, by)) = self.skew {
            let side = side.min(1);
            let one_way = pair.one_way[side];
            world.set_skew(pair.hosts[side], Some(Skew { by, one_way }));
        }
        Ok(())
    }

    /// A side whose network keeps the server from it is never admitted.
    fn stay_out(
        &self,
        world: &mut World,
        hosts: [HostId; 2],
        reaches: [bool; 2],
    ) -> Result<Outcome, Violation> {
        let before = Before::now(world, hosts);
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
        Ok(outcome(world, hosts, &before, None, false))
    }

    /// The caller asks, again if no answer came, until both sides have a link.
    fn ask(&self, world: &mut World, [a, b]: [HostId; 2]) -> Result<(), Violation> {
        let met = |world: &World| world.path(a, b).is_some() && world.path(b, a).is_some();
        for _ in 0..ASK_TIMES {
            world.connect(a, b, PathPolicy::Auto)?;
            if world.run_until(ASK_AGAIN, met)? {
                return Ok(());
            }
        }
        Err(late(world, a, "no introduction"))
    }

    fn build(&self, world: &mut World) -> Result<Pair, Violation> {
        let mut rng = Seed::from_number(self.seed).child("weather", 0).rng();
        let (up, down) = self.weather.draw(&mut rng);
        world.add_server(ServerSpec::default(), up, down);
        let server = up.delay;
        let situation = self.situation();
        let (mut carrier, mut sites, mut one_way) = (None, Vec::new(), Vec::new());
        for side in 0..2 {
            if side == 1 && self.place == Place::OneNetwork {
                sites.push(sites[0]);
                continue;
            }
            let (up, down) = self.weather.draw(&mut rng);
            one_way.push(server + down.delay);
            let nats = &situation.own[side].nats;
            sites.push(match self.place {
                Place::OneNetwork => world.add_site(&situation.common, up, down),
                Place::OneCarrier(_) => {
                    let around: SiteId =
                        *carrier.get_or_insert_with(|| world.add_site(&situation.common, up, down));
                    world.add_site_behind(around, nats, up, down)
                }
                Place::Apart | Place::BehindCarrier => world.add_site(nats, up, down),
            });
        }
        let sites = [sites[0], sites[1]];
        let one_way = [0, 1].map(|side| one_way[side.min(one_way.len() - 1)]);
        let mut hosts = [HostId(0); 2];
        for (side, host) in hosts.iter_mut().enumerate() {
            let spec = NodeSpec {
                families: situation.own[side].families,
                ..NodeSpec::default()
            };
            *host = world.add_node(sites[side], spec)?;
        }
        if let Some(mischief) = self.stranger {
            world.let_stranger_in(mischief);
        }
        if self.busy {
            world.make_busy();
        }
        Ok(Pair {
            hosts,
            sites,
            one_way,
            situation,
        })
    }

    fn situation(&self) -> Situation {
        Situation::new(self.place, sides([self.a, self.b], &SERVERS))
    }

    /// Is it what the NATs allow, and as sparing and honest as it must be?
    fn judge(&self, world: &mut World, [a, b]: [HostId; 2], ended: &Outcome) -> Result<(), Violation> {
        let expected = self.expect();
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
        for ((host, peer), cost) in [(a, b), (b, a)].into_iter().zip(ended.costs) {
            let traffic = world.traffic(host, peer).unwrap_or_default();
            if traffic.unknown_source > 0 {
                let what = format!("{} datagrams from an address not named", traffic.unknown_source);
                return Err(late(world, host, &what));
            }
            // One side may not take part in what the other begins.
            let plans = plans_of(world, host);
            let most = plans.iter().map(|plan| probes_max(*plan)).sum::<u32>();
            if cost.probes > most.max(PROBES_MAX) && self.stranger.is_none() {
                let what = format!("{} probes, where {plans:?} may take {most}", cost.probes);
                return Err(late(world, host, &what));
            }
        }
        Ok(())
    }
}

/// What the rounds of a side went about.
fn plans_of(world: &World, host: HostId) -> Vec<Plan> {
    let plan = |(_, event): &(Duration, Event)| match event {
        Event::Plan { plan, .. } => Some(*plan),
        _ => None,
    };
    world.events(host).iter().filter_map(plan).collect()
}

/// Most probes of a side in a round of this plan.
fn probes_max(plan: Plan) -> u32 {
    match plan {
        Plan::Steps => STEPS_MAX,
        plan if plan.guesses() => GUESSES_MAX,
        _ => PROBES_MAX,
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
