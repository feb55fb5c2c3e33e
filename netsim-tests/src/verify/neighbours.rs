//! Two hosts behind one NAT: do they reach each other by their external addresses, and do they stay apart?

use std::net::SocketAddr;

use crate::nat::{Filtering, Mapping};

use super::bench::{PATIENCE, Tag};
use super::facts::{Facts, HairpinSeen, Property, Value};
use super::ground::{GroundError, Handle, Place};
use super::measure::Scene;

/// Both hosts take this port for the collision; above what systems give by themselves (61000 to 65535 on Linux).
const COMMON_PORT: u16 = 61_234;

/// How often both send to each other: the first packets open the filters.
const ROUNDS: usize = 3;

/// Measures both.
pub(super) fn measure(
    scene: &mut Scene<'_>,
    (mapping, filtering): (Mapping, Filtering),
    facts: &mut Facts,
) -> Result<(), GroundError> {
    let path = scene.view.path;
    if scene.view.hosts() < 2 {
        return Ok(());
    }
    if let Some(overloads) = overloads(scene)? {
        facts.set(path, Property::Overloads, Value::Flag(overloads));
    }
    let visible = mapping == Mapping::EndpointIndependent || filtering == Filtering::EndpointIndependent;
    let seen = if visible {
        hairpin(scene)?.map(Value::Hairpin)
    } else {
        Some(Value::Unmeasured("no neighbour knows which port to send to"))
    };
    if let Some(seen) = seen {
        facts.set(path, Property::Hairpin, seen);
    }
    Ok(())
}

/// Both hosts use one inside port. The first one talks to the first server; the second one to the second server before it
/// talks to the first, as it is then that a box might lend the port twice (RFC 4787 REQ-3).
fn overloads(scene: &mut Scene<'_>) -> Result<Option<bool>, GroundError> {
    let mut sockets = Vec::new();
    for host in [0, 1] {
        let mut local = scene.view.local(host);
        local.set_port(COMMON_PORT);
        sockets.push(scene.bench.open(Place::Inside(host), local, None)?);
    }
    let (near, far) = (scene.server(0), scene.server(2));
    let first = scene.bench.seen(sockets[0], near)?;
    let elsewhere = scene.bench.seen(sockets[1], far)?;
    let second = scene.bench.seen(sockets[1], near)?;
    let mut shared = first == elsewhere || first == second;
    // Each gets what is sent to it, and not what is sent to the other.
    for (socket, external) in [(sockets[0], first), (sockets[1], second)] {
        if let Some(external) = external {
            let tag = scene.bench.throw(scene.servers[0], external)?;
            let caught = scene.bench.catch(&[tag], PATIENCE)?;
            shared |= caught[0].is_none_or(|catch| catch.socket != socket);
        }
    }
    scene.bench.close(sockets);
    Ok((first.is_some() && second.is_some()).then_some(shared))
}

/// Both send to each other's external endpoints: what the first one sees of the second.
fn hairpin(scene: &mut Scene<'_>) -> Result<Option<HairpinSeen>, GroundError> {
    let (Some(one), Some(other)) = (scene.mapped(0)?, scene.mapped(1)?) else {
        return Ok(None);
    };
    let (to_one, to_other) = (scene.view.toward(one.1), scene.view.toward(other.1));
    let mut found = HairpinSeen::Nobody;
    for _ in 0..ROUNDS {
        let opening = scene.bench.throw(one.0, to_other)?;
        let fence = fence_of(scene, one.0)?;
        scene.bench.fenced(&[opening], fence)?;
        let probe = scene.bench.throw(other.0, to_one)?;
        let fence = fence_of(scene, other.0)?;
        let caught = scene.bench.fenced(&[probe], fence)?;
        if let Some(catch) = caught[0] {
            found = whose(catch.from, scene.bench.local(other.0), other.1, to_one);
        }
    }
    scene.bench.close([one.0, other.0]);
    Ok(Some(found))
}

fn whose(from: SocketAddr, inside: SocketAddr, external: SocketAddr, box_at: SocketAddr) -> HairpinSeen {
    if from == inside {
        HairpinSeen::Inside
    } else if from == external || from.ip() == box_at.ip() {
        // Where each destination has a mapping of its own, the box's address with a new port.
        HairpinSeen::External
    } else {
        HairpinSeen::Between
    }
}

/// A packet behind which whatever this socket sent before has arrived.
fn fence_of(scene: &mut Scene<'_>, socket: Handle) -> Result<Tag, GroundError> {
    let server = scene.server(0);
    scene.bench.throw(socket, server)
}
