//! Two machines get to know each other through the world: nameplate, code, exchange, link.

use knothole_netsim::sim::{HostId, NodeSpec, ServerSpec, World};
use knothole_proto::connector::{Command, Event, PairEvent, PairFailure};
use knothole_proto::id::PairSecret;
use knothole_proto::pairing::Code;
use knothole_proto::wire::{PairEnd, PathPolicy};

use crate::stage::{SECOND, clear, nats};

fn strangers(seed: u64) -> (World, HostId, HostId) {
    let mut world = World::new(seed);
    world.add_server(ServerSpec::default(), clear(), clear());
    let mut node = |name: &str| {
        let site = world.add_site(&nats("port-restricted"), clear(), clear());
        let name = Some(name.parse().unwrap());
        world
            .add_node(
                site,
                NodeSpec {
                    name,
                    ..NodeSpec::default()
                },
            )
            .unwrap()
    };
    let (a, b) = (node("laptop"), node("nas"));
    let ready = |world: &World| world.is_registered(a) && world.is_registered(b);
    assert!(world.run_until(10 * SECOND, ready).unwrap());
    (world, a, b)
}

fn pair_events(world: &World, host: HostId) -> Vec<PairEvent> {
    let pairing = |event: &Event| match event {
        Event::Pair(event) => Some(event.clone()),
        _ => None,
    };
    world
        .events(host)
        .iter()
        .filter_map(|(_, event)| pairing(event))
        .collect()
}

fn code(world: &World, host: HostId) -> Option<Code> {
    pair_events(world, host)
        .into_iter()
        .rev()
        .find_map(|event| match event {
            PairEvent::Code { code, .. } => Some(code),
            _ => None,
        })
}

fn secret(world: &World, host: HostId) -> Option<PairSecret> {
    pair_events(world, host)
        .into_iter()
        .find_map(|event| match event {
            PairEvent::Paired { secret, .. } => Some(secret),
            _ => None,
        })
}

fn failure(world: &World, host: HostId) -> Option<PairFailure> {
    pair_events(world, host)
        .into_iter()
        .rev()
        .find_map(|event| match event {
            PairEvent::Failed(failure) => Some(failure),
            _ => None,
        })
}

/// One side opens a nameplate and gets its code.
fn open(world: &mut World, host: HostId) -> Code {
    world.command(host, Command::PairOpen).unwrap();
    assert!(
        world
            .run_until(5 * SECOND, |world| code(world, host).is_some())
            .unwrap()
    );
    code(world, host).unwrap()
}

/// A code with the same nameplate and other words.
fn wrong(code: &Code) -> Code {
    let word = if code.words().contains("zebra") {
        "copper-lantern"
    } else {
        "zebra-zebra"
    };
    format!("{}-{word}", code.nameplate().0).parse().unwrap()
}

#[test]
fn two_nodes_that_share_a_code_are_paired_and_then_connect() {
    for seed in 0..10 {
        let (mut world, a, b) = strangers(seed);
        let code = open(&mut world, a);
        world.command(b, Command::PairJoin { code }).unwrap();
        let paired = |world: &World| secret(world, a).is_some() && secret(world, b).is_some();
        assert!(
            world.run_until(10 * SECOND, paired).unwrap(),
            "{:?}",
            pair_events(&world, b)
        );
        let (one, two) = (secret(&world, a).unwrap(), secret(&world, b).unwrap());
        assert!(one == two, "both hold the same secret");
        for (host, peer, name) in [(a, b, "nas"), (b, a, "laptop")] {
            let key = world.peer_id(peer);
            let told = pair_events(&world, host).into_iter().any(|event| {
                matches!(event, PairEvent::Paired { peer, name: Some(told), .. } if peer == key && told.as_str() == name)
            });
            assert!(told, "each learns the other's key and name");
            world.introduce(host, key, one.clone()).unwrap();
        }
        world.run_for(SECOND).unwrap();
        world.connect(a, b, PathPolicy::Auto).unwrap();
        assert!(
            world
                .run_until(10 * SECOND, |world| world.is_direct(a, b))
                .unwrap(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_wrong_code_fails_on_both_sides_and_uses_the_nameplate_up() {
    for seed in 0..10 {
        let (mut world, a, b) = strangers(seed);
        let right = open(&mut world, a);
        world
            .command(b, Command::PairJoin { code: wrong(&right) })
            .unwrap();
        world.run_for(10 * SECOND).unwrap();
        assert_eq!(failure(&world, b), Some(PairFailure::WrongCode), "seed {seed}");
        assert_eq!(failure(&world, a), Some(PairFailure::WrongCode), "seed {seed}");
        // The right code comes too late.
        world.command(b, Command::PairJoin { code: right }).unwrap();
        world.run_for(10 * SECOND).unwrap();
        assert!(
            secret(&world, a).is_none() && secret(&world, b).is_none(),
            "seed {seed}"
        );
        assert_eq!(
            failure(&world, b),
            Some(PairFailure::Ended(PairEnd::Unknown)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_third_node_cannot_join_a_nameplate() {
    let (mut world, a, b) = strangers(3);
    let site = world.add_site(&nats("port-restricted"), clear(), clear());
    let third = world.add_node(site, NodeSpec::default()).unwrap();
    world.run_for(2 * SECOND).unwrap();
    let code = open(&mut world, a);
    world
        .command(b, Command::PairJoin { code: code.clone() })
        .unwrap();
    world.command(third, Command::PairJoin { code }).unwrap();
    world.run_for(10 * SECOND).unwrap();
    let paired = [a, b, third].map(|host| secret(&world, host).is_some());
    assert_eq!(paired.iter().filter(|paired| **paired).count(), 2, "{paired:?}");
    assert!(paired[0], "the one who opened it is among them");
}

#[test]
fn a_code_that_nobody_uses_expires() {
    let (mut world, a, b) = strangers(4);
    let code = open(&mut world, a);
    world.run_for(700 * SECOND).unwrap();
    assert_eq!(failure(&world, a), Some(PairFailure::Ended(PairEnd::Expired)));
    world.command(b, Command::PairJoin { code }).unwrap();
    world.run_for(5 * SECOND).unwrap();
    assert_eq!(failure(&world, b), Some(PairFailure::Ended(PairEnd::Unknown)));
}

#[test]
fn pairing_ends_when_one_side_gives_up() {
    let (mut world, a, b) = strangers(5);
    let code = open(&mut world, a);
    world.command(a, Command::PairCancel).unwrap();
    world.run_for(SECOND).unwrap();
    world.command(b, Command::PairJoin { code }).unwrap();
    world.run_for(5 * SECOND).unwrap();
    assert_eq!(failure(&world, b), Some(PairFailure::Ended(PairEnd::Unknown)));
}
