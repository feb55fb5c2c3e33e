//! [`LinkSpec`]: what a link does to packets. Plain data.

use std::time::Duration;

/// Ethernet's MTU in bytes of IP packet.
const DEFAULT_MTU: usize = 1500;

/// Queue in front of a rate limit, in bytes. 256 KiB is 42 ms at 50 Mbit/s, the order of an unmanaged home router's
/// buffer; larger shows bufferbloat, smaller starves senders that burst.
const DEFAULT_QUEUE: usize = 256 * 1024;

/// Which packets a link loses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each packet independently with this probability (0.0 to 1.0; 1.0 is a blackout).
    Uniform(f64),
    /// Runs of lost packets: a two-state Gilbert model that loses everything in its bad state.
    Burst {
        /// Share of packets lost in the long run, 0.0 up to below 1.0.
        rate: f64,
        /// Mean number of packets lost in a row, at least 1.0.
        length: f64,
    },
}

/// Packets that are overtaken by later ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reorder {
    /// Share of packets that are held back, 0.0 to 1.0.
    pub probability: f64,
    /// How much longer these take.
    pub by: Duration,
}

/// One direction of a link. The default is a perfect one: no delay, no loss, no rate limit, MTU 1500.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpec {
    /// Time in flight.
    pub delay: Duration,
    /// The time in flight varies evenly by up to this much either way; the order of packets is kept.
    pub jitter: Duration,
    /// Packets that never arrive.
    pub loss: Loss,
    /// Packets that arrive late.
    pub reorder: Option<Reorder>,
    /// Share of packets that arrive twice, 0.0 to 1.0.
    pub duplicate: f64,
    /// Share of packets that arrive with one bit of what they carry flipped, 0.0 to 1.0. No checksum notices: a router's
    /// bad memory bends packets between two checks (Stone and Partridge, SIGCOMM 2000). What a checksum catches is
    /// [`LinkSpec::loss`].
    pub corrupt: f64,
    /// Bits per second; `None` for unlimited, 0 is treated as 1.
    pub rate: Option<u64>,
    /// Bytes that wait in front of the rate limit; what does not fit is dropped (tail drop).
    pub queue: usize,
    /// Largest IP packet in bytes; larger ones vanish without a sign, as in a path MTU black hole.
    pub mtu: usize,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::None,
            reorder: None,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue: DEFAULT_QUEUE,
            mtu: DEFAULT_MTU,
        }
    }
}

impl LinkSpec {
    /// A link that only takes time.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Adds independent loss with this probability.
    #[must_use]
    pub fn with_loss(mut self, probability: f64) -> Self {
        self.loss = Loss::Uniform(probability);
        self
    }

    /// Varies the time in flight by up to this much either way.
    #[must_use]
    pub fn with_jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Loses this share of packets, in runs of `length` packets on average.
    #[must_use]
    pub fn with_bursts(mut self, rate: f64, length: f64) -> Self {
        self.loss = Loss::Burst { rate, length };
        self
    }

    /// Holds this share of packets back for so long.
    #[must_use]
    pub fn with_reordering(mut self, probability: f64, by: Duration) -> Self {
        self.reorder = Some(Reorder { probability, by });
        self
    }

    /// Delivers this share of packets twice.
    #[must_use]
    pub fn with_duplicates(mut self, probability: f64) -> Self {
        self.duplicate = probability;
        self
    }

    /// Flips a bit in this share of packets.
    #[must_use]
    pub fn with_corruption(mut self, probability: f64) -> Self {
        self.corrupt = probability;
        self
    }

    /// Lets no IP packet pass that is larger, in bytes.
    #[must_use]
    pub fn with_mtu(mut self, mtu: usize) -> Self {
        self.mtu = mtu;
        self
    }

    /// Lets so many bytes wait in front of the rate limit.
    #[must_use]
    pub fn with_queue(mut self, bytes: usize) -> Self {
        self.queue = bytes;
        self
    }

    /// Limits the rate to so many bits per second.
    #[must_use]
    pub fn with_rate(mut self, bits_per_second: u64) -> Self {
        self.rate = Some(bits_per_second);
        self
    }

    /// Does the link treat packets one by one, so that a GSO super-packet must meet it as its segments? A link that
    /// only delays does not.
    #[must_use]
    pub fn counts_packets(&self) -> bool {
        self.loss != Loss::None
            || self.reorder.is_some()
            || self.duplicate > 0.0
            || self.corrupt > 0.0
            || self.rate.is_some()
            || self.mtu < DEFAULT_MTU
    }
}
