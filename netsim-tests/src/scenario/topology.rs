//! The tables `nat` and `node` of a file: who is there, behind what, on which link.

use std::net::IpAddr;

use super::error::{Trouble, line_of};
use super::links;
use super::model::{LinkPair, Nat, NatIndex, Node, NodeRole, Place};
use super::names::Names;
use super::reader::{Table, Value};
use super::recipe::{self, Recipe};
use crate::nat::Families;

/// Most NATs and most nodes: the world in memory numbers its hosts and sites in a byte.
const MOST: usize = 64;

/// What was read so far.
pub(super) struct Reading<'t> {
    pub(super) text: &'t str,
    pub(super) names: Names,
    pub(super) nats: Vec<Nat>,
    pub(super) nodes: Vec<Node>,
    pub(super) links: Vec<(Place, LinkPair)>,
    pub(super) kernel: bool,
}

impl Reading<'_> {
    pub(super) fn nats(&mut self, value: Option<Value<'_>>) -> Result<(), Trouble> {
        let Some(value) = value else { return Ok(()) };
        let all = value.table("nat", "tables `[nat.NAME]`")?.entries();
        limit(&value, all.len(), "NATs")?;
        let names: Vec<&str> = all.iter().map(|(name, ..)| *name).collect();
        let mut waiting = Vec::new();
        for (name, at, value) in all {
            Names::check(name, at)?;
            let table = value.table(&format!("nat {name:?}"), "a table `[nat.NAME]`")?;
            let outer = table.get("behind");
            let outer_name = outer
                .map(|value| value.text("behind", "the name of a NAT"))
                .transpose()?;
            if let (Some(value), Some(text)) = (outer, outer_name)
                && !names.contains(&text)
            {
                let expected = super::reader::among(text, &names);
                return Err(value.wrong(format!("no NAT is called {text:?}"), expected));
            }
            waiting.push((name, at, table, outer_name));
        }
        // Those that stand in a network come after the one that makes it.
        while !waiting.is_empty() {
            let ready = waiting.iter().position(|(_, _, _, outer)| {
                outer.is_none_or(|outer| self.names.nats.iter().any(|known| known == outer))
            });
            let Some(ready) = ready else {
                let (name, at, ..) = &waiting[0];
                let what = format!("NAT {name:?} is behind itself: {}", circle(name, &waiting));
                return Err(Trouble::new(*at, what, "an outermost NAT without `behind`"));
            };
            let (name, at, table, outer) = waiting.remove(ready);
            let behind = outer.and_then(|outer| self.names.nats.iter().position(|known| known == outer));
            self.nat(name, at, table, behind)?;
        }
        Ok(())
    }

    fn nat(
        &mut self,
        name: &str,
        at: usize,
        table: Table<'_>,
        behind: Option<NatIndex>,
    ) -> Result<(), Trouble> {
        let recipe = Recipe::read(&table)?;
        if recipe.specs(&[]).is_empty() {
            let what = format!("{} is none", table.what);
            return Err(Trouble::new(
                at,
                what,
                "a kind other than \"open\", or no NAT at all",
            ));
        }
        let kernel = engine(table.get("engine"))?.unwrap_or(self.kernel);
        table.get("link");
        table.finish()?;
        self.names.nats.push(name.to_owned());
        self.nats.push(Nat {
            name: name.to_owned(),
            recipe,
            behind,
            kernel,
            line: line_of(self.text, at),
        });
        Ok(())
    }

    pub(super) fn nodes(&mut self, value: Option<Value<'_>>) -> Result<(), Trouble> {
        let missing = || Trouble::new(0, "the scenario has no node", "at least one table `[node.NAME]`");
        let value = value.ok_or_else(missing)?;
        let all = value.table("node", "tables `[node.NAME]`")?.entries();
        limit(&value, all.len(), "nodes")?;
        for (name, at, value) in all {
            Names::check(name, at)?;
            if self.names.nats.iter().any(|nat| nat == name) {
                let what = format!("{name:?} is a NAT and a node");
                return Err(Trouble::new(at, what, "two names"));
            }
            let table = value.table(&format!("node {name:?}"), "a table `[node.NAME]`")?;
            self.node(name, at, table)?;
        }
        Ok(())
    }

    fn node(&mut self, name: &str, at: usize, table: Table<'_>) -> Result<(), Trouble> {
        let roles = [
            ("host", NodeRole::Host),
            ("server", NodeRole::Server),
            ("node", NodeRole::Node),
        ];
        let role = table
            .get("role")
            .map(|value| value.word("role", &roles))
            .transpose()?;
        let line = line_of(self.text, at);
        let uplinks = self.uplinks(name, &table, line)?;
        let addresses = own_addresses(table.get("address"))?;
        let families = self.families(&table, uplinks[0], &addresses, role)?;
        let link = table
            .get("link")
            .map(|value| Ok((value.at, links::read(&value)?)))
            .transpose()?;
        let capture = table
            .get("capture")
            .map(|value| value.flag("capture"))
            .transpose()?;
        table.finish()?;
        let index = self.nodes.len();
        if let Some((at, link)) = link {
            self.add_link(uplinks[0].map_or(Place::Node(index), Place::Nat), link, at)?;
        }
        self.names.nodes.push(name.to_owned());
        self.nodes.push(Node {
            name: name.to_owned(),
            role: role.unwrap_or(NodeRole::Host),
            uplinks,
            addresses,
            families,
            capture: capture.unwrap_or(false),
            line,
        });
        Ok(())
    }

    fn uplinks(
        &mut self,
        name: &str,
        table: &Table<'_>,
        line: usize,
    ) -> Result<Vec<Option<NatIndex>>, Trouble> {
        let found = table.one_of(&["behind", "kind"])?;
        let own = match &found {
            None => return Ok(vec![None]),
            Some(("kind", _, value)) => Some(Recipe::of(recipe::named(value)?)),
            Some((_, _, value)) => match value.as_table("`behind`") {
                Some(table) => {
                    let recipe = Recipe::read(&table)?;
                    table.finish()?;
                    Some(recipe)
                }
                None => None,
            },
        };
        if let Some(recipe) = own {
            if recipe.specs(&[]).is_empty() {
                return Ok(vec![None]);
            }
            let index = self.nats.len();
            let own_name = format!("{name}.nat");
            self.names.nats.push(own_name.clone());
            self.nats.push(Nat {
                name: own_name,
                recipe,
                behind: None,
                kernel: self.kernel,
                line,
            });
            return Ok(vec![Some(index)]);
        }
        let mut uplinks = Vec::new();
        for value in found.iter().flat_map(|(_, _, value)| value.one_or_many()) {
            let nat = Some(self.names.nat(&value, "behind")?);
            if uplinks.contains(&nat) {
                return Err(value.wrong("the same uplink twice", "different NATs"));
            }
            uplinks.push(nat);
        }
        if uplinks.is_empty() {
            return Err(Trouble::new(
                table.at,
                "`behind` is empty",
                "the name of a NAT, or no `behind`",
            ));
        }
        Ok(uplinks)
    }

    fn families(
        &self,
        table: &Table<'_>,
        uplink: Option<NatIndex>,
        addresses: &[IpAddr],
        role: Option<NodeRole>,
    ) -> Result<Families, Trouble> {
        let words = [
            ("ipv4", Families::V4),
            ("ipv6", Families::V6),
            ("dual", Families::BOTH),
        ];
        let value = table.get("families");
        let said = value.map(|value| value.word("families", &words)).transpose()?;
        let usual = match (uplink, role) {
            (None, Some(NodeRole::Server)) => Families::BOTH,
            (None, _) => Families::V4,
            (Some(nat), _) => self.nats[nat].recipe.families(),
        };
        let families = said.unwrap_or(usual);
        let missing = addresses
            .iter()
            .find(|ip| !(if ip.is_ipv4() { families.v4 } else { families.v6 }));
        match (missing, said) {
            (Some(ip), Some(_)) => Err(Trouble::new(
                table.at,
                format!("{} has the address {ip} and not that family", table.what),
                "`families` = \"dual\"",
            )),
            _ => Ok(Families {
                v4: families.v4 || addresses.iter().any(IpAddr::is_ipv4),
                v6: families.v6 || addresses.iter().any(IpAddr::is_ipv6),
            }),
        }
    }

    /// The links that stand in the tables of NATs.
    pub(super) fn shared_links(&mut self, value: Option<Value<'_>>) -> Result<(), Trouble> {
        let Some(table) = value.and_then(|value| value.as_table("nat")) else {
            return Ok(());
        };
        for (name, _, value) in table.entries() {
            let Some(link) = value.as_table("nat").and_then(|table| table.get("link")) else {
                continue;
            };
            let nat = self
                .names
                .nats
                .iter()
                .position(|known| known == name)
                .unwrap_or(0);
            self.names.has_link(nat, link.at, &self.nodes)?;
            self.add_link(Place::Nat(nat), links::read(&link)?, link.at)?;
        }
        Ok(())
    }

    fn add_link(&mut self, place: Place, link: LinkPair, at: usize) -> Result<(), Trouble> {
        let known = self.links.iter().find(|(known, _)| *known == place);
        match (known, place) {
            (Some((_, other)), Place::Nat(nat)) if *other != link => {
                let what = format!(
                    "the link of {} is described twice, differently",
                    self.names.nats[nat]
                );
                Err(Trouble::new(
                    at,
                    what,
                    "one description: all behind a NAT share its link",
                ))
            }
            (Some(_), _) => Ok(()),
            (None, _) => {
                self.links.push((place, link));
                Ok(())
            }
        }
    }

    pub(super) fn check_roles(&self) -> Result<(), Trouble> {
        let with = |role| self.nodes.iter().filter(move |node| node.role == role);
        let at = |node: &Node| start_of(self.text, node.line);
        let mut servers = with(NodeRole::Server);
        let first = servers.next();
        if let Some(second) = servers.next() {
            let what = format!("node {:?} is a second server", second.name);
            return Err(Trouble::new(at(second), what, "one server"));
        }
        match (first, with(NodeRole::Node).next()) {
            (None, Some(node)) => {
                let what = format!("node {:?} has no server to register at", node.name);
                Err(Trouble::new(at(node), what, "a node with role = \"server\""))
            }
            (Some(server), _) if server.uplinks != [None] => {
                let what = format!("the server {:?} is behind a NAT", server.name);
                Err(Trouble::new(
                    at(server),
                    what,
                    "a public server, without `behind` and `kind`",
                ))
            }
            (Some(server), _) if !server.families.v4 => {
                let what = format!("the server {:?} has no IPv4 address", server.name);
                Err(Trouble::new(
                    at(server),
                    what,
                    "`families` = \"dual\" or \"ipv4\"",
                ))
            }
            _ => Ok(()),
        }
    }
}

fn limit(value: &Value<'_>, count: usize, what: &str) -> Result<(), Trouble> {
    if count > MOST {
        return Err(value.wrong(format!("{count} {what}"), format!("{MOST} at most")));
    }
    Ok(())
}

/// Is a kernel to play the NATs?
pub(super) fn engine(value: Option<Value<'_>>) -> Result<Option<bool>, Trouble> {
    let words = [("model", false), ("kernel", true)];
    value.map(|value| value.word("engine", &words)).transpose()
}

/// Where a line begins, so that a complaint about it has a place.
pub(super) fn start_of(text: &str, line: usize) -> usize {
    let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    line.checked_sub(2)
        .and_then(|skip| ends.map(|(at, _)| at + 1).nth(skip))
        .unwrap_or(0)
}

fn own_addresses(value: Option<Value<'_>>) -> Result<Vec<IpAddr>, Trouble> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for value in value.iter().flat_map(Value::one_or_many) {
        let expected = "an address such as \"5.5.5.1\"";
        let text = value.text("address", expected)?;
        let ip: IpAddr = text
            .parse()
            .map_err(|_| value.wrong(format!("`address` is {text:?}"), expected))?;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(value.wrong(format!("{ip} is no address of one machine"), expected));
        }
        if addresses.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
            return Err(value.wrong("a second address of the same family", "one of IPv4, one of IPv6"));
        }
        addresses.push(ip);
    }
    Ok(addresses)
}

/// `a behind b behind a`, for a NAT that is in no circle the way into one.
fn circle(name: &str, nats: &[(&str, usize, Table<'_>, Option<&str>)]) -> String {
    let mut way = vec![name];
    while let Some(outer) = nats
        .iter()
        .find(|(known, ..)| Some(known) == way.last())
        .and_then(|nat| nat.3)
    {
        let closed = way.contains(&outer);
        way.push(outer);
        if closed {
            break;
        }
    }
    way.join(" behind ")
}
