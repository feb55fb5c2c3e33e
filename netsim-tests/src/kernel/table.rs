//! The text of nftables tables: sets, chains, rules, in the syntax that nft 1.0.6 takes. Knows no NAT.

use std::fmt::Write as _;
use std::time::Duration;

/// Most elements of a set or map: above what a NAT with one address can hold, and 16 MiB of kernel memory at most.
const SET_SIZE: u32 = 131_072;

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    family: &'static str,
    name: &'static str,
    sets: Vec<String>,
    chains: Vec<Chain>,
}

impl Table {
    pub(super) fn new(family: &'static str, name: &'static str) -> Self {
        Self {
            family,
            name,
            sets: Vec::new(),
            chains: Vec::new(),
        }
    }

    /// Adds a set that packets fill. `key` is its type; every element brings its own life.
    pub(super) fn set(&mut self, name: &str, key: &str) {
        self.sets.push(format!(
            "set {name} {{ type {key}; flags dynamic,timeout; size {SET_SIZE}; }}"
        ));
    }

    /// Adds a map that packets fill.
    pub(super) fn map(&mut self, name: &str, key: &str, value: &str) {
        self.sets.push(format!(
            "map {name} {{ type {key} : {value}; flags dynamic,timeout; size {SET_SIZE}; }}"
        ));
    }

    /// Adds a chain.
    pub(super) fn chain(&mut self, chain: Chain) {
        self.chains.push(chain);
    }
}

/// One chain.
#[derive(Debug)]
pub(super) struct Chain {
    name: String,
    hook: Option<String>,
    rules: Vec<String>,
}

impl Chain {
    /// A chain that packets meet where `hook` says: `nat hook prerouting priority dstnat`. What no rule decides passes.
    pub(super) fn at(name: &str, hook: &str) -> Self {
        Self {
            hook: Some(hook.to_owned()),
            ..Self::named(name)
        }
    }

    /// A chain that other chains jump to.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            hook: None,
            rules: Vec::new(),
        }
    }

    /// Adds a rule.
    pub(super) fn rule(&mut self, rule: impl Into<String>) {
        self.rules.push(rule.into());
    }

    /// The chain with one rule more.
    pub(super) fn with(mut self, rule: impl Into<String>) -> Self {
        self.rule(rule);
        self
    }
}

/// What `nft -f` reads.
#[derive(Debug, Default)]
pub(super) struct Script {
    text: String,
}

impl Script {
    /// Begins by removing all tables.
    pub(super) fn replacing_everything() -> Self {
        Self {
            text: "flush ruleset\n".to_owned(),
        }
    }

    pub(super) fn add(&mut self, table: Table) {
        // Writing to a string cannot fail.
        let _never = self.try_add(&table);
    }

    /// Replaces one table, with its sets, in the same moment.
    pub(super) fn replace(&mut self, table: Table) {
        let (family, name) = (table.family, table.name);
        // The first line is for the case that there is none, in which the second would fail.
        let _never = writeln!(self.text, "table {family} {name}\ndelete table {family} {name}");
        self.add(table);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn try_add(&mut self, table: &Table) -> std::fmt::Result {
        let text = &mut self.text;
        writeln!(text, "table {} {} {{", table.family, table.name)?;
        for set in &table.sets {
            writeln!(text, "  {set}")?;
        }
        for chain in &table.chains {
            writeln!(text, "  chain {} {{", chain.name)?;
            if let Some(hook) = &chain.hook {
                writeln!(text, "    type {hook}; policy accept;")?;
            }
            for rule in &chain.rules {
                writeln!(text, "    {rule}")?;
            }
            writeln!(text, "  }}")?;
        }
        writeln!(text, "}}")
    }
}

/// A time as the rules write it.
pub(super) fn time(life: Duration) -> String {
    format!("{}ms", life.as_millis().max(1))
}

/// A set literal.
pub(super) fn listed<T: ToString>(elements: impl IntoIterator<Item = T>) -> String {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    format!("{{ {} }}", elements.join(", "))
}
