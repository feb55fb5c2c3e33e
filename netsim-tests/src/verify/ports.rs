//! How external ports follow each other: from what was seen to a [`Ports`]. Knows no socket.

use std::time::Duration;

use super::facts::Ports;

/// Ports that are given out by choice are 1024..=65535, and a counter begins anew at the end.
const SPAN: u32 = 64_512;

/// Two ports in a row that are no further apart can have been counted, mappings of others between them included.
const FARTHEST: u32 = 1_024;

/// Ports all of which lie within so many are not drawn from all: of forty, one time in 10^47.
const BLOCK_MAX: u16 = 4_096;

/// One mapping that was made during a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Port of the socket on its host.
    pub(super) inside: u16,
    /// Port of the mapping.
    pub(super) external: u16,
    /// Is it the first mapping of this socket?
    pub(super) first: bool,
}

/// What rule these mappings, listed in the order in which they were made, follow. `took` is the time from the first to the
/// last.
pub(super) fn classify(seen: &[Seen], took: Duration) -> Ports {
    let preserved = |seen: &&Seen| seen.inside == seen.external;
    let (kept, changed): (Vec<&Seen>, Vec<&Seen>) = seen.iter().partition(preserved);
    let numbers: Vec<u16> = changed.iter().map(|seen| seen.external).collect();
    if numbers.is_empty() {
        return Ports::Preserved;
    }
    let counted = counted(&numbers);
    // A random port hits the inside one now and then; a box that keeps the first one does so every time.
    let firsts = seen.iter().filter(|seen| seen.first).count();
    if firsts > 1 && kept.len() == firsts && kept.iter().all(|seen| seen.first) {
        return match counted {
            Some((step, 0)) => Ports::FirstPreservedThenCounted(step),
            _ => Ports::FirstPreserved,
        };
    }
    if let Some((step, foreign)) = counted {
        return Ports::Counted {
            step,
            foreign: f64::from(foreign) / took.as_secs_f64().max(f64::MIN_POSITIVE),
        };
    }
    let (low, high) = numbers.iter().fold((u16::MAX, 0), |(low, high), port| {
        (low.min(*port), high.max(*port))
    });
    match high - low {
        apart if apart < BLOCK_MAX => Ports::Block { size: apart + 1, low },
        _ => Ports::Random,
    }
}

/// If the numbers were counted: the step, and how many steps are missing in between.
fn counted(numbers: &[u16]) -> Option<(u16, u32)> {
    let ahead = |pair: &[u16]| (u32::from(pair[1]) + SPAN - u32::from(pair[0])) % SPAN;
    let distances: Vec<u32> = numbers.windows(2).map(ahead).collect();
    if distances.is_empty() || distances.iter().any(|ahead| !(1..=FARTHEST).contains(ahead)) {
        return None;
    }
    let step = distances.iter().fold(0, |step, ahead| gcd(step, *ahead));
    let missing = distances.iter().map(|ahead| ahead / step - 1).sum();
    Some((u16::try_from(step).ok()?, missing))
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fresh(ports: impl IntoIterator<Item = (u16, u16)>) -> Vec<Seen> {
        let seen = |(inside, external)| Seen {
            inside,
            external,
            first: true,
        };
        ports.into_iter().map(seen).collect()
    }

    #[test]
    fn ports_that_are_the_inside_ones_are_preserved() {
        let seen = fresh((0..20).map(|n| (40_000 + n, 40_000 + n)));
        assert_eq!(classify(&seen, SECOND), Ports::Preserved);
    }

    #[test]
    fn a_counter_is_seen_through_its_wrap_and_through_mappings_of_others() {
        let quiet = fresh([65_530, 65_533, 1_024, 1_027].map(|port| (5, port)));
        let (step, foreign) = (3, 0.0);
        assert_eq!(classify(&quiet, SECOND), Ports::Counted { step, foreign });
        let busy = fresh([2_000, 2_002, 2_008, 2_010, 2_014].map(|port| (5, port)));
        let (step, foreign) = (2, 3.0);
        assert_eq!(classify(&busy, SECOND), Ports::Counted { step, foreign });
    }

    #[test]
    fn a_first_port_that_is_kept_is_told_from_ports_that_all_are() {
        let pair = |inside, second| {
            let first = |external, first| Seen {
                inside,
                external,
                first,
            };
            [first(inside, true), first(second, false)]
        };
        let counted = [pair(40_000, 7_000), pair(40_001, 7_001), pair(40_002, 7_002)].concat();
        assert_eq!(classify(&counted, SECOND), Ports::FirstPreservedThenCounted(1));
        let random = [pair(40_000, 9_000), pair(40_001, 61_000), pair(40_002, 7_002)].concat();
        assert_eq!(classify(&random, SECOND), Ports::FirstPreserved);
    }

    #[test]
    fn few_ports_are_a_block_and_all_ports_are_random() {
        let block = fresh([5_130, 5_620, 5_121, 5_400].map(|port| (5, port)));
        let (size, low) = (500, 5_121);
        assert_eq!(classify(&block, SECOND), Ports::Block { size, low });
        let random = fresh([5_130, 62_620, 25_121, 45_400].map(|port| (5, port)));
        assert_eq!(classify(&random, SECOND), Ports::Random);
    }
}
