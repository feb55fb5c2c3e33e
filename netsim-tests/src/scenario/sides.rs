//! What the oracle says of two nodes of a scenario: which NATs each has for itself, and which they share.

use std::net::IpAddr;

use super::model::{NodeIndex, Scenario};
use crate::nat::{NatSpec, Side};
use crate::oracle::{Expect, expect_together, reaches};

impl Scenario {
    /// What two nodes allow by the topology of the beginning, at these uplinks of theirs.
    #[must_use]
    pub fn expect(&self, one: (NodeIndex, usize), two: (NodeIndex, usize), servers: &[IpAddr]) -> Expect {
        let way = |(node, uplink): (NodeIndex, usize)| {
            let uplink = self.nodes.get(node).and_then(|node| *node.uplinks.get(uplink)?);
            self.way_out(uplink)
        };
        let (one_way, two_way) = (way(one), way(two));
        let shared = |nat: &usize| two_way.contains(nat);
        let common: Vec<usize> = one_way.iter().copied().filter(|nat| shared(nat)).collect();
        let side = |node: NodeIndex, way: &[usize]| {
            let own: Vec<usize> = way.iter().copied().filter(|nat| !common.contains(nat)).collect();
            self.side(node, &own, servers)
        };
        expect_together(
            &side(one.0, &one_way),
            &side(two.0, &two_way),
            &self.specs(&common, servers),
        )
    }

    /// Does UDP pass between a node, at its first uplink, and the server?
    #[must_use]
    pub fn reaches_server(&self, node: NodeIndex, servers: &[IpAddr]) -> bool {
        let uplink = self.nodes.get(node).and_then(|node| *node.uplinks.first()?);
        reaches(&self.side(node, &self.way_out(uplink), servers), servers)
    }

    fn side(&self, node: NodeIndex, nats: &[usize], servers: &[IpAddr]) -> Side {
        Side {
            nats: self.specs(nats, servers),
            families: self.nodes[node].families,
        }
    }

    fn specs(&self, nats: &[usize], servers: &[IpAddr]) -> Vec<NatSpec> {
        nats.iter()
            .flat_map(|nat| self.nats[*nat].recipe.specs(servers))
            .collect()
    }
}
