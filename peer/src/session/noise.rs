//! Which losses are no sign of congestion: few, while the round trip shows no queue.
//!
//! CUBIC halves its rate, roughly, for every lost packet, whatever the reason. On a path of 100 ms on which one packet in
//! a thousand is lost to radio noise it therefore stays near 4 Mbit/s (RFC 9438 section 5.2), however wide the path.
//! A full queue shows in the round trip before it drops; a policer or a short queue drops far more than noise does. So a
//! loss counts only if the round trip has grown, or if the share of lost bytes is above what BBR takes for noise too.
//! Where it counts, CUBIC does what it always does, and shares a queue with others as TCP does.

use std::time::{Duration, Instant};

/// Largest share of lost bytes that may be noise, in per mille: BBR's loss threshold (draft-ietf-ccwg-bbr section 2.8).
/// A higher one would push into the drops of short queues.
const NOISE_PER_MILLE: u64 = 20;

/// Losses of this many packets in one interval may be noise even if the share is larger: with a small window every loss
/// is a large share, and slow start would end at the first one.
const NOISE_PACKETS: u64 = 2;

/// The round trip shows a queue when its smoothed value exceeds the smallest one by this share of it.
const QUEUE_SHARE: u32 = 8;

/// It must exceed it by at least this much: timers and radio schedulers jitter by some milliseconds.
const QUEUE_MIN: Duration = Duration::from_millis(4);

/// The share is taken over at least this time, so that a burst is seen in relation to what surrounds it.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// What arrived and what was lost of late.
#[derive(Clone, Debug, Default)]
pub(super) struct LossNoise {
    /// Smoothed and smallest round trip; `None` before the first acknowledgement.
    rtt: Option<(Duration, Duration)>,
    begun: Option<Instant>,
    now: Tally,
    before: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    acked: u64,
    lost: u64,
}

impl LossNoise {
    /// Bytes of a packet arrived.
    pub(super) fn on_ack(&mut self, now: Instant, bytes: u64, smoothed: Duration, smallest: Duration) {
        self.rtt = Some((smoothed, smallest));
        self.turn(now);
        self.now.acked = self.now.acked.saturating_add(bytes);
    }

    /// Bytes were lost, together; may they be taken for noise?
    pub(super) fn covers(&mut self, now: Instant, bytes: u64, mtu: u16) -> bool {
        self.turn(now);
        self.now.lost = self.now.lost.saturating_add(bytes);
        let lost = self.now.lost + self.before.lost;
        let total = lost + self.now.acked + self.before.acked;
        let few = self.now.lost <= NOISE_PACKETS * u64::from(mtu) || lost * 1000 <= total * NOISE_PER_MILLE;
        few && !self.queue()
    }

    /// Begin another interval when the present one is over.
    fn turn(&mut self, now: Instant) {
        let begun = *self.begun.get_or_insert(now);
        let length = self
            .rtt
            .map_or(INTERVAL_MIN, |(smoothed, _)| smoothed.max(INTERVAL_MIN));
        if now.saturating_duration_since(begun) >= length {
            self.begun = Some(now);
            self.before = std::mem::take(&mut self.now);
        }
    }

    fn queue(&self) -> bool {
        // Without a measured round trip nothing speaks for noise.
        self.rtt.is_none_or(|(smoothed, smallest)| {
            smoothed.saturating_sub(smallest) > (smallest / QUEUE_SHARE).max(QUEUE_MIN)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1200;
    const SMALLEST: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A megabyte arrived within the last round trip.
    fn busy(smoothed: Duration) -> (LossNoise, Instant) {
        let (mut noise, start) = (LossNoise::default(), Instant::now());
        for packet in 0..1000 {
            noise.on_ack(start + ms(packet / 20), 1000, smoothed, SMALLEST);
        }
        (noise, start + ms(50))
    }

    #[test]
    fn a_few_losses_without_a_queue_are_noise() {
        let (mut noise, now) = busy(ms(101));
        assert!(noise.covers(now, 10_000, MTU));
        assert!(noise.covers(now, 10_000, MTU), "2 % in all");
        assert!(!noise.covers(now, 10_000, MTU), "3 % in all");
    }

    #[test]
    fn any_loss_behind_a_queue_is_congestion() {
        let (mut noise, now) = busy(ms(115));
        assert!(!noise.covers(now, 1_000, MTU));
    }

    #[test]
    fn a_lost_packet_of_a_small_window_is_noise_and_many_are_not() {
        let (mut noise, now) = (LossNoise::default(), Instant::now());
        noise.on_ack(now, 12_000, SMALLEST, SMALLEST);
        assert!(noise.covers(now, 1_200, MTU));
        assert!(!noise.covers(now, 3_600, MTU));
    }

    #[test]
    fn nothing_is_noise_before_a_round_trip_was_measured() {
        assert!(!LossNoise::default().covers(Instant::now(), 1, MTU));
    }

    #[test]
    fn old_losses_are_forgotten() {
        let (mut noise, mut now) = busy(ms(101));
        assert!(!noise.covers(now, 100_000, MTU));
        for _ in 0..3 {
            now += ms(150);
            noise.on_ack(now, 1_000_000, ms(101), SMALLEST);
        }
        assert!(noise.covers(now, 10_000, MTU));
    }
}
