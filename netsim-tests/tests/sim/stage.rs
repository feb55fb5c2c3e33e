//! What most tests begin with: a server, and two nodes at two sites that know each other.

use std::time::Duration;

use knothole_netsim::link::{LinkSpec, Loss};
use knothole_netsim::nat::{NatSpec, kind};
use knothole_netsim::sim::{HostId, NodeSpec, SERVER_IP, ServerSpec, SiteId, World};
use knothole_proto::connector::{ConnectFailure, Event, LinkEnd};
use knothole_proto::path::{Path, Why};
use knothole_proto::wire::PathPolicy;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// The beginning of a test.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) server: HostId,
    pub(crate) sites: [SiteId; 2],
    pub(crate) a: HostId,
    pub(crate) b: HostId,
}

/// Both ways of an access link that takes 20 ms and loses nothing.
pub(crate) fn clear() -> LinkSpec {
    LinkSpec::delay(20 * MS)
}

/// The NATs of a kind, innermost first.
pub(crate) fn nats(name: &str) -> Vec<NatSpec> {
    kind(name).unwrap().chain(&[SERVER_IP])
}

/// A perfect day: two nodes behind these kinds of NAT, registered and known to each other.
pub(crate) fn stage(a: &str, b: &str, seed: u64) -> Stage {
    staged(&nats(a), &nats(b), ServerSpec::default(), clear(), seed)
}

/// The same with more said.
pub(crate) fn staged(a: &[NatSpec], b: &[NatSpec], server: ServerSpec, link: LinkSpec, seed: u64) -> Stage {
    let mut world = World::new(seed);
    let server = world.add_server(server, clear(), clear());
    let sites = [world.add_site(a, link, link), world.add_site(b, link, link)];
    let [a, b] = sites.map(|site| world.add_node(site, NodeSpec::default()).unwrap());
    world.pair(a, b).unwrap();
    let ready = |world: &World| world.is_registered(a) && world.is_registered(b);
    assert!(world.run_until(60 * SECOND, ready).unwrap(), "both register");
    world.run_for(SECOND).unwrap();
    Stage {
        world,
        server,
        sites,
        a,
        b,
    }
}

impl Stage {
    /// The caller asks for the callee.
    pub(crate) fn connect(&mut self) {
        self.world.connect(self.a, self.b, PathPolicy::Auto).unwrap();
    }

    /// Both become direct within `limit`.
    pub(crate) fn becomes_direct(&mut self, limit: Duration) -> Duration {
        let (a, b, begun) = (self.a, self.b, self.world.now());
        let direct = self
            .world
            .run_until(limit, |world| world.is_direct(a, b))
            .unwrap();
        assert!(direct, "direct within {limit:?}, but {:?}", self.paths());
        self.world.now() - begun
    }

    /// Connects, and both become direct within ten seconds.
    pub(crate) fn connect_directly(&mut self) {
        self.connect();
        self.becomes_direct(10 * SECOND);
        self.world.run_for(2 * SECOND).unwrap();
    }

    pub(crate) fn paths(&self) -> [Option<Path>; 2] {
        [self.world.path(self.a, self.b), self.world.path(self.b, self.a)]
    }

    /// Why each side is on the relay, if it is.
    pub(crate) fn why(&self) -> [Option<Why>; 2] {
        self.paths().map(|path| match path {
            Some(Path::Relay(why)) => Some(why),
            _ => None,
        })
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.world.run_for(time).unwrap();
    }

    /// Application datagrams that arrived at both sides within `time`: (at the caller, at the callee).
    pub(crate) fn arrivals(&mut self, time: Duration) -> (u64, u64) {
        let count = |stage: &Self, host, peer| {
            let stats = stage.world.traffic(host, peer).unwrap_or_default();
            stats.by_relay + stats.direct
        };
        let before = (count(self, self.a, self.b), count(self, self.b, self.a));
        self.pass(time);
        (
            count(self, self.a, self.b) - before.0,
            count(self, self.b, self.a) - before.1,
        )
    }

    /// Sets both access links of a site.
    pub(crate) fn weather(&mut self, site: usize, link: LinkSpec) {
        self.world.set_links(self.sites[site], link, link);
    }
}

/// A link that loses everything.
pub(crate) fn blackout() -> LinkSpec {
    LinkSpec {
        loss: Loss::Uniform(1.0),
        ..clear()
    }
}

/// Why links of this node ended.
pub(crate) fn ends(world: &World, host: HostId) -> Vec<LinkEnd> {
    let end = |event: &Event| match event {
        Event::LinkDown { why, .. } => Some(*why),
        _ => None,
    };
    world
        .events(host)
        .iter()
        .filter_map(|(_, event)| end(event))
        .collect()
}

/// Why wishes of this node to connect failed.
pub(crate) fn failures(world: &World, host: HostId) -> Vec<ConnectFailure> {
    let failure = |event: &Event| match event {
        Event::ConnectFailed { why, .. } => Some(*why),
        _ => None,
    };
    world
        .events(host)
        .iter()
        .filter_map(|(_, event)| failure(event))
        .collect()
}
