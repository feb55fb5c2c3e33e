//! From a scenario to a lab: the same topology between namespaces.

use std::fmt::Write;
use std::net::IpAddr;

use crate::fabric::{AccessLink, HostSpec, Lab, LabBuilder};
use crate::scenario::addresses;
use crate::scenario::model::{LinkPair, Nat, NatIndex, Node, NodeIndex, Place, Scenario, WorldKind};
use crate::scenario::stage::StageError;

/// Builds the lab of a scenario. Nothing runs in it yet.
///
/// # Errors
///
/// What the scenario asks for and the lab does not have, or whatever the machine does not allow.
pub fn build_lab(scenario: &Scenario, seed: u64) -> Result<Lab, StageError> {
    available(scenario)?;
    let servers = servers(scenario);
    let mut builder = Lab::builder().seed(seed);
    for nat in &scenario.nats {
        builder = add_nat(builder, scenario, nat, &servers);
    }
    let plan = addresses::plan(&scenario.nodes);
    for (node, own) in scenario.nodes.iter().zip(&plan) {
        builder = builder.host(&node.name, host_spec(scenario, node, own));
    }
    for (place, link) in &scenario.links {
        if let Some(host) = host_at(scenario, *place) {
            builder = builder.link(&scenario.nodes[host].name, access_link(link));
        }
    }
    Ok(builder.build()?)
}

/// The server's addresses, IPv4 first.
pub(super) fn servers(scenario: &Scenario) -> Vec<IpAddr> {
    let plan = addresses::plan(&scenario.nodes);
    scenario
        .server()
        .map_or_else(Vec::new, |server| plan[server].clone())
}

/// What the lab does not have yet, said before anything is built.
fn available(scenario: &Scenario) -> Result<(), StageError> {
    let missing = |line: usize, what: String, instead: &str| {
        Err(StageError::Unavailable {
            what: format!("{}:{line}: {what}", scenario.file.display()),
            world: WorldKind::Netns,
            instead: instead.to_owned(),
        })
    };
    if let Some(nat) = scenario.nats.iter().find(|nat| nat.kernel) {
        let what = format!("engine = \"kernel\" of {}", nat.name);
        return missing(nat.line, what, "leave `engine` out: the model plays every kind");
    }
    for node in &scenario.nodes {
        if node.capture {
            let what = format!("capture of {}", node.name);
            return missing(node.line, what, "leave `capture` out, or run tcpdump in a step");
        }
        if node.uplinks.len() > 1 {
            let what = format!("the second uplink of {}", node.name);
            return missing(node.line, what, "run it in the world in memory: --world sim");
        }
    }
    Ok(())
}

/// The NATs of a kind that is a row of them: the innermost has the name, the others the name and a number.
pub(super) fn layer_names(nat: &Nat, layers: usize) -> Vec<String> {
    let outer = (1..layers).map(|layer| format!("{}.{layer}", nat.name));
    std::iter::once(nat.name.clone()).chain(outer).collect()
}

fn add_nat(mut builder: LabBuilder, scenario: &Scenario, nat: &Nat, servers: &[IpAddr]) -> LabBuilder {
    let specs = nat.recipe.specs(servers);
    let names = layer_names(nat, specs.len());
    let mut outside = nat.behind.map(|outer| scenario.nat_name(outer).to_owned());
    for (spec, name) in specs.into_iter().zip(names).rev() {
        builder = match &outside {
            None => builder.nat(&name, spec),
            Some(outer) => builder.nat_behind(&name, outer, spec),
        };
        outside = Some(name);
    }
    builder
}

fn host_spec(scenario: &Scenario, node: &Node, own: &[IpAddr]) -> HostSpec {
    match (node.uplinks[0], own) {
        (Some(nat), [first, others @ ..]) => {
            let spec = HostSpec::lan(scenario.nat_name(nat), *first);
            others.iter().fold(spec, |spec, ip| spec.and(*ip))
        }
        _ => HostSpec::public(own.iter().copied()),
    }
}

/// A machine whose access link this is.
pub(super) fn host_at(scenario: &Scenario, place: Place) -> Option<NodeIndex> {
    match place {
        Place::Node(node) => Some(node),
        Place::Nat(nat) => scenario
            .nodes
            .iter()
            .position(|node| node.uplinks[0] == Some(nat)),
    }
}

pub(super) fn access_link(pair: &LinkPair) -> AccessLink {
    AccessLink {
        up: pair.up,
        down: pair.down,
    }
}

/// What a machine's `/etc/hosts` says: every machine under the address by which this one can know it.
#[must_use]
pub fn hosts_file(scenario: &Scenario, lab: &Lab, viewer: NodeIndex) -> String {
    let plan = addresses::plan(&scenario.nodes);
    let stats = lab.stats();
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    let networks = |node: NodeIndex| {
        let own = scenario.way_out(scenario.nodes[node].uplinks[0]);
        own.into_iter()
            .map(Some)
            .chain([None])
            .collect::<Vec<Option<NatIndex>>>()
    };
    let viewed_from = networks(viewer);
    for (index, node) in scenario.nodes.iter().enumerate() {
        // From the machine outwards until a network in which the viewer is too; the last NAT on the way hides it.
        let way = networks(index);
        let shared = way
            .iter()
            .position(|network| viewed_from.contains(network))
            .unwrap_or(0);
        let hiding = shared.checked_sub(1).and_then(|step| way[step]);
        let hiding = hiding.and_then(|nat| {
            let nat = &scenario.nats[nat];
            let names = layer_names(nat, nat.recipe.specs(&[]).len());
            stats.nats.get(names.last()?).map(|report| report.external)
        });
        for ip in &plan[index] {
            let seen = match hiding {
                Some(external) if ip.is_ipv4() => external.into(),
                _ => *ip,
            };
            // Text only grows; writing to it cannot fail.
            let _ = writeln!(text, "{seen} {}", node.name);
        }
    }
    text
}
