//! From text to a [`Scenario`]: what stands outside of any table, and the checks that need all of it. The tables `nat` and
//! `node` are read in [`topology`](super::topology), the timeline in [`timeline`](super::timeline).

use std::path::Path;

use toml::de::DeTable;

use super::addresses;
use super::error::{ScenarioError, Trouble};
use super::model::{NodeIndex, NodeRole, Scenario, What, WorldKind};
use super::names::Names;
use super::reader::{Table, Value};
use super::timeline::{Timeline, has_programs};
use super::topology::{Reading, engine, start_of};

/// Largest file in bytes: a scenario is written by a person.
const FILE_MAX: u64 = 1 << 20;

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it, with its line.
    pub fn read(file: &Path) -> Result<Self, ScenarioError> {
        let unreadable = |source| ScenarioError::Unreadable {
            file: file.to_owned(),
            source,
        };
        let meta = std::fs::metadata(file).map_err(unreadable)?;
        if meta.len() > FILE_MAX {
            return Err(unreadable(std::io::Error::other("larger than 1 MiB")));
        }
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        Self::parse(file, &text)
    }

    /// Checks a text; `file` is for messages.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it, with its line.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ScenarioError> {
        let entries = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let what = error.message().lines().next().unwrap_or("not TOML").to_owned();
            Trouble::new(at, what, "TOML (toml.io)").in_file(file, text)
        })?;
        let document = Table::document(entries.get_ref());
        read(&document, text)
            .and_then(|mut scenario| {
                document.finish()?;
                file.clone_into(&mut scenario.file);
                Ok(scenario)
            })
            .map_err(|trouble| trouble.in_file(file, text))
    }
}

fn read(document: &Table<'_>, text: &str) -> Result<Scenario, Trouble> {
    let mut reading = Reading {
        text,
        names: Names::default(),
        nats: Vec::new(),
        nodes: Vec::new(),
        links: Vec::new(),
        kernel: engine(document.get("engine"))?.unwrap_or(false),
    };
    reading.nats(document.get("nat"))?;
    reading.nodes(document.get("node"))?;
    reading.shared_links(document.get("nat"))?;
    reading.check_roles()?;
    addresses::check(&reading.nats, &reading.nodes)
        .map_err(|(line, what, expected)| Trouble::new(start_of(text, line), what, expected))?;
    let title = document.get("title");
    let title = title
        .map(|value| value.text("title", "a line of text"))
        .transpose()?;
    let seed = document
        .get("seed")
        .map(|value| value.whole("seed", 0..=u64::MAX))
        .transpose()?;
    let timeline = Timeline {
        text,
        names: &reading.names,
        nodes: &reading.nodes,
    };
    let items = timeline.read(document)?;
    let mut pairs = pairs(document.get("pairs"), &reading)?;
    for pair in items.iter().filter_map(|item| item.what.pair()) {
        add_pair(&mut pairs, pair);
    }
    let programs = has_programs(&items) || !reading.nodes.iter().any(|node| node.role == NodeRole::Node);
    Ok(Scenario {
        file: Path::new("").to_owned(),
        title: title.unwrap_or("a scenario").to_owned(),
        seed: seed.unwrap_or(0),
        worlds: worlds(document.get("world"), programs)?,
        nats: reading.nats,
        nodes: reading.nodes,
        links: reading.links,
        timeline: items,
        pairs,
    })
}

fn worlds(value: Option<Value<'_>>, programs: bool) -> Result<Vec<WorldKind>, Trouble> {
    let words = [("sim", WorldKind::Sim), ("netns", WorldKind::Netns)];
    let Some(value) = value else {
        return Ok(if programs {
            vec![WorldKind::Netns]
        } else {
            vec![WorldKind::Sim, WorldKind::Netns]
        });
    };
    let mut worlds = Vec::new();
    for value in value.one_or_many() {
        let world = value.word("world", &words)?;
        if !worlds.contains(&world) {
            worlds.push(world);
        }
    }
    if worlds.is_empty() {
        return Err(value.wrong("`world` is empty", "\"sim\", \"netns\", or both in a list"));
    }
    Ok(worlds)
}

fn pairs(value: Option<Value<'_>>, reading: &Reading<'_>) -> Result<Vec<(NodeIndex, NodeIndex)>, Trouble> {
    let mut pairs = Vec::new();
    let expected = "a list of pairs, such as [[\"a\", \"b\"]]";
    let lists = value.map(|value| value.list("pairs", expected)).transpose()?;
    for value in lists.unwrap_or_default() {
        let members = value.list("pairs", expected)?;
        let [one, two] = members.as_slice() else {
            return Err(value.wrong(format!("a pair of {}", members.len()), expected));
        };
        let one_index = reading.names.knothole(one, "pairs", &reading.nodes)?;
        let two_index = reading.names.knothole(two, "pairs", &reading.nodes)?;
        if one_index == two_index {
            return Err(two.wrong("a pair of one node with itself", "two nodes"));
        }
        add_pair(&mut pairs, (one_index, two_index));
    }
    Ok(pairs)
}

fn add_pair(pairs: &mut Vec<(NodeIndex, NodeIndex)>, (one, two): (NodeIndex, NodeIndex)) {
    if !pairs.contains(&(one, two)) && !pairs.contains(&(two, one)) {
        pairs.push((one, two));
    }
}

impl What {
    /// The nodes that must know each other for it.
    fn pair(&self) -> Option<(NodeIndex, NodeIndex)> {
        use super::model::{Action, Check};
        match self {
            Self::Step {
                action: Action::Connect { from, to, .. },
                ..
            }
            | Self::Expect {
                check:
                    Check::Path { from, to, .. } | Check::Answer { from, to } | Check::Traffic { from, to, .. },
                ..
            } => Some((*from, *to)),
            _ => None,
        }
    }
}
