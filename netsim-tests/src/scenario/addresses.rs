//! Which addresses the machines of a scenario have between namespaces: those that the file gives, and for all others one
//! that nobody has. The world in memory gives its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::{Nat, NatIndex, Node, NodeRole};

/// Addresses of the lab's NATs, which no machine may have: second and third byte of 5.5.0.0/16, and the second of
/// 100.0.0.0/8 between NATs.
const NAT_BLOCKS: std::ops::RangeInclusive<u8> = 16..=215;
const CARRIER_BLOCK: u8 = 64;

/// Last byte of the first address that is given; below it a person finds room for own ones.
const FIRST_HOST: u8 = 10;

/// The addresses of each node, in the order of the nodes, at each of its uplinks. Those that the file gives are of the first.
pub(super) fn plan(nodes: &[Node]) -> Vec<Vec<Vec<IpAddr>>> {
    let given = |node: &Node, uplink: usize| {
        if uplink == 0 {
            node.addresses.clone()
        } else {
            Vec::new()
        }
    };
    let mut taken: Vec<(Option<NatIndex>, IpAddr)> = Vec::new();
    for node in nodes {
        taken.extend(node.addresses.iter().map(|ip| (node.uplinks[0], *ip)));
    }
    let mut at = |index: usize, uplink: usize| {
        let (node, realm) = (&nodes[index], nodes[index].uplinks[uplink]);
        let mut addresses = given(node, uplink);
        for (wanted, v4) in [(node.families.v4, true), (node.families.v6, false)] {
            if !wanted || addresses.iter().any(|ip| ip.is_ipv4() == v4) {
                continue;
            }
            let own = candidates(realm, node.role, index, v4).find(|ip| !taken.contains(&(realm, *ip)));
            if let Some(ip) = own {
                taken.push((realm, ip));
                addresses.push(ip);
            }
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses
    };
    let of =
        |(index, node): (usize, &Node)| (0..node.uplinks.len()).map(|uplink| at(index, uplink)).collect();
    nodes.iter().enumerate().map(of).collect()
}

/// Do two machines of one network have one address, or one has that of a NAT? The line, what, and what is expected.
pub(super) fn check(nats: &[Nat], nodes: &[Node]) -> Result<(), (usize, String, String)> {
    let mut owners: BTreeMap<(Option<NatIndex>, IpAddr), &Node> = BTreeMap::new();
    for node in nodes {
        for ip in &node.addresses {
            if is_of_nats(*ip) {
                let what = format!(
                    "{ip} of node {:?} lies where the lab gives addresses to NATs",
                    node.name
                );
                return Err((
                    node.line,
                    what,
                    "an address outside of 5.5.16.0-5.5.215.255 and 100.64.0.0/16".to_owned(),
                ));
            }
            // IPv6 is never hidden: one address is one machine everywhere.
            let realm = if ip.is_ipv4() { node.uplinks[0] } else { None };
            if let Some(other) = owners.insert((realm, *ip), node) {
                let place = realm.map_or("in public".to_owned(), |nat| format!("behind {}", nats[nat].name));
                let what = format!(
                    "{ip} of node {:?} is that of {:?} too, {place}",
                    node.name, other.name
                );
                return Err((node.line, what, "an address of its own".to_owned()));
            }
        }
    }
    Ok(())
}

fn is_of_nats(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            (a == 5 && b == 5 && NAT_BLOCKS.contains(&c)) || (a == 100 && b == CARRIER_BLOCK)
        }
        IpAddr::V6(_) => false,
    }
}

/// Addresses for a node, the usual one first.
fn candidates(
    realm: Option<NatIndex>,
    role: NodeRole,
    node: usize,
    v4: bool,
) -> impl Iterator<Item = IpAddr> {
    let first = match (realm, role) {
        (None, NodeRole::Server) => 1,
        _ => FIRST_HOST.saturating_add(u8::try_from(node).unwrap_or(u8::MAX)),
    };
    let network = realm.map_or(0, |nat| u8::try_from(nat + 1).unwrap_or(u8::MAX));
    (first..=254).chain(1..first).map(move |host| match (realm, v4) {
        (None, true) => Ipv4Addr::new(5, 5, 5, host).into(),
        (Some(_), true) => Ipv4Addr::new(192, 168, network, host).into(),
        (_, false) => Ipv6Addr::new(0x2a01, network.into(), 0, 0, 0, 0, 0, host.into()).into(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn machines_that_meet_in_a_further_network_have_addresses_of_their_own_there() {
        let text = "[nat.home]\nkind = \"symmetric\"\n[nat.mobile]\nkind = \"symmetric\"\n\
            [node.fixed]\nbehind = \"mobile\"\naddress = \"192.168.2.11\"\n\
            [node.one]\nbehind = [\"home\", \"mobile\"]\n[node.two]\nbehind = [\"home\", \"mobile\"]\n";
        let scenario = Scenario::parse(Path::new("roaming.toml"), text).unwrap();
        let plan = plan(&scenario.nodes);
        let mobile: Vec<IpAddr> = [plan[0][0][0], plan[1][1][0], plan[2][1][0]].into();
        let mut distinct = mobile.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 3, "{mobile:?}");
    }
}
