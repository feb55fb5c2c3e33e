//! Steps and expectations in words, as a run tells them.

use std::fmt;
use std::time::Duration;

use super::model::{Action, Check, NodeIndex, PathKind, Relay, Scenario, UdpWord, When};

impl Scenario {
    /// How a person would say this step.
    #[must_use]
    pub fn say_action(&self, action: &Action) -> String {
        let node = |index: &NodeIndex| self.node_name(*index);
        match action {
            Action::Connect { from, to, relay } => {
                let how = match relay {
                    Relay::Auto => "",
                    Relay::Never => ", directly or not at all",
                    Relay::Only => ", by the relay only",
                };
                format!("{} connects to {}{how}", node(from), node(to))
            }
            Action::Disconnect { from, to } => format!("{} closes its link with {}", node(from), node(to)),
            Action::Reboot(nat) => format!("{} reboots", self.nat_name(*nat)),
            Action::SetLink(place, _) => format!("the link of {} changes", self.place_name(*place)),
            Action::Blackout {
                place,
                up,
                down,
                lasts,
            } => {
                let way = match (up, down) {
                    (true, false) => " upwards",
                    (false, true) => " downwards",
                    _ => "",
                };
                let time = lasts.map_or(String::new(), |time| format!(" for {}", Seconds(time)));
                format!("the link of {} is dead{way}{time}", self.place_name(*place))
            }
            Action::Udp(nat, UdpWord::Open) => format!("{} lets UDP pass", self.nat_name(*nat)),
            Action::Udp(nat, UdpWord::ServerOnly) => {
                format!("{} lets UDP pass to the server only", self.nat_name(*nat))
            }
            Action::Udp(nat, UdpWord::Blocked) => format!("{} blocks UDP", self.nat_name(*nat)),
            Action::Kill(index) => format!("{} dies", node(index)),
            Action::Start(index) => format!("{} starts", node(index)),
            Action::Restart(index) => format!("{} dies and starts anew", node(index)),
            Action::Switch { node: index, uplink } => {
                let to = self
                    .nodes
                    .get(*index)
                    .and_then(|node| *node.uplinks.get(*uplink)?);
                let to = to.map_or("the public network", |nat| self.nat_name(nat));
                format!("{} moves to {to}", node(index))
            }
            Action::Run(run) => format!("{} runs {}", node(&run.node), run.command.join(" ")),
        }
    }

    /// How a person would say this expectation.
    #[must_use]
    pub fn say_expectation(&self, check: &Check, when: When) -> String {
        let when = match when {
            When::Now | When::At(_) => String::new(),
            When::Within(time) => format!(" within {}", Seconds(time)),
            When::For(time) => format!(" for {}", Seconds(time)),
        };
        let node = |index: &NodeIndex| self.node_name(*index);
        match check {
            Check::Path {
                from,
                to,
                kind,
                how,
                why,
            } => {
                let how = how.as_ref().map_or(String::new(), |how| format!(" ({how})"));
                let why = why
                    .as_ref()
                    .map_or(String::new(), |why| format!(" (\"...{why}...\")"));
                let kind = match kind {
                    PathKind::Direct => "direct",
                    PathKind::Relay => "by relay",
                    PathKind::None => "no path",
                    PathKind::Oracle => "as the NATs allow",
                };
                format!("{} to {}: {kind}{how}{why}{when}", node(from), node(to))
            }
            Check::Registered { nodes, is } => {
                let names: Vec<&str> = nodes.iter().map(node).collect();
                let is = if *is { "registered" } else { "not registered" };
                format!("{} {is}{when}", names.join(", "))
            }
            Check::Answer { from, to } => format!("{} answers {}{when}", node(to), node(from)),
            Check::Traffic { from, to, gap } => {
                format!(
                    "{} to {}: no silence over {}{when}",
                    node(from),
                    node(to),
                    Seconds(*gap)
                )
            }
            Check::Probes { node: index, max } => format!("{} sends at most {max} probes{when}", node(index)),
            Check::NatEntries { nat, max } => {
                format!("{} holds at most {max} entries{when}", self.nat_name(*nat))
            }
        }
    }
}

/// A time in words: `250 ms`, `2.5 s`.
pub(super) struct Seconds(pub(super) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{} s", (self.0.as_secs_f64() * 10.0).round() / 10.0)
        }
    }
}
