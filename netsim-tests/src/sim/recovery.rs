//! What must be true again once nothing is wrong any more, of any nodes that know each other (P10).

use std::time::Duration;

use knothole_proto::wire::PathPolicy;

use super::check::{Rule, Violation, violation};
use super::topology::HostId;
use super::world::World;
use crate::nat::{InputPolicy, NatSpec};

/// Every node that lives is registered within this.
const REGISTERED_WITHIN: Duration = Duration::from_secs(60);

/// More of it behind a router that bars whoever sent something unsolicited, and anew with every packet: after a reboot it
/// bars the server as long as the peer sends through the relay, which is until the peer finds the link dead.
const BARRED_FOR: Duration = Duration::from_secs(60);

/// A link that is wanted carries data within this.
const UP_WITHIN: Duration = Duration::from_secs(10);

/// A pair that must become direct has done so within this, measured like [`UP_WITHIN`].
const DIRECT_WITHIN: Duration = Duration::from_secs(15);

/// Datagrams that must arrive at each side in one second of ten pings, when all is well: one may be on its way at
/// either end of the second.
const ARRIVALS: u64 = 8;

/// Two nodes that are to meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meeting {
    pub(super) hosts: [HostId; 2],
    /// Must they become direct?
    pub(super) must: bool,
}

/// Gives the nodes the time they have to register, and looks whether they did. `nats` are those in front of them.
///
/// # Errors
/// [`Rule::Liveness`] for the first that did not, and any rule that was broken meanwhile.
pub(super) fn register<'a>(
    world: &mut World,
    hosts: &[HostId],
    mut nats: impl Iterator<Item = &'a NatSpec>,
) -> Result<(), Violation> {
    world.run_for(REGISTERED_WITHIN)?;
    if nats.any(|nat| matches!(nat.input, InputPolicy::Blacklist { refreshed: true, .. })) {
        world.run_until(BARRED_FOR, |world| {
            hosts.iter().all(|host| world.is_registered(*host))
        })?;
    }
    match hosts.iter().find(|host| !world.is_registered(**host)) {
        Some(host) => Err(late(world, *host, "is not registered")),
        None => Ok(()),
    }
}

/// All these pairs connect: data flows both ways in time, and who must be direct is. Answers how many are direct.
///
/// # Errors
/// As [`register`].
pub(super) fn meet(world: &mut World, pairs: &[Meeting]) -> Result<usize, Violation> {
    for Meeting {
        hosts: [one, two], ..
    } in pairs
    {
        // Both ask: a session keeps what either side last wished for.
        world.connect(*one, *two, PathPolicy::Auto)?;
        world.connect(*two, *one, PathPolicy::Auto)?;
    }
    world.run_for(UP_WITHIN)?;
    let before: Vec<[u64; 2]> = pairs.iter().map(|pair| arrived(world, pair.hosts)).collect();
    world.run_for(Duration::from_secs(1))?;
    for (Meeting { hosts, .. }, before) in pairs.iter().zip(before) {
        let after = arrived(world, *hosts);
        if after[0] < before[0] + ARRIVALS || after[1] < before[1] + ARRIVALS {
            let [one, two] = *hosts;
            let paths = (world.path(one, two), world.path(two, one));
            let what = format!("{before:?} to {after:?} datagrams with {two:?}, paths {paths:?}");
            return Err(late(world, one, &what));
        }
    }
    world.run_for(DIRECT_WITHIN - UP_WITHIN)?;
    let mut direct = 0;
    for Meeting {
        hosts: [one, two],
        must,
    } in pairs
    {
        let (one, two) = (*one, *two);
        let is_direct = world.is_direct(one, two) && world.agree(one, two);
        if *must && !is_direct {
            let paths = (world.path(one, two), world.path(two, one));
            return Err(late(world, one, &format!("not direct with {two:?}: {paths:?}")));
        }
        direct += usize::from(is_direct);
    }
    Ok(direct)
}

/// Datagrams of the application that have arrived at each of the two.
fn arrived(world: &World, [one, two]: [HostId; 2]) -> [u64; 2] {
    [(one, two), (two, one)].map(|(host, peer)| {
        let traffic = world.traffic(host, peer).unwrap_or_default();
        traffic.by_relay + traffic.direct
    })
}

/// Something did not come about in time.
pub(super) fn late(world: &World, host: HostId, what: &str) -> Violation {
    violation(Rule::Liveness, world.now(), host, what.to_owned())
}
