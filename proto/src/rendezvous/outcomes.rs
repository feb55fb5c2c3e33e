//! What came of attempts to connect directly, counted by what the two networks are and by plan. Nothing in it tells who
//! tried, and it cannot grow beyond the pairs of classes times the plans.

use std::collections::BTreeMap;

use super::command::ConnId;
use super::registry::Registry;
use super::sessions::Tried;
use crate::id::{RequestId, SessionId};
use crate::plan::plan;
use crate::wire::odds::{NetworkClass, ODDS_ROWS_MAX, OddsRow};
use crate::wire::{FromServer, Report, Role};

/// Upper ends of the histogram's buckets, in milliseconds; a last one takes the rest. They are the times that are promised
/// for one kind of pair or another.
pub const BUCKETS_MS: [u32; 10] = [200, 300, 400, 600, 1_000, 1_500, 2_000, 3_000, 4_000, 8_000];

/// Longer is not believed: an attempt is over before. One liar then cannot spoil a sum for long.
const LONGEST_MS: u32 = 60_000;

/// How attempts of one kind ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Reported rounds.
    pub attempts: u64,
    /// Those that found a direct path.
    pub direct: u64,
    /// Time they took together, from introduction to proven path, in milliseconds.
    pub direct_ms: u64,
    /// How many took how long: see [`BUCKETS_MS`].
    pub buckets: [u64; BUCKETS_MS.len() + 1],
}

impl Outcome {
    fn count(&mut self, direct_ms: Option<u32>) {
        self.attempts += 1;
        let Some(ms) = direct_ms.map(|ms| ms.min(LONGEST_MS)) else {
            return;
        };
        self.direct += 1;
        self.direct_ms += u64::from(ms);
        let bucket = BUCKETS_MS.partition_point(|end| *end < ms);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.direct += other.direct;
        self.direct_ms += other.direct_ms;
        for (own, more) in self.buckets.iter_mut().zip(other.buckets) {
            *own += more;
        }
    }

    /// Half of the direct ones were faster, in milliseconds: as exact as the buckets are. 0 if there were none.
    pub fn median_ms(&self) -> u32 {
        let half = self.direct.div_ceil(2);
        let (mut before, mut from) = (0, 0);
        let ends = BUCKETS_MS.into_iter().chain([LONGEST_MS]);
        for (count, to) in self.buckets.into_iter().zip(ends) {
            if count > 0 && before + count >= half {
                // As if those of one bucket were spread evenly over it.
                let inside = u64::from(to - from) * (half - before) / count;
                return from + u32::try_from(inside).unwrap_or(0);
            }
            before += count;
            from = to;
        }
        0
    }
}

/// What attempts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sort {
    /// What the two networks are, the smaller number first: who calls makes no difference that matters.
    pub classes: [NetworkClass; 2],
    /// The word of the plan.
    pub plan: &'static str,
}

/// The counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes(BTreeMap<Sort, Outcome>);

impl Outcomes {
    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&Sort, &Outcome)> {
        self.0.iter()
    }

    /// What they come to: reported rounds, and those that found a direct path.
    pub fn totals(&self) -> (u64, u64) {
        self.0.values().fold((0, 0), |(attempts, direct), outcome| {
            (attempts + outcome.attempts, direct + outcome.direct)
        })
    }

    /// For nodes: by classes alone, those with the most attempts if there are too many.
    pub fn odds(&self) -> Vec<OddsRow> {
        let mut pairs: BTreeMap<[NetworkClass; 2], Outcome> = BTreeMap::new();
        for (sort, outcome) in &self.0 {
            pairs.entry(sort.classes).or_default().add(outcome);
        }
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let mut rows: Vec<OddsRow> = pairs
            .into_iter()
            .map(|(classes, outcome)| OddsRow {
                classes,
                attempts: count(outcome.attempts),
                direct: count(outcome.direct),
                median_ms: outcome.median_ms(),
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.attempts));
        rows.truncate(ODDS_ROWS_MAX);
        rows.sort_by_key(|row| row.classes);
        rows
    }

    fn count(&mut self, tried: &Tried, direct_ms: Option<u32>) {
        let mut classes = tried.classes;
        classes.sort_unstable();
        let plan = tried.plan.word();
        self.0.entry(Sort { classes, plan }).or_default().count(direct_ms);
    }
}

impl Registry {
    /// A round of this session begins: remember what is tried, for the report on it.
    pub(super) fn note_round(&mut self, id: SessionId, again: bool, guess: bool) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let tried = session.policy().direct.then(|| {
            let networks = session.conns().map(|conn| self.network(conn));
            Tried {
                round: session.round,
                classes: networks.map(|network| NetworkClass::from(&network)),
                plan: plan(networks, again, guess),
            }
        });
        if let Some(session) = self.sessions.get_mut(id) {
            session.tried = [tried, session.tried[0]];
        }
    }

    /// How a round ended for one side. The caller's word counts, once for each round; the callee sees the same path or none.
    pub(super) fn report(&mut self, conn: ConnId, report: Report) {
        let Some(session) = self.sessions.get_mut(report.session) else {
            return;
        };
        if session.role_of(conn) != Some(Role::Caller) {
            return;
        }
        if report.round == session.round {
            session.direct = report.direct_ms.is_some();
        }
        let of_round = |tried: &Tried| tried.round == report.round;
        let tried = session
            .tried
            .iter_mut()
            .find(|tried| tried.as_ref().is_some_and(of_round));
        if let Some(tried) = tried.and_then(Option::take) {
            self.counts.outcomes.count(&tried, report.direct_ms);
        }
    }

    /// A node wants to know what to expect.
    pub(super) fn tell_odds(&mut self, conn: ConnId, request: RequestId) {
        let rows = self.counts.outcomes.odds();
        self.send(conn, FromServer::Odds { request, rows });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn outcome(times: &[u32]) -> Outcome {
        let mut outcome = Outcome::default();
        times.iter().for_each(|ms| outcome.count(Some(*ms)));
        outcome
    }

    #[test]
    fn a_median_lies_in_its_bucket_and_is_told_as_if_the_bucket_were_even() {
        assert_eq!(Outcome::default().median_ms(), 0);
        let even: Vec<u32> = (1..=100).map(|number| 300 + number).collect();
        assert_eq!(outcome(&even).median_ms(), 350);
        let mixed = outcome(&[100, 100, 450, 9_000, 9_000]);
        assert!((400..=600).contains(&mixed.median_ms()), "{}", mixed.median_ms());
        assert_eq!(outcome(&[u32::MAX]).median_ms(), LONGEST_MS);
        assert_eq!(outcome(&[0]).median_ms(), 200, "the end of the first bucket");
    }

    #[test]
    fn an_attempt_without_a_path_counts_and_takes_no_time() {
        let mut outcome = outcome(&[200, 201, u32::MAX]);
        outcome.count(None);
        assert_eq!((outcome.attempts, outcome.direct), (4, 3));
        assert_eq!(outcome.direct_ms, 401 + u64::from(LONGEST_MS));
        assert_eq!(
            (outcome.buckets[0], outcome.buckets[1], outcome.buckets[10]),
            (1, 1, 1)
        );
    }

    #[test]
    fn there_are_never_more_counts_than_pairs_times_plans_nor_more_rows_than_are_allowed() {
        let mut outcomes = Outcomes::default();
        let plans = [
            Plan::Dial,
            Plan::Punch,
            Plan::Reverse { by: Role::Caller },
            Plan::Reverse { by: Role::Callee },
        ];
        for one in NetworkClass::ALL {
            for other in NetworkClass::ALL {
                for plan in plans {
                    let classes = [one, other];
                    outcomes.count(
                        &Tried {
                            round: 0,
                            classes,
                            plan,
                        },
                        Some(1),
                    );
                }
            }
        }
        assert_eq!(
            outcomes.iter().count(),
            11 * 12 / 2 * 3,
            "both ways round are one"
        );
        assert_eq!(outcomes.totals(), (121 * 4, 121 * 4));
        let rows = outcomes.odds();
        assert_eq!(rows.len(), ODDS_ROWS_MAX);
        assert!(rows.iter().all(|row| row.classes.is_sorted()));
    }
}
