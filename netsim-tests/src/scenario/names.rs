//! The names of a file and what they stand for.

use super::error::Trouble;
use super::model::{NatIndex, Node, NodeIndex, NodeRole, Place};
use super::reader::{Value, among};

/// Longest name: it becomes a host name and a name at the server.
const NAME_MAX: usize = 32;

/// Everything that has a name, by index.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) nats: Vec<String>,
    pub(super) nodes: Vec<String>,
}

impl Names {
    /// Is this a name that somebody may choose?
    pub(super) fn check(name: &str, at: usize) -> Result<(), Trouble> {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let whole = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(legal);
        if whole && !name.starts_with('-') && !name.ends_with('-') && !name.starts_with("xn--") {
            return Ok(());
        }
        let expected = "a name of lower-case letters, digits and hyphens, 32 at most";
        Err(Trouble::new(at, format!("{name:?} is no name"), expected))
    }

    /// The NAT that a value names.
    pub(super) fn nat(&self, value: &Value<'_>, name: &str) -> Result<NatIndex, Trouble> {
        let text = value.text(name, "the name of a NAT")?;
        let unknown = || {
            value.wrong(
                format!("no NAT is called {text:?}"),
                among(text, &refs(&self.nats)),
            )
        };
        position(&self.nats, text).ok_or_else(unknown)
    }

    /// The machine that a value names.
    pub(super) fn node(&self, value: &Value<'_>, name: &str) -> Result<NodeIndex, Trouble> {
        let text = value.text(name, "the name of a node")?;
        let unknown = || {
            value.wrong(
                format!("no node is called {text:?}"),
                among(text, &refs(&self.nodes)),
            )
        };
        position(&self.nodes, text).ok_or_else(unknown)
    }

    /// The same, if it runs Knothole.
    pub(super) fn knothole(
        &self,
        value: &Value<'_>,
        name: &str,
        nodes: &[Node],
    ) -> Result<NodeIndex, Trouble> {
        let index = self.node(value, name)?;
        if nodes[index].role == NodeRole::Node {
            return Ok(index);
        }
        let playing: Vec<&str> = nodes
            .iter()
            .filter(|node| node.role == NodeRole::Node)
            .map(|node| node.name.as_str())
            .collect();
        let what = format!("{} does not run Knothole", self.nodes[index]);
        let expected = match playing.as_slice() {
            [] => "role = \"node\" in its table".to_owned(),
            playing => format!("a node with role = \"node\": {}", among("", playing)),
        };
        Err(value.wrong(what, expected))
    }

    /// The NAT that a value names, or the innermost one of the machine that it names.
    pub(super) fn nat_of(&self, value: &Value<'_>, name: &str, nodes: &[Node]) -> Result<NatIndex, Trouble> {
        match self.either(value, name)? {
            Place::Nat(nat) => Ok(nat),
            Place::Node(node) => nodes[node].uplinks[0].ok_or_else(|| {
                let what = format!("{} is behind no NAT", self.nodes[node]);
                value.wrong(what, among("", &refs(&self.nats)))
            }),
        }
    }

    /// Whose link it is that a value names.
    pub(super) fn place(&self, value: &Value<'_>, name: &str, nodes: &[Node]) -> Result<Place, Trouble> {
        match self.either(value, name)? {
            Place::Node(node) => Ok(nodes[node].uplinks[0].map_or(Place::Node(node), Place::Nat)),
            Place::Nat(nat) => {
                self.has_link(nat, value.at, nodes)?;
                Ok(Place::Nat(nat))
            }
        }
    }

    /// Links belong to the NATs that stand next to machines.
    pub(super) fn has_link(&self, nat: NatIndex, at: usize, nodes: &[Node]) -> Result<(), Trouble> {
        if nodes.iter().any(|node| node.uplinks.contains(&Some(nat))) {
            return Ok(());
        }
        let near = nodes.iter().filter_map(|node| node.uplinks[0]);
        let near: Vec<&str> = near.map(|nat| self.nats[nat].as_str()).collect();
        let what = format!(
            "{} has no link of its own, since no node stands right behind it",
            self.nats[nat]
        );
        Err(Trouble::new(
            at,
            what,
            format!("a NAT with a node right behind it: {}", among("", &near)),
        ))
    }

    fn either(&self, value: &Value<'_>, name: &str) -> Result<Place, Trouble> {
        let text = value.text(name, "the name of a NAT or a node")?;
        let nat = position(&self.nats, text).map(Place::Nat);
        let node = || position(&self.nodes, text).map(Place::Node);
        nat.or_else(node).ok_or_else(|| {
            let known: Vec<&str> = self.nats.iter().chain(&self.nodes).map(String::as_str).collect();
            value.wrong(
                format!("no NAT and no node is called {text:?}"),
                among(text, &known),
            )
        })
    }
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn position(names: &[String], name: &str) -> Option<usize> {
    names.iter().position(|known| known == name)
}
