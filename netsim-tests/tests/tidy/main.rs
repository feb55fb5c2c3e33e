//! The project's rules, as tests: sizes, forbidden words, forbidden dependencies.
//!
//! `ARCHITECTURE.md` states the rules and their reasons. Each rule here is a plain function over text or over the
//! dependency graph, and is itself shown to catch an offender.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)] // a test that panics has failed, and says so

mod edges;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};

use rules::Source;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for crate_dir in ["proto", "rendezvous", "peer", "netsim-tests"] {
        for part in ["src", "tests", "benches", "examples"] {
            collect(&root().join(crate_dir).join(part), &mut found);
        }
    }
    assert!(
        found.len() > 20,
        "the walk over the sources found only {} files",
        found.len()
    );
    found
}

fn collect(dir: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("readable folder").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("readable source");
            let name = path
                .strip_prefix(root())
                .expect("below the root")
                .to_string_lossy()
                .replace('\\', "/");
            found.push(Source { name, text });
        }
    }
}

#[test]
fn every_source_keeps_every_rule() {
    let complaints: Vec<String> = sources().iter().flat_map(rules::complaints).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn dependencies_point_one_way() {
    let graph = edges::Graph::of_workspace(&root());
    let complaints = edges::complaints(&graph);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for crate_dir in ["proto", "rendezvous", "peer", "netsim-tests"] {
        let manifest = fs::read_to_string(root().join(crate_dir).join("Cargo.toml")).expect("manifest");
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{crate_dir} does not take the workspace's lints"
        );
    }
}

#[test]
fn the_readme_has_exactly_two_set_up_commands() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for command in [
        "cargo run --release -p knothole-netsim -- demo",
        "cargo test --workspace",
    ] {
        assert!(readme.contains(command), "README.md does not name `{command}`");
    }
}
