//! Many attempts, and what they come to.

use std::ops::ControlFlow;
use std::time::Duration;

use knothole_proto::seed::Seed;

use super::attempt::{Attempt, Failure};
use super::fleet::FleetOutcome;
use super::outcome::Outcome;
use super::place::{PLACES, Place};
use super::stranger::Mischief;
use super::weather::{WEATHERS, Weather};
use crate::nat::{NatKind, kinds};

/// Times to a direct path are counted by the millisecond up to this many; slower ones count as the last.
const TIMES: usize = 10_000;

/// What is fixed in a soak; the rest is drawn from each seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// The NAT in front of the caller.
    pub a: Option<&'static NatKind>,
    /// The NAT in front of the callee.
    pub b: Option<&'static NatKind>,
    /// What the links are like.
    pub weather: Option<Weather>,
    /// Whether a stranger meddles, and how. If not given, one attempt in eight has one.
    pub stranger: Option<Option<Mischief>>,
    /// Where the two are. If not given, every second attempt has something other than two ends of the internet.
    pub place: Option<Place>,
    /// A side that starts every round so much later than the other.
    pub skew: Option<(usize, Duration)>,
    /// Whether a timeline of changes follows, which wants calm weather. If not given, one calm attempt in sixteen has one.
    pub changes: Option<bool>,
    /// Whether the caller asks right after its start.
    pub cold: bool,
    /// Whether all machines are busy.
    pub busy: bool,
}

impl Choice {
    /// Two ends of the internet, no stranger, no changes; kinds and weather are drawn.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            stranger: Some(None),
            place: Some(Place::Apart),
            changes: Some(false),
            ..Self::default()
        }
    }

    /// The attempt that a seed stands for.
    #[must_use]
    pub fn attempt(&self, seed: u64) -> Attempt {
        let mut rng = Seed::from_number(seed).child("choice", 0).rng();
        let mut pick = |below: usize| usize::try_from(rng.below(below as u64)).unwrap_or(0);
        let all = kinds();
        let (a, b, weather, stranger) = (pick(all.len()), pick(all.len()), pick(WEATHERS.len()), pick(16));
        let (place, changes) = (pick(2 * PLACES.len()), pick(16) == 0);
        let drawn = match stranger {
            0 => Some(Mischief::Replay),
            1 => Some(Mischief::Race),
            _ => None,
        };
        let mut attempt = Attempt::new(
            self.a.unwrap_or(&all[a]),
            self.b.unwrap_or(&all[b]),
            self.weather.unwrap_or(WEATHERS[weather]),
            seed,
        );
        attempt.skew = self.skew;
        (attempt.cold, attempt.busy) = (self.cold, self.busy);
        attempt.stranger = self.stranger.unwrap_or(drawn);
        let drawn = PLACES.get(place).copied().unwrap_or(Place::Apart);
        attempt.place = self.place.unwrap_or(drawn);
        let undisturbed = attempt.weather == Weather::CALM && attempt.stranger.is_none();
        attempt.changes = self.changes.unwrap_or(changes && undisturbed);
        attempt
    }
}

/// What many attempts came to.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Attempts.
    pub runs: u64,
    /// Those that ended on a direct path.
    pub direct: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// Most probes of one side.
    pub probes_max: u32,
    /// Most entries that an attempt made in a NAT.
    pub nat_entries_max: u64,
    /// Attempts by milliseconds to a direct path.
    times: Vec<u32>,
}

impl Tally {
    /// No attempts yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            runs: 0,
            direct: 0,
            events: 0,
            virtual_time: Duration::ZERO,
            probes_max: 0,
            nat_entries_max: 0,
            times: vec![0; TIMES],
        }
    }

    /// Adds an attempt.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.direct += u64::from(outcome.direct);
        self.events += outcome.events;
        self.virtual_time += outcome.took;
        self.probes_max = self.probes_max.max(outcome.probes());
        self.nat_entries_max = self.nat_entries_max.max(outcome.nat_entries());
        if let Some(time) = outcome.to_direct {
            let ms = usize::try_from(time.as_millis()).unwrap_or(TIMES);
            self.times[ms.min(TIMES - 1)] += 1;
        }
    }

    /// Adds a fleet: its pairs count as attempts.
    pub fn add_fleet(&mut self, outcome: &FleetOutcome) {
        self.runs += outcome.pairs.0 as u64;
        self.direct += outcome.pairs.1 as u64;
        self.events += outcome.events;
        self.virtual_time += outcome.took;
    }

    /// Adds the attempts of another tally.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.direct += other.direct;
        self.events += other.events;
        self.virtual_time += other.virtual_time;
        self.probes_max = self.probes_max.max(other.probes_max);
        self.nat_entries_max = self.nat_entries_max.max(other.nat_entries_max);
        for (sum, more) in self.times.iter_mut().zip(&other.times) {
            *sum += more;
        }
    }

    /// Time to a direct path that this share (0.0 to 1.0) of the direct attempts needed at most, to the millisecond.
    #[must_use]
    pub fn to_direct(&self, share: f64) -> Option<Duration> {
        let mut left = (self.direct as f64 * share).ceil().max(1.0);
        for (ms, count) in self.times.iter().enumerate() {
            left -= f64::from(*count);
            if left <= 0.0 && self.direct > 0 {
                return Some(Duration::from_millis(ms as u64));
            }
        }
        None
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs the attempts of these seeds until `each` breaks off.
///
/// # Errors
/// The first attempt that broke a rule, with the command that repeats it.
pub fn soak(
    seeds: impl IntoIterator<Item = u64>,
    choice: &Choice,
    mut each: impl FnMut(&Attempt, &Outcome) -> ControlFlow<()>,
) -> Result<Tally, Failure> {
    let mut tally = Tally::new();
    for seed in seeds {
        let attempt = choice.attempt(seed);
        let outcome = attempt.run()?;
        tally.add(&outcome);
        if each(&attempt, &outcome).is_break() {
            break;
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_attempt_and_seeds_for_many() {
        let choice = Choice::default();
        let pairs: std::collections::BTreeSet<_> = (0..20_000)
            .map(|seed| choice.attempt(seed))
            .map(|attempt| (attempt.a.name, attempt.b.name))
            .collect();
        assert_eq!(pairs.len(), kinds().len() * kinds().len());
        assert_eq!(choice.attempt(3).command(), choice.attempt(3).command());
    }
}
