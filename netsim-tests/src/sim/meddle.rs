//! What goes wrong in a world, on request: routers, links, nodes and the server.

use std::time::Duration;

use knothole_proto::connector::Command;

use super::build::SiteId;
use super::busy::Busy;
use super::check::Violation;
use super::late::Skew;
use super::node::Node;
use super::stranger::{Mischief, Stranger};
use super::topology::{HostId, INTERNET};
use super::world::{HostRole, World};
use crate::link::LinkSpec;
use crate::nat::UdpPolicy;

/// Meddling.
impl World {
    /// The router of a site starts anew: every mapping is gone.
    pub fn reboot_nats(&mut self, site: SiteId) {
        let mut net = Some(site.inner);
        while let Some(below) = net.filter(|net| *net != INTERNET) {
            if let Some(nat) = self.topology.nat_mut(below) {
                nat.reboot();
            }
            net = self.topology.parent(below);
        }
    }

    /// The NATs of a site itself start anew, and those that it is behind do not.
    pub fn reboot_site(&mut self, site: SiteId) {
        for net in self.topology.nets_of(site.inner, site.outer) {
            if let Some(nat) = self.topology.nat_mut(net) {
                nat.reboot();
            }
        }
    }

    /// The outermost NAT of a site lets other UDP pass from now on.
    pub fn set_udp(&mut self, site: SiteId, udp: &UdpPolicy) {
        if let Some(nat) = self.topology.nat_mut(site.outer) {
            nat.set_udp(udp.clone());
        }
    }

    /// The access of a site behaves otherwise from now on.
    pub fn set_links(&mut self, site: SiteId, up: LinkSpec, down: LinkSpec) {
        if let Some(links) = self.topology.links_mut(site.outer) {
            links.up.set_spec(up);
            links.down.set_spec(down);
        }
    }

    /// The access of the network that a host is in behaves otherwise from now on.
    pub fn set_host_links(&mut self, host: HostId, up: LinkSpec, down: LinkSpec) {
        if let Some(links) = self.topology.links_mut(self.hosts[host.0].net) {
            links.up.set_spec(up);
            links.down.set_spec(down);
        }
    }

    /// All hosts are busy from now on: their programs stand still every now and then.
    pub fn make_busy(&mut self) {
        for (number, host) in (0..).zip(&mut self.hosts) {
            host.busy = Some(Busy::new(&self.seed.child("busy", number), self.now));
        }
    }

    /// A node moves to another site, with the same key and the same run.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn move_node(&mut self, host: HostId, site: SiteId) -> Result<(), Violation> {
        let Some(home) = &mut self.hosts[host.0].home else {
            return Ok(());
        };
        home.site = site;
        let spec = home.spec.clone();
        let addresses = self.addresses(site, &spec, host);
        if let Some(before) = self.node(host).map(Node::addresses) {
            for addr in [before.v4, before.v6].into_iter().flatten() {
                self.topology.remove_address(addr.ip(), host);
            }
        }
        self.settle(site, host, addresses)
    }

    /// A node closes its link with another.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn close(&mut self, host: HostId, peer: HostId) -> Result<(), Violation> {
        let peer = self.peer_id(peer);
        let link = self.node(host).and_then(|node| node.link_to(peer));
        match link {
            Some((link, ..)) => self.feed(host, Command::Close { link }),
            None => Ok(()),
        }
    }

    /// Introductions come to a node too late from now on, or no more.
    pub fn set_skew(&mut self, host: HostId, skew: Option<Skew>) {
        if let Some(node) = self.node_mut(host) {
            node.set_skew(skew);
        }
    }

    /// A node vanishes without a word.
    pub fn kill_node(&mut self, host: HostId) {
        self.hosts[host.0].role = HostRole::Off;
    }

    /// A node's links carry pings in this interval from now on, or none. The sums of the traffic start anew.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn set_traffic(&mut self, host: HostId, period: Option<Duration>) -> Result<(), Violation> {
        let now = self.now;
        if let Some(node) = self.node_mut(host) {
            node.set_period(period, now);
        }
        self.touched(host)
    }

    /// The server dies.
    pub fn kill_server(&mut self, host: HostId) {
        if let HostRole::Server(server) = &mut self.hosts[host.0].role {
            server.kill();
        }
    }

    /// The server comes up, knowing what its disk knows.
    pub fn restart_server(&mut self, host: HostId) {
        let now = self.now;
        if let HostRole::Server(server) = &mut self.hosts[host.0].role {
            server.restart(now);
        }
    }

    /// The server says goodbye.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn shut_server_down(&mut self, host: HostId) -> Result<(), Violation> {
        let now = self.now;
        if let HostRole::Server(server) = &mut self.hosts[host.0].role {
            server.shut_down(now);
        }
        self.touched(host)
    }

    /// The server's disk fails, or works again.
    pub fn set_disk_fails(&mut self, host: HostId, fails: bool) {
        if let HostRole::Server(server) = &mut self.hosts[host.0].role {
            server.set_disk_fails(fails);
        }
    }

    /// From now on a stranger sees every packet and meddles.
    pub fn let_stranger_in(&mut self, mischief: Mischief) {
        self.stranger = Some(Stranger::new(mischief, &self.seed.child("stranger", 0)));
    }
}
