//! [`InSim`]: a scenario in the world in memory. Nodes are the project's own machines; plain hosts have nothing to do
//! there, and programs cannot run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path;
use std::time::Duration;

use knothole_proto::path::Path;
use knothole_proto::wire::PathPolicy;

use super::model::{
    Action, LinkPair, NatIndex, NodeIndex, NodeRole, PathKind, Place, Relay, Scenario, UdpWord, WorldKind,
};
use super::stage::{Acted, PathView, Stage, StageError};
use crate::nat::UdpPolicy;
use crate::sim::{HostId, Line, NodeSpec, SERVER_IP, SERVER_IP6, ServerSpec, SiteId, World};

/// How long the nodes have to register before time zero: several of the repetitions that heavy loss costs.
const REGISTER_WITHIN: Duration = Duration::from_secs(60);

/// What passes before time zero besides: by then the nodes know the server's clock and their NATs.
const SETTLE: Duration = Duration::from_secs(1);

/// A wish for a link that came to nothing is uttered again after this: the connector gives one up after 5 s.
const ASK_AGAIN: Duration = Duration::from_millis(5_500);

/// The server's addresses, one of each family.
const SERVERS: [IpAddr; 2] = [SERVER_IP, SERVER_IP6];

/// A scenario in the world in memory.
#[derive(Debug)]
pub struct InSim {
    world: World,
    zero: Duration,
    /// What each node is there; hosts are not.
    hosts: BTreeMap<NodeIndex, HostId>,
    server: Option<NodeIndex>,
    /// The place behind each NAT.
    sites: Vec<SiteId>,
    /// The place of each public machine.
    public: BTreeMap<NodeIndex, SiteId>,
    /// For each node its uplinks.
    uplinks: Vec<Vec<Option<NatIndex>>>,
    down: BTreeSet<NodeIndex>,
    wishes: BTreeMap<(NodeIndex, NodeIndex), Wish>,
    probes_before: BTreeMap<NodeIndex, u32>,
}

/// One node wants a link with another.
#[derive(Clone, Copy, Debug)]
struct Wish {
    policy: PathPolicy,
    asked: Duration,
}

impl InSim {
    /// Builds the topology and lets time pass up to time zero. `journal`: keep readable lines of what happens.
    ///
    /// # Errors
    ///
    /// The first rule that was broken.
    pub fn build(scenario: &Scenario, seed: u64, journal: bool) -> Result<Self, StageError> {
        let mut world = World::new(seed);
        if journal {
            world.keep_journal();
        }
        let mut stage = Self {
            world,
            zero: Duration::ZERO,
            hosts: BTreeMap::new(),
            server: scenario.server(),
            sites: Vec::new(),
            public: BTreeMap::new(),
            uplinks: scenario.nodes.iter().map(|node| node.uplinks.clone()).collect(),
            down: BTreeSet::new(),
            wishes: BTreeMap::new(),
            probes_before: BTreeMap::new(),
        };
        stage.add_server(scenario);
        stage.add_sites(scenario);
        stage.add_nodes(scenario)?;
        for (one, two) in &scenario.pairs {
            stage.world.pair(stage.hosts[one], stage.hosts[two])?;
        }
        stage.settle(scenario)?;
        Ok(stage)
    }

    /// Begins to write down what the nodes send and receive of which the scenario wants it, each into `NAME.pcap` in this
    /// folder. Complete once [`InSim::end_captures`] was called.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn begin_captures(&mut self, scenario: &Scenario, dir: &path::Path) -> Result<(), StageError> {
        for (index, node) in scenario.nodes.iter().enumerate().filter(|(_, node)| node.capture) {
            let Some(host) = self.hosts.get(&index) else {
                continue;
            };
            let path = dir.join(format!("{}.pcap", node.name));
            let file = File::create(&path).map(BufWriter::new);
            let begun = file.and_then(|file| self.world.capture(*host, file));
            begun.map_err(|source| StageError::Files {
                what: path.display().to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Ends what [`InSim::begin_captures`] began.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn end_captures(&mut self) -> Result<(), StageError> {
        let ended = self.world.end_captures();
        ended.map(|_packets| ()).map_err(|source| StageError::Files {
            what: "a capture".to_owned(),
            source,
        })
    }

    /// Readable lines of what happened, if they were kept.
    pub fn journal(&self) -> impl Iterator<Item = &Line> {
        self.world.journal()
    }

    fn add_server(&mut self, scenario: &Scenario) {
        if let Some(server) = self.server {
            let link = link(scenario, Place::Node(server));
            let host = self.world.add_server(ServerSpec::default(), link.up, link.down);
            self.hosts.insert(server, host);
        }
    }

    fn add_sites(&mut self, scenario: &Scenario) {
        for (index, nat) in scenario.nats.iter().enumerate() {
            let link = link(scenario, Place::Nat(index));
            let specs = nat.recipe.specs(&SERVERS);
            let site = match nat.behind {
                None => self.world.add_site(&specs, link.up, link.down),
                Some(outer) => {
                    let outer = self.sites[outer];
                    self.world.add_site_behind(outer, &specs, link.up, link.down)
                }
            };
            self.sites.push(site);
        }
    }

    fn add_nodes(&mut self, scenario: &Scenario) -> Result<(), StageError> {
        for (index, node) in scenario.nodes.iter().enumerate() {
            if node.role != NodeRole::Node {
                continue;
            }
            let site = match node.uplinks[0] {
                Some(nat) => self.sites[nat],
                None => {
                    let link = link(scenario, Place::Node(index));
                    let site = self.world.add_site(&[], link.up, link.down);
                    self.public.insert(index, site);
                    site
                }
            };
            let spec = NodeSpec {
                name: node.name.parse().ok(),
                families: node.families,
                ..NodeSpec::default()
            };
            let host = self.world.add_node(site, spec)?;
            self.hosts.insert(index, host);
        }
        Ok(())
    }

    fn settle(&mut self, scenario: &Scenario) -> Result<(), StageError> {
        let reaching = self.hosts.iter().filter(|(index, _)| {
            scenario.nodes[**index].role == NodeRole::Node && scenario.reaches_server(**index, &SERVERS)
        });
        let reaching: Vec<HostId> = reaching.map(|(_, host)| *host).collect();
        let ready = |world: &World| reaching.iter().all(|host| world.is_registered(*host));
        self.world.run_until(REGISTER_WITHIN, ready)?;
        self.world.run_for(SETTLE)?;
        self.zero = self.world.now();
        for (index, host) in &self.hosts {
            self.probes_before.insert(*index, self.world.probes_sent(*host));
        }
        Ok(())
    }

    fn connect(&mut self, from: NodeIndex, to: NodeIndex, policy: PathPolicy) -> Result<(), StageError> {
        let asked = self.world.now();
        self.world.connect(self.hosts[&from], self.hosts[&to], policy)?;
        self.wishes.insert((from, to), Wish { policy, asked });
        Ok(())
    }

    /// Wishes that came to nothing are uttered again.
    fn ask_again(&mut self) -> Result<(), StageError> {
        let now = self.world.now();
        let mut due = Vec::new();
        for ((from, to), wish) in &self.wishes {
            let linked = self.world.path(self.hosts[from], self.hosts[to]).is_some();
            if !linked && !self.down.contains(from) && now >= wish.asked + ASK_AGAIN {
                due.push((*from, *to, wish.policy));
            }
        }
        for (from, to, policy) in due {
            self.connect(from, to, policy)?;
        }
        Ok(())
    }

    fn kill(&mut self, node: NodeIndex) {
        let host = self.hosts[&node];
        if self.server == Some(node) {
            self.world.kill_server(host);
        } else {
            self.world.kill_node(host);
        }
        self.down.insert(node);
    }

    fn start(&mut self, node: NodeIndex) -> Result<(), StageError> {
        if !self.down.remove(&node) {
            return Ok(());
        }
        let host = self.hosts[&node];
        if self.server == Some(node) {
            self.world.restart_server(host);
        } else {
            self.world.restart_node(host)?;
        }
        Ok(())
    }

    fn switch(&mut self, node: NodeIndex, uplink: usize) -> Result<Acted, StageError> {
        let (Some(host), Some(Some(nat))) = (self.hosts.get(&node), self.uplinks[node].get(uplink)) else {
            return Ok(Acted::Skipped(
                "a plain host has no part in this world".to_owned(),
            ));
        };
        self.world.move_node(*host, self.sites[*nat])?;
        Ok(Acted::Done)
    }
}

impl Stage for InSim {
    fn world(&self) -> WorldKind {
        WorldKind::Sim
    }

    fn servers(&self) -> Vec<IpAddr> {
        SERVERS.to_vec()
    }

    fn now(&self) -> Duration {
        self.world.now() - self.zero
    }

    fn pass(&mut self, until: Duration) -> Result<(), StageError> {
        let time = (self.zero + until).saturating_sub(self.world.now());
        self.world.run_for(time)?;
        self.ask_again()
    }

    fn act(&mut self, action: &Action) -> Result<Acted, StageError> {
        match action {
            Action::Connect { from, to, relay } => {
                let policy = match relay {
                    Relay::Auto => PathPolicy::Auto,
                    Relay::Never => PathPolicy::DirectOnly,
                    Relay::Only => PathPolicy::RelayOnly,
                };
                self.connect(*from, *to, policy)?;
            }
            Action::Disconnect { from, to } => {
                self.wishes.remove(&(*from, *to));
                self.world.close(self.hosts[from], self.hosts[to])?;
            }
            Action::Reboot(nat) => self.world.reboot_site(self.sites[*nat]),
            Action::SetLink(place, pair) => {
                let site = match place {
                    Place::Nat(nat) => Some(self.sites[*nat]),
                    Place::Node(node) => self.public.get(node).copied(),
                };
                match (site, place) {
                    (Some(site), _) => self.world.set_links(site, pair.up, pair.down),
                    (None, Place::Node(node)) if self.server == Some(*node) => {
                        self.world.set_host_links(self.hosts[node], pair.up, pair.down);
                    }
                    _ => {
                        return Ok(Acted::Skipped(
                            "a plain host has no part in this world".to_owned(),
                        ));
                    }
                }
            }
            Action::Blackout { .. } => return Ok(Acted::Skipped("not an action of a world".to_owned())),
            Action::Udp(nat, word) => {
                let policy = match word {
                    UdpWord::Open => UdpPolicy::Open,
                    UdpWord::ServerOnly => UdpPolicy::OnlyTo(SERVERS.into()),
                    UdpWord::Blocked => UdpPolicy::Blocked(None),
                };
                self.world.set_udp(self.sites[*nat], &policy);
            }
            Action::Kill(node) => self.kill(*node),
            Action::Start(node) => self.start(*node)?,
            Action::Restart(node) => {
                self.kill(*node);
                self.start(*node)?;
            }
            Action::Switch { node, uplink } => return self.switch(*node, *uplink),
            Action::Run(_) => {
                return Ok(Acted::Skipped(
                    "no programs run in this world; use --world netns".to_owned(),
                ));
            }
        }
        Ok(Acted::Done)
    }

    fn path(&self, from: NodeIndex, to: NodeIndex) -> Option<PathView> {
        let path = self.world.path(self.hosts[&from], self.hosts[&to]);
        Some(path.map_or_else(PathView::nothing, |path| view(&path)))
    }

    fn is_registered(&self, node: NodeIndex) -> bool {
        self.hosts
            .get(&node)
            .is_some_and(|host| self.world.is_registered(*host))
    }

    fn arrivals(&self, from: NodeIndex, to: NodeIndex) -> Option<u64> {
        let stats = self.world.traffic(self.hosts[&from], self.hosts[&to]);
        Some(stats.map_or(0, |stats| stats.by_relay + stats.direct))
    }

    fn probes(&self, node: NodeIndex) -> Option<u64> {
        let before = self.probes_before.get(&node).copied().unwrap_or(0);
        let sent = self.world.probes_sent(*self.hosts.get(&node)?);
        Some(u64::from(sent.saturating_sub(before)))
    }

    fn nat_entries(&self, nat: NatIndex) -> Option<usize> {
        Some(self.world.nat_entries_at(self.sites[nat]))
    }

    fn trace(&self) -> Option<String> {
        Some(
            self.world
                .trace()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }
}

fn link(scenario: &Scenario, place: Place) -> LinkPair {
    let found = scenario.links.iter().find(|(known, _)| *known == place);
    found.map(|(_, link)| *link).unwrap_or_default()
}

fn view(path: &Path) -> PathView {
    let (kind, detail, remote) = match path {
        Path::Direct { how, remote, .. } => (PathKind::Direct, how.word(), Some(remote.to_string())),
        Path::Relay(why) => (PathKind::Relay, why.sentence(), None),
        Path::None(why) => (PathKind::None, why.sentence(), None),
    };
    PathView {
        kind,
        detail: detail.to_owned(),
        remote,
    }
}
