//! A cell: what the attempts of one pair of kinds came to, held against the oracle.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::demo::PathSeen;
use crate::nat::NatKind;
use crate::oracle::{Expect, misses_too_often};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides send straight to each other.
    Direct,
    /// They talk through the relay.
    Relay,
    /// They do not talk.
    Failed,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How it ended.
    pub end: End,
    /// Milliseconds to a direct path.
    pub to_direct_ms: Option<u64>,
    /// Probes of the side that sent more of them, where they are counted.
    pub probes: Option<u32>,
    /// Most entries that any of the NATs held at one time.
    pub nat_entries: Option<usize>,
    /// The caller's path in the end.
    pub path: Option<PathSeen>,
    /// What went wrong, where anything but a relayed path did.
    pub fault: Option<String>,
}

/// A path, and how many attempts ended on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathShare {
    /// The caller's path.
    pub path: PathSeen,
    /// Attempts.
    pub runs: u32,
}

/// All attempts of one pair of kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Kind of the caller's NAT.
    pub a: &'static str,
    /// Kind of the callee's NAT.
    pub b: &'static str,
    /// Attempts.
    pub runs: u32,
    /// Those that ended on a direct path.
    pub direct: u32,
    /// Those that ended on the relay.
    pub relay: u32,
    /// Those in which the two did not talk.
    pub failed: u32,
    /// What the oracle says of a direct path.
    pub oracle: Expect,
    /// Whether the oracle says that caller and callee reach the server.
    pub reaches: [bool; 2],
    /// Is everything as the oracle says, with nothing broken?
    pub agrees: bool,
    /// Milliseconds to a direct path of the attempts that became direct, in ascending order.
    pub times: Vec<u64>,
    /// Probes of each attempt where they are counted, in ascending order.
    pub probes: Vec<u32>,
    /// Most entries that any NAT held, where they are counted.
    pub nat_entries: Option<usize>,
    /// The caller's paths in the end, the most frequent first.
    pub paths: Vec<PathShare>,
    /// Why not every attempt was direct.
    pub reason: Option<String>,
    /// The command that tries it again.
    pub command: String,
    /// Lines of one attempt, if they were wanted.
    pub trace: Vec<String>,
}

impl Cell {
    /// Sums up the attempts of a pair.
    #[must_use]
    pub fn new(
        [a, b]: [&'static NatKind; 2],
        (oracle, reaches): (Expect, [bool; 2]),
        samples: &[Sample],
        command: String,
    ) -> Self {
        let count =
            |end| u32::try_from(samples.iter().filter(|sample| sample.end == end).count()).unwrap_or(0);
        let mut cell = Self {
            a: a.name,
            b: b.name,
            runs: u32::try_from(samples.len()).unwrap_or(u32::MAX),
            direct: count(End::Direct),
            relay: count(End::Relay),
            failed: count(End::Failed),
            oracle,
            reaches,
            agrees: false,
            times: sorted(samples.iter().filter_map(|sample| sample.to_direct_ms)),
            probes: sorted(samples.iter().filter_map(|sample| sample.probes)),
            nat_entries: samples.iter().filter_map(|sample| sample.nat_entries).max(),
            paths: shares(samples),
            reason: None,
            command,
            trace: Vec::new(),
        };
        let as_foreseen = if cell.can_talk() {
            match oracle {
                Expect::Must => cell.direct == cell.runs,
                Expect::Likely => cell.failed == 0 && !misses_too_often(cell.runs, cell.relay),
                Expect::May => cell.failed == 0,
                Expect::Cannot => cell.relay == cell.runs,
            }
        } else {
            cell.failed == cell.runs
        };
        let fault = samples.iter().find_map(|sample| sample.fault.clone());
        // Where nobody can talk, that the programs say so is no fault.
        cell.agrees = as_foreseen && (fault.is_none() || !cell.can_talk());
        cell.reason = fault.or_else(|| cell.first_detour());
        cell
    }

    /// Does the oracle say that the two can talk at all, if only through the relay?
    #[must_use]
    pub fn can_talk(&self) -> bool {
        !self.reaches.contains(&false)
    }

    /// The time or the number that this share (0.0 to 1.0) of the attempts needed at most.
    #[must_use]
    pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
        let rank = (sorted.len() as f64 * share).ceil().max(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 1 and a length
        sorted.get(rank as usize - 1).copied()
    }

    /// The cell as an object of JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let paths: Vec<Value> = self.paths.iter().map(PathShare::json).collect();
        let (times, probes) = (&self.times, &self.probes);
        json!({
            "a": self.a, "b": self.b, "runs": self.runs,
            "direct": self.direct, "relay": self.relay, "failed": self.failed,
            "oracle": self.oracle.word(), "reaches_server": self.reaches, "agrees": self.agrees,
            "to_direct_ms": { "p50": Self::quantile(times, 0.5), "p95": Self::quantile(times, 0.95) },
            "probes": { "p50": Self::quantile(probes, 0.5), "max": probes.last() },
            "nat_entries": { "max": self.nat_entries },
            "paths": paths, "reason": self.reason, "command": self.command,
        })
    }

    fn first_detour(&self) -> Option<String> {
        let detour = self.paths.iter().find(|share| share.path.kind != "direct");
        detour.map(|share| share.path.detail.clone())
    }
}

impl PathShare {
    fn json(&self) -> Value {
        let detail = if self.path.kind == "direct" { "how" } else { "why" };
        json!({ "kind": self.path.kind, detail: self.path.detail, "runs": self.runs })
    }
}

fn sorted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values
}

fn shares(samples: &[Sample]) -> Vec<PathShare> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for path in samples.iter().filter_map(|sample| sample.path.as_ref()) {
        *counts.entry((&path.kind, &path.detail)).or_default() += 1;
    }
    let mut shares: Vec<PathShare> = counts
        .into_iter()
        .map(|((kind, detail), runs)| PathShare {
            path: PathSeen {
                kind: kind.to_owned(),
                detail: detail.to_owned(),
            },
            runs,
        })
        .collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.runs));
    shares
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::nat::kind;

    pub(crate) fn sample(end: End) -> Sample {
        let path = |kind: &str, detail: &str| {
            Some(PathSeen {
                kind: kind.to_owned(),
                detail: detail.to_owned(),
            })
        };
        Sample {
            end,
            to_direct_ms: (end == End::Direct).then_some(400),
            probes: Some(10),
            nat_entries: Some(6),
            path: match end {
                End::Direct => path("direct", "punched"),
                End::Relay => path("relay", "nothing got through"),
                End::Failed => None,
            },
            fault: None,
        }
    }

    pub(crate) fn cell(expect: Expect, reaches: [bool; 2], ends: &[End]) -> Cell {
        let kinds = [kind("open").unwrap(), kind("symmetric").unwrap()];
        let samples: Vec<Sample> = ends.iter().copied().map(sample).collect();
        Cell::new(kinds, (expect, reaches), &samples, "again".to_owned())
    }

    #[test]
    fn a_cell_agrees_if_every_attempt_ended_as_the_oracle_says() {
        use End::{Direct, Failed, Relay};
        use Expect::{Cannot, Likely, May, Must};
        let both = [true, true];
        for (expect, reaches, ends, agrees) in [
            (Must, both, [Direct, Direct], true),
            (Must, both, [Direct, Relay], false),
            (Likely, both, [Direct, Relay], true),
            (Likely, both, [Direct, Failed], false),
            (May, both, [Direct, Relay], true),
            (May, both, [Relay, Failed], false),
            (Cannot, both, [Relay, Relay], true),
            (Cannot, both, [Relay, Direct], false),
            (Cannot, both, [Relay, Failed], false),
            (Cannot, [true, false], [Failed, Failed], true),
            (Cannot, [true, false], [Failed, Relay], false),
        ] {
            assert_eq!(
                cell(expect, reaches, &ends).agrees,
                agrees,
                "{expect:?} {reaches:?} {ends:?}"
            );
        }
    }

    #[test]
    fn a_broken_rule_is_a_disagreement_whatever_the_paths() {
        let kinds = [kind("open").unwrap(); 2];
        let broken = Sample {
            fault: Some("a rule".to_owned()),
            ..sample(End::Direct)
        };
        let cell = Cell::new(
            kinds,
            (Expect::Must, [true; 2]),
            &[sample(End::Direct), broken],
            String::new(),
        );
        assert_eq!(
            (cell.direct, cell.agrees, cell.reason.as_deref()),
            (2, false, Some("a rule"))
        );
    }

    #[test]
    fn what_was_not_counted_is_null_and_not_zero() {
        let blind = Sample {
            probes: None,
            nat_entries: None,
            to_direct_ms: None,
            ..sample(End::Relay)
        };
        let kinds = [kind("open").unwrap(); 2];
        let json = Cell::new(kinds, (Expect::Cannot, [true; 2]), &[blind], String::new()).json();
        assert_eq!(json["probes"], json!({ "p50": null, "max": null }));
        assert_eq!(json["nat_entries"], json!({ "max": null }));
        assert_eq!(json["to_direct_ms"], json!({ "p50": null, "p95": null }));
        assert_eq!(json["paths"][0]["why"], "nothing got through");
    }

    #[test]
    fn a_share_of_the_attempts_is_counted_in_whole_ones() {
        let times: Vec<u64> = (1..=20).collect();
        assert_eq!(Cell::quantile(&times, 0.5), Some(10));
        assert_eq!(Cell::quantile(&times, 0.95), Some(19));
        assert_eq!(Cell::quantile(&[7], 0.5), Some(7));
        assert_eq!(Cell::quantile::<u64>(&[], 0.5), None);
    }
}
