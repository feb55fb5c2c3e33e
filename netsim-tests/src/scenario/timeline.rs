//! The timeline of a file: `[[step]]` and `[[expect]]`, in the order in which they stand there.

use std::time::Duration;

use super::error::{Trouble, line_of};
use super::links;
use super::model::{
    Action, Check, Item, Node, NodeIndex, PathKind, Place, Relay, Run, RunExpect, Start, UdpWord, What, When,
};
use super::names::Names;
use super::reader::{Table, Value};
use super::units;

/// What a step can do.
const ACTIONS: [&str; 11] = [
    "connect",
    "disconnect",
    "reboot",
    "link",
    "blackout",
    "udp",
    "kill",
    "start",
    "restart",
    "switch",
    "run",
];

/// What can be expected.
const CHECKS: [&str; 7] = [
    "path",
    "answer",
    "registered",
    "unregistered",
    "traffic",
    "probes",
    "nat-entries",
];

/// Most steps and expectations together.
const ITEMS_MAX: usize = 1000;

/// How long a program may take unless its step says otherwise.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the timeline.
pub(super) struct Timeline<'t> {
    pub(super) text: &'t str,
    pub(super) names: &'t Names,
    pub(super) nodes: &'t [Node],
}

/// Does a step run a program, which needs a world that has any?
pub(super) fn has_programs(items: &[Item]) -> bool {
    items.iter().any(|item| {
        matches!(
            item.what,
            What::Step {
                action: Action::Run(_),
                ..
            }
        )
    })
}

impl Timeline<'_> {
    /// All items of a document.
    pub(super) fn read(&self, document: &Table<'_>) -> Result<Vec<Item>, Trouble> {
        let mut found = Vec::new();
        for key in ["step", "expect"] {
            let Some(value) = document.get(key) else { continue };
            for value in value.list(key, &format!("tables `[[{key}]]`"))? {
                let table = value.table(key, &format!("a table `[[{key}]]`"))?;
                found.push((value.at, key, table));
            }
        }
        if found.len() > ITEMS_MAX {
            let what = format!("{} steps and expectations", found.len());
            return Err(Trouble::new(0, what, format!("{ITEMS_MAX} at most")));
        }
        found.sort_by_key(|(at, ..)| *at);
        let item = |(at, key, table): (usize, &str, Table<'_>)| {
            let what = if key == "step" {
                self.step(&table)?
            } else {
                self.expectation(&table)?
            };
            table.finish()?;
            Ok(Item {
                line: line_of(self.text, at),
                what,
            })
        };
        found.into_iter().map(item).collect()
    }

    fn step(&self, table: &Table<'_>) -> Result<What, Trouble> {
        let start = match table.one_of(&["at", "after"])? {
            Some(("at", _, value)) => Start::At(units::time(&value, "at")?),
            Some((_, _, value)) => Start::After(units::time(&value, "after")?),
            None => Start::After(Duration::ZERO),
        };
        let (key, _, value) = table.one_of(&ACTIONS)?.ok_or_else(|| {
            let expected = format!("one of {}", ACTIONS.join(", "));
            Trouble::new(
                table.at,
                unknown("a step does nothing", table, &ACTIONS),
                expected,
            )
        })?;
        let action = match key {
            "connect" => self.connect(&value)?,
            "disconnect" => {
                let table = value.table("disconnect", "a table such as { from = \"a\", to = \"b\" }")?;
                let (from, to) = self.ends(&table)?;
                table.finish()?;
                Action::Disconnect { from, to }
            }
            "reboot" => Action::Reboot(self.names.nat_of(&value, "reboot", self.nodes)?),
            "link" => self.link(&value)?,
            "blackout" => self.blackout(&value)?,
            "udp" => self.udp(&value)?,
            "kill" => Action::Kill(self.program(&value, "kill")?),
            "start" => Action::Start(self.program(&value, "start")?),
            "restart" => Action::Restart(self.program(&value, "restart")?),
            "switch" => self.switch(&value)?,
            _ => Action::Run(self.run(&value)?),
        };
        Ok(What::Step { start, action })
    }

    fn expectation(&self, table: &Table<'_>) -> Result<What, Trouble> {
        let when = match table.one_of(&["at", "within", "for"])? {
            Some(("at", _, value)) => When::At(units::time(&value, "at")?),
            Some(("within", _, value)) => When::Within(units::time(&value, "within")?),
            Some((_, _, value)) => When::For(units::time(&value, "for")?),
            None => When::Now,
        };
        let (key, _, value) = table.one_of(&CHECKS)?.ok_or_else(|| {
            let expected = format!("one of {}", CHECKS.join(", "));
            Trouble::new(
                table.at,
                unknown("an expectation expects nothing", table, &CHECKS),
                expected,
            )
        })?;
        let check = match key {
            "path" => self.path(&value)?,
            "registered" | "unregistered" => {
                let named = |value: &Value<'_>| self.names.knothole(value, key, self.nodes);
                Check::Registered {
                    nodes: value.one_or_many().iter().map(named).collect::<Result<_, _>>()?,
                    is: key == "registered",
                }
            }
            "answer" => {
                let table = value.table("answer", "a table such as { from = \"a\", to = \"b\" }")?;
                let (from, to) = self.ends(&table)?;
                table.finish()?;
                Check::Answer { from, to }
            }
            "traffic" => self.traffic(&value)?,
            "probes" => {
                let table = value.table("probes", "a table such as { node = \"a\", max = 200 }")?;
                let node = table.need("node", "the name of a node")?;
                let node = self.names.knothole(&node, "node", self.nodes)?;
                let max = table.need("max", "a number")?.whole("max", 0..=u64::MAX)?;
                table.finish()?;
                Check::Probes { node, max }
            }
            _ => {
                let table = value.table("nat-entries", "a table such as { nat = \"home\", max = 50 }")?;
                let nat = self
                    .names
                    .nat_of(&table.need("nat", "the name of a NAT")?, "nat", self.nodes)?;
                let max = table.need("max", "a number")?.whole("max", 0..=u64::MAX)?;
                table.finish()?;
                Check::NatEntries { nat, max }
            }
        };
        Ok(What::Expect { when, check })
    }

    fn connect(&self, value: &Value<'_>) -> Result<Action, Trouble> {
        let table = value.table("connect", "a table such as { from = \"a\", to = \"b\" }")?;
        let (from, to) = self.ends(&table)?;
        let words = [
            ("auto", Relay::Auto),
            ("never", Relay::Never),
            ("only", Relay::Only),
        ];
        let relay = table
            .get("relay")
            .map(|value| value.word("relay", &words))
            .transpose()?;
        table.finish()?;
        Ok(Action::Connect {
            from,
            to,
            relay: relay.unwrap_or(Relay::Auto),
        })
    }

    /// `from` and `to`.
    fn ends(&self, table: &Table<'_>) -> Result<(NodeIndex, NodeIndex), Trouble> {
        let end = |key| {
            let value = table.need(key, "the name of a node")?;
            Ok((value, self.names.knothole(&value, key, self.nodes)?))
        };
        let ((_, from), (value, to)) = (end("from")?, end("to")?);
        if from == to {
            return Err(value.wrong("`from` and `to` are one node", "two nodes"));
        }
        Ok((from, to))
    }

    fn link(&self, value: &Value<'_>) -> Result<Action, Trouble> {
        let table = value.table("link", "a table such as { of = \"a\", delay = \"20ms\" }")?;
        let place = self.of(&table)?;
        Ok(Action::SetLink(place, links::pair(table)?))
    }

    fn of(&self, table: &Table<'_>) -> Result<Place, Trouble> {
        let of = table.need("of", "the name of a node or a NAT")?;
        self.names.place(&of, "of", self.nodes)
    }

    fn blackout(&self, value: &Value<'_>) -> Result<Action, Trouble> {
        let table = value.table(
            "blackout",
            "a table such as { of = \"a\", direction = \"up\", for = \"3s\" }",
        )?;
        let place = self.of(&table)?;
        let words = [
            ("up", (true, false)),
            ("down", (false, true)),
            ("both", (true, true)),
        ];
        let direction = table
            .get("direction")
            .map(|value| value.word("direction", &words));
        let lasts = table
            .get("for")
            .map(|value| units::time(&value, "for"))
            .transpose()?;
        let (up, down) = direction.transpose()?.unwrap_or((true, true));
        table.finish()?;
        Ok(Action::Blackout {
            place,
            up,
            down,
            lasts,
        })
    }

    fn udp(&self, value: &Value<'_>) -> Result<Action, Trouble> {
        let table = value.table("udp", "a table such as { nat = \"home\", policy = \"blocked\" }")?;
        let nat = self
            .names
            .nat_of(&table.need("nat", "the name of a NAT")?, "nat", self.nodes)?;
        let words = [
            ("open", UdpWord::Open),
            ("server-only", UdpWord::ServerOnly),
            ("blocked", UdpWord::Blocked),
        ];
        let policy = table.need("policy", "\"open\", \"server-only\" or \"blocked\"")?;
        let policy = policy.word("policy", &words)?;
        table.finish()?;
        Ok(Action::Udp(nat, policy))
    }

    /// A machine whose program can die and start.
    fn program(&self, value: &Value<'_>, key: &str) -> Result<NodeIndex, Trouble> {
        let node = self.names.node(value, key)?;
        if self.nodes[node].role == super::model::NodeRole::Host {
            let what = format!(
                "{} is a plain host, on which nothing runs that could {key}",
                self.nodes[node].name
            );
            return Err(value.wrong(what, "a node with role = \"server\" or \"node\""));
        }
        Ok(node)
    }

    fn switch(&self, value: &Value<'_>) -> Result<Action, Trouble> {
        let table = value.table("switch", "a table such as { node = \"a\", to = \"lte\" }")?;
        let node = self
            .names
            .node(&table.need("node", "the name of a node")?, "node")?;
        let to = table.need("to", "the name of a NAT")?;
        let nat = self.names.nat(&to, "to")?;
        table.finish()?;
        let uplinks = &self.nodes[node].uplinks;
        let uplink = uplinks
            .iter()
            .position(|uplink| *uplink == Some(nat))
            .ok_or_else(|| {
                let own = uplinks.iter().flatten().map(|nat| self.names.nats[*nat].as_str());
                let own: Vec<&str> = own.collect();
                let what = format!(
                    "{} is no uplink of {}",
                    self.names.nats[nat], self.nodes[node].name
                );
                to.wrong(
                    what,
                    format!(
                        "a NAT that its `behind` lists: {}",
                        super::reader::among("", &own)
                    ),
                )
            })?;
        Ok(Action::Switch { node, uplink })
    }

    fn run(&self, value: &Value<'_>) -> Result<Run, Trouble> {
        let table = value.table("run", "a table such as { node = \"a\", command = [\"true\"] }")?;
        let node = self
            .names
            .node(&table.need("node", "the name of a node")?, "node")?;
        let command = command(&table.need("command", "a list of a program and its arguments")?)?;
        let background = table
            .get("background")
            .map(|value| value.flag("background"))
            .transpose()?;
        let listens = table.get("listens");
        let port = listens
            .map(|value| value.whole("listens", 1..=65_535))
            .transpose()?;
        let background = background.unwrap_or(false);
        if let (Some(value), false) = (listens, background) {
            return Err(value.wrong(
                "`listens` of a program that is waited for",
                "`background` = true beside it",
            ));
        }
        let timeout = table
            .get("timeout")
            .map(|value| units::time(&value, "timeout"))
            .transpose()?;
        let expect = table.get("expect");
        if let (Some(value), true) = (expect, background) {
            let expected = "no `expect`, since it is still running when the next step comes";
            return Err(value.wrong("`expect` of a program in the background", expected));
        }
        let expect = expect.map(|value| run_expect(&value)).transpose()?;
        table.finish()?;
        Ok(Run {
            node,
            command,
            background,
            listens: port,
            timeout: timeout.unwrap_or(RUN_TIMEOUT),
            expect: expect.unwrap_or_default(),
        })
    }

    fn path(&self, value: &Value<'_>) -> Result<Check, Trouble> {
        let table = value.table(
            "path",
            "a table such as { from = \"a\", to = \"b\", kind = \"direct\" }",
        )?;
        let (from, to) = self.ends(&table)?;
        let kinds = [
            PathKind::Direct,
            PathKind::Relay,
            PathKind::None,
            PathKind::Oracle,
        ];
        let kinds = kinds.map(|kind| (kind.word(), kind));
        let kind = table.need("kind", "\"direct\", \"relay\", \"none\" or \"oracle\"")?;
        let kind = kind.word("kind", &kinds)?;
        let ways = ["lan", "ipv6", "mapped", "punched", "tcp"].map(|way| (way, way));
        let how = table.get("how");
        let way = how.map(|value| value.word("how", &ways)).transpose()?;
        let why = table.get("why");
        let reason = why
            .map(|value| value.text("why", "text that the reason contains"))
            .transpose()?;
        if let (Some(value), true) = (how, kind != PathKind::Direct) {
            return Err(value.wrong(
                "`how` of a path that is not direct",
                "`kind` = \"direct\", or `why`",
            ));
        }
        if let (Some(value), true) = (why, !matches!(kind, PathKind::Relay | PathKind::None)) {
            return Err(value.wrong(
                "`why` of a direct path",
                "`kind` = \"relay\" or \"none\", or `how`",
            ));
        }
        table.finish()?;
        Ok(Check::Path {
            from,
            to,
            kind,
            how: way.map(ToOwned::to_owned),
            why: reason.map(ToOwned::to_owned),
        })
    }

    fn traffic(&self, value: &Value<'_>) -> Result<Check, Trouble> {
        let table = value.table(
            "traffic",
            "a table such as { from = \"a\", to = \"b\", gap = \"5s\" }",
        )?;
        let (from, to) = self.ends(&table)?;
        let gap = units::time(&table.need("gap", "a time, such as \"5s\"")?, "gap")?;
        table.finish()?;
        Ok(Check::Traffic { from, to, gap })
    }
}

/// `what`, and the key that may have been meant for something.
fn unknown(what: &str, table: &Table<'_>, known: &[&str]) -> String {
    let others = table.entries();
    let other = others
        .iter()
        .find(|(key, ..)| !["at", "after", "within", "for"].contains(key) && !known.contains(key));
    other.map_or(what.to_owned(), |(key, ..)| {
        format!("{what}: `{key}` means nothing here")
    })
}

fn command(value: &Value<'_>) -> Result<Vec<String>, Trouble> {
    if let Some(line) = value.as_text() {
        return Ok(["sh", "-c", line].map(ToOwned::to_owned).to_vec());
    }
    let expected = "a list of a program and its arguments, or a line for the shell";
    let words = value.list("command", expected)?;
    if words.is_empty() {
        return Err(value.wrong("`command` is empty", expected));
    }
    words
        .iter()
        .map(|word| Ok(word.text("command", "text")?.to_owned()))
        .collect()
}

fn run_expect(value: &Value<'_>) -> Result<RunExpect, Trouble> {
    let table = value.table("expect", "a table such as { exit = 0, stdout = \"hello\" }")?;
    let text = |key| -> Result<Option<String>, Trouble> {
        let text = table
            .get(key)
            .map(|value: Value<'_>| value.text(key, "text that the output contains"));
        Ok(text.transpose()?.map(ToOwned::to_owned))
    };
    let exit = table
        .get("exit")
        .map(|value| value.whole("exit", 0..=255))
        .transpose()?;
    let expect = RunExpect {
        exit: exit.map_or(0, |code: u8| i32::from(code)),
        stdout: text("stdout")?,
        stderr: text("stderr")?,
    };
    table.finish()?;
    Ok(expect)
}
