//! What can be seen of a world from outside: paths, events, counters.

use std::time::Duration;

use knothole_proto::connector::{Effort, Event};
use knothole_proto::id::PeerId;
use knothole_proto::path::Path;
use knothole_proto::rendezvous::{RelayStats, Stats};

use super::app::TrafficStats;
use super::build::SiteId;
use super::check::Sent;
use super::node::Node;
use super::stranger::Stranger;
use super::topology::HostId;
use super::world::{HostRole, World};

/// Looking.
impl World {
    /// The key of a node.
    pub fn peer_id(&self, host: HostId) -> PeerId {
        self.hosts[host.0].key
    }

    /// Where a node's traffic to another runs.
    pub fn path(&self, host: HostId, peer: HostId) -> Option<Path> {
        Some(self.node(host)?.link_to(self.peer_id(peer))?.1)
    }

    /// The time from introduction to the last change of path, as the node says it.
    pub fn path_after(&self, host: HostId, peer: HostId) -> Option<Duration> {
        Some(self.node(host)?.link_to(self.peer_id(peer))?.2)
    }

    /// Do both nodes send straight to each other?
    pub fn is_direct(&self, one: HostId, two: HostId) -> bool {
        let direct = |path: Option<Path>| path.is_some_and(|path| path.is_direct());
        direct(self.path(one, two)) && direct(self.path(two, one))
    }

    /// Do both nodes send straight to each other, on one and the same pair of addresses?
    pub fn agree(&self, one: HostId, two: HostId) -> bool {
        match (self.path(one, two), self.path(two, one)) {
            (
                Some(Path::Direct { socket, remote, .. }),
                Some(Path::Direct {
                    socket: socket2,
                    remote: remote2,
                    ..
                }),
            ) => self.checks.agree((one, socket, remote), (two, socket2, remote2)),
            _ => false,
        }
    }

    /// What a node's connector has said so far, with the time since the start.
    pub fn events(&self, host: HostId) -> &[(Duration, Event)] {
        &self.hosts[host.0].events
    }

    /// Did the server admit this node, and is its control connection open?
    pub fn is_registered(&self, host: HostId) -> bool {
        let registered = |(_, event): &(Duration, Event)| matches!(event, Event::Registered { .. });
        self.node(host).is_some_and(Node::is_connected) && self.events(host).iter().any(registered)
    }

    /// Application traffic of a node with another.
    pub fn traffic(&self, host: HostId, peer: HostId) -> Option<TrafficStats> {
        self.node(host)?.traffic(self.peer_id(peer))
    }

    /// Probes that a node has sent.
    pub fn probes_sent(&self, host: HostId) -> u32 {
        self.checks.sent(host).probes
    }

    /// What a node has sent to open and find paths.
    pub fn sent(&self, host: HostId) -> Sent {
        self.checks.sent(host)
    }

    /// Sockets that a node has opened beside its main ones, closed ones among them.
    pub fn sockets_opened(&self, host: HostId) -> u32 {
        self.node(host).map_or(0, |node| node.sockets().opened())
    }

    /// What a node's newest link with another has cost, as the node itself says.
    pub fn effort(&self, host: HostId, peer: HostId) -> Option<Effort> {
        self.node(host)?.effort(self.peer_id(peer))
    }

    /// Most entries that any NAT held at one time.
    pub fn nat_entries_max(&self) -> usize {
        self.topology.nat_entries_max()
    }

    /// Most entries that any of the NATs of a site itself held at one time.
    pub fn nat_entries_at(&self, site: SiteId) -> usize {
        let nets = self.topology.nets_of(site.inner, site.outer).into_iter();
        let nats = nets.filter_map(|net| self.topology.nat(net));
        nats.map(|nat| nat.stats().peak_entries).max().unwrap_or(0)
    }

    /// Entries that the NATs in front of a host have made so far: those of the NAT that has made most.
    pub fn nat_entries_made(&self, host: HostId) -> u64 {
        let way = std::iter::successors(Some(self.hosts[host.0].net), |net| self.topology.parent(*net));
        let nats = way.filter_map(|net| self.topology.nat(net));
        nats.map(|nat| nat.stats().made).max().unwrap_or(0)
    }

    /// Packets of all links so far: (offered, lost by chance).
    pub fn packets(&self) -> (u64, u64) {
        self.topology.packets()
    }

    /// Packets that the stranger sent.
    pub fn mischief_done(&self) -> u64 {
        self.stranger.as_ref().map_or(0, Stranger::copies)
    }

    /// Counters of the server's registry and relay.
    pub fn server_stats(&self, host: HostId) -> Option<(Stats, RelayStats)> {
        match &self.hosts[host.0].role {
            HostRole::Server(server) => Some((server.registry().stats(), server.relay())),
            _ => None,
        }
    }

    pub(super) fn node(&self, host: HostId) -> Option<&Node> {
        match &self.hosts[host.0].role {
            HostRole::Node(node) => Some(node),
            _ => None,
        }
    }

    pub(super) fn node_mut(&mut self, host: HostId) -> Option<&mut Node> {
        match &mut self.hosts[host.0].role {
            HostRole::Node(node) => Some(node),
            _ => None,
        }
    }
}
