//! How ports are chosen, told from samples: sockets that each sent one packet, 2 ms apart, and the ports they got.
//!
//! Pure arithmetic on what was seen. `nat-techniques` sections 3.2 and 3.3 give the error rates that the thresholds rest on.

use std::time::{Duration, Instant};

use super::facts::Allocation;

/// Fewest samples that decide between a counter, a block and chance: six random ports of the smallest block are in order
/// by chance in one case of 360, and the second burst asks again.
pub(super) const SAMPLES_MIN: usize = 6;

/// Longest step between two samples in a row that still is a counter. With 2 ms between them it takes thousands of foreign
/// flows a second to pass it.
const STEP_MAX: i32 = 64;

/// Two packets of a burst that left further apart than this do not show whether ports are counted. With the 2 ms that they are
/// meant to be apart a counter shows up to thousands of foreign flows a second, with this up to a thousand; less would
/// throw the bursts of busy machines away.
const TORN: Duration = Duration::from_millis(50);

/// Fewest pairs that show a counter. Random ports of the smallest block look counted by chance in one case of 300, and a second
/// burst asks again; more would throw more bursts of busy machines away.
const PAIRS_MIN: usize = 3;

/// So many pairs of a burst need not fit: a packet that was overtaken, or one before which the machine stood still without
/// noticing it itself.
const MISFITS_MAX: usize = 1;

/// Widest range of a block. Eight random ports lie within it by chance in 4 of a million cases.
const BLOCK_MAX: u16 = 8192;

/// Ports from 1024 on, round which counters run.
const SPAN: i32 = 65_536 - 1024;

/// Lowest ports of the upper half and the upper quarter: the ranges of Linux and of RFC 6335 for short-lived ports.
const HALVES: [u16; 2] = [49_152, 32_768];

/// Samples from which on the upper half is no chance: 2^-16, or one of 65,536. The quarter needs half as many.
const HALF_SAMPLES: usize = 16;

/// A socket that sent one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// Its number in the burst.
    pub(super) number: usize,
    /// Its place among all flows that were opened, so that a gap shows how many are missing in between.
    pub(super) place: i32,
    /// The inside port.
    pub(super) local: u16,
    /// The external port.
    pub(super) mapped: u16,
    /// When it sent.
    pub(super) at: Instant,
}

/// Whether ports are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// Yes, two in a row are so far apart.
    Step(i32),
    /// The samples lie too far apart in time to tell.
    Torn,
    /// No.
    Not,
}

/// What a burst says; `None` if it is too small, or took too long, to say anything.
pub(super) fn classify(samples: &[Sample]) -> Option<Allocation> {
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let kept = samples
        .iter()
        .filter(|sample| sample.local == sample.mapped)
        .count();
    // A few may have met a taken port.
    if kept * 4 >= samples.len() * 3 {
        return Some(Allocation::Preserving);
    }
    match count(samples) {
        Count::Step(step) => Some(Allocation::Counter { step, rate: None }),
        // So wide that no counter came this far meanwhile.
        Count::Torn if width(samples) >= BLOCK_MAX => Some(spread(samples)),
        Count::Torn => None,
        Count::Not => Some(spread(samples)),
    }
}

fn width(samples: &[Sample]) -> u16 {
    let ports = || samples.iter().map(|sample| sample.mapped);
    let (low, high) = (ports().min(), ports().max());
    low.zip(high).map_or(0, |(low, high)| high - low)
}

/// Are the ports counted? Two samples in a row say so if the later one got the port of a few flows later. Where the machine, or
/// the way to the router, stood still in between, thousands of foreign flows may have come, and the pair says nothing.
pub(super) fn count(samples: &[Sample]) -> Count {
    let in_a_row = samples.windows(2).filter_map(|pair| match pair {
        [a, b] => Some((a, b)),
        _ => None,
    });
    let close = in_a_row.filter(|(a, b)| b.at.saturating_duration_since(a.at) <= TORN);
    let pairs: Vec<(i32, i32)> = close
        .map(|(a, b)| (distance(a.mapped, b.mapped), (b.place - a.place).max(1)))
        .collect();
    if pairs.len() < PAIRS_MIN {
        return Count::Torn;
    }
    for sign in [1, -1] {
        let fits = |(far, gap): &&(i32, i32)| far.signum() == sign && far.abs() <= STEP_MAX * gap;
        let fitting: Vec<&(i32, i32)> = pairs.iter().filter(fits).collect();
        let step = fitting
            .iter()
            .filter(|(_, gap)| *gap == 1)
            .map(|(far, _)| far.abs());
        if fitting.len() + MISFITS_MAX >= pairs.len()
            && fitting.len() >= PAIRS_MIN
            && let Some(step) = step.min()
        {
            return Count::Step(sign * step);
        }
    }
    Count::Not
}

/// Ports that follow no counter: how wide do they lie?
pub(super) fn spread(samples: &[Sample]) -> Allocation {
    let ports = || samples.iter().map(|sample| sample.mapped);
    let (Some(low), Some(high)) = (ports().min(), ports().max()) else {
        return Allocation::Random;
    };
    let range = width(samples);
    if range < BLOCK_MAX {
        // The window rule of `nat-techniques` section 3.2: it holds 96 % of a block without assuming how it is aligned.
        let between = u16::try_from(samples.len().saturating_sub(1))
            .unwrap_or(u16::MAX)
            .max(1);
        let margin = (range / between).saturating_mul(2);
        return Allocation::Block {
            low: low.saturating_sub(margin).max(1),
            high: high.saturating_add(margin),
            seen: (low, high),
        };
    }
    let enough = |from: u16| {
        samples.len()
            >= if from == HALVES[0] {
                HALF_SAMPLES / 2
            } else {
                HALF_SAMPLES
            }
    };
    let half = HALVES.into_iter().find(|from| low >= *from && enough(*from));
    half.map_or(Allocation::Random, |from| Allocation::HalfRange { from })
}

/// Could more samples show that only the upper half is used?
pub(super) fn may_be_half(samples: &[Sample]) -> bool {
    samples.iter().all(|sample| sample.mapped >= HALVES[1])
}

/// Are these so many that it would be no chance?
pub(super) fn is_enough_for_half(samples: &[Sample]) -> bool {
    samples.len() >= HALF_SAMPLES
}

/// New flows that others opened between two samples of a counter, given its step.
pub(super) fn foreign(a: Sample, b: Sample, step: i32) -> Option<u32> {
    let own = b.place - a.place;
    // Beyond one round of the counter the distance tells nothing; half a round is the most that is told either way.
    let moved = distance(a.mapped, b.mapped).checked_div(step)?;
    u32::try_from((moved - own).max(0)).ok()
}

/// From one port to another, the shorter way round.
fn distance(from: u16, to: u16) -> i32 {
    let far = i32::from(to) - i32::from(from);
    (far + SPAN / 2).rem_euclid(SPAN) - SPAN / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    fn samples(ports: &[u16]) -> Vec<Sample> {
        let numbered = ports.iter().zip(0..);
        numbered
            .map(|(mapped, place)| Sample {
                number: 0,
                place,
                local: 50_000 + u16::try_from(place).unwrap(),
                mapped: *mapped,
                at: epoch() + Duration::from_millis(2) * u32::try_from(place).unwrap(),
            })
            .collect()
    }

    fn of(ports: &[u16]) -> Option<Allocation> {
        classify(&samples(ports))
    }

    #[test]
    fn a_counter_is_seen_through_foreign_flows_gaps_and_its_end() {
        let counter = |step| Some(Allocation::Counter { step, rate: None });
        assert_eq!(of(&[7000, 7001, 7002, 7003, 7004, 7005]), counter(1));
        assert_eq!(of(&[7000, 7002, 7008, 7010, 7012, 7020, 7022]), counter(2));
        assert_eq!(of(&[7005, 7004, 7003, 7002, 7000, 6999]), counter(-1));
        assert_eq!(
            of(&[65_533, 65_535, 1025, 1027, 1029, 1031]),
            counter(2),
            "round the end"
        );
        let mut gap = samples(&[7000, 7001, 7102, 7103, 7104, 7105]);
        for sample in &mut gap[2..] {
            sample.place += 100;
        }
        assert_eq!(classify(&gap), counter(1), "own flows in between");
    }

    #[test]
    fn random_ports_are_a_block_half_the_range_or_all_of_it() {
        assert!(matches!(
            of(&[7000, 7200, 7100, 7300, 7050, 7250, 7150, 7010]),
            Some(Allocation::Block {
                low: 6916,
                high: 7384,
                seen: (7000, 7300)
            })
        ));
        assert_eq!(
            of(&[2000, 60_000, 31_000, 9000, 45_000, 22_000]),
            Some(Allocation::Random)
        );
        let high: Vec<u16> = (0..16).map(|n| 33_000 + (n * 1919) % 32_000).collect();
        assert_eq!(of(&high[..8]), Some(Allocation::Random), "eight may be chance");
        assert!(may_be_half(&samples(&high[..8])));
        assert_eq!(of(&high), Some(Allocation::HalfRange { from: 32_768 }));
        let quarter: Vec<u16> = (0..8).map(|n| 49_152 + (n * 7919) % 16_000).collect();
        assert_eq!(of(&quarter), Some(Allocation::HalfRange { from: 49_152 }));
    }

    #[test]
    fn kept_ports_are_kept_even_if_some_were_taken() {
        let ports = [50_000, 50_001, 9, 50_003, 50_004, 50_005, 50_006, 50_007];
        assert_eq!(of(&ports), Some(Allocation::Preserving));
    }

    #[test]
    fn too_few_samples_say_nothing() {
        assert_eq!(of(&[1, 2, 3, 4, 5]), None);
    }

    #[test]
    fn a_counter_is_seen_although_the_machine_stood_still_in_the_middle_of_a_burst() {
        let counter = Some(Allocation::Counter { step: 1, rate: None });
        let ports = [7000, 7001, 7002, 7090, 7091, 7092, 7093, 7094];
        assert_eq!(of(&ports), counter, "without that it was noticed");
        let mut noticed = samples(&[7000, 7001, 7090, 7091, 7092, 7200, 7201, 7202]);
        for (from, ms) in [(2, 3000), (5, 4000)] {
            for sample in &mut noticed[from..] {
                sample.at += Duration::from_millis(ms);
            }
        }
        assert_eq!(classify(&noticed), counter);
        for (number, sample) in (0..).zip(&mut noticed) {
            sample.at += Duration::from_millis(100) * number;
        }
        assert_eq!(classify(&noticed), None, "nothing is left of the burst");
    }

    #[test]
    fn a_counter_is_seen_although_a_packet_was_overtaken() {
        let counter = Some(Allocation::Counter { step: 1, rate: None });
        assert_eq!(of(&[7000, 7001, 7003, 7002, 7004, 7005, 7006, 7007]), counter);
    }

    #[test]
    fn foreign_flows_are_what_the_counter_moved_beyond_the_own_ones() {
        let at = |place, mapped| Sample {
            number: 0,
            place,
            local: 1,
            mapped,
            at: epoch(),
        };
        assert_eq!(foreign(at(0, 7000), at(2, 7094), 2), Some(45));
        assert_eq!(foreign(at(0, 7000), at(3, 7003), 1), Some(0));
        assert_eq!(foreign(at(0, 65_530), at(1, 1030), 1), Some(11));
        assert_eq!(foreign(at(0, 1), at(1, 2), 0), None);
    }
}
