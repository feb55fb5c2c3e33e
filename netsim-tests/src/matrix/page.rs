//! The matrix as one page for a browser: everything in it, nothing fetched.

use serde_json::{Value, json};

use super::{Cell, Report, World};
use crate::nat::{NatKind, kinds};
use crate::oracle::Expect;

/// The page, with a place for the data.
const TEMPLATE: &str = include_str!("page.html");

/// That place. It stands in a script of type `application/json`, so that nothing in it is run.
const PLACE: &str = "@DATA@";

/// Writes the page.
#[must_use]
pub fn page(report: &Report) -> String {
    TEMPLATE.replacen(PLACE, &embedded(&data(report)), 1)
}

/// Text that can stand in a script element: no end tag, no comment.
fn embedded(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c")
}

fn data(report: &Report) -> Value {
    let plan = &report.plan;
    let name = |kind: &&'static NatKind| kind.name;
    let weather = match &plan.world {
        World::Memory { weather } => Some(weather.name),
        World::Namespaces { .. } => None,
    };
    let shown = |kind: &&NatKind| {
        plan.callers
            .iter()
            .chain(&plan.callees)
            .any(|known| known.name == kind.name)
    };
    json!({
        "schema": 1,
        "world": plan.world.word(),
        "weather": weather,
        "runs": plan.runs,
        "seed": plan.seed.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "complete": report.is_complete(),
        "seconds": report.took.as_secs_f64(),
        "callers": plan.callers.iter().map(name).collect::<Vec<_>>(),
        "callees": plan.callees.iter().map(name).collect::<Vec<_>>(),
        "kinds": kinds().iter().enumerate().filter(|(_, kind)| shown(kind)).map(|(place, kind)| described(place + 1, kind)).collect::<Vec<_>>(),
        "cells": report.cells.iter().map(with_details).collect::<Vec<_>>(),
    })
}

fn described(number: usize, kind: &NatKind) -> Value {
    let nats: Vec<String> = kind.chain(&[]).iter().map(ToString::to_string).collect();
    let families = match (kind.families.v4, kind.families.v6) {
        (true, true) => "IPv4 and IPv6",
        (false, true) => "IPv6 only",
        _ => "IPv4 only",
    };
    json!({ "number": number, "name": kind.name, "doc": kind.doc, "nats": nats, "families": families })
}

fn with_details(cell: &Cell) -> Value {
    let mut value = cell.json();
    let because = match (cell.can_talk(), cell.oracle) {
        (false, _) => "no way to the server over UDP, so the two cannot talk",
        (true, Expect::Must) => "a direct path must come about in every attempt",
        (true, Expect::Likely) => "a direct path comes about nearly always: ports are counted or guessed",
        (true, Expect::May) => "a direct path may come about; otherwise the relay carries the traffic",
        (true, Expect::Cannot) => "no direct path is possible; the relay carries the traffic",
    };
    if let Value::Object(fields) = &mut value {
        fields.insert("foreseen".to_owned(), json!(because));
        fields.insert("times".to_owned(), json!(cell.times));
        fields.insert("trace".to_owned(), json!(cell.trace));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_fetches_nothing_and_has_one_place_for_its_data() {
        assert_eq!(TEMPLATE.matches(PLACE).count(), 1);
        for word in ["://", "<link", "src=", "@import", "url("] {
            assert!(!TEMPLATE.contains(word), "{word}");
        }
    }

    #[test]
    fn data_cannot_end_the_script_that_it_stands_in() {
        let text = embedded(&json!({ "reason": "</script><!--" }));
        assert!(!text.contains('<'), "{text}");
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap()["reason"],
            "</script><!--"
        );
    }
}
