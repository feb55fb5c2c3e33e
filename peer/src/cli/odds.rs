//! The part of `netcheck` that says with whom connections will be direct: asked of the node's own server where it knows this
//! machine, else what is to be expected.

use std::time::Duration;

use knothole_proto::server_url::ServerUrl;
use knothole_proto::wire::{NetworkClass, OddsRow};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::context::Context;
use crate::identity::Identity;
use crate::netcheck::Odds;
use crate::node::{Node, NodeConfig};

/// How long the server's counts are waited for: they are worth no more, and what is expected is known without them.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the node's own server has counted. Empty if it cannot be asked: there is none, or it does not know this machine, which
/// is not to be registered for this; or it does not answer.
pub(super) async fn counted(context: &Context, server: Option<ServerUrl>) -> Vec<OddsRow> {
    let Some(config) = server.and_then(|server| config(context, server)) else {
        return Vec::new();
    };
    let asked = async {
        let node = Node::start(config).await.ok()?;
        let rows = node.odds().await.ok();
        node.shutdown().await;
        rows
    };
    timeout(PATIENCE, asked).await.ok().flatten().unwrap_or_default()
}

/// A node that only asks.
fn config(context: &Context, server: ServerUrl) -> Option<NodeConfig> {
    let book = context.book().ok()?;
    // Remembered means that this machine was registered there.
    let known = book.server.as_ref().is_some_and(|known| known.key == server.key);
    let identity = Identity::load(&context.home.identity()).ok().filter(|_| known)?;
    let mut config = NodeConfig::new(identity, server);
    config.accepting = false;
    config.fingerprint = false;
    config.allow_loopback = context.global.allow_loopback;
    Some(config)
}

/// Lines for people: with whom, and what comes of it.
pub(super) fn lines(odds: &[Odds]) -> Vec<String> {
    let line = |odds: &Odds| {
        let what = match &odds.counted {
            Some(row) => in_words(row),
            None => format!("expected: {}", odds.expected.phrase()),
        };
        format!("with {}: {what}", name(odds.with))
    };
    odds.iter().map(line).collect()
}

/// The same for programs.
pub(super) fn rows(odds: &[Odds]) -> Vec<Value> {
    let row = |odds: &Odds| {
        let counted = odds.counted.as_ref();
        json!({
            "with": odds.with.word(),
            "plan": odds.plan.word(),
            "expected": odds.expected.word(),
            "attempts": counted.map_or(0, |row| row.attempts),
            "direct": counted.map_or(0, |row| row.direct),
            "median_ms": counted.filter(|row| row.direct > 0).map(|row| row.median_ms),
        })
    };
    odds.iter().map(row).collect()
}

fn in_words(row: &OddsRow) -> String {
    let share = 100.0 * f64::from(row.direct) / f64::from(row.attempts.max(1));
    let attempts = match row.attempts {
        1 => "1 attempt".to_owned(),
        many => format!("{} attempts", grouped(many)),
    };
    let median = match row.direct {
        0 => String::new(),
        _ => format!(", median {:.1} s", f64::from(row.median_ms) / 1000.0),
    };
    // Not every one but the last few: that would read as all of them.
    let share = if row.direct < row.attempts {
        share.floor()
    } else {
        share
    };
    format!("direct {share:.0} % of {attempts}{median}")
}

/// `1,240`.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const fn name(class: NetworkClass) -> &'static str {
    match class {
        NetworkClass::Unknown => "an unknown network",
        NetworkClass::Open => "a machine that anyone can reach",
        NetworkClass::FullCone => "a full-cone router",
        NetworkClass::AddressRestricted => "an address-restricted router",
        NetworkClass::PortRestricted => "a port-restricted router",
        NetworkClass::Cone => "a router that keeps its port",
        NetworkClass::Counter => "a symmetric router that counts its ports",
        NetworkClass::PreserveFirst => "a symmetric router that keeps the first port",
        NetworkClass::Block => "a symmetric router with a small block of ports",
        NetworkClass::Random => "a symmetric router with random ports",
        NetworkClass::Symmetric => "a symmetric router whose ports are not known",
    }
}

#[cfg(test)]
mod tests {
    use knothole_proto::punch::Plan;

    use super::*;
    use crate::netcheck::Expected;

    fn odds(counted: Option<(u32, u32)>) -> Odds {
        Odds {
            with: NetworkClass::PortRestricted,
            plan: Plan::Punch,
            expected: Expected::Direct,
            counted: counted.map(|(attempts, direct)| OddsRow {
                classes: [NetworkClass::PortRestricted; 2],
                attempts,
                direct,
                median_ms: 400,
            }),
        }
    }

    #[test]
    fn counts_are_read_at_a_glance_and_nearly_all_is_not_all() {
        let line = |counted| lines(&[odds(counted)]).remove(0);
        assert_eq!(
            line(Some((1240, 1220))),
            "with a port-restricted router: direct 98 % of 1,240 attempts, median 0.4 s"
        );
        assert!(line(Some((1_234_567, 1_234_566))).contains("direct 99 % of 1,234,567 attempts"));
        assert!(line(Some((3, 3))).contains("direct 100 % of 3 attempts"));
        assert_eq!(
            line(Some((1, 0))),
            "with a port-restricted router: direct 0 % of 1 attempt"
        );
        assert_eq!(line(None), "with a port-restricted router: expected: direct");
    }

    #[test]
    fn programs_get_counts_and_what_is_expected_side_by_side() {
        let expected = json!([{
            "with": "port-restricted", "plan": "punch", "expected": "direct", "attempts": 10, "direct": 0, "median_ms": null,
        }]);
        assert_eq!(Value::from(rows(&[odds(Some((10, 0)))])), expected);
        assert_eq!(rows(&[odds(Some((10, 9)))])[0]["median_ms"], 400);
        assert_eq!(rows(&[odds(None)])[0]["attempts"], 0);
    }
}
