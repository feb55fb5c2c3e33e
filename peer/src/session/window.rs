//! How much may be on its way to this node while bulk data comes: what the path needs, and not much more.
//!
//! A window wide enough for every path is far too wide for a short one. A writer that is slower than the network then
//! finds all of it waiting in front of him: memory, bytes that have left the processor's cache when they are looked at,
//! and in quinn, which puts more than 2048 waiting pieces together by copying them (`COMPACT_THRESHOLD` in its
//! `assembler.rs`), a second copy of nearly everything. So the window follows what arrives in a round trip, as TCP's
//! does (dynamic right-sizing).
//!
//! Data in order and out of order count alike, and so do streams that are no bulk data: they share the window, which is therefore
//! narrow only while much comes and is read. A window that is made narrower takes nothing back that was allowed before: quinn
//! lets what is read pay for it. Until it has, that counts as part of a window that is made wider again; else one that goes to and
//! fro would let more and more be on its way.

use std::sync::{Arc, Mutex, PoisonError, Weak};
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

/// The part of the smoothed round trip that is believed at once, although a shorter one was seen of late: the path may be
/// another one. With this the window grows by a third in each round trip until the shorter one is forgotten; more would
/// take the time that packets wait at busy processors for the length of the path.
const BELIEVED: u32 = 3;

/// The round trip is the shortest, the need the greatest of one to two times this: long enough for a transfer to get
/// through a bad moment without finding the window narrow, short enough to notice another path.
const RECENT: Duration = Duration::from_secs(5);

/// Below this rate, in bytes a second, copies do not count, and a narrow window that is filled by a slow reader would keep other
/// streams of the connection waiting: then the window is [`SLOW_LEAST`] at the least, and wide enough for this rate. At this rate the
/// narrowest is empty in 60 ms.
const FAST: u64 = 32 * 1024 * 1024;

/// Narrowest window below that rate, in bytes. What fills it is memory that lies about for as long as its reader is slow (many small
/// files: most of what a receiver needs would be the widest window); less, and a stream that stands still stops the others
/// of its connection sooner.
const SLOW_LEAST: u64 = 8 * 1024 * 1024;

/// How often somebody looks who does not depend on being read: where one of several streams stands still, what comes for it fills a
/// narrow window, and the others wait as long until it is made wider.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// A window is made narrower only by more than one part in so many.
const SHARE_KEPT: u64 = 4;

/// While there is debt a window grows by at least one part in so many of what is wanted: each time is a frame to the sender.
const WIDENING_PART: u64 = 8;

/// The window of a connection; clones are handles of the same one. While a [`Reading`] of it lives, it follows the path.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    quic: quinn::Connection,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    readings: usize,
    /// Is somebody looking who does not depend on being read?
    is_watched: bool,
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
        let state = State {
            readings: 0,
            is_watched: false,
            window: Window::default(),
        };
        Self {
            quic,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Somebody begins to read. To be called inside a runtime.
    pub(crate) fn read(&self) -> Reading {
        let was_watched = self.with(|state| {
            state.readings += 1;
            std::mem::replace(&mut state.is_watched, true)
        });
        if !was_watched {
            tokio::spawn(watch(self.quic.clone(), Arc::downgrade(&self.state)));
        }
        Reading {
            room: self.clone(),
            unseen: 0,
        }
    }

    /// Bytes were taken from QUIC.
    fn took(&self, bytes: usize) {
        let now = Instant::now();
        let is_due = self.with(|state| {
            set(&self.quic, state.window.took(bytes as u64));
            state.window.is_due(now)
        });
        if is_due {
            look(&self.quic, &self.state, now);
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        with(&self.state, change)
    }
}

/// Somebody has to look although nobody reads; ends with the last reader.
async fn watch(quic: quinn::Connection, state: Weak<Mutex<State>>) {
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let Some(state) = state.upgrade() else { return };
        let goes_on = with(&state, |state| {
            state.is_watched = state.readings > 0;
            state.is_watched
        });
        if !goes_on {
            return;
        }
        look(&quic, &state, Instant::now());
    }
}

fn look(quic: &quinn::Connection, state: &Mutex<State>, now: Instant) {
    let stats = quic.stats();
    let (came, rtt) = (stats.udp_rx.bytes, stats.path.rtt);
    with(state, |state| set(quic, state.window.look(came, rtt, now)));
}

/// To be called with the state locked, so that QUIC hears of the windows in the order of the decisions; it never calls back.
fn set(quic: &quinn::Connection, window: Option<u64>) {
    if let Some(window) = window.and_then(|window| VarInt::from_u64(window).ok()) {
        tracing::trace!(%window, "bytes that may be on their way");
        quic.set_receive_window(window);
    }
}

fn with<T>(state: &Mutex<State>, change: impl FnOnce(&mut State) -> T) -> T {
    // Every change is whole before anything could panic.
    change(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Reading {
    /// Bytes were taken from QUIC.
    pub(crate) fn took(&mut self, bytes: usize) {
        /// Looking at the clock for every packet would be worth a percent of a processor.
        const CLOCK_EVERY: usize = 64 * 1024;
        self.unseen += bytes;
        if self.unseen >= CLOCK_EVERY {
            self.room.took(std::mem::take(&mut self.unseen));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.room.with(|state| {
            let window = state.window.took(self.unseen as u64);
            state.readings = state.readings.saturating_sub(1);
            let was_last = state.readings == 0;
            let window = was_last.then(|| state.window.rest()).flatten().or(window);
            set(&self.room.quic, window);
        });
    }
}

/// Widest window, in bytes.
const MOST: u64 = CONNECTION_WINDOW as u64;

/// Decides how wide a window is.
#[derive(Debug)]
struct Window {
    /// In bytes, as QUIC was told.
    now: u64,
    /// Bytes that were allowed before the window was made narrower and that nothing has paid for yet.
    debt: u64,
    /// What may be on its way in all, in bytes.
    wanted: u64,
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
            debt: 0,
            wanted: MOST,
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

    /// Bytes were read. Returns the window if it changes.
    fn took(&mut self, bytes: u64) -> Option<u64> {
        let had_debt = self.debt > 0;
        self.debt = self.debt.saturating_sub(bytes);
        had_debt.then(|| self.widen()).flatten()
    }

    /// `came` bytes came so far, and a round trip is this long. Returns the window if it changes.
    fn look(&mut self, came: u64, rtt: Duration, now: Instant) -> Option<u64> {
        // Of two who look at once the second has nothing to see.
        if !self.is_due(now) {
            return None;
        }
        self.rtt.see(nanos(rtt), now);
        let (since, before) = self.looked.replace((now, came))?;
        let elapsed = now.saturating_duration_since(since).as_nanos().max(1);
        let round = self.rtt.get()?.max(nanos(rtt / BELIEVED));
        let came = u128::from(came.saturating_sub(before));
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        if whole(came * 1_000_000_000 / elapsed) < FAST {
            let need = whole(u128::from(FAST) * u128::from(round) / 1_000_000_000).saturating_mul(ROUNDS);
            let before = self.need.get().unwrap_or(0);
            return self.change(need.max(before).clamp(SLOW_LEAST, MOST));
        }
        let need = whole(came * u128::from(round) / elapsed).saturating_mul(ROUNDS);
        self.need.see(need, now);
        let wanted = self.need.get()?.clamp(LEAST, MOST);
        self.change(wanted)
    }

    /// Nobody reads any more.
    fn rest(&mut self) -> Option<u64> {
        let window = self.change(MOST);
        *self = Self {
            now: self.now,
            debt: self.debt,
            ..Self::default()
        };
        window
    }

    /// So much may be on its way from now on; what is allowed and not yet paid for is part of it.
    fn change(&mut self, wanted: u64) -> Option<u64> {
        self.wanted = wanted;
        let less = self.now.saturating_sub(wanted);
        if less <= self.now / SHARE_KEPT {
            return self.widen();
        }
        self.debt += less;
        self.now = wanted;
        Some(wanted)
    }

    /// As much as is wanted beyond what is allowed; not for every little that was paid.
    fn widen(&mut self) -> Option<u64> {
        let more = self.wanted.saturating_sub(self.now + self.debt);
        if more == 0 || (self.debt > 0 && more < self.wanted / WIDENING_PART) {
            return None;
        }
        self.now += more;
        Some(self.now)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
                self.window.took(per_ms);
                assert!(self.allowed() <= MOST);
                if self.window.is_due(self.now) {
                    self.window
                        .look(self.came, Duration::from_millis(rtt_ms), self.now);
                }
            }
            self.window.now
        }

        /// What may be on its way.
        fn allowed(&self) -> u64 {
            self.window.now + self.window.debt
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
        assert_eq!(path.run(1, 100, 400), FAST / 10 * ROUNDS, "little comes");
        let mut per_ms = 5_000;
        while per_ms <= 125_000 {
            let window = path.run(per_ms, 100, 100);
            // What it will have on its way at the end of the next round.
            assert!(window >= 2 * per_ms * 100, "{window} at {per_ms}");
            per_ms *= 2;
        }
    }

    #[test]
    fn a_path_that_becomes_long_is_soon_as_fast_as_before() {
        for rtt in [20, 50, 100, 200] {
            let mut path = Path::new();
            assert_eq!(path.run(125_000, 1, 6_000), LEAST);
            // No more can be on its way than the window lets through.
            for _ in 0..2_000 {
                let per_ms = path.window.now / rtt;
                path.run(per_ms.min(125_000), rtt, 1);
            }
            assert!(path.window.now >= rtt * 125_000, "{} at {rtt}", path.window.now);
        }
    }

    #[test]
    fn whoever_reads_slowly_has_a_wider_window_and_who_reads_no_more_the_widest_that_is_paid_for() {
        let mut path = Path::new();
        assert_eq!(path.run(400_000, 1, 1_000), LEAST);
        assert_eq!(path.run(1_000, 1, 100), SLOW_LEAST);
        let mut path = Path::new();
        path.run(400_000, 1, 60);
        assert!(path.window.debt > 0, "what was allowed before is not paid for");
        let rest = MOST - path.window.debt;
        assert_eq!((path.window.rest(), path.window.now), (Some(rest), rest));
        assert_eq!(path.window.took(MOST), Some(MOST), "what is paid for comes back");
    }

    #[test]
    fn a_window_that_goes_to_and_fro_never_lets_more_wait_than_at_its_widest() {
        let mut path = Path::new();
        path.run(40_000, 1, 1_000);
        for _ in 0..100 {
            // A reader with a limit: fast for a moment, then slow.
            path.run(60_000, 1, 25);
            path.run(5_000, 1, 100);
            assert!(path.allowed() <= SLOW_LEAST, "{}", path.allowed());
        }
    }

    #[test]
    fn of_two_who_look_at_once_only_one_sees_something() {
        let mut path = Path::new();
        path.run(400_000, 1, 1_000);
        let rtt = Duration::from_millis(1);
        path.now += Duration::from_millis(50);
        path.window.look(path.came, rtt, path.now);
        assert_eq!(path.window.look(path.came + 1_000_000, rtt, path.now), None);
        assert_eq!(path.window.now, LEAST);
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
