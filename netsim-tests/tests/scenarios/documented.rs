//! `docs/scenarios.md`: its example is a scenario, and has every word that the reference explains.

use std::path::Path;

use knothole_netsim::scenario::{Scenario, What};

fn page() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scenarios.md");
    std::fs::read_to_string(file).unwrap()
}

/// The one block of TOML on the page.
fn example(page: &str) -> &str {
    let (_, rest) = page.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_example_of_everything_is_a_scenario() {
    let page = page();
    let scenario = Scenario::parse(Path::new("docs/scenarios.md"), example(&page)).unwrap();
    let (mut steps, mut checks) = (0, 0);
    for item in &scenario.timeline {
        match item.what {
            What::Step { .. } => steps += 1,
            What::Expect { .. } => checks += 1,
        }
    }
    assert_eq!(
        (scenario.nats.len(), scenario.nodes.len(), steps, checks),
        (4, 5, 11, 7)
    );
}

#[test]
fn every_word_of_the_tables_is_in_the_example() {
    let page = page();
    let example = example(&page);
    let (_, reference) = page.split_once("## Outside of any table").unwrap();
    let (reference, _) = reference.split_once("### What only one world can do").unwrap();
    // `corrupt`, `capture` and `switch` are for worlds and versions that the example is not alone for.
    let elsewhere = ["key", "step", "expectation", "capture", "switch", "unregistered"];
    for row in reference.lines().filter(|line| line.starts_with("| `")) {
        let first = row.split('|').nth(1).unwrap();
        for word in first.split('`').skip(1).step_by(2) {
            let word = word.split([' ', '=']).next().unwrap();
            if word.is_empty() || elsewhere.contains(&word) {
                continue;
            }
            let used = example.lines().any(|line| {
                let code = line.split('#').next().unwrap();
                code.contains(&format!("{word} =")) || code.contains(&format!(" {word} "))
            });
            assert!(used, "the example lacks {word:?}");
        }
    }
}
