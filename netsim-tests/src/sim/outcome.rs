//! How an attempt ended. Data, and how it is read off a world.

use std::time::Duration;

use knothole_proto::path::Path;

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
    /// Where each side's traffic ran in the end.
    pub paths: [Option<Path>; 2],
    /// Probes that each side sent.
    pub probes: [u32; 2],
    /// Most entries in any NAT.
    pub nat_entries: usize,
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

impl Outcome {
    /// Did the two talk, on whatever path?
    #[must_use]
    pub fn talked(&self) -> bool {
        let heard = |traffic: &TrafficStats| traffic.by_relay + traffic.direct > 0;
        self.direct || (self.met && self.traffic.iter().all(heard))
    }

    /// The same with the sums as they are now.
    pub(super) fn at_the_end(self, world: &World, hosts: [HostId; 2]) -> Self {
        let now = outcome(world, hosts, self.to_direct, self.met);
        Self {
            paths: self.paths,
            probes: self.probes,
            traffic: self.traffic,
            ..now
        }
    }
}

/// What can be seen of it now.
pub(super) fn outcome(world: &World, [a, b]: [HostId; 2], to_direct: Option<Duration>, met: bool) -> Outcome {
    Outcome {
        met,
        direct: to_direct.is_some(),
        to_direct,
        paths: [world.path(a, b), world.path(b, a)],
        probes: [world.probes_sent(a), world.probes_sent(b)],
        nat_entries: world.nat_entries_max(),
        traffic: [
            world.traffic(a, b).unwrap_or_default(),
            world.traffic(b, a).unwrap_or_default(),
        ],
        packets: world.packets(),
        took: world.now(),
        events: world.events_handled(),
        trace: world.trace(),
    }
}
