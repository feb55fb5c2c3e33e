//! Rules about who depends on whom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Crates of the workspace and the workspace crates each may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("knothole-proto", &[]),
    ("knothole-rendezvous", &["knothole-proto"]),
    ("knothole", &["knothole-proto"]),
    (
        "knothole-netsim",
        &["knothole-proto", "knothole-rendezvous", "knothole"],
    ),
];

/// What the core must not contain, however indirectly.
const NOT_IN_THE_CORE: &[&str] = &[
    "tokio",
    "quinn",
    "quinn-proto",
    "rustls",
    "rcgen",
    "socket2",
    "clap",
    "anyhow",
    "mio",
];

/// Normal and build dependencies of every package, by name.
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// Ask cargo.
    pub fn of_workspace(root: &Path) -> Self {
        // Of this platform only: what others need is not on this machine until somebody fetches it.
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline", "--locked"])
            .args(["--filter-platform", &host()])
            .current_dir(root)
            .output()
            .expect("cargo metadata runs");
        assert!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
        let names: BTreeMap<&str, &str> = metadata["packages"]
            .as_array()
            .expect("packages")
            .iter()
            .filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?)))
            .collect();
        let mut graph = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
            let normal = node["deps"].as_array().expect("deps").iter().filter(|dep| {
                dep["dep_kinds"]
                    .as_array()
                    .expect("kinds")
                    .iter()
                    .any(|kind| kind["kind"].as_str() != Some("dev"))
            });
            let targets = normal
                .filter_map(|dep| names.get(dep["pkg"].as_str()?))
                .map(ToString::to_string)
                .collect();
            graph.insert(names[node["id"].as_str().expect("id")].to_owned(), targets);
        }
        Self(graph)
    }

    fn closure(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            for target in self.0.get(name).into_iter().flatten() {
                if reached.insert(target.as_str()) {
                    open.push(target);
                }
            }
        }
        reached
    }
}

/// The platform that the compiler at hand is for, such as `x86_64-unknown-linux-gnu`.
fn host() -> String {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.expect("rustc says what it is for").to_owned()
}

/// Edges that must not be there, one line each.
pub fn complaints(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for (from, allowed) in ALLOWED {
        let Some(targets) = graph.0.get(*from) else {
            found.push(format!("{from} is not in the workspace"));
            continue;
        };
        for (ours, _) in ALLOWED
            .iter()
            .filter(|(ours, _)| targets.contains(*ours) && !allowed.contains(ours))
        {
            found.push(format!("{from} depends on {ours}"));
        }
    }
    let core = graph.closure("knothole-proto");
    found.extend(
        NOT_IN_THE_CORE
            .iter()
            .filter(|n| core.contains(**n))
            .map(|n| format!("knothole-proto contains {n}")),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph: BTreeMap<String, BTreeSet<String>> = ALLOWED
            .iter()
            .map(|(name, _)| (name.to_string(), BTreeSet::new()))
            .collect();
        for (from, to) in edges {
            graph.entry(from.to_string()).or_default().insert(to.to_string());
        }
        Graph(graph)
    }

    #[test]
    fn an_edge_against_the_direction_is_caught() {
        assert_eq!(complaints(&graph(&[("knothole", "knothole-proto")])), [""; 0]);
        assert_eq!(
            complaints(&graph(&[("knothole", "knothole-rendezvous")])).len(),
            1
        );
        assert_eq!(complaints(&graph(&[("knothole-proto", "knothole")])).len(), 1);
    }

    #[test]
    fn an_indirect_runtime_in_the_core_is_caught() {
        let bad = graph(&[("knothole-proto", "helper"), ("helper", "tokio")]);
        assert_eq!(complaints(&bad), ["knothole-proto contains tokio"]);
    }
}
