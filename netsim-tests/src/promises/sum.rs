//! Attempts of a row, and what they come to against the bar.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Bar, Plan, Promise};
use crate::matrix::Cell;

/// One attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Do both sides send straight to each other?
    pub direct: bool,
    /// Milliseconds from the request until they did.
    pub to_direct_ms: Option<u64>,
    /// Milliseconds from the request until the callee had the first datagram, by whatever path.
    pub data_ms: Option<u64>,
    /// What the rounds were, by word.
    pub plans: Vec<String>,
    /// Did any of them guess ports?
    pub guessed: bool,
    /// Probes of each side, where they are counted.
    pub probes: Option<[u32; 2]>,
    /// Packets of each side that looked for a path, where they are counted.
    pub packets: Option<[u32; 2]>,
    /// Sockets that each side opened.
    pub sockets: Option<[u32; 2]>,
    /// Entries made in the NATs of each side, where they are counted.
    pub entries: [Option<u64>; 2],
    /// Most entries that a NAT held at a time, whatever they were for, where they are counted: what connection tracking says where
    /// the kernel plays it.
    pub held: Option<u64>,
    /// Why it is not direct, or what went wrong.
    pub reason: Option<String>,
    /// Something went wrong that no NAT is to blame for.
    pub broken: bool,
    /// What tries it again.
    pub command: String,
}

/// A row, tried.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Name of the row.
    pub name: &'static str,
    /// Which pairs, in words.
    pub pairs: &'static str,
    /// Which pairs, how many.
    pub setups: usize,
    /// Attempts.
    pub runs: u32,
    /// Those that became direct.
    pub direct: u32,
    /// Milliseconds to a direct path of these, in ascending order.
    pub times: Vec<u64>,
    /// Milliseconds until data came, in ascending order.
    pub data: Vec<u64>,
    /// Probes of the side that sent more, in ascending order.
    pub probes: Vec<u32>,
    /// Packets of both sides, in ascending order.
    pub packets: Vec<u32>,
    /// Packets of the side that sent more, most.
    pub packets_side: Option<u32>,
    /// Sockets that a side opened, most.
    pub sockets: Option<u32>,
    /// Entries made at the side that has more, in ascending order.
    pub entries: Vec<u64>,
    /// Most entries that a NAT held at a time, where they are counted.
    pub held: Option<u64>,
    /// Plans of first rounds, by word.
    pub plans: BTreeMap<String, u32>,
    /// What is promised.
    pub bar: Bar,
    /// What others come to.
    pub rival: Option<&'static str>,
    /// What is not as promised, in words; empty: everything is.
    pub missed: Vec<String>,
    /// An attempt that was not as promised: its reason and what tries it again.
    pub example: Option<(String, String)>,
    /// What tries the row again.
    pub command: String,
}

impl Kept {
    /// Sums up the attempts of a row.
    #[must_use]
    pub fn new(promise: &Promise, samples: &[Sample], plan: &Plan) -> Self {
        let count = |test: &dyn Fn(&&Sample) -> bool| {
            u32::try_from(samples.iter().filter(test).count()).unwrap_or(u32::MAX)
        };
        let mut plans = BTreeMap::new();
        for plan in samples.iter().filter_map(|sample| sample.plans.first()) {
            *plans.entry(plan.clone()).or_default() += 1;
        }
        let larger = |pair: [u32; 2]| pair[0].max(pair[1]);
        let mut kept = Self {
            name: promise.name,
            pairs: promise.pairs,
            setups: promise.setups.len(),
            runs: u32::try_from(samples.len()).unwrap_or(u32::MAX),
            direct: count(&|sample| sample.direct),
            times: sorted(samples.iter().filter_map(|sample| sample.to_direct_ms)),
            data: sorted(samples.iter().filter_map(|sample| sample.data_ms)),
            probes: sorted(samples.iter().filter_map(|sample| sample.probes).map(larger)),
            packets: sorted(
                samples
                    .iter()
                    .filter_map(|sample| sample.packets)
                    .map(|[a, b]| a + b),
            ),
            packets_side: samples
                .iter()
                .filter_map(|sample| sample.packets)
                .map(larger)
                .max(),
            sockets: samples
                .iter()
                .filter_map(|sample| sample.sockets)
                .map(larger)
                .max(),
            entries: sorted(
                samples
                    .iter()
                    .filter_map(|sample| sample.entries.into_iter().flatten().max()),
            ),
            held: samples.iter().filter_map(|sample| sample.held).max(),
            plans,
            bar: promise.bar,
            rival: promise.rival,
            missed: Vec::new(),
            example: None,
            command: format!(
                "knothole-netsim matrix --promises --world {}{} --row {} --runs {} --seed {}",
                plan.world.word(),
                plan.world.how(),
                promise.name,
                plan.runs,
                plan.seed
            ),
        };
        kept.missed = kept.judge(promise, samples);
        kept.example = kept.telling(samples);
        kept
    }

    /// Is everything as promised?
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.missed.is_empty()
    }

    /// Share of the attempts that became direct, in percent.
    #[must_use]
    pub fn share(&self) -> f64 {
        100.0 * f64::from(self.direct) / f64::from(self.runs.max(1))
    }

    /// The row as an object of JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let quantiles = |times: &[u64]| json!({ "p50": Cell::quantile(times, 0.5), "p95": Cell::quantile(times, 0.95), "max": times.last() });
        json!({
            "row": self.name, "pairs": self.pairs, "setups": self.setups, "runs": self.runs,
            "direct": self.direct, "share": self.share(), "plans": self.plans,
            "to_direct_ms": quantiles(&self.times), "data_ms": quantiles(&self.data),
            "probes": { "p50": Cell::quantile(&self.probes, 0.5), "max": self.probes.last() },
            "packets": { "p50": Cell::quantile(&self.packets, 0.5), "p99": Cell::quantile(&self.packets, 0.99), "max": self.packets.last(), "side_max": self.packets_side },
            "sockets": { "max": self.sockets }, "nat_entries": { "p99": Cell::quantile(&self.entries, 0.99), "max": self.entries.last() }, "nat_held": { "max": self.held },
            "bar": self.bar.words(), "rival": self.rival, "met": self.is_kept(), "missed": self.missed,
            "reason": self.example.as_ref().map(|(reason, _)| reason),
            "command": self.example.as_ref().map_or(&self.command, |(_, command)| command),
        })
    }

    fn judge(&self, promise: &Promise, samples: &[Sample]) -> Vec<String> {
        let bar = &self.bar;
        let mut missed = Vec::new();
        let mut above = |what: &str, most: Option<u64>, found: Option<u64>| {
            if let (Some(most), Some(found)) = (most, found)
                && found > most
            {
                missed.push(format!("{what} {found} > {most}"));
            }
        };
        above("p50", bar.p50_ms, Cell::quantile(&self.times, 0.5));
        above("p95", bar.p95_ms, Cell::quantile(&self.times, 0.95));
        above(
            "probes",
            bar.probes.map(Into::into),
            self.probes.last().map(|most| u64::from(*most)),
        );
        above(
            "packets of a side",
            bar.packets_side.map(Into::into),
            self.packets_side.map(Into::into),
        );
        above(
            "packets",
            bar.packets.map(Into::into),
            Cell::quantile(&self.packets, 0.99).map(Into::into),
        );
        above("entries", bar.entries, Cell::quantile(&self.entries, 0.99));
        above("held", bar.held, self.held);
        above("data", bar.data_ms, self.data.last().copied());
        for (number, sample) in (0..self.runs).zip(samples) {
            let setup = promise.setup(number, self.runs);
            if let (Some(part), Some((side, block))) = (bar.block_part, setup.block) {
                let most = u64::from(block / part);
                above("ports of a block", Some(most), sample.entries[side]);
            }
        }
        missed.dedup();
        if self.share() < bar.direct {
            missed.push(format!("direct {:.2} % < {} %", self.share(), bar.direct));
        }
        if bar.relay_only {
            let guessed = samples.iter().filter(|sample| sample.guessed).count();
            let unsaid = samples.iter().filter(|sample| sample.reason.is_none()).count();
            // Where nobody measures it, all are silent.
            let silent = (samples.len() - self.data.len()) % samples.len().max(1);
            for (what, found) in [
                ("guessed", guessed),
                ("without a reason", unsaid),
                ("without data", silent),
            ] {
                if found > 0 {
                    missed.push(format!("{found} {what}"));
                }
            }
            if self.direct > 0 {
                missed.push(format!("{} direct", self.direct));
            }
        }
        let broken = samples.iter().filter(|sample| sample.broken).count();
        if broken > 0 {
            missed.push(format!("{broken} broken"));
        }
        missed
    }

    /// The attempt that tells most about what is not as promised.
    fn telling(&self, samples: &[Sample]) -> Option<(String, String)> {
        if self.is_kept() {
            return None;
        }
        let broken = samples.iter().find(|sample| sample.broken);
        let other = samples.iter().find(|sample| sample.direct == self.bar.relay_only);
        let first = self.missed.first().map_or("", String::as_str);
        let most = samples.iter().max_by_key(|sample| match first {
            what if what.starts_with("probes") => sample.probes.map(|[a, b]| u64::from(a.max(b))),
            what if what.starts_with("entries") => sample.entries.into_iter().flatten().max(),
            what if what.starts_with("held") => sample.held,
            _ => sample.to_direct_ms,
        });
        let sample = broken.or(other).or(most)?;
        Some((sample.reason.clone().unwrap_or_default(), sample.command.clone()))
    }
}

fn sorted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::super::{Setup, World};
    use super::*;
    use crate::nat::kind;

    fn direct(ms: u64) -> Sample {
        Sample {
            direct: true,
            to_direct_ms: Some(ms),
            data_ms: Some(200),
            plans: vec!["punch".to_owned()],
            probes: Some([10, 12]),
            packets: Some([14, 16]),
            sockets: Some([0, 1]),
            entries: [Some(3), Some(70)],
            held: Some(100),
            ..Sample::default()
        }
    }

    fn relayed() -> Sample {
        Sample {
            direct: false,
            to_direct_ms: None,
            reason: Some("silence".to_owned()),
            ..direct(0)
        }
    }

    fn kept(bar: Bar, samples: &[Sample]) -> Kept {
        let [a, b] = ["port-restricted", "port-block"].map(|name| kind(name).unwrap());
        let setup = Setup {
            block: Some((1, 512)),
            ..Setup::new(a, b)
        };
        let promise = Promise {
            name: "row",
            pairs: "pairs",
            setups: vec![setup],
            bar,
            rival: None,
        };
        let plan = Plan {
            promises: Vec::new(),
            runs: 1,
            seed: 0,
            jobs: NonZeroUsize::MIN,
            world: World::Memory { cold: false },
        };
        Kept::new(&promise, samples, &plan)
    }

    fn missed(bar: Bar, samples: &[Sample]) -> String {
        kept(bar, samples).missed.join(", ")
    }

    /// Bars of one number each, all a little too high for the attempts of the test.
    fn bars() -> [(Bar, &'static str); 9] {
        let bar = |set: fn(&mut Bar)| {
            let mut bar = Bar::default();
            set(&mut bar);
            bar
        };
        [
            (bar(|bar| bar.p50_ms = Some(299)), "p50 300 > 299"),
            (bar(|bar| bar.p95_ms = Some(399)), "p95 400 > 399"),
            (bar(|bar| bar.probes = Some(11)), "probes 12 > 11"),
            (
                bar(|bar| bar.packets_side = Some(15)),
                "packets of a side 16 > 15",
            ),
            (bar(|bar| bar.packets = Some(29)), "packets 30 > 29"),
            (bar(|bar| bar.entries = Some(69)), "entries 70 > 69"),
            (bar(|bar| bar.held = Some(99)), "held 100 > 99"),
            (bar(|bar| bar.block_part = Some(8)), "ports of a block 70 > 64"),
            (bar(|bar| bar.data_ms = Some(199)), "data 200 > 199"),
        ]
    }

    #[test]
    fn each_bar_is_one_that_can_be_missed() {
        let none = Bar::default();
        let fast = [direct(300), direct(400)];
        assert_eq!(missed(none, &fast), "");
        for (bar, words) in bars() {
            assert_eq!(missed(bar, &fast), words);
            assert!(bar.words().len() > 3);
        }
        let some = Bar { direct: 60.0, ..none };
        assert_eq!(missed(some, &[direct(1), relayed()]), "direct 50.00 % < 60 %");
        let broken = Sample {
            broken: true,
            ..direct(1)
        };
        assert_eq!(missed(none, &[broken]), "1 broken");
    }

    #[test]
    fn where_only_the_relay_can_be_a_guess_a_path_and_silence_are_faults() {
        let bar = Bar {
            relay_only: true,
            ..Bar::default()
        };
        assert_eq!(missed(bar, &[relayed(), relayed()]), "");
        assert_eq!(
            missed(
                bar,
                &[
                    relayed(),
                    Sample {
                        guessed: true,
                        ..relayed()
                    }
                ]
            ),
            "1 guessed"
        );
        assert_eq!(
            missed(
                bar,
                &[
                    relayed(),
                    Sample {
                        data_ms: None,
                        ..relayed()
                    }
                ]
            ),
            "1 without data"
        );
        assert_eq!(
            missed(
                bar,
                &[Sample {
                    reason: None,
                    ..relayed()
                }]
            ),
            "1 without a reason"
        );
        assert_eq!(
            missed(
                bar,
                &[Sample {
                    reason: Some(String::new()),
                    ..direct(1)
                }]
            ),
            "1 direct"
        );
    }

    #[test]
    fn few_attempts_are_spread_over_all_pairs_and_many_come_round() {
        let all = crate::nat::kinds();
        let promise = Promise {
            name: "row",
            pairs: "pairs",
            setups: all.iter().map(|kind| Setup::new(kind, kind)).collect(),
            bar: Bar::default(),
            rival: None,
        };
        let tried = |runs: u32| -> Vec<&str> {
            let setups = (0..runs).map(|number| promise.setup(number, runs));
            setups.map(|setup| setup.kinds[0].name).collect()
        };
        assert_eq!(tried(2), [all[0].name, all[all.len() / 2].name]);
        let many = tried(2 * u32::try_from(all.len()).unwrap());
        assert_eq!(many[..all.len()], many[all.len()..]);
    }

    #[test]
    fn what_was_missed_comes_with_what_tries_it_again() {
        let odd = Sample {
            command: "again".to_owned(),
            ..relayed()
        };
        let row = kept(
            Bar {
                direct: 100.0,
                ..Bar::default()
            },
            &[direct(1), odd],
        );
        assert_eq!(row.example, Some(("silence".to_owned(), "again".to_owned())));
        assert_eq!(
            (row.json()["met"].as_bool(), row.json()["command"].as_str()),
            (Some(false), Some("again"))
        );
        let kept = kept(Bar::default(), &[direct(1)]);
        assert_eq!(kept.example, None);
        assert!(kept.json()["command"].as_str().unwrap().contains("--row row"));
    }
}
