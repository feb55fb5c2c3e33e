//! A scenario, checked: what is in it makes sense. Plain data; [`Scenario::read`](super::Scenario) makes it from a file,
//! the worlds act on it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::recipe::Recipe;
use crate::link::LinkSpec;
use crate::nat::Families;

/// One scenario: topology, what happens in it, what must come of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file that it was read from, or what stands for it.
    pub file: PathBuf,
    /// One line.
    pub title: String,
    /// Where all randomness comes from.
    pub seed: u64,
    /// The worlds that it is for, the first one being the usual.
    pub worlds: Vec<WorldKind>,
    /// NATs, each after those that it is behind.
    pub nats: Vec<Nat>,
    /// Machines in the order of the file.
    pub nodes: Vec<Node>,
    /// Links whose description is not that of a perfect one.
    pub links: Vec<(Place, LinkPair)>,
    /// Steps and expectations in the order of the file.
    pub timeline: Vec<Item>,
    /// Nodes that know each other before time zero, each pair once.
    pub pairs: Vec<(NodeIndex, NodeIndex)>,
}

/// Index into [`Scenario::nodes`].
pub type NodeIndex = usize;

/// Index into [`Scenario::nats`].
pub type NatIndex = usize;

/// Where a scenario can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorldKind {
    /// In memory, in virtual time.
    Sim,
    /// In network namespaces, with real programs.
    Netns,
}

impl WorldKind {
    /// The word on command lines and in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Netns => "netns",
        }
    }
}

/// A NAT, or a row of them where its kind is one.
#[derive(Clone, Debug)]
pub struct Nat {
    /// Its name.
    pub name: String,
    /// What it is like.
    pub recipe: Recipe,
    /// The NAT in whose network it stands; `None`: it has a public address.
    pub behind: Option<NatIndex>,
    /// Is a kernel to play it, where the world has one?
    pub kernel: bool,
    /// The line where it was said.
    pub line: usize,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What runs on it.
    pub role: NodeRole,
    /// The networks it can be in, the first one being that of the beginning; `None`: the public one.
    pub uplinks: Vec<Option<NatIndex>>,
    /// Addresses that the file gives it, at most one of a family. The world in memory has its own.
    pub addresses: Vec<IpAddr>,
    /// Which addresses it has.
    pub families: Families,
    /// Are its packets to be written down?
    pub capture: bool,
    /// The line where it was said.
    pub line: usize,
}

/// What runs on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Nothing but the commands of the scenario.
    Host,
    /// The rendezvous server.
    Server,
    /// A Knothole node.
    Node,
}

/// Who a link belongs to: everybody behind one NAT shares its link, a public machine has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The link on the outer side of this NAT.
    Nat(NatIndex),
    /// The link of this public machine.
    Node(NodeIndex),
}

/// Both directions of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkPair {
    /// Towards the internet.
    pub up: LinkSpec,
    /// From it.
    pub down: LinkSpec,
}

/// A step or an expectation.
#[derive(Clone, Debug)]
pub struct Item {
    /// The line where it stands.
    pub line: usize,
    /// What it is.
    pub what: What,
}

/// A step or an expectation.
#[derive(Clone, Debug)]
pub enum What {
    /// Something is done.
    Step {
        /// When.
        start: Start,
        /// What.
        action: Action,
    },
    /// Something must be so.
    Expect {
        /// When.
        when: When,
        /// What.
        check: Check,
    },
}

/// When a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// So long after time zero, or at once if that is over.
    At(Duration),
    /// So long after the item before it is done.
    After(Duration),
}

/// When an expectation is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once, when the item before is done.
    Now,
    /// At this time after time zero, or at once if that is over.
    At(Duration),
    /// It comes true within this time from the end of the item before.
    Within(Duration),
    /// It is true throughout this time from the end of the item before.
    For(Duration),
}

/// Which paths a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Any.
    Auto,
    /// A direct one only.
    Never,
    /// The relay only.
    Only,
}

impl Relay {
    /// The value of `--relay`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Only => "only",
        }
    }
}

/// What a NAT does with UDP from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpWord {
    /// It passes.
    Open,
    /// It passes to and from the server only.
    ServerOnly,
    /// It does not pass.
    Blocked,
}

/// Something that is done.
#[derive(Clone, Debug)]
pub enum Action {
    /// A node wants traffic with another, and keeps wanting it.
    Connect {
        /// Who wants.
        from: NodeIndex,
        /// With whom.
        to: NodeIndex,
        /// By which paths.
        relay: Relay,
    },
    /// It no longer wants it.
    Disconnect {
        /// Who wanted.
        from: NodeIndex,
        /// With whom.
        to: NodeIndex,
    },
    /// A NAT forgets its mappings.
    Reboot(NatIndex),
    /// A link behaves otherwise from now on.
    SetLink(Place, LinkPair),
    /// A link loses everything.
    Blackout {
        /// Which.
        place: Place,
        /// Towards the internet?
        up: bool,
        /// From it?
        down: bool,
        /// For how long; `None`: until the next `link` step for it.
        lasts: Option<Duration>,
    },
    /// A NAT treats UDP otherwise from now on.
    Udp(NatIndex, UdpWord),
    /// The program of a node or the server dies without a word.
    Kill(NodeIndex),
    /// It starts again.
    Start(NodeIndex),
    /// Both, at once.
    Restart(NodeIndex),
    /// A machine leaves its network for another of its uplinks.
    Switch {
        /// Which machine.
        node: NodeIndex,
        /// Index into its uplinks.
        uplink: usize,
    },
    /// A program runs on a machine. Only where there are real ones.
    Run(Run),
}

/// A program to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where.
    pub node: NodeIndex,
    /// Program and arguments, never empty.
    pub command: Vec<String>,
    /// Does the scenario go on while it runs?
    pub background: bool,
    /// The scenario goes on when the machine listens on this TCP port.
    pub listens: Option<u16>,
    /// Longest time that it may take, or take to listen.
    pub timeout: Duration,
    /// What must come of it.
    pub expect: RunExpect,
}

/// What must come of a program.
#[derive(Clone, Debug, Default)]
pub struct RunExpect {
    /// Its exit code.
    pub exit: i32,
    /// Text that its standard output contains.
    pub stdout: Option<String>,
    /// Text that its standard error contains.
    pub stderr: Option<String>,
}

/// Where traffic runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Straight.
    Direct,
    /// Through the server.
    Relay,
    /// Nowhere.
    None,
    /// As the two NATs allow: direct where the oracle says "must", not direct where it says "cannot", anything else where
    /// it says "may".
    Oracle,
}

impl PathKind {
    /// The word in files and output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::None => "none",
            Self::Oracle => "oracle",
        }
    }
}

/// Something that must be so.
#[derive(Clone, Debug)]
pub enum Check {
    /// Traffic of one node with another runs so.
    Path {
        /// Whose traffic.
        from: NodeIndex,
        /// With whom.
        to: NodeIndex,
        /// Where it runs.
        kind: PathKind,
        /// How a direct path came about: `lan`, `ipv6`, `mapped`, `punched`, `tcp`.
        how: Option<String>,
        /// Text that the reason against a direct path contains.
        why: Option<String>,
    },
    /// The server knows these nodes, or none of them.
    Registered {
        /// Which.
        nodes: Vec<NodeIndex>,
        /// Does it?
        is: bool,
    },
    /// An answer came since the last step.
    Answer {
        /// Who asks.
        from: NodeIndex,
        /// Who answers.
        to: NodeIndex,
    },
    /// Answers kept coming: no silence was longer than this, since the last step, or in the time that is watched.
    Traffic {
        /// Who asks.
        from: NodeIndex,
        /// Who answers.
        to: NodeIndex,
        /// Longest silence.
        gap: Duration,
    },
    /// A node sent no more probes since time zero.
    Probes {
        /// Which.
        node: NodeIndex,
        /// Most.
        max: u64,
    },
    /// A NAT never held more entries.
    NatEntries {
        /// Which.
        nat: NatIndex,
        /// Most.
        max: usize,
    },
}

impl Scenario {
    /// The name of a node.
    #[must_use]
    pub fn node_name(&self, node: NodeIndex) -> &str {
        self.nodes.get(node).map_or("?", |node| &node.name)
    }

    /// The name of a NAT.
    #[must_use]
    pub fn nat_name(&self, nat: NatIndex) -> &str {
        self.nats.get(nat).map_or("?", |nat| &nat.name)
    }

    /// The name of whoever a link belongs to.
    #[must_use]
    pub fn place_name(&self, place: Place) -> &str {
        match place {
            Place::Nat(nat) => self.nat_name(nat),
            Place::Node(node) => self.node_name(node),
        }
    }

    /// The machine with the rendezvous server.
    #[must_use]
    pub fn server(&self) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.role == NodeRole::Server)
    }

    /// The NATs that a place has in front of it, from the inside out.
    #[must_use]
    pub fn way_out(&self, uplink: Option<NatIndex>) -> Vec<NatIndex> {
        let outer = |nat: &NatIndex| self.nats.get(*nat)?.behind;
        std::iter::successors(uplink, outer).collect()
    }
}
