//! Bursts of fresh sockets that show how ports are chosen.

use std::net::SocketAddr;
use std::time::Duration;

use super::facts::{Allocation, Fact, Mapping, Obstacle};
use super::flows::Flows;
use super::ports::{self, Count, Sample};
use super::question::Outcome;
use crate::path::SocketId;

/// Sockets of a burst. Eight samples tell a block of 4,096 from all ports with an error of 4 in a million, four only one
/// of 1,024 (`nat-techniques` section 3.2).
pub(super) const BURST: usize = 8;

/// From the first burst to the second one that shows the rate of foreign flows: at one a second it sees one or two.
/// Longer would be surer of slow rates, which matter less, and would make the run longer.
pub(super) const SECOND_AFTER: Duration = Duration::from_millis(1500);

/// Most bursts of a run: one for each reason, and two that got lost.
const WAVES_MAX: usize = 5;

/// Why a burst was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wave {
    /// Fresh sockets.
    First,
    /// The same sockets to a second destination.
    OtherDestination,
    /// Fresh sockets, later.
    Later,
    /// Fresh sockets, for more samples.
    More,
}

/// A burst on its way.
#[derive(Debug)]
pub(super) struct Burst {
    pub(super) wave: Wave,
    pub(super) to: SocketAddr,
    pub(super) sockets: Vec<SocketId>,
    outcomes: Vec<Outcome>,
}

/// What is to be done next about ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for the burst under way.
    Wait,
    /// Send one of this kind.
    Send(Wave),
    /// Ports are counted with this step; send one for the rate.
    Rate(i32),
    /// It is known.
    Known(Fact<Allocation>),
}

/// All bursts of a run.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    pub(super) all: Vec<Burst>,
    /// The step of a counter, as soon as one burst has shown it.
    pub(super) step: Option<i32>,
    /// The result, once it is there.
    pub(super) result: Option<Fact<Allocation>>,
}

impl Bursts {
    /// A burst from these sockets; its number.
    pub(super) fn begin(&mut self, wave: Wave, to: SocketAddr, sockets: Vec<SocketId>) -> usize {
        let outcomes = vec![Outcome::Waiting; sockets.len()];
        self.all.push(Burst {
            wave,
            to,
            sockets,
            outcomes,
        });
        self.all.len() - 1
    }

    pub(super) fn set(&mut self, burst: usize, number: usize, outcome: Outcome) {
        let burst = self.all.get_mut(burst);
        if let Some(known) = burst.and_then(|burst| burst.outcomes.get_mut(number)) {
            *known = outcome;
        }
    }

    /// Bursts of this kind so far.
    pub(super) fn count(&self, wave: Wave) -> usize {
        self.all.iter().filter(|burst| burst.wave == wave).count()
    }

    /// Two sockets of the first burst with where the server saw them.
    pub(super) fn two(&self) -> Option<[(SocketId, SocketAddr); 2]> {
        let first = self.all.first()?;
        let answered = first.sockets.iter().zip(&first.outcomes);
        let mut known = answered.filter_map(|(socket, outcome)| Some((*socket, outcome.answered()?)));
        Some([known.next()?, known.next()?])
    }

    /// What is known now, which may be part of the result.
    pub(super) fn so_far(&self) -> Option<Fact<Allocation>> {
        let counter = self.step.map(|step| Allocation::Counter { step, rate: None });
        self.result.or(counter.map(Fact::Known))
    }

    /// What follows from the bursts so far. `local` tells a socket's own address.
    pub(super) fn next(
        &self,
        mapping: Option<Mapping>,
        flows: &Flows,
        local: &dyn Fn(SocketId) -> Option<SocketAddr>,
    ) -> Next {
        if self
            .all
            .iter()
            .any(|burst| burst.outcomes.iter().any(|outcome| outcome.is_open()))
        {
            return Next::Wait;
        }
        let of = |wave: Wave| {
            let burst = self.all.iter().rev().find(|burst| burst.wave == wave)?;
            Some(burst.samples(mapping, flows, local))
        };
        let Some(first) = of(Wave::First) else {
            return Next::Send(Wave::First);
        };
        let stable = mapping == Some(Mapping::EndpointIndependent) || mapping.is_none();
        match ports::classify(&first) {
            None => self.again(Wave::First),
            Some(Allocation::Preserving) if stable => Next::Known(Fact::Known(Allocation::Preserving)),
            Some(Allocation::Preserving) => self.kept_first(of(Wave::OtherDestination).as_deref()),
            Some(Allocation::Counter { step, .. }) => match of(Wave::Later) {
                None => Next::Rate(step),
                Some(later) if later.len() < ports::SAMPLES_MIN || ports::count(&later) == Count::Torn => {
                    self.again(Wave::Later)
                }
                Some(later) => Next::Known(Fact::Known(self.counted(&first, &later, step, flows))),
            },
            Some(Allocation::Random) if ports::may_be_half(&first) => {
                let fresh = |burst: &&Burst| matches!(burst.wave, Wave::First | Wave::More);
                let bursts = self.all.iter().filter(fresh);
                let all: Vec<Sample> = bursts
                    .flat_map(|burst| burst.samples(mapping, flows, local))
                    .collect();
                if ports::may_be_half(&all) && !ports::is_enough_for_half(&all) {
                    return self.again(Wave::More);
                }
                Next::Known(Fact::Known(ports::spread(&all)))
            }
            Some(other) => Next::Known(Fact::Known(other)),
        }
    }

    fn again(&self, wave: Wave) -> Next {
        if self.all.len() < WAVES_MAX {
            Next::Send(wave)
        } else {
            Next::Known(Fact::NotTestable(Obstacle::TooLossy))
        }
    }

    /// The first destination of each socket kept the port: what did the second one see?
    fn kept_first(&self, others: Option<&[Sample]>) -> Next {
        let Some(others) = others else {
            return Next::Send(Wave::OtherDestination);
        };
        let step = match ports::classify(others) {
            None => return self.again(Wave::OtherDestination),
            Some(Allocation::Preserving) => return Next::Known(Fact::Known(Allocation::Preserving)),
            Some(Allocation::Counter { step, .. }) => Some(step),
            Some(_) => None,
        };
        Next::Known(Fact::Known(Allocation::PreserveFirst { step }))
    }

    /// Two bursts some time apart: still counted, and how fast did others move the counter in between?
    fn counted(&self, first: &[Sample], later: &[Sample], step: i32, flows: &Flows) -> Allocation {
        let again = match ports::count(later) {
            Count::Step(again) if again.signum() == step.signum() => again,
            _ => return ports::spread(&[first, later].concat()),
        };
        let step = if again.abs() < step.abs() { again } else { step };
        let at = |wave: Wave, sample: &Sample| {
            let burst = self.all.iter().rev().find(|burst| burst.wave == wave)?;
            flows.opened(*burst.sockets.get(sample.number)?, burst.to)
        };
        let rate = || {
            let (last, next) = (first.last()?, later.first()?);
            let time = at(Wave::Later, next)?.saturating_duration_since(at(Wave::First, last)?);
            let foreign = ports::foreign(*last, *next, step)?;
            // Whole flows a second are as much as one and a half seconds can tell.
            let milli = u64::try_from(time.as_millis()).ok().filter(|milli| *milli > 0)?;
            u32::try_from((u64::from(foreign) * 1000 + milli / 2) / milli).ok()
        };
        Allocation::Counter { step, rate: rate() }
    }
}

impl Burst {
    fn samples(
        &self,
        mapping: Option<Mapping>,
        flows: &Flows,
        local: &dyn Fn(SocketId) -> Option<SocketAddr>,
    ) -> Vec<Sample> {
        let each = self.sockets.iter().zip(&self.outcomes).enumerate();
        each.filter_map(|(number, (socket, outcome))| {
            Some(Sample {
                number,
                place: flows.place(*socket, self.to, mapping),
                local: local(*socket)?.port(),
                mapped: outcome.answered()?.port(),
                at: flows.opened(*socket, self.to)?,
            })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const TO: &str = "5.5.5.1:5668";

    /// Bursts whose sockets saw these external ports; 0: no answer.
    fn next(waves: &[&[u16]]) -> Next {
        let (mut bursts, mut flows) = (Bursts::default(), Flows::default());
        let to: SocketAddr = TO.parse().unwrap();
        let mut number = 0;
        for (burst, ports) in waves.iter().enumerate() {
            let sockets: Vec<SocketId> = (number..).take(ports.len()).map(SocketId).collect();
            number += u16::try_from(ports.len()).unwrap();
            let wave = if burst == 0 { Wave::First } else { Wave::More };
            bursts.begin(wave, to, sockets.clone());
            for (place, (socket, port)) in sockets.into_iter().zip(*ports).enumerate() {
                flows.note(socket, to, epoch());
                let seen = Outcome::Answered(SocketAddr::new([9, 9, 9, 9].into(), *port));
                bursts.set(burst, place, if *port == 0 { Outcome::Silent } else { seen });
            }
        }
        bursts.next(Some(Mapping::AddressAndPortDependent), &flows, &|_| Some(to))
    }

    #[allow(clippy::disallowed_methods)] // The one moment from which a test counts.
    fn epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn ports_of_the_upper_half_are_asked_for_again_until_it_is_no_chance() {
        let high = [33_000, 60_000, 41_000, 52_000, 34_000, 61_000, 47_000, 58_000];
        let lossy = [62_000, 0, 36_000, 0, 51_000, 43_000, 39_000, 55_000];
        assert_eq!(next(&[&high]), Next::Send(Wave::More));
        assert_eq!(next(&[&high, &lossy]), Next::Send(Wave::More));
        let half = Next::Known(Fact::Known(Allocation::HalfRange { from: 32_768 }));
        assert_eq!(next(&[&high, &lossy, &lossy]), half);
        let low = [2000; 8];
        assert_eq!(next(&[&high, &low]), Next::Known(Fact::Known(Allocation::Random)));
        let nothing = [0; 8];
        let given_up = Next::Known(Fact::NotTestable(Obstacle::TooLossy));
        assert_eq!(next(&[&high, &nothing, &nothing, &nothing, &nothing]), given_up);
    }

    #[test]
    fn a_burst_that_got_lost_is_sent_again() {
        assert_eq!(next(&[&[0; 8]]), Next::Send(Wave::First));
        assert_eq!(
            next(&[&[2000, 60_000, 9000, 0, 0, 0, 31_000, 45_000]]),
            Next::Send(Wave::First)
        );
    }
}
