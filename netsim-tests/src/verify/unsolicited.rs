//! What a packet does that nobody asked for: nothing, a refusal, a lost port, a barred sender.

use std::net::SocketAddr;
use std::time::Duration;

use crate::nat::{Filtering, Mapping};

use super::bench::Bench;
use super::facts::{Facts, Life, Property, Trace, Value};
use super::ground::{Depth, GroundError, Handle, Place, Search};
use super::lifetimes::{Probe, search};
use super::measure::Scene;

/// How long a sender is given to hear what a box says of its datagram.
const HEARING: Duration = Duration::from_millis(150);

/// From a mapped port to one that is not mapped, most likely.
const UNMAPPED: u16 = 7_919;

/// Measures it from a stranger. What is left behind shows only where a socket has one mapping for all, since otherwise
/// its packet to the stranger leaves from a fresh one.
pub(super) fn measure(
    scene: &mut Scene<'_>,
    depth: &Depth,
    (mapping, filtering): (Mapping, Filtering),
    facts: &mut Facts,
) -> Result<(), GroundError> {
    let path = scene.view.path;
    let told = told(scene, filtering)?;
    facts.set(path, Property::Told, told);
    if filtering == Filtering::EndpointIndependent || mapping != Mapping::EndpointIndependent {
        return Ok(());
    }
    let (mut clashes, mut bars) = (0, 0);
    for _ in 0..depth.clashes {
        match trace(scene)? {
            Some(Trace::Clash) => clashes += 1,
            Some(Trace::Bar) => bars += 1,
            Some(Trace::None) | None => {}
        }
    }
    let trace = if 2 * clashes > depth.clashes {
        Trace::Clash
    } else if 2 * bars > depth.clashes {
        Trace::Bar
    } else {
        Trace::None
    };
    facts.set(path, Property::Unsolicited, Value::Trace(trace));
    let percent = u8::try_from(100 * clashes / depth.clashes.max(1)).unwrap_or(u8::MAX);
    facts.set(path, Property::Clashes, Value::Percent(percent));
    if trace == Trace::Bar
        && let Some(how) = &depth.bar
    {
        bar(scene, how, facts)?;
    }
    Ok(())
}

/// What the stranger hears who sends to a mapping that does not let him in; if any does, to no mapping at all.
fn told(scene: &mut Scene<'_>, filtering: Filtering) -> Result<Value, GroundError> {
    let Some((socket, mapped)) = scene.mapped(0)? else {
        return Ok(Value::Unmeasured("the server was not reached"));
    };
    let mut to = mapped;
    if filtering == Filtering::EndpointIndependent {
        to.set_port(mapped.port().checked_add(UNMAPPED).unwrap_or(UNMAPPED));
    }
    let local = SocketAddr::new(scene.view.stranger, 0);
    let connected = scene.bench.open(Place::Stranger, local, Some(to))?;
    scene.bench.throw(connected, to)?;
    scene.bench.wait(HEARING)?;
    let said = scene.bench.told(connected);
    scene.bench.close([socket, connected]);
    Ok(Value::Said(said))
}

/// One trial: the stranger's packet first, then ours, then his again, which is an answer.
fn trace(scene: &mut Scene<'_>) -> Result<Option<Trace>, GroundError> {
    let Some(pair) = provoke(scene)? else {
        return Ok(None);
    };
    let Provoked {
        socket,
        stranger,
        mapped,
        seen,
    } = pair;
    let result = match seen {
        None => None,
        Some(seen) if seen != mapped => Some(Trace::Clash),
        Some(seen) if scene.passes(stranger, seen)? => Some(Trace::None),
        Some(_) => Some(Trace::Bar),
    };
    scene.bench.close([socket, stranger]);
    Ok(result)
}

struct Provoked {
    socket: Handle,
    stranger: Handle,
    mapped: SocketAddr,
    /// As whom the stranger then sees the socket.
    seen: Option<SocketAddr>,
}

fn provoke(scene: &mut Scene<'_>) -> Result<Option<Provoked>, GroundError> {
    let Some((socket, mapped)) = scene.mapped(0)? else {
        return Ok(None);
    };
    let local = SocketAddr::new(scene.view.stranger, 0);
    let stranger = scene.bench.open(Place::Stranger, local, None)?;
    scene.passes(stranger, mapped)?;
    let to = scene.toward(stranger);
    let seen = scene.bench.seen(socket, to)?;
    Ok(Some(Provoked {
        socket,
        stranger,
        mapped,
        seen,
    }))
}

/// How long the bar holds, and whether trying prolongs it.
fn bar(scene: &mut Scene<'_>, how: &Search, facts: &mut Facts) -> Result<(), GroundError> {
    let path = scene.view.path;
    let life = search(scene, how, false, barred)?;
    facts.set(path, Property::Bar, Value::Life(life));
    let Life::Between(_, over) = life else {
        return Ok(());
    };
    let Some(pair) = provoke(scene)? else {
        return Ok(());
    };
    // A second try at two thirds of the bar; then one that comes after its end, unless the second one counted.
    scene.bench.wait(over * 2 / 3)?;
    scene.passes(pair.stranger, pair.mapped)?;
    scene.bench.wait(over * 2 / 3)?;
    let refreshed = !scene.passes(pair.stranger, pair.mapped)?;
    facts.set(path, Property::BarRefreshed, Value::Flag(refreshed));
    scene.bench.close([pair.socket, pair.stranger]);
    Ok(())
}

fn barred(scene: &mut Scene<'_>) -> Result<Option<Probe>, GroundError> {
    let pair = provoke(scene)?;
    Ok(pair.map(|pair| Probe {
        since: Bench::now(&scene.bench),
        socket: pair.socket,
        from: pair.stranger,
        owned: true,
        to: pair.mapped,
    }))
}
