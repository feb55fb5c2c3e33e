//! How many mappings there can be, and what becomes of the rest.

use super::facts::{Capacity, Facts, Property, Value};
use super::ground::{Depth, GroundError};
use super::measure::Scene;

/// Sockets that send before it is counted what has come. A receiver's buffer takes some hundred small datagrams.
const BATCH: usize = 50;

/// Fills the table from one host, with tables that were empty before.
pub(super) fn measure(scene: &mut Scene<'_>, depth: &Depth, facts: &mut Facts) -> Result<(), GroundError> {
    let path = scene.view.path;
    let Some(limit) = depth.table else {
        for property in [Property::Table, Property::TableRecovers] {
            facts.set(path, property, Value::Unmeasured("it takes too many sockets"));
        }
        return Ok(());
    };
    scene.bench.ground().reboot()?;
    let Some((first, mapped)) = scene.mapped(0)? else {
        return Ok(());
    };
    let server = scene.server(0);
    let (mut sockets, mut came) = (vec![first], 1);
    let mut full = false;
    while sockets.len() < limit && !full {
        let mut tags = Vec::new();
        for _ in 0..BATCH.min(limit - sockets.len()) {
            let socket = scene.bench.inside(&scene.view, 0)?;
            sockets.push(socket);
            tags.push(scene.bench.throw(socket, server)?);
        }
        let fence = scene.bench.throw(first, server)?;
        let caught = scene.bench.fenced(&tags, fence)?;
        let count = caught.iter().flatten().count();
        came += count;
        full = count < tags.len();
    }
    let capacity = if full {
        Capacity::Exactly(came)
    } else {
        Capacity::Beyond(limit)
    };
    facts.set(path, Property::Table, Value::Capacity(capacity));
    if !full {
        let why = Value::Unmeasured("the table was never full");
        facts.set(path, Property::TableRecovers, why);
    } else if let Some(time) = depth.recovery {
        // Both ways through a mapping that was there before, then a new one when all have ended.
        let keeps = scene.bench.seen(scene.servers[0], mapped)?.is_some();
        scene.bench.wait(time)?;
        let again = scene.mapped(0)?;
        sockets.extend(again.map(|(socket, _)| socket));
        let recovers = keeps && again.is_some();
        facts.set(path, Property::TableRecovers, Value::Flag(recovers));
    } else {
        facts.set(
            path,
            Property::TableRecovers,
            Value::Unmeasured("it takes minutes"),
        );
    }
    scene.bench.close(sockets);
    scene.bench.ground().reboot()
}
