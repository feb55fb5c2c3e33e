//! A fleet: several nodes on one server, a run of misfortunes, and then everything must work again.
//!
//! Everything is drawn from the seed: how many nodes there are, where they live, what happens to them. While it
//! happens no rule may break. Afterwards the network is healed, and within a minute every node is registered; then
//! pairs connect, and data flows both ways within ten seconds (P10).

use std::time::Duration;

use knothole_proto::seed::{Rng, Seed};
use knothole_proto::wire::PathPolicy;

use super::attempt::Failure;
use super::build::{NodeSpec, SERVER_IP, SERVER_IP6, SiteId};
use super::check::{Rule, Violation, violation};
use super::server::ServerSpec;
use super::stranger::Mischief;
use super::topology::HostId;
use super::weather::Weather;
use super::world::World;
use crate::link::{LinkSpec, Loss};
use crate::nat::{Families, Side, UdpPolicy, kinds};
use crate::oracle::{Expect, expect, reaches};

/// Every node that lives is registered within this, once nothing is wrong any more (P10).
const REGISTERED_WITHIN: Duration = Duration::from_secs(60);

/// A link that is wanted carries data within this (P10).
const UP_WITHIN: Duration = Duration::from_secs(10);

/// A pair that must become direct has done so within this, measured like [`UP_WITHIN`].
const DIRECT_WITHIN: Duration = Duration::from_secs(15);

/// Datagrams that must arrive at each side in one second of ten pings, when all is well: one may be on its way at
/// either end of the second.
const ARRIVALS: u64 = 8;

/// How a fleet fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetOutcome {
    /// Nodes.
    pub nodes: usize,
    /// Things that happened to it.
    pub misfortunes: u32,
    /// Pairs that connected in the end, and how many of them were direct.
    pub pairs: (usize, usize),
    /// Virtual time that passed.
    pub took: Duration,
    /// Events in the trace.
    pub events: u64,
    /// Hash of all events.
    pub trace: [u8; 32],
}

/// A fleet under way.
#[derive(Debug)]
pub struct Fleet {
    seed: u64,
    world: World,
    rng: Rng,
    server: HostId,
    sites: Vec<Place>,
    nodes: Vec<Member>,
    misfortunes: u32,
}

#[derive(Debug)]
struct Place {
    site: SiteId,
    side: Side,
    links: (LinkSpec, LinkSpec),
}

#[derive(Debug)]
struct Member {
    host: HostId,
    /// Index of its place.
    place: usize,
    /// Its own, wherever it is: they need not be those of its place.
    families: Families,
    alive: bool,
}

impl Fleet {
    /// The fleet that a seed stands for, before anything has happened to it.
    ///
    /// # Errors
    /// The first rule that was broken while the nodes started.
    pub fn new(seed: u64) -> Result<Self, Failure> {
        let mut fleet = Self {
            seed,
            world: World::new(seed),
            rng: Seed::from_number(seed).child("fleet", 0).rng(),
            server: HostId(0),
            sites: Vec::new(),
            nodes: Vec::new(),
            misfortunes: 0,
        };
        fleet.settle().map_err(|violation| failure(seed, violation))?;
        Ok(fleet)
    }

    /// Lets everything happen.
    ///
    /// # Errors
    /// The first rule that was broken, with the command that repeats it.
    pub fn run(&mut self) -> Result<FleetOutcome, Failure> {
        self.live().map_err(|violation| failure(self.seed, violation))
    }

    /// The world it lives in.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }

    fn settle(&mut self) -> Result<(), Violation> {
        let weather = Weather::CALM;
        let (up, down) = weather.draw(&mut self.rng);
        self.server = self.world.add_server(ServerSpec::default(), up, down);
        let count = 3 + self.below(6);
        for index in 0..count {
            // One node in four lives where another one lives.
            let place = if index > 0 && self.below(4) == 0 {
                self.below(self.sites.len())
            } else {
                self.add_place()
            };
            let families = if self.below(3) == 0 {
                Families::BOTH
            } else {
                self.sites[place].side.families
            };
            let spec = NodeSpec {
                families,
                port: u16::try_from(40_000 + index).unwrap_or(u16::MAX),
                ..NodeSpec::default()
            };
            let host = self.world.add_node(self.sites[place].site, spec)?;
            self.nodes.push(Member {
                host,
                place,
                families,
                alive: true,
            });
        }
        for one in 0..count {
            for two in 0..one {
                self.world.pair(self.nodes[one].host, self.nodes[two].host)?;
            }
        }
        if self.below(8) == 0 {
            self.world.let_stranger_in(Mischief::Replay);
        }
        self.world.run_for(Duration::from_secs(3))
    }

    fn add_place(&mut self) -> usize {
        let side = self.habitable();
        let links = Weather::CALM.draw(&mut self.rng);
        let site = self.world.add_site(&side.nats, links.0, links.1);
        self.sites.push(Place { site, side, links });
        self.sites.len() - 1
    }

    /// A kind of place from which the server can be reached.
    fn habitable(&mut self) -> Side {
        let servers = [SERVER_IP, SERVER_IP6];
        loop {
            let side = kinds()[self.below(kinds().len())].side(&servers);
            if reaches(&side, &servers) {
                return side;
            }
        }
    }

    fn live(&mut self) -> Result<FleetOutcome, Violation> {
        for _ in 0..10 + self.below(40) {
            self.misfortunes += 1;
            self.misfortune()?;
            if self.below(2) == 0 {
                self.wish()?;
            }
            let most = [200, 3_000, 40_000][self.below(3)];
            let pause = Duration::from_millis(self.rng.below(most));
            self.world.run_for(pause)?;
        }
        self.heal()?;
        self.world.run_for(REGISTERED_WITHIN)?;
        self.all_registered()?;
        let pairs = self.meet()?;
        Ok(FleetOutcome {
            nodes: self.nodes.len(),
            misfortunes: self.misfortunes,
            pairs,
            took: self.world.now(),
            events: self.world.events_handled(),
            trace: self.world.trace(),
        })
    }

    fn misfortune(&mut self) -> Result<(), Violation> {
        let place = self.below(self.sites.len());
        let site = self.sites[place].site;
        let (up, down) = self.sites[place].links;
        let lossy = |rate| LinkSpec {
            loss: Loss::Uniform(rate),
            ..down
        };
        match self.below(12) {
            0 => self.world.reboot_nats(site),
            1 => self.world.set_links(site, up, lossy(0.3)),
            2 => self.world.set_links(site, up, lossy(1.0)),
            3 | 4 => self.world.set_links(site, up, down),
            5 => self.world.kill_server(self.server),
            6 => self.world.restart_server(self.server),
            7 => self.world.shut_server_down(self.server)?,
            8 => self
                .world
                .set_udp(site, &UdpPolicy::OnlyTo([SERVER_IP, SERVER_IP6].into())),
            9 => self.forgive(place),
            10 => self.move_somebody()?,
            _ => self.stop_or_start()?,
        }
        Ok(())
    }

    /// A site lets UDP pass as it did in the beginning.
    fn forgive(&mut self, place: usize) {
        if let Some(outermost) = self.sites[place].side.nats.last() {
            let udp = outermost.udp.clone();
            self.world.set_udp(self.sites[place].site, &udp);
        }
    }

    fn move_somebody(&mut self) -> Result<(), Violation> {
        let (index, place) = (self.below(self.nodes.len()), self.below(self.sites.len()));
        let member = &mut self.nodes[index];
        if member.alive {
            member.place = place;
            self.world.move_node(member.host, self.sites[place].site)?;
        }
        Ok(())
    }

    fn stop_or_start(&mut self) -> Result<(), Violation> {
        let index = self.below(self.nodes.len());
        let (host, alive) = (self.nodes[index].host, self.nodes[index].alive);
        if alive && self.below(2) == 0 {
            self.world.kill_node(host);
            self.nodes[index].alive = false;
            return Ok(());
        }
        self.nodes[index].alive = true;
        self.world.restart_node(host)
    }

    /// Somebody wants something of somebody.
    fn wish(&mut self) -> Result<(), Violation> {
        let (one, two) = (self.below(self.nodes.len()), self.below(self.nodes.len()));
        let [one, two] = [one, two].map(|index| self.nodes[index].host);
        let policy = [
            PathPolicy::Auto,
            PathPolicy::Auto,
            PathPolicy::DirectOnly,
            PathPolicy::RelayOnly,
        ];
        match self.below(5) {
            0 => self.world.close(one, two),
            _ => {
                let policy = policy[self.below(policy.len())];
                self.world.connect(one, two, policy).map(|_| ())
            }
        }
    }

    /// Nothing is wrong any more.
    fn heal(&mut self) -> Result<(), Violation> {
        for place in 0..self.sites.len() {
            let Place { site, links, .. } = &self.sites[place];
            self.world.set_links(*site, links.0, links.1);
            self.forgive(place);
        }
        self.world.restart_server(self.server);
        for index in 0..self.nodes.len() {
            if !self.nodes[index].alive {
                self.nodes[index].alive = true;
                self.world.restart_node(self.nodes[index].host)?;
            }
        }
        Ok(())
    }

    fn all_registered(&self) -> Result<(), Violation> {
        for member in &self.nodes {
            if !self.world.is_registered(member.host) {
                return Err(self.late(member.host, "is not registered"));
            }
        }
        let connected = self
            .world
            .server_stats(self.server)
            .map(|(registry, _)| registry.connected);
        if connected != Some(self.nodes.len()) {
            let what = format!("{connected:?} of {} nodes are connected", self.nodes.len());
            return Err(self.late(self.server, &what));
        }
        Ok(())
    }

    /// Every second pair of neighbours in the list connects.
    fn meet(&mut self) -> Result<(usize, usize), Violation> {
        let pairs: Vec<(usize, usize)> = (0..self.nodes.len() / 2)
            .map(|pair| (2 * pair, 2 * pair + 1))
            .collect();
        for (one, two) in &pairs {
            let (one, two) = (self.nodes[*one].host, self.nodes[*two].host);
            // Both ask: a session keeps what either side last wished for.
            self.world.connect(one, two, PathPolicy::Auto)?;
            self.world.connect(two, one, PathPolicy::Auto)?;
        }
        self.world.run_for(UP_WITHIN)?;
        let hosts = |fleet: &Self, (one, two): (usize, usize)| (fleet.nodes[one].host, fleet.nodes[two].host);
        let arrived = |fleet: &Self, pair| {
            let (one, two) = hosts(fleet, pair);
            [(one, two), (two, one)].map(|(host, peer)| {
                let traffic = fleet.world.traffic(host, peer).unwrap_or_default();
                traffic.by_relay + traffic.direct
            })
        };
        let before: Vec<[u64; 2]> = pairs.iter().map(|pair| arrived(self, *pair)).collect();
        self.world.run_for(Duration::from_secs(1))?;
        for (pair, before) in pairs.iter().zip(before) {
            let after = arrived(self, *pair);
            let (one, two) = hosts(self, *pair);
            if after[0] < before[0] + ARRIVALS || after[1] < before[1] + ARRIVALS {
                let paths = (self.world.path(one, two), self.world.path(two, one));
                let what = format!("{before:?} to {after:?} datagrams with {two:?}, paths {paths:?}");
                return Err(self.late(one, &what));
            }
        }
        self.world.run_for(DIRECT_WITHIN - UP_WITHIN)?;
        let mut direct = 0;
        for pair in &pairs {
            let (one, two) = hosts(self, *pair);
            let is_direct = self.world.is_direct(one, two) && self.world.agree(one, two);
            if self.must_be_direct(*pair) && !is_direct {
                let paths = (self.world.path(one, two), self.world.path(two, one));
                return Err(self.late(one, &format!("not direct with {two:?}: {paths:?}")));
            }
            direct += usize::from(is_direct);
        }
        Ok((pairs.len(), direct))
    }

    fn must_be_direct(&self, (one, two): (usize, usize)) -> bool {
        let [one, two] = [one, two].map(|index| &self.nodes[index]);
        let side = |member: &Member| Side {
            families: member.families,
            ..self.sites[member.place].side.clone()
        };
        let (a, b) = (side(one), side(two));
        if one.place == two.place {
            // Nothing is between hosts on one network.
            let [a, b] = [a, b].map(|side| Side {
                nats: Vec::new(),
                ..side
            });
            return expect(&a, &b) == Expect::Must;
        }
        expect(&a, &b) == Expect::Must
    }

    fn late(&self, host: HostId, what: &str) -> Violation {
        violation(Rule::Liveness, self.world.now(), host, what.to_owned())
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or(0)
    }
}

/// A broken rule, with the command that repeats it.
fn failure(seed: u64, violation: Violation) -> Failure {
    Failure {
        violation,
        seed,
        command: format!("knothole-netsim soak --fleet --seeds 1 --seed {seed} --journal"),
    }
}
