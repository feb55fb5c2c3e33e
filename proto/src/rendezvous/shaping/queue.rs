//! What waits: bounded queues, one for each lane, let out in deficit round robin over the channels.
//!
//! A turn gives a channel so many bytes, whatever the size of its units, so shares are equal in bytes (Shreedhar and
//! Varghese 1995), also between those that always have something waiting and those that have nothing for moments. A channel of which both directions wait gives each half of that. Whose turn it is, is told by
//! [`Turns`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::codel::Codel;
use super::gate::{Blocked, Gate, Lane, LaneId};
use super::turns::Turns;
use crate::id::PeerId;

/// What a turn is worth, as time at the rate that a lane can have at the most. A sender with less than a turn's worth on its
/// way gets that and not its share (measured: three senders at 20 Mbit/s, 38 % apart when a turn was 16 KiB), so a longer one
/// is unfair to short windows; a shorter one goes round more often for the same batch.
const QUANTUM_TIME: Duration = Duration::from_millis(1);

/// The least of it, in bytes: a packet. Less would go round for nothing.
const QUANTUM_LEAST: u64 = 1_500;

/// The most of it, in bytes: a fourth of the largest batch, so that a channel with small batches does not wait for megabytes
/// of others, and one with the largest is served every fourth turn.
const QUANTUM_MOST: u64 = 16 * 1024;

/// What the turns that a lane missed are worth at the most, as time at the rate that a lane can have at the most. A sender with
/// a short window has nothing waiting for the moment until its next packets come: without this it would start again behind
/// everybody (measured: of three at 20 Mbit/s, one got 22 % more than its share). More lets somebody who was silent for long
/// get ahead of others for longer.
const MISSED_TIME: Duration = Duration::from_millis(10);

/// The most of it, in bytes: one of the largest batches.
const MISSED_MOST: u64 = 64 * 1024;

/// Memory of all that waits, in bytes. The server's largest single use of memory; at 1 Gbit/s half a second.
const TOTAL_MAX: u64 = 64 * 1024 * 1024;

/// Memory of what waits in one lane, as time at the rate that it can have at the most: what a sender far away has under
/// way.
const LANE_MAX_TIME: Duration = Duration::from_millis(250);

/// The least of it: four of the largest batches, or a sender that is handed its limit in batches would be dropped for
/// being early.
const LANE_MAX_LEAST: u64 = 256 * 1024;

/// The most of it.
const LANE_MAX_MOST: u64 = 4 * 1024 * 1024;

/// Memory of what waits in all lanes of a key with a limit, in bytes: what it could send until the last of it is dropped,
/// but at least four of the least lanes. Less would take from a node with several peers what they need.
const KEY_MAX_LEAST: u64 = 4 * LANE_MAX_LEAST;

/// The most of it.
const KEY_MAX_MOST: u64 = 2 * LANE_MAX_MOST;

/// What waited longer is dropped: senders have sent it again by then, and a low limit must not become minutes of delay.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Empty queues kept for the next lane that must wait, so that one that empties and fills all the time costs no
/// allocation.
const SPARE_MAX: usize = 64;

/// Units for which an empty queue keeps its memory.
const SPARE_UNITS_MAX: usize = 256;

/// A batch of frames, as far as the queue looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Bytes on the wire.
    pub bytes: u32,
    /// Bytes of memory that it takes, at least as many.
    pub footprint: u32,
    /// Can it carry a mark that tells its receiver of congestion (ECN)?
    pub can_be_marked: bool,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Send it now.
    Pass,
    /// It waits. Poll at once: its moment may be nearer than that of what waited before.
    Waits,
    /// It is gone.
    Dropped(Dropped),
}

/// Why something was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The relay forwards nothing.
    Off,
    /// The queue of its lane is full, or all those of its key together.
    LaneFull,
    /// All queues together are full.
    Full,
}

/// Something that leaves the queue, to be sent now.
#[derive(Debug)]
pub struct Release<T> {
    /// Whatever the driver needs to send it.
    pub payload: T,
    /// What the queue knows of it.
    pub unit: Unit,
    /// Mark it: its sender is to slow down.
    pub mark: bool,
    id: LaneId,
    lane: Arc<Lane>,
    since: Instant,
}

impl<T> Release<T> {
    /// Of which lane.
    pub const fn lane(&self) -> LaneId {
        self.id
    }
}

/// Gauges, and counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Gauge: lanes of which something waits.
    pub lanes: usize,
    /// Gauge: bytes of memory that wait.
    pub held_bytes: u64,
    /// Most that ever waited.
    pub held_bytes_max: u64,
    /// Bytes that left after having waited.
    pub delayed_bytes: u64,
    /// Batches that left with a mark.
    pub marked_batches: u64,
    /// Bytes dropped because the queue of their lane was full, or all together.
    pub overflow_bytes: u64,
    /// Bytes dropped because they had waited too long.
    pub stale_bytes: u64,
    /// Bytes dropped to tell a sender to slow down that cannot be told by a mark.
    pub signal_bytes: u64,
    /// Batches dropped for any reason.
    pub dropped_batches: u64,
}

impl QueueStats {
    /// Bytes dropped for any reason.
    pub const fn dropped_bytes(&self) -> u64 {
        self.overflow_bytes + self.stale_bytes + self.signal_bytes
    }
}

/// All queues.
#[derive(Debug)]
pub struct FairQueue<T> {
    gate: Arc<Gate>,
    /// Lanes of which something waits.
    flows: BTreeMap<LaneId, Flow<T>>,
    turns: Turns,
    /// When the total has enough for the lane whose turn it is; `None`: perhaps now.
    ready_at: Option<Instant>,
    socket_full: bool,
    /// Bytes that a turn is worth.
    quantum: u64,
    /// Most bytes of turns that it missed which a lane gets when it comes back.
    missed_max: u64,
    /// Bytes of the turns of whoever had most: the time by which turns are missed.
    granted: u64,
    lane_max: u64,
    key_max: u64,
    spare: Vec<Flow<T>>,
    stats: QueueStats,
}

#[derive(Debug)]
struct Flow<T> {
    lane: Arc<Lane>,
    units: VecDeque<Waiting<T>>,
    held: u64,
    deficit: u64,
    /// Bytes of all its turns, as if it had been there from the start.
    granted: u64,
    codel: Codel,
}

#[derive(Debug)]
struct Waiting<T> {
    payload: T,
    unit: Unit,
    since: Instant,
    /// It had passed the limits before a full socket sent it here.
    paid: bool,
    /// It was to carry a mark when it found its socket full.
    mark: bool,
}

/// What comes of trying to let out the head of a lane.
enum Turn<T> {
    Release(Release<T>),
    /// Another lane, or the same once more.
    Next,
    /// Nothing leaves now.
    Stop,
}

impl<T> FairQueue<T> {
    /// Empty queues behind this gate.
    pub fn new(gate: Arc<Gate>) -> Self {
        let lane_max = gate.passes_in(LANE_MAX_TIME);
        let key_max = gate.passes_in(WAIT_MAX);
        let quantum = gate.passes_in(QUANTUM_TIME);
        let missed_max = gate.passes_in(MISSED_TIME).min(MISSED_MOST);
        Self {
            gate,
            flows: BTreeMap::new(),
            turns: Turns::default(),
            ready_at: None,
            socket_full: false,
            quantum: quantum.clamp(QUANTUM_LEAST, QUANTUM_MOST),
            missed_max,
            granted: 0,
            lane_max: lane_max.clamp(LANE_MAX_LEAST, LANE_MAX_MOST),
            key_max: key_max.clamp(KEY_MAX_LEAST, KEY_MAX_MOST),
            spare: Vec::new(),
            stats: QueueStats::default(),
        }
    }

    /// Something that [`Gate::pass`] did not let pass. `payload` is made only if it waits.
    pub fn offer(
        &mut self,
        id: LaneId,
        lane: &Arc<Lane>,
        unit: Unit,
        payload: impl FnOnce() -> T,
        now: Instant,
    ) -> Offered {
        let mut until = None;
        if !self.gate.must_wait(lane) {
            match self.gate.take(lane, u64::from(unit.bytes), now) {
                Ok(()) => return Offered::Pass,
                Err(Blocked::ForEver) => return self.refuse(Dropped::Off, unit),
                Err(Blocked::ByKey(at)) => until = Some(at),
                Err(Blocked::ByTotal(_)) => {}
            }
        }
        let waiting = |payload| Waiting::new(payload, unit, false, now);
        self.wait(id, lane, unit, until, || waiting(payload()))
    }

    /// Something that passed the limits and found its socket full; everybody waits until [`FairQueue::socket_ready`].
    pub fn hold(
        &mut self,
        id: LaneId,
        lane: &Arc<Lane>,
        unit: Unit,
        payload: impl FnOnce() -> T,
        now: Instant,
    ) -> Offered {
        self.socket_full = true;
        self.gate.set_congested(true);
        let waiting = |payload| Waiting::new(payload, unit, true, now);
        let held = self.wait(id, lane, unit, None, || waiting(payload()));
        if held != Offered::Waits {
            self.gate.give_back(lane, u64::from(unit.bytes));
        }
        held
    }

    /// A release found its socket full: it is next when [`FairQueue::socket_ready`]. If a part of it was sent, the driver takes
    /// that off [`Unit::bytes`] first, so that what left stays paid for and counted.
    pub fn put_back(&mut self, release: Release<T>) {
        self.socket_full = true;
        self.gate.set_congested(true);
        let Release {
            payload,
            unit,
            mark,
            id,
            lane,
            since,
        } = release;
        let (bytes, held) = (u64::from(unit.bytes), unit.footprint);
        self.stats.delayed_bytes -= bytes;
        self.stats.marked_batches -= u64::from(mark);
        let flow = self.flow(id, &lane, None);
        flow.deficit += bytes;
        flow.units.push_front(Waiting {
            payload,
            unit,
            since,
            paid: true,
            mark,
        });
        self.account(id, held);
        self.turns.put_first(id, lane.key());
    }

    /// Sockets take more now.
    pub fn socket_ready(&mut self) {
        self.socket_full = false;
        self.gate.set_congested(!self.turns.is_idle());
    }

    /// What leaves next, if anything may now. `lost` gets what is dropped on the way, for its memory.
    pub fn poll(&mut self, lost: &mut dyn FnMut(T), now: Instant) -> Option<Release<T>> {
        if self.socket_full {
            return None;
        }
        self.turns.unpark(now);
        while let Some((id, key)) = self.turns.first() {
            match self.turn(id, key, lost, now) {
                Turn::Release(release) => return Some(release),
                Turn::Next => {}
                Turn::Stop => return None,
            }
        }
        self.ready_at = None;
        self.gate.set_congested(false);
        None
    }

    /// When to poll again, perhaps a moment that is past; `None` while nothing waits, or the socket is full.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.socket_full {
            return None;
        }
        let head = |(id, _)| self.flows.get(&id)?.units.front();
        let first = self.turns.first().and_then(head);
        let turn = first.map(|head| self.ready_at.unwrap_or(head.since));
        turn.into_iter().chain(self.turns.back_at()).min()
    }

    /// A channel was closed: what waits in it will never arrive.
    pub fn forget(&mut self, id: LaneId, lost: &mut dyn FnMut(T)) {
        while let Some(waiting) = self.take_head(id) {
            self.stats.stale_bytes += u64::from(waiting.unit.bytes);
            self.stats.dropped_batches += 1;
            lost(waiting.payload);
        }
    }

    /// Gauges and counters.
    pub fn stats(&self) -> QueueStats {
        QueueStats {
            lanes: self.flows.len(),
            ..self.stats
        }
    }

    /// It is the turn of this lane.
    fn turn(&mut self, id: LaneId, key: Option<PeerId>, lost: &mut dyn FnMut(T), now: Instant) -> Turn<T> {
        let sibling = self.flows.contains_key(&id.opposite());
        let quantum = if sibling { self.quantum / 2 } else { self.quantum };
        let Some(flow) = self.flows.get_mut(&id) else {
            self.turns.leave(id, key);
            return Turn::Next;
        };
        let Some(head) = flow.units.front() else {
            self.leave(id);
            return Turn::Next;
        };
        let bytes = u64::from(head.unit.bytes);
        let waited = now.saturating_duration_since(head.since);
        if waited > WAIT_MAX {
            let paid = head.paid;
            return self.lose(id, paid, |stats| &mut stats.stale_bytes, lost);
        }
        if bytes > flow.deficit {
            flow.deficit += quantum;
            flow.granted += self.quantum;
            self.granted = self.granted.max(flow.granted);
            self.turns.pass_on();
            return Turn::Next;
        }
        if !head.paid
            && let Err(why) = self.gate.take(&flow.lane, bytes, now)
        {
            return self.blocked(id, why, lost);
        }
        let mark = flow.codel.judge(waited, flow.units.len() == 1, now) || head.mark;
        if mark && !head.unit.can_be_marked {
            return self.lose(id, true, |stats| &mut stats.signal_bytes, lost);
        }
        let lane = flow.lane.clone();
        flow.deficit -= bytes;
        self.take_head(id).map_or(Turn::Next, |waiting| {
            self.stats.delayed_bytes += bytes;
            self.stats.marked_batches += u64::from(mark);
            Turn::Release(Release {
                payload: waiting.payload,
                unit: waiting.unit,
                mark,
                id,
                lane,
                since: waiting.since,
            })
        })
    }

    fn blocked(&mut self, id: LaneId, why: Blocked, lost: &mut dyn FnMut(T)) -> Turn<T> {
        match why {
            Blocked::ByTotal(at) => {
                self.ready_at = Some(at);
                // It may have come back from waiting for its key, while nobody else had to wait.
                self.gate.set_congested(true);
                Turn::Stop
            }
            Blocked::ByKey(at) => {
                self.turns.park(at);
                Turn::Next
            }
            Blocked::ForEver => self.lose(id, false, |stats| &mut stats.overflow_bytes, lost),
        }
    }

    /// Drop the head of this lane. That is no service, so its turn goes on.
    fn lose(
        &mut self,
        id: LaneId,
        paid: bool,
        counter: fn(&mut QueueStats) -> &mut u64,
        lost: &mut dyn FnMut(T),
    ) -> Turn<T> {
        let Some(flow) = self.flows.get_mut(&id) else {
            return Turn::Next;
        };
        let lane = flow.lane.clone();
        if let Some(Waiting { unit, payload, .. }) = self.take_head(id) {
            let bytes = u64::from(unit.bytes);
            if paid {
                self.gate.give_back(&lane, bytes);
            }
            *counter(&mut self.stats) += bytes;
            self.stats.dropped_batches += 1;
            lost(payload);
        }
        Turn::Next
    }

    fn take_head(&mut self, id: LaneId) -> Option<Waiting<T>> {
        let flow = self.flows.get_mut(&id)?;
        let waiting = flow.units.pop_front()?;
        let footprint = u64::from(waiting.unit.footprint);
        flow.held -= footprint;
        flow.lane.release(footprint);
        self.stats.held_bytes -= footprint;
        self.ready_at = None;
        if flow.units.is_empty() {
            self.leave(id);
        }
        Some(waiting)
    }

    /// Nothing of this lane waits any more.
    fn leave(&mut self, id: LaneId) {
        if let Some(flow) = self.flows.remove(&id) {
            flow.lane
                .set_served(flow.granted - flow.deficit.min(flow.granted));
            self.turns.leave(id, flow.lane.key());
            self.retire(flow);
        }
        if self.turns.is_idle() && !self.socket_full {
            self.gate.set_congested(false);
        }
    }

    fn retire(&mut self, mut flow: Flow<T>) {
        flow.lane.set_waits(false);
        if self.spare.len() < SPARE_MAX {
            flow.units.shrink_to(SPARE_UNITS_MAX);
            self.spare.push(flow);
        }
    }

    /// Let something wait, if there is room. `until`: its key has nothing left before.
    fn wait(
        &mut self,
        id: LaneId,
        lane: &Arc<Lane>,
        unit: Unit,
        until: Option<Instant>,
        waiting: impl FnOnce() -> Waiting<T>,
    ) -> Offered {
        if let Some(why) = self.lacks_room(id, lane, unit) {
            return self.refuse(why, unit);
        }
        self.flow(id, lane, until).units.push_back(waiting());
        self.account(id, unit.footprint);
        if !self.turns.is_idle() {
            self.gate.set_congested(true);
        }
        Offered::Waits
    }

    fn lacks_room(&self, id: LaneId, lane: &Lane, unit: Unit) -> Option<Dropped> {
        let footprint = u64::from(unit.footprint);
        let free = TOTAL_MAX - self.stats.held_bytes.min(TOTAL_MAX);
        if footprint > free {
            return Some(Dropped::Full);
        }
        let of_key = lane.held_of_key();
        if of_key > 0 && of_key + footprint > self.key_max {
            return Some(Dropped::LaneFull);
        }
        // No lane takes more than is left to the others, of its key and in all (dynamic thresholds, Choudhury and Hahne
        // 1998).
        let most = self
            .lane_max
            .min(free)
            .min(self.key_max - of_key.min(self.key_max));
        let held = self.flows.get(&id).map_or(0, |flow| flow.held);
        (held > 0 && held + footprint > most).then_some(Dropped::LaneFull)
    }

    fn refuse(&mut self, why: Dropped, unit: Unit) -> Offered {
        self.stats.overflow_bytes += u64::from(unit.bytes);
        self.stats.dropped_batches += 1;
        Offered::Dropped(why)
    }

    /// So much more waits in this lane.
    fn account(&mut self, id: LaneId, footprint: u32) {
        let footprint = u64::from(footprint);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.held += footprint;
            flow.lane.hold(footprint);
        }
        self.stats.held_bytes += footprint;
        self.stats.held_bytes_max = self.stats.held_bytes_max.max(self.stats.held_bytes);
    }

    /// The queue of this lane; a new one takes its turn after all others, or waits for its key until then.
    fn flow(&mut self, id: LaneId, lane: &Arc<Lane>, until: Option<Instant>) -> &mut Flow<T> {
        let (turns, spare, granted) = (&mut self.turns, &mut self.spare, self.granted);
        // The lanes of a key with a limit are one party: what one of them misses, the others get.
        let missed = match lane.key() {
            None => granted - lane.served().min(granted),
            Some(_) => 0,
        };
        let deficit = missed.min(self.missed_max);
        self.flows.entry(id).or_insert_with(|| {
            turns.join(id, lane.key(), until);
            lane.set_waits(true);
            let units = spare.pop().map(|flow| flow.units);
            Flow {
                lane: lane.clone(),
                units: units.unwrap_or_default(),
                held: 0,
                deficit,
                granted,
                codel: Codel::default(),
            }
        })
    }
}

impl<T> Waiting<T> {
    const fn new(payload: T, unit: Unit, paid: bool, since: Instant) -> Self {
        Self {
            payload,
            unit,
            since,
            paid,
            mark: false,
        }
    }
}
