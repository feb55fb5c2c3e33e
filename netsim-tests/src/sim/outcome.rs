//! How an attempt ended. Data, and how it is read off a world.

use std::time::Duration;

use knothole_proto::connector::{Effort, Event};
use knothole_proto::path::Path;
use knothole_proto::punch::Plan;

use super::app::TrafficStats;
use super::topology::HostId;
use super::world::World;

/// How an attempt ended. Where changes followed, the sums are those of the whole, the rest is from before them.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Were both sides admitted by the server and introduced to each other?
    pub met: bool,
    /// Do both sides send straight to each other?
    pub direct: bool,
    /// From the wish to connect until both sides did.
    pub to_direct: Option<Duration>,
    /// From the wish to connect until each side had the first datagram of the other, by whatever path.
    pub to_data: [Option<Duration>; 2],
    /// Where each side's traffic ran in the end.
    pub paths: [Option<Path>; 2],
    /// What the caller's rounds went about, one after the other.
    pub plans: Vec<Plan>,
    /// What it cost each side from the wish to connect on.
    pub costs: [Cost; 2],
    /// What each side says that its link has cost it.
    pub said: [Option<Effort>; 2],
    /// Application traffic at each side.
    pub traffic: [TrafficStats; 2],
    /// Packets on all links, and how many of them were lost.
    pub packets: (u64, u64),
    /// Virtual time that the attempt took, registration included.
    pub took: Duration,
    /// Events in the trace.
    pub events: u64,
    /// Hash of all events.
    pub trace: [u8; 32],
}

/// What an attempt costs one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Probes that it sent, openers and answers among them.
    pub probes: u32,
    /// STUN requests that it sent.
    pub questions: u32,
    /// Sockets that it opened.
    pub sockets: u32,
    /// Entries that all traffic of that time made in the NATs in front of it: those of the NAT that made most.
    pub nat_entries: u64,
}

/// What was before an attempt, to count from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    asked: Duration,
    costs: [Cost; 2],
}

impl Outcome {
    /// Did the two talk, on whatever path?
    #[must_use]
    pub fn talked(&self) -> bool {
        let heard = |traffic: &TrafficStats| traffic.by_relay + traffic.direct > 0;
        self.direct || (self.met && self.traffic.iter().all(heard))
    }

    /// Probes of the side that sent more of them.
    #[must_use]
    pub fn probes(&self) -> u32 {
        self.costs[0].probes.max(self.costs[1].probes)
    }

    /// Entries at the side that has more of them.
    #[must_use]
    pub fn nat_entries(&self) -> u64 {
        self.costs[0].nat_entries.max(self.costs[1].nat_entries)
    }

    /// Packets of both sides that looked for a path: probes and questions.
    #[must_use]
    pub fn looking(&self) -> u32 {
        self.costs.iter().map(|cost| cost.probes + cost.questions).sum()
    }

    /// The same with the sums as they are now.
    pub(super) fn at_the_end(self, world: &World, hosts: [HostId; 2]) -> Self {
        let now = outcome(world, hosts, &Before::now(world, hosts), None, self.met);
        Self {
            packets: now.packets,
            took: now.took,
            events: now.events,
            trace: now.trace,
            ..self
        }
    }
}

impl Before {
    pub(super) fn now(world: &World, hosts: [HostId; 2]) -> Self {
        Self {
            asked: world.now(),
            costs: hosts.map(|host| spent(world, host)),
        }
    }
}

/// What can be seen of it now.
pub(super) fn outcome(
    world: &World,
    [a, b]: [HostId; 2],
    before: &Before,
    to_direct: Option<Duration>,
    met: bool,
) -> Outcome {
    let traffic = [(a, b), (b, a)].map(|(host, peer)| world.traffic(host, peer).unwrap_or_default());
    let plan = |(at, event): &(Duration, Event)| match event {
        Event::Plan { plan, .. } if *at >= before.asked => Some(*plan),
        _ => None,
    };
    let cost = |side: usize, host| spent(world, host).since(before.costs[side]);
    Outcome {
        met,
        direct: to_direct.is_some(),
        to_direct,
        to_data: traffic.map(|traffic| traffic.first?.checked_sub(before.asked)),
        paths: [world.path(a, b), world.path(b, a)],
        plans: world.events(a).iter().filter_map(plan).collect(),
        costs: [cost(0, a), cost(1, b)],
        said: [world.effort(a, b), world.effort(b, a)],
        traffic,
        packets: world.packets(),
        took: world.now(),
        events: world.events_handled(),
        trace: world.trace(),
    }
}

impl Cost {
    fn since(self, before: Self) -> Self {
        Self {
            probes: self.probes - before.probes,
            questions: self.questions - before.questions,
            sockets: self.sockets.saturating_sub(before.sockets),
            nat_entries: self.nat_entries.saturating_sub(before.nat_entries),
        }
    }
}

fn spent(world: &World, host: HostId) -> Cost {
    let sent = world.sent(host);
    Cost {
        probes: sent.probes,
        questions: sent.questions,
        sockets: world.sockets_opened(host),
        nat_entries: world.nat_entries_made(host),
    }
}
