//! How much may be on its way to this node while bulk data comes: what the path needs, and not much more.
//!
//! A window wide enough for every path is far too wide for a short one. A writer that is slower than the network then
//! finds all of it waiting in front of him: memory, bytes that have left the processor's cache when they are looked at,
//! and in quinn, which puts more than 2048 waiting pieces together by copying them (`COMPACT_THRESHOLD` in its
//! `assembler.rs`), a second copy of nearly everything. So the window follows what arrives in a round trip, as TCP's
//! does (dynamic right-sizing).
//!
//! Data in order and out of order count alike, and so do streams that are no bulk data. While nothing reads bulk data the
//! window is as wide as it can be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::VarInt;

use super::transport::CONNECTION_WINDOW;

/// Narrowest window, in bytes. What waits then is some 1,450 packets, which quinn does not put together by copying, and
/// 3 Gbit/s last for 5 ms until one of two busy processors comes back to them. Less made transfers on one machine
/// slower, twice as much began to copy.
const LEAST: u64 = 2 * 1024 * 1024;

/// The window in multiples of what arrives in a round trip. A sender that looks for the path's rate doubles what it sends
/// in each, and what it may send is told to it half a round trip late: four keeps ahead of that.
const ROUNDS: u64 = 4;

/// Shortest time between two looks: at least some dozens of packets on any path worth it, and no more than fifty calls
/// into the connection a second.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The round trip is the shortest, the need the greatest of one to two times this: long enough for a transfer to get
/// through a bad moment without finding the window narrow, short enough to notice another path.
const RECENT: Duration = Duration::from_secs(5);

/// A window is made narrower only by more than one part in so many.
const SHARE_KEPT: u64 = 4;

/// The window of a connection; clones are handles of the same one. While a [`Reading`] of it lives, it follows the path.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    quic: quinn::Connection,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    readings: usize,
    window: Window,
}

/// Somebody who reads bulk data.
#[derive(Debug)]
pub(crate) struct Reading {
    room: Room,
    /// Bytes since the last look at the clock.
    unseen: usize,
}

impl Room {
    pub(crate) fn new(quic: quinn::Connection) -> Self {
        let window = Window::default();
        let state = Arc::new(Mutex::new(State { readings: 0, window }));
        Self { quic, state }
    }

    pub(crate) fn read(&self) -> Reading {
        self.with(|state| state.readings += 1);
        Reading {
            room: self.clone(),
            unseen: 0,
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // Every change is whole before anything could panic.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, window: u64) {
        if let Ok(window) = VarInt::from_u64(window) {
            self.quic.set_receive_window(window);
        }
    }
}

impl Reading {
    /// Bytes were taken from QUIC.
    pub(crate) fn took(&mut self, bytes: usize) {
        /// Looking at the clock for every packet would be worth a percent of a processor.
        const CLOCK_EVERY: usize = 64 * 1024;
        self.unseen += bytes;
        if self.unseen < CLOCK_EVERY {
            return;
        }
        self.unseen = 0;
        let now = Instant::now();
        if !self.room.with(|state| state.window.is_due(now)) {
            return;
        }
        let stats = self.room.quic.stats();
        let (came, rtt) = (stats.udp_rx.bytes, stats.path.rtt);
        if let Some(window) = self.room.with(|state| state.window.look(came, rtt, now)) {
            tracing::trace!(window, "bytes that may be on their way");
            self.room.set(window);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let was_last = self.room.with(|state| {
            state.readings = state.readings.saturating_sub(1);
            let was_last = state.readings == 0;
            if was_last {
                state.window = Window::default();
            }
            was_last
        });
        if was_last {
            self.room.set(MOST);
        }
    }
}

/// Widest window, in bytes.
const MOST: u64 = CONNECTION_WINDOW as u64;

/// Decides how wide a window is.
#[derive(Debug)]
struct Window {
    /// In bytes.
    now: u64,
    /// The last look, and how many bytes had come until then.
    looked: Option<(Instant, u64)>,
    /// In nanoseconds.
    rtt: Recent,
    /// In bytes.
    need: Recent,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            now: MOST,
            looked: None,
            rtt: Recent::new(u64::min),
            need: Recent::new(u64::max),
        }
    }
}

impl Window {
    /// Is it time for a look?
    fn is_due(&self, now: Instant) -> bool {
        let rtt = Duration::from_nanos(self.rtt.get().unwrap_or(0));
        let wait = LOOK_EVERY.max(rtt);
        self.looked
            .is_none_or(|(at, _)| now.saturating_duration_since(at) >= wait)
    }

    /// `came` bytes came so far, and a round trip is this long. Returns the window if it changes.
    fn look(&mut self, came: u64, rtt: Duration, now: Instant) -> Option<u64> {
        self.rtt
            .see(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX), now);
        let (since, before) = self.looked.replace((now, came))?;
        let elapsed = now.saturating_duration_since(since).as_nanos().max(1);
        let in_a_round = u128::from(came.saturating_sub(before)) * u128::from(self.rtt.get()?) / elapsed;
        let need = u64::try_from(in_a_round)
            .unwrap_or(u64::MAX)
            .saturating_mul(ROUNDS);
        self.need.see(need, now);
        let wanted = self.need.get()?.clamp(LEAST, MOST);
        let changes = wanted > self.now || self.now - wanted > self.now / SHARE_KEPT;
        changes.then(|| {
            self.now = wanted;
            wanted
        })
    }
}

/// The extreme of the numbers of this period and of the one before.
#[derive(Debug)]
struct Recent {
    extreme: fn(u64, u64) -> u64,
    began: Option<Instant>,
    before: Option<u64>,
    current: Option<u64>,
}

impl Recent {
    fn new(extreme: fn(u64, u64) -> u64) -> Self {
        Self {
            extreme,
            began: None,
            before: None,
            current: None,
        }
    }

    fn see(&mut self, number: u64, now: Instant) {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) >= RECENT {
            self.began = Some(now);
            self.before = self.current.take();
        }
        self.current = Some(
            self.current
                .map_or(number, |current| (self.extreme)(current, number)),
        );
    }

    fn get(&self) -> Option<u64> {
        match (self.before, self.current) {
            (Some(before), Some(current)) => Some((self.extreme)(before, current)),
            (before, current) => current.or(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path on which so many bytes come in each millisecond, for so many milliseconds; the last window.
    struct Path {
        window: Window,
        now: Instant,
        came: u64,
    }

    impl Path {
        fn new() -> Self {
            Self {
                window: Window::default(),
                now: Instant::now(),
                came: 0,
            }
        }

        fn run(&mut self, per_ms: u64, rtt_ms: u64, for_ms: u64) -> u64 {
            for _ in 0..for_ms {
                self.now += Duration::from_millis(1);
                self.came += per_ms;
                if self.window.is_due(self.now) {
                    self.window
                        .look(self.came, Duration::from_millis(rtt_ms), self.now);
                }
            }
            self.window.now
        }
    }

    #[test]
    fn a_short_path_has_a_narrow_window_and_a_long_one_all_that_it_needs() {
        assert_eq!(Path::new().run(400_000, 1, 100), LEAST, "3.2 Gbit/s");
        assert_eq!(Path::new().run(125_000, 100, 300), MOST, "1 Gbit/s over 100 ms");
        let middle = Path::new().run(125_000, 20, 300);
        assert_eq!(middle, ROUNDS * 20 * 125_000, "1 Gbit/s over 20 ms");
    }

    #[test]
    fn a_sender_that_doubles_each_round_is_never_held_back() {
        let mut path = Path::new();
        path.run(1, 100, 400);
        assert_eq!(path.window.now, LEAST);
        let mut per_ms = 5_000;
        while per_ms <= 125_000 {
            let window = path.run(per_ms, 100, 100);
            // What it will have on its way at the end of the next round.
            assert!(window >= 2 * per_ms * 100, "{window} at {per_ms}");
            per_ms *= 2;
        }
    }

    #[test]
    fn a_bad_moment_narrows_nothing_and_a_shorter_path_does() {
        let mut path = Path::new();
        path.run(125_000, 100, 2_000);
        assert_eq!(
            path.run(100, 100, 4_000),
            MOST,
            "nearly nothing came for four seconds"
        );
        path.run(125_000, 100, 100);
        assert_eq!(path.run(125_000, 1, 11_000), LEAST);
        assert_eq!(path.run(125_000, 100, 11_000), MOST, "and back");
    }
}
