//! Many nodes on one server, and misfortune at random. Every rule holds, and afterwards everything works again.

use std::time::Duration;

use knothole_netsim::link::{LinkSpec, Loss};
use knothole_netsim::nat::kinds;
use knothole_netsim::sim::{HostId, NodeSpec, SERVER_IP, ServerSpec, SiteId, World};
use knothole_proto::seed::{Rng, Seed};
use knothole_proto::wire::PathPolicy;

use crate::stage::{MS, SECOND, clear};

/// Nodes in a fleet.
const NODES: usize = 8;

struct Fleet {
    world: World,
    server: HostId,
    sites: Vec<SiteId>,
    nodes: Vec<HostId>,
    rng: Rng,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let mut rng = Seed::from_number(seed).child("fleet", 0).rng();
        let server = world.add_server(ServerSpec::default(), clear(), clear());
        let (mut sites, mut nodes) = (Vec::new(), Vec::new());
        for _ in 0..NODES {
            let kind = &kinds()[pick(&mut rng, kinds().len())];
            let site = world.add_site(&kind.chain(&[SERVER_IP]), clear(), clear());
            nodes.push(world.add_node(site, NodeSpec::default()).unwrap());
            sites.push(site);
        }
        for one in 0..NODES {
            for two in 0..one {
                world.pair(nodes[one], nodes[two]).unwrap();
            }
        }
        world.run_for(3 * SECOND).unwrap();
        Self {
            world,
            server,
            sites,
            nodes,
            rng,
        }
    }

    fn misfortune(&mut self) {
        let site = self.sites[pick(&mut self.rng, NODES)];
        match pick(&mut self.rng, 6) {
            0 => self.world.reboot_nats(site),
            1 => {
                let loss = Loss::Uniform(0.3);
                self.world.set_links(site, clear(), LinkSpec { loss, ..clear() });
            }
            2 => {
                let loss = Loss::Uniform(1.0);
                self.world.set_links(site, clear(), LinkSpec { loss, ..clear() });
            }
            3 => self.world.set_links(site, clear(), clear()),
            4 => self.world.kill_server(self.server),
            _ => self.world.restart_server(self.server),
        }
    }

    fn connect(&mut self) {
        let (one, two) = (pick(&mut self.rng, NODES), pick(&mut self.rng, NODES));
        if one != two {
            self.world
                .connect(self.nodes[one], self.nodes[two], PathPolicy::Auto)
                .unwrap();
        }
    }

    fn heal(&mut self) {
        for site in &self.sites {
            self.world.set_links(*site, clear(), clear());
        }
        self.world.restart_server(self.server);
    }
}

fn pick(rng: &mut Rng, below: usize) -> usize {
    usize::try_from(rng.below(below as u64)).unwrap()
}

#[test]
fn after_any_run_of_misfortunes_everybody_is_back_and_every_pair_meets() {
    for seed in 0..25 {
        let mut fleet = Fleet::new(seed);
        for _ in 0..40 {
            fleet.misfortune();
            fleet.connect();
            let pause = 100 * MS + Duration::from_millis(fleet.rng.below(4_000));
            fleet
                .world
                .run_for(pause)
                .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        }
        fleet.heal();
        fleet
            .world
            .run_for(60 * SECOND)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let (registry, _) = fleet.world.server_stats(fleet.server).unwrap();
        assert_eq!(
            registry.connected, NODES,
            "seed {seed}: all are registered within a minute"
        );
        for pair in 0..NODES / 2 {
            let (one, two) = (fleet.nodes[2 * pair], fleet.nodes[2 * pair + 1]);
            fleet.world.connect(one, two, PathPolicy::Auto).unwrap();
        }
        fleet.world.run_for(10 * SECOND).unwrap();
        for pair in 0..NODES / 2 {
            let (one, two) = (fleet.nodes[2 * pair], fleet.nodes[2 * pair + 1]);
            let before = fleet.world.traffic(two, one).unwrap_or_default();
            fleet.world.run_for(SECOND).unwrap();
            let after = fleet.world.traffic(two, one).unwrap_or_default();
            let arrived = after.by_relay + after.direct - before.by_relay - before.direct;
            assert!(
                arrived >= 8,
                "seed {seed}, pair {pair}: {arrived}, {:?}",
                fleet.world.path(one, two)
            );
        }
    }
}
