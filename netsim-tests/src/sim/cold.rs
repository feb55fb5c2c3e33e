//! A caller that has just been started: it asks while it still finds out what its network does.

use std::time::Duration;

use knothole_proto::connector::Event;
use knothole_proto::seed::Seed;

use super::check::Violation;
use super::recovery::late;
use super::topology::HostId;
use super::world::World;

/// Registration takes two round trips, and longer where much gets lost.
const REGISTER_WITHIN: Duration = Duration::from_secs(300);

/// The callee has been there for at most so long, in milliseconds, where it is not there for good: less than a survey takes.
const CALLEE_MAX_MS: u64 = 2_000;

/// The caller asks at most so long after its registration, in milliseconds: a person, or a script, that has waited for it.
/// By the end of it a mapping is known, and how ports are given is not.
const ASKS_MAX_MS: u64 = 300;

/// Starts the caller anew, and in half of the cases the callee a while before; returns when the caller is to ask.
pub(super) fn start_anew(world: &mut World, [a, b]: [HostId; 2], seed: u64) -> Result<(), Violation> {
    let mut rng = Seed::from_number(seed).child("cold", 0).rng();
    let (fresh, lead, pause) = (
        rng.below(2) == 0,
        rng.below(CALLEE_MAX_MS),
        rng.below(ASKS_MAX_MS),
    );
    if fresh {
        start(world, b)?;
        world.run_for(Duration::from_millis(lead))?;
    }
    start(world, a)?;
    world.run_for(Duration::from_millis(pause))
}

fn start(world: &mut World, host: HostId) -> Result<(), Violation> {
    let before = registrations(world, host);
    world.restart_node(host)?;
    let registered = |world: &World| world.is_registered(host) && registrations(world, host) > before;
    match world.run_until(REGISTER_WITHIN, registered)? {
        true => Ok(()),
        false => Err(late(world, host, "registration takes too long")),
    }
}

fn registrations(world: &World, host: HostId) -> usize {
    let registered = |(_, event): &&(Duration, Event)| matches!(event, Event::Registered { .. });
    world.events(host).iter().filter(registered).count()
}
