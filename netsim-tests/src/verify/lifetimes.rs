//! How long mappings live: many sockets fall silent at once, and each is sent to after another time.
//!
//! Whether the packet comes out tells whether the mapping lives. It comes from where the mapping lets it in, so that no
//! filter plays a part; a socket that is never silent provides the fence.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::facts::{Facts, Life, Property, Value};
use super::ground::{Depth, GroundError, Handle, Search};
use super::measure::Scene;

/// Traffic both ways for over two seconds makes a flow a stream (Linux; `reference/netsim.md` section 7): so long, in
/// steps that no timer of a second and more survives unnoticed.
const STREAM_STEPS: u32 = 5;
const STREAM_STEP: Duration = Duration::from_millis(450);

/// Between two packets of a mapping that is used all the time. No divisor of a timer, and short enough for any.
const TICK: Duration = Duration::from_millis(937);

/// The packet from outside comes so long before the next one from inside.
const BEFORE_TICK: Duration = Duration::from_millis(1);

/// A mapping that is silent, and who may send to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// Since when.
    pub(super) since: Instant,
    pub(super) socket: Handle,
    pub(super) from: Handle,
    /// Is `from` of no use to others, and to be closed with the socket?
    pub(super) owned: bool,
    pub(super) to: SocketAddr,
}

/// Measures the timers.
pub(super) fn measure(scene: &mut Scene<'_>, depth: &Depth, facts: &mut Facts) -> Result<(), GroundError> {
    let path = scene.view.path;
    if depth.absolute.is_none() {
        facts.set(path, Property::Absolute, Value::Unmeasured("it takes minutes"));
    }
    let Some(how) = &depth.lifetimes else {
        for property in [Property::Unreplied, Property::Stream, Property::InboundRefresh] {
            facts.set(path, property, Value::Unmeasured("it takes minutes"));
        }
        return Ok(());
    };
    let unreplied = search(scene, how, true, one_way)?;
    facts.set(path, Property::Unreplied, Value::Life(unreplied));
    let stream = stream(scene, how)?;
    facts.set(path, Property::Stream, Value::Life(stream));
    if let Life::Between(_, dead) = unreplied {
        let refresh = inbound_refresh(scene, dead)?;
        facts.set(path, Property::InboundRefresh, Value::Flag(refresh));
    }
    if let Some(limit) = depth.absolute {
        let life = absolute(scene, limit)?;
        facts.set(path, Property::Absolute, Value::Life(life));
    }
    Ok(())
}

/// When what `begin` makes changes: from passing to not passing if `passes_first`, or the other way round. `begin` makes
/// one probe; each round makes as many as there are points.
pub(super) fn search(
    scene: &mut Scene<'_>,
    how: &Search,
    passes_first: bool,
    begin: fn(&mut Scene<'_>) -> Result<Option<Probe>, GroundError>,
) -> Result<Life, GroundError> {
    let (mut low, mut high) = (Duration::ZERO, None);
    for _ in 0..how.rounds.max(1) {
        let end = high.unwrap_or(how.limit);
        // The end itself is known after the first round.
        let parts = how.points.max(1) + u32::from(high.is_some());
        let times = (1..=how.points.max(1)).map(|part| low + (end - low) * part / parts);
        let mut probes = Vec::new();
        for time in times {
            probes.extend(begin(scene)?.map(|probe| (time, probe)));
        }
        (low, high) = narrow(scene, &probes, passes_first, (low, high))?;
        let owned = probes.iter().filter(|(_, probe)| probe.owned);
        let strangers: Vec<Handle> = owned.map(|(_, probe)| probe.from).collect();
        let sockets = probes.iter().map(|(_, probe)| probe.socket);
        scene.bench.close(sockets.chain(strangers));
        if high.is_none() {
            break;
        }
    }
    Ok(match high {
        Some(high) => Life::Between(low, high),
        None => Life::Beyond(how.limit),
    })
}

/// One round: the longest silence before the change, and the shortest after it.
fn narrow(
    scene: &mut Scene<'_>,
    probes: &[(Duration, Probe)],
    passes_first: bool,
    known: (Duration, Option<Duration>),
) -> Result<(Duration, Option<Duration>), GroundError> {
    let (mut low, mut high) = known;
    let mut done = false;
    for (time, probe) in probes {
        if done {
            break;
        }
        scene.bench.wait_until(probe.since + *time)?;
        let Some((lively, mapped)) = scene.mapped(0)? else {
            continue;
        };
        let silence = scene.bench.now().saturating_duration_since(probe.since);
        let tag = scene.bench.throw(probe.from, probe.to)?;
        let fence = scene.bench.throw(scene.servers[0], mapped)?;
        let passed = scene.bench.fenced(&[tag], fence)?.iter().all(Option::is_some);
        scene.bench.close([lively]);
        if passed == passes_first {
            low = low.max(silence);
        } else {
            high = Some(silence);
            done = true;
        }
    }
    Ok((low, high))
}

/// A socket that has sent one packet, which nobody answered.
fn one_way(scene: &mut Scene<'_>) -> Result<Option<Probe>, GroundError> {
    let since = scene.bench.now();
    let mapped = scene.mapped(0)?;
    let from = scene.servers[0];
    Ok(mapped.map(|(socket, to)| Probe {
        since,
        socket,
        from,
        owned: false,
        to,
    }))
}

/// Life after an exchange. The exchange takes seconds, so that all sockets must have it at the same time.
fn stream(scene: &mut Scene<'_>, how: &Search) -> Result<Life, GroundError> {
    let (mut low, mut high) = (Duration::ZERO, None);
    for _ in 0..how.rounds.max(1) {
        let end: Duration = high.unwrap_or(how.limit);
        let parts = how.points.max(1) + u32::from(high.is_some());
        let mut probes = Vec::new();
        for _ in 0..how.points.max(1) {
            probes.extend(one_way(scene)?);
        }
        exchange(scene, &mut probes)?;
        let span = end - low;
        let timed: Vec<(Duration, Probe)> = (1..).map(|part| low + span * part / parts).zip(probes).collect();
        (low, high) = narrow(scene, &timed, true, (low, high))?;
        scene.bench.close(timed.iter().map(|(_, probe)| probe.socket));
        if high.is_none() {
            break;
        }
    }
    Ok(high.map_or(Life::Beyond(how.limit), |high| Life::Between(low, high)))
}

/// Traffic both ways on all of them; the last packet goes out.
fn exchange(scene: &mut Scene<'_>, probes: &mut [Probe]) -> Result<(), GroundError> {
    let server = scene.server(0);
    for _ in 0..STREAM_STEPS {
        let mut tags = Vec::new();
        for probe in probes.iter_mut() {
            tags.push(scene.bench.throw(probe.from, probe.to)?);
        }
        scene.bench.wait(STREAM_STEP)?;
        for probe in probes.iter_mut() {
            probe.since = scene.bench.now();
            scene.bench.throw(probe.socket, server)?;
        }
    }
    Ok(())
}

/// Does a packet from outside at two thirds of the life carry the mapping over its end?
fn inbound_refresh(scene: &mut Scene<'_>, dead: Duration) -> Result<bool, GroundError> {
    let Some((socket, mapped)) = scene.mapped(0)? else {
        return Ok(false);
    };
    let begun = scene.bench.now();
    scene.bench.wait_until(begun + dead * 2 / 3)?;
    scene.bench.seen(scene.servers[0], mapped)?;
    scene.bench.wait_until(begun + dead * 4 / 3)?;
    let (lively, fence_at) = match scene.mapped(0)? {
        Some(lively) => lively,
        None => return Ok(false),
    };
    let tag = scene.bench.throw(scene.servers[0], mapped)?;
    let fence = scene.bench.throw(scene.servers[0], fence_at)?;
    let passed = scene.bench.fenced(&[tag], fence)?.iter().all(Option::is_some);
    scene.bench.close([socket, lively]);
    Ok(passed)
}

/// How long a mapping lasts through which packets go both ways all the time.
fn absolute(scene: &mut Scene<'_>, limit: Duration) -> Result<Life, GroundError> {
    let begun = scene.bench.now();
    let Some((socket, mapped)) = scene.mapped(0)? else {
        return Ok(Life::Beyond(Duration::ZERO));
    };
    let server = scene.server(0);
    let (mut alive, mut next) = (Duration::ZERO, begun);
    let life = loop {
        next += TICK;
        scene.bench.wait_until(next - BEFORE_TICK)?;
        let age = scene.bench.now().saturating_duration_since(begun);
        let tag = scene.bench.throw(scene.servers[0], mapped)?;
        scene.bench.wait_until(next)?;
        let passed = scene.bench.catch(&[tag], Duration::ZERO)?[0].is_some();
        if !passed {
            break Life::Between(alive, age);
        }
        alive = age;
        if age >= limit {
            break Life::Beyond(limit);
        }
        // A mapping that was made anew has another port as a rule, or the same; the packet before it was lost either way.
        scene.bench.throw(socket, server)?;
    };
    scene.bench.close([socket]);
    Ok(life)
}
