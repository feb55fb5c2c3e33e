//! Where hosts are: one network, two networks behind one router, IPv6, routers behind routers.

use knothole_netsim::nat::{Families, Hairpin, NatSpec};
use knothole_netsim::sim::{NodeSpec, ServerSpec, World};
use knothole_proto::path::{How, Path};
use knothole_proto::wire::PathPolicy;

use crate::stage::{SECOND, clear, nats, staged};

/// How each side's path came about.
fn hows(paths: [Option<Path>; 2]) -> [Option<How>; 2] {
    paths.map(|path| match path {
        Some(Path::Direct { how, .. }) => Some(how),
        _ => None,
    })
}

#[test]
fn two_nodes_on_one_network_find_the_way_inside() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        world.add_server(ServerSpec::default(), clear(), clear());
        let site = world.add_site(&nats("port-restricted"), clear(), clear());
        let spec = |port| NodeSpec {
            port,
            ..NodeSpec::default()
        };
        let a = world.add_node(site, spec(40_000)).unwrap();
        let b = world.add_node(site, spec(40_001)).unwrap();
        world.pair(a, b).unwrap();
        world.run_for(2 * SECOND).unwrap();
        world.connect(a, b, PathPolicy::Auto).unwrap();
        assert!(
            world
                .run_until(5 * SECOND, |world| world.is_direct(a, b))
                .unwrap(),
            "seed {seed}"
        );
        world.run_for(2 * SECOND).unwrap();
        assert!(world.agree(a, b), "seed {seed}");
        assert_eq!(
            hows([world.path(a, b), world.path(b, a)]),
            [Some(How::Lan); 2],
            "seed {seed}"
        );
    }
}

#[test]
fn two_nodes_with_one_private_address_each_in_another_home_do_not_mix_up() {
    // Both sites are built alike, and both nodes use the same port; only the routers differ.
    for seed in 0..10 {
        let nats = nats("port-restricted");
        let mut stage = staged(&nats, &nats, ServerSpec::default(), clear(), seed);
        stage.connect_directly();
        assert_eq!(hows(stage.paths()), [Some(How::Punched); 2]);
    }
}

#[test]
fn with_ipv6_at_both_ends_the_path_is_ipv6() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        world.add_server(ServerSpec::default(), clear(), clear());
        let sites = [(); 2].map(|()| world.add_site(&nats("port-restricted"), clear(), clear()));
        let spec = NodeSpec {
            families: Families::BOTH,
            ..NodeSpec::default()
        };
        let [a, b] = sites.map(|site| world.add_node(site, spec.clone()).unwrap());
        world.pair(a, b).unwrap();
        world.run_for(2 * SECOND).unwrap();
        world.connect(a, b, PathPolicy::Auto).unwrap();
        assert!(
            world
                .run_until(5 * SECOND, |world| world.is_direct(a, b))
                .unwrap(),
            "seed {seed}"
        );
        world.run_for(3 * SECOND).unwrap();
        assert!(world.agree(a, b), "seed {seed}");
        assert_eq!(
            hows([world.path(a, b), world.path(b, a)]),
            [Some(How::Ipv6); 2],
            "seed {seed}"
        );
    }
}

#[test]
fn a_node_without_ipv6_meets_one_with_it_over_ipv4() {
    let mut world = World::new(3);
    world.add_server(ServerSpec::default(), clear(), clear());
    let sites = [(); 2].map(|()| world.add_site(&nats("port-restricted"), clear(), clear()));
    let spec = |families| NodeSpec {
        families,
        ..NodeSpec::default()
    };
    let a = world.add_node(sites[0], spec(Families::BOTH)).unwrap();
    let b = world.add_node(sites[1], spec(Families::V4)).unwrap();
    world.pair(a, b).unwrap();
    world.run_for(2 * SECOND).unwrap();
    world.connect(a, b, PathPolicy::Auto).unwrap();
    assert!(
        world
            .run_until(5 * SECOND, |world| world.is_direct(a, b))
            .unwrap()
    );
    assert_eq!(
        hows([world.path(a, b), world.path(b, a)]),
        [Some(How::Punched); 2]
    );
}

#[test]
fn routers_behind_routers_are_passed() {
    let home = NatSpec::default();
    let carrier = NatSpec {
        hairpin: Hairpin::External,
        ..NatSpec::default()
    };
    for seed in 0..10 {
        let deep = [home.clone(), carrier.clone()];
        let mut stage = staged(
            &deep,
            &nats("port-restricted"),
            ServerSpec::default(),
            clear(),
            seed,
        );
        stage.connect_directly();
        assert_eq!(hows(stage.paths()), [Some(How::Punched); 2], "seed {seed}");
        let mut stage = staged(&deep, &deep, ServerSpec::default(), clear(), seed);
        stage.connect_directly();
        assert_eq!(hows(stage.paths()), [Some(How::Punched); 2], "seed {seed}");
    }
}
