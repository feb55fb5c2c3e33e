//! The counter of a NAT that gives ports in a row, and how other people's flows move it on. Knows no mappings.

use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::ports::{FIRST_PORT, PORTS, random_port};

/// Means up to this are drawn exactly, in a time that grows with them; larger ones from the normal distribution, whose
/// shape a Poisson distribution of this mean has to within a fraction of a step.
const EXACT_MEAN_MAX: f64 = 64.0;

/// Uniform draws whose sum stands for a normal one: twelve have the variance 1.
const NORMAL_DRAWS: u32 = 12;

/// Where the counter stands.
#[derive(Debug)]
pub(super) struct Counter {
    next: u16,
    /// When foreign flows were last counted in.
    moved: Option<Instant>,
}

impl Counter {
    pub(super) fn new(rng: &mut ChaCha8Rng) -> Self {
        Self {
            next: random_port(rng),
            moved: None,
        }
    }

    /// The next port in steps for which `free` holds.
    pub(super) fn pick(&mut self, step: u16, free: impl Fn(u16) -> bool) -> Option<u16> {
        let port = walk(self.next, step).find(|port| free(*port));
        if let Some(port) = port {
            self.next = advance(port, u64::from(step));
        }
        port
    }

    /// Counts in the flows of other people since this was asked before: so many a second at random moments, each a step.
    /// The ports that these occupy are not remembered.
    pub(super) fn pass_time(&mut self, step: u16, foreign: u32, rng: &mut ChaCha8Rng, now: Instant) {
        if foreign == 0 {
            return;
        }
        let since = self.moved.replace(now).unwrap_or(now);
        let mean = now.saturating_duration_since(since).as_secs_f64() * f64::from(foreign);
        let flows = poisson(mean, rng) % u64::from(PORTS);
        self.next = advance(self.next, flows * u64::from(step));
    }
}

/// Every port once, in steps from `start` on; where the steps come round to `start`, they begin beside it.
fn walk(start: u16, step: u16) -> impl Iterator<Item = u16> {
    let round = PORTS / gcd(PORTS, u32::from(step));
    (0..PORTS).map(move |i| advance(start, u64::from(i) * u64::from(step) + u64::from(i / round)))
}

/// The port so many behind `port`, beginning anew after the last one.
fn advance(port: u16, by: u64) -> u16 {
    let offset = (u64::from(port.saturating_sub(FIRST_PORT)) + by) % u64::from(PORTS);
    FIRST_PORT + u16::try_from(offset).unwrap_or(0)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many of events with this mean happened.
fn poisson(mean: f64, rng: &mut ChaCha8Rng) -> u64 {
    if mean > EXACT_MEAN_MAX {
        let normal = (0..NORMAL_DRAWS).map(|_| unit(rng)).sum::<f64>() - f64::from(NORMAL_DRAWS) / 2.0;
        return whole(mean + normal * mean.sqrt());
    }
    // Events until the product of uniform draws falls below e^-mean (Knuth, The Art of Computer Programming 3.4.1).
    let (limit, mut product, mut count) = ((-mean).exp(), unit(rng), 0);
    while product > limit {
        product *= unit(rng);
        count += 1;
    }
    count
}

/// An even number in 0.0..1.0.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    f64::from(rng.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

/// The nearest whole number; 0 for negative ones.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from floats saturates, and the sign is cut off before"
)]
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn a_walk_visits_every_port_once_whatever_the_step() {
        for step in [1, 2, 3, 64, 1000, 1024, u16::MAX] {
            let seen: BTreeSet<u16> = walk(5000, step).collect();
            assert_eq!(seen.len(), 64_512, "step {step}");
            assert!(seen.first() >= Some(&1024));
        }
    }

    #[test]
    fn events_come_as_often_as_their_mean_says_and_scatter_as_poisson_does() {
        for mean in [0.3, 5.0, 60.0, 70.0, 40_000.0] {
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            let draws: Vec<f64> = (0..20_000).map(|_| poisson(mean, &mut rng) as f64).collect();
            let average = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|draw| (draw - average).powi(2)).sum::<f64>() / 20_000.0;
            assert!((average / mean - 1.0).abs() < 0.03, "mean {mean}: {average}");
            assert!(
                (variance / mean - 1.0).abs() < 0.05,
                "mean {mean}: variance {variance}"
            );
        }
    }

    #[test]
    fn no_time_no_events_and_an_endless_time_ends() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        assert_eq!(poisson(0.0, &mut rng), 0);
        poisson(f64::MAX, &mut rng);
    }
}
