//! [`measure`]: from a stage on a ground to [`Facts`]: the order of the measurements, and the plain ones of RFC 5780.
//!
//! It does not know the description of what it measures. Each measurement uses fresh sockets, so that none finds what
//! another one left in the tables.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use knothole_proto::stun::Change;

use crate::nat::{FilterScope, Filtering, Mapping, Pooling};

use super::bench::Bench;
use super::facts::{Capacity, Facts, Path, Property, Reach, Value};
use super::ground::{Depth, Ground, GroundError, Handle, Place, Stage, View};
use super::ports::{Seen, classify};
use super::{icmp, lifetimes, neighbours, table, unsolicited};

/// Sockets of a sample of ports. One of four external addresses stays unseen in one of 25,000 samples; more sockets
/// cost a namespace descriptors.
const SAMPLE: usize = 40;

/// Pause between two sockets of a sample, so that mappings of other people fall in between: with 30 a second, some 24
/// in a sample.
const SAMPLE_PAUSE: Duration = Duration::from_millis(20);

/// So many hosts show every address of a small paired pool: each of four in all but one of 2,500 cases.
const MANY_HOSTS: usize = 32;

/// How long a sender is given to hear what the network says of its datagram.
const HEARING: Duration = Duration::from_millis(150);

/// Measures everything that the depth asks for and the ground can show.
///
/// # Errors
///
/// What the machine refused. A NAT that lets nothing through is no error.
pub fn measure(ground: &mut dyn Ground, stage: &Stage, depth: &Depth) -> Result<Facts, GroundError> {
    let mut facts = Facts::default();
    for view in stage.views() {
        let bench = Bench::new(ground, depth.grace);
        let mut scene = Scene::new(bench, view)?;
        measure_path(&mut scene, depth, &mut facts)?;
        scene.leave();
    }
    if depth.behaviour
        && stage.families.v4
        && let Some(tcp) = ground.tcp()?
    {
        facts.set(Path::V4, Property::Tcp, Value::Tcp(tcp));
    }
    for (path, property) in Property::ALL.iter().flat_map(|property| {
        let paths = stage.views().into_iter().map(|view| view.path);
        paths.map(move |path| (path, *property))
    }) {
        if let Some(why) = ground.lacks(property) {
            facts.set(path, property, Value::Unmeasured(why));
        }
    }
    Ok(facts)
}

/// A view with the observer in place.
pub(super) struct Scene<'g> {
    pub(super) bench: Bench<'g>,
    pub(super) view: View,
    /// In the order of [`View::servers`].
    pub(super) servers: [Handle; 4],
    pub(super) stranger: Handle,
}

impl<'g> Scene<'g> {
    fn new(mut bench: Bench<'g>, view: View) -> Result<Self, GroundError> {
        let servers = bench.observe(&view)?;
        let stranger = bench.open(Place::Stranger, SocketAddr::new(view.stranger, 0), None)?;
        Ok(Self {
            bench,
            view,
            servers,
            stranger,
        })
    }

    fn leave(mut self) {
        let sockets = self.servers.into_iter().chain([self.stranger]);
        self.bench.close(sockets);
    }

    /// Where a host inside sends to in order to reach a server's socket.
    pub(super) fn server(&self, index: usize) -> SocketAddr {
        self.view.toward(self.view.servers[index])
    }

    /// Where a host inside sends to in order to reach a socket outside.
    pub(super) fn toward(&self, outside: Handle) -> SocketAddr {
        self.view.toward(self.bench.local(outside))
    }

    /// A fresh socket inside, and where the first server's first port sees it.
    pub(super) fn mapped(&mut self, host: usize) -> Result<Option<(Handle, SocketAddr)>, GroundError> {
        let socket = self.bench.inside(&self.view, host)?;
        let server = self.server(0);
        let mapped = self.bench.seen(socket, server)?;
        Ok(mapped.map(|mapped| (socket, mapped)))
    }

    /// Does a packet of `from` to the mapping arrive that the first server's first port may send to?
    pub(super) fn passes(&mut self, from: Handle, mapped: SocketAddr) -> Result<bool, GroundError> {
        let probe = self.bench.throw(from, mapped)?;
        let fence = self.bench.throw(self.servers[0], mapped)?;
        let caught = self.bench.fenced(&[probe], fence)?;
        Ok(caught.iter().all(Option::is_some))
    }
}

fn measure_path(scene: &mut Scene<'_>, depth: &Depth, facts: &mut Facts) -> Result<(), GroundError> {
    let path = scene.view.path;
    let reach = reach(scene)?;
    facts.set(path, Property::Reach, Value::Reach(reach));
    if reach == Reach::Blocked {
        let refusal = Value::Said(refusal(scene)?);
        facts.set(path, Property::Refusal, refusal);
        return Ok(());
    }
    let mapping = mapping(scene, facts)?;
    if depth.behaviour {
        let filtering = filtering(scene, reach, facts)?;
        if reach == Reach::Open && filtering != Filtering::EndpointIndependent {
            scope(scene, mapping, facts)?;
        }
        sample(scene, facts)?;
        if reach == Reach::Open {
            unsolicited::measure(scene, depth, (mapping, filtering), facts)?;
            icmp::measure(scene, facts)?;
        }
        if facts.get(path, Property::Translated) == Some(Value::Flag(true)) {
            neighbours::measure(scene, (mapping, filtering), facts)?;
        }
    }
    lifetimes::measure(scene, depth, facts)?;
    if path != Path::V6 {
        table::measure(scene, depth, facts)?;
    }
    Ok(())
}

/// Whom UDP reaches: the server, by STUN, and the stranger.
fn reach(scene: &mut Scene<'_>) -> Result<Reach, GroundError> {
    let socket = scene.bench.inside(&scene.view, 0)?;
    let (server, stranger) = (scene.server(0), scene.toward(scene.stranger));
    let probe = scene.bench.throw(socket, stranger)?;
    let answered = scene.bench.mapped(socket, server)?.is_some();
    let fence = scene.bench.throw(socket, server)?;
    let open = answered && scene.bench.fenced(&[probe], fence)?.iter().all(Option::is_some);
    scene.bench.close([socket]);
    Ok(match (answered, open) {
        (false, _) => Reach::Blocked,
        (true, false) => Reach::ServerOnly,
        (true, true) => Reach::Open,
    })
}

/// What the network says to a socket whose packets it does not let through.
fn refusal(scene: &mut Scene<'_>) -> Result<super::facts::Said, GroundError> {
    let (server, local) = (scene.server(0), scene.view.local(0));
    let socket = scene.bench.open(Place::Inside(0), local, Some(server))?;
    scene.bench.throw(socket, server)?;
    scene.bench.wait(HEARING)?;
    let said = scene.bench.told(socket);
    scene.bench.close([socket]);
    Ok(said)
}

/// RFC 5780 section 4.3, with the fourth combination besides: what two addresses with two ports each see.
fn mapping(scene: &mut Scene<'_>, facts: &mut Facts) -> Result<Mapping, GroundError> {
    let path = scene.view.path;
    let socket = scene.bench.inside(&scene.view, 0)?;
    let questions = [0, 1, 2, 3].map(|index| (scene.server(index), Change::None));
    let answers = scene.bench.ask(socket, &questions)?;
    let seen: Vec<Option<SocketAddr>> = answers
        .iter()
        .map(|answer| answer.map(|answer| answer.mapped))
        .collect();
    let mapping = match (seen[0] == seen[1] && seen[2] == seen[3], seen[0] == seen[2]) {
        (true, true) => Mapping::EndpointIndependent,
        (true, false) => Mapping::AddressDependent,
        (false, _) => Mapping::AddressAndPortDependent,
    };
    facts.set(path, Property::Mapping, Value::Mapping(mapping));
    let translated = seen
        .iter()
        .flatten()
        .any(|seen| *seen != scene.bench.local(socket));
    facts.set(path, Property::Translated, Value::Flag(translated));
    scene.bench.close([socket]);
    Ok(mapping)
}

/// RFC 5780 section 4.4; then the same question put to a host that has nothing to do with the observer.
fn filtering(scene: &mut Scene<'_>, reach: Reach, facts: &mut Facts) -> Result<Filtering, GroundError> {
    let path = scene.view.path;
    let socket = scene.bench.inside(&scene.view, 0)?;
    let (server, other) = (scene.server(0), scene.server(3));
    let questions = [
        (server, Change::AddressAndPort(other)),
        (server, Change::Port(other.port())),
        (server, Change::None),
    ];
    let answers = scene.bench.ask(socket, &questions)?;
    let filtering = match (answers[0].is_some(), answers[1].is_some()) {
        (true, _) => Filtering::EndpointIndependent,
        (false, true) => Filtering::AddressDependent,
        (false, false) => Filtering::AddressAndPortDependent,
    };
    facts.set(path, Property::Filtering, Value::Filtering(filtering));
    if reach == Reach::Open
        && let Some(mapped) = answers[2].map(|answer| answer.mapped)
    {
        let passes = scene.passes(scene.stranger, mapped)?;
        facts.set(path, Property::Stranger, Value::Flag(passes));
    }
    scene.bench.close([socket]);
    Ok(filtering)
}

/// Does a mapping let in whom the socket has sent to through another mapping?
fn scope(scene: &mut Scene<'_>, mapping: Mapping, facts: &mut Facts) -> Result<(), GroundError> {
    if mapping == Mapping::EndpointIndependent {
        return Ok(());
    }
    let Some((socket, first)) = scene.mapped(0)? else {
        return Ok(());
    };
    let stranger = scene.toward(scene.stranger);
    scene.bench.seen(socket, stranger)?;
    let scope = if scene.passes(scene.stranger, first)? {
        FilterScope::Endpoint
    } else {
        FilterScope::Mapping
    };
    facts.set(scene.view.path, Property::Scope, Value::Scope(scope));
    scene.bench.close([socket]);
    Ok(())
}

/// External ports and addresses of many sockets, each seen by two addresses.
fn sample(scene: &mut Scene<'_>, facts: &mut Facts) -> Result<(), GroundError> {
    let path = scene.view.path;
    let (mut sockets, mut mappings) = (Vec::new(), Vec::new());
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    let begun = scene.bench.now();
    let mut last = begun;
    for _ in 0..SAMPLE {
        let socket = scene.bench.inside(&scene.view, 0)?;
        let inside = scene.bench.local(socket).port();
        sockets.push(socket);
        let (near, far) = (scene.server(0), scene.server(2));
        let first = scene.bench.seen(socket, near)?;
        let second = scene.bench.seen(socket, far)?;
        last = scene.bench.now();
        addresses.extend([first, second].into_iter().flatten().map(|seen| seen.ip()));
        let new = second.filter(|second| Some(*second) != first);
        let noted = [(first, true), (new, false)].into_iter();
        mappings.extend(noted.filter_map(|(seen, first)| {
            seen.map(|seen| Seen {
                inside,
                external: seen.port(),
                first,
            })
        }));
        scene.bench.wait(SAMPLE_PAUSE)?;
    }
    scene.bench.close(sockets);
    let ports = classify(&mappings, last.saturating_duration_since(begun));
    facts.set(path, Property::Ports, Value::Ports(ports));
    let pooling = if addresses.len() > 1 {
        Pooling::Arbitrary
    } else {
        Pooling::Paired
    };
    facts.set(path, Property::Pooling, Value::Pooling(pooling));
    if path != Path::V6 {
        for host in 1..scene.view.hosts() {
            if let Some((socket, mapped)) = scene.mapped(host)? {
                addresses.insert(mapped.ip());
                scene.bench.close([socket]);
            }
        }
        // Few hosts do not show all addresses of a pool that gives each host one.
        let few = pooling == Pooling::Paired && scene.view.hosts() < MANY_HOSTS;
        let count = if few {
            Capacity::Beyond(addresses.len())
        } else {
            Capacity::Exactly(addresses.len())
        };
        facts.set(path, Property::Addresses, Value::Capacity(count));
    }
    Ok(())
}
