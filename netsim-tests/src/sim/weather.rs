//! Weather: from what range the links of a scenario are drawn.

use std::time::Duration;

use knothole_proto::seed::Rng;

use crate::link::{LinkSpec, Loss, Reorder};

/// The state of the internet.
///
/// A packet between two hosts crosses the sender's uplink and the receiver's downlink. Delay is split between all
/// links; loss, reordering, duplication and corruption happen on downlinks only, so that a packet meets them once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Name on command lines.
    pub name: &'static str,
    /// One-way delay between two hosts, shortest and longest.
    pub one_way: (Duration, Duration),
    /// Delay varies by up to this much either way.
    pub jitter: Duration,
    /// Loss of packets.
    pub loss: Loss,
    /// Share of packets that come out of order, by up to a tenth of a second.
    pub reorder: f64,
    /// Share of packets that come twice.
    pub duplicate: f64,
    /// Share of packets that come with a bit flipped.
    pub corrupt: f64,
}

/// The weathers that random scenarios are drawn from.
pub const WEATHERS: [Weather; 4] = [Weather::CALM, Weather::ORDINARY, Weather::ROUGH, Weather::STORM];

impl Weather {
    /// Nothing is lost and nothing varies; 10 to 100 ms one way.
    pub const CALM: Self = Self {
        name: "calm",
        one_way: (Duration::from_millis(10), Duration::from_millis(100)),
        jitter: Duration::ZERO,
        loss: Loss::None,
        reorder: 0.0,
        duplicate: 0.0,
        corrupt: 0.0,
    };

    /// 50 ms one way between any two hosts, and nothing varies: what remains are the NATs. For numbers that are compared.
    pub const STEADY: Self = Self {
        name: "steady",
        one_way: (Duration::from_millis(50), Duration::from_millis(50)),
        ..Self::CALM
    };

    /// As steady, with 2 % loss.
    pub const STEADY_LOSS_2: Self = Self {
        name: "steady-loss-2",
        loss: Loss::Uniform(0.02),
        ..Self::STEADY
    };

    /// As steady, with 10 % loss.
    pub const STEADY_LOSS_10: Self = Self {
        name: "steady-loss-10",
        loss: Loss::Uniform(0.1),
        ..Self::STEADY
    };

    /// As steady, with delays that vary by up to 30 % either way.
    pub const STEADY_JITTER: Self = Self {
        name: "steady-jitter",
        jitter: Duration::from_millis(15),
        ..Self::STEADY
    };

    /// 10 to 100 ms one way, 5 ms jitter, 5 % loss.
    pub const ORDINARY: Self = Self {
        name: "ordinary",
        jitter: Duration::from_millis(5),
        loss: Loss::Uniform(0.05),
        ..Self::CALM
    };

    /// As ordinary, with packets out of order and twice as well.
    pub const ROUGH: Self = Self {
        name: "rough",
        reorder: 0.05,
        duplicate: 0.02,
        ..Self::ORDINARY
    };

    /// 20 % loss in runs of three on average, 30 ms jitter, 1 % of packets corrupted.
    pub const STORM: Self = Self {
        name: "storm",
        jitter: Duration::from_millis(30),
        loss: Loss::Burst {
            rate: 0.2,
            length: 3.0,
        },
        corrupt: 0.01,
        ..Self::ROUGH
    };

    /// Every weather that has a name.
    pub fn all() -> impl Iterator<Item = Self> {
        WEATHERS.into_iter().chain([
            Self::STEADY,
            Self::STEADY_LOSS_2,
            Self::STEADY_LOSS_10,
            Self::STEADY_JITTER,
        ])
    }

    /// The weather called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|weather| weather.name == name)
    }

    /// An access link, up and down, drawn from the range.
    pub(super) fn draw(&self, rng: &mut Rng) -> (LinkSpec, LinkSpec) {
        let (shortest, longest) = self.one_way;
        let spread = longest.saturating_sub(shortest).as_micros();
        let more = Duration::from_micros(rng.below(u64::try_from(spread).unwrap_or(u64::MAX) + 1));
        // Two links make one way.
        let up = LinkSpec {
            delay: (shortest + more) / 2,
            jitter: self.jitter / 2,
            ..LinkSpec::default()
        };
        let down = LinkSpec {
            loss: self.loss,
            reorder: (self.reorder > 0.0).then_some(Reorder {
                probability: self.reorder,
                by: Duration::from_millis(10 + rng.below(90)),
            }),
            duplicate: self.duplicate,
            corrupt: self.corrupt,
            ..up
        };
        (up, down)
    }
}
