//! Does a mapping outlive what ICMP says about its packets (RFC 4787 REQ-12)?

use std::net::SocketAddr;
use std::time::Duration;

use super::facts::{Facts, Property, Value};
use super::ground::{GroundError, Place};
use super::measure::Scene;

/// Time for an ICMP message to come back.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// A packet that gets out of the first NAT and no further than the routers of the core.
const DIES_IN_CORE: u8 = 3;

/// One packet to a port that the stranger has closed, one that dies on its way: is the mapping still there, for the server
/// and for the stranger?
pub(super) fn measure(scene: &mut Scene<'_>, facts: &mut Facts) -> Result<(), GroundError> {
    let path = scene.view.path;
    let Some((socket, mapped)) = scene.mapped(0)? else {
        return Ok(());
    };
    let local = SocketAddr::new(scene.view.stranger, 0);
    let stranger = scene.bench.open(Place::Stranger, local, None)?;
    let (at, to) = (scene.bench.local(stranger), scene.toward(stranger));
    let seen = scene.bench.seen(socket, to)?;
    scene.bench.close([stranger]);
    scene.bench.throw(socket, to)?;
    scene.bench.throw_with(socket, to, Some(DIES_IN_CORE))?;
    scene.bench.wait(ON_ITS_WAY)?;
    let stranger = scene.bench.open(Place::Stranger, at, None)?;
    let mut outlives = scene.passes(scene.servers[0], mapped)?;
    if let Some(seen) = seen {
        outlives &= scene.bench.seen(stranger, seen)?.is_some();
    }
    facts.set(path, Property::OutlivesIcmp, Value::Flag(outlives));
    scene.bench.close([socket, stranger]);
    Ok(())
}
