//! From a scenario to a lab: the same topology between namespaces.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use crate::fabric::{AccessLink, HostSpec, Lab, LabBuilder, NatEngine};
use crate::scenario::addresses;
use crate::scenario::model::{LinkPair, Nat, NatIndex, Node, NodeIndex, Place, Scenario};
use crate::scenario::stage::StageError;

/// Builds the lab of a scenario. Nothing runs in it yet.
///
/// # Errors
///
/// Whatever the machine does not allow.
pub fn build_lab(scenario: &Scenario, seed: u64) -> Result<Lab, StageError> {
    let servers = servers(scenario);
    let plan = addresses::plan(&scenario.nodes);
    let mut builder = Lab::builder().seed(seed);
    for nat in &scenario.nats {
        builder = add_nat(builder, scenario, nat, &servers);
    }
    for (node, own) in scenario.nodes.iter().zip(&plan) {
        builder = builder.host(&node.name, host_spec(scenario, node, own));
    }
    for (place, link) in &scenario.links {
        if let Some((host, from)) = end_of(scenario, *place) {
            builder = builder.uplink(&scenario.nodes[host].name, from, access_link(link));
        }
    }
    let lab = builder.build()?;
    for (node, own) in scenario.nodes.iter().zip(&plan) {
        // A machine is in one network at a time, in the first to begin with.
        for ip in own.iter().skip(1).flatten() {
            lab.host(&node.name)?.remove_address(*ip)?;
        }
    }
    Ok(lab)
}

/// Begins to write down what the nodes send and receive of which the scenario wants it, each into `NAME.pcap` in this folder.
///
/// # Errors
///
/// What the file system says.
pub fn begin_captures(scenario: &Scenario, lab: &Lab, dir: &Path) -> Result<(), StageError> {
    for node in scenario.nodes.iter().filter(|node| node.capture) {
        // It goes on as long as the lab lives.
        let _capture = lab.capture(&node.name, dir.join(format!("{}.pcap", node.name)))?;
    }
    Ok(())
}

/// A machine leaves the network that it is in for that of another uplink.
pub(super) fn switch(
    scenario: &Scenario,
    lab: &Lab,
    node: NodeIndex,
    uplink: usize,
) -> Result<(), StageError> {
    let all = &addresses::plan(&scenario.nodes)[node];
    let host = lab.host(scenario.node_name(node))?;
    for ip in &all[uplink] {
        host.add_address(*ip)?;
    }
    for ip in all
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != uplink)
        .flat_map(|(_, ips)| ips)
    {
        // It is in one of the others only.
        let _elsewhere = host.remove_address(*ip);
    }
    Ok(())
}

/// The server's addresses, IPv4 first.
pub(super) fn servers(scenario: &Scenario) -> Vec<IpAddr> {
    let plan = addresses::plan(&scenario.nodes);
    scenario
        .server()
        .map_or_else(Vec::new, |server| plan[server][0].clone())
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
        let engine = if nat.kernel {
            NatEngine::Kernel
        } else {
            NatEngine::Model
        };
        builder = builder.nat_by(&name, spec, outside.as_deref(), engine);
        outside = Some(name);
    }
    builder
}

/// `own` are its addresses at each of its uplinks.
fn host_spec(scenario: &Scenario, node: &Node, own: &[Vec<IpAddr>]) -> HostSpec {
    let (Some(nat), [first, others @ ..]) = (node.uplinks[0], &own[0][..]) else {
        return HostSpec::public(own[0].iter().copied());
    };
    let spec = HostSpec::lan(scenario.nat_name(nat), *first);
    let mut spec = others.iter().fold(spec, |spec, ip| spec.and(*ip));
    for (uplink, ips) in node.uplinks.iter().zip(own).skip(1) {
        if let (Some(nat), [first, others @ ..]) = (uplink, &ips[..]) {
            spec = spec.also_behind(scenario.nat_name(*nat), *first);
            spec = others.iter().fold(spec, |spec, ip| spec.and(*ip));
        }
    }
    spec
}

/// A machine whose access link this is, and an address from which it uses it.
pub(super) fn end_of(scenario: &Scenario, place: Place) -> Option<(NodeIndex, IpAddr)> {
    let (node, uplink) = match place {
        Place::Node(node) => (node, 0),
        Place::Nat(nat) => scenario.nodes.iter().enumerate().find_map(|(index, node)| {
            let uplink = node.uplinks.iter().position(|uplink| *uplink == Some(nat))?;
            Some((index, uplink))
        })?,
    };
    let plan = addresses::plan(&scenario.nodes);
    Some((node, *plan[node].get(uplink)?.first()?))
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
        for ip in &plan[index][0] {
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
