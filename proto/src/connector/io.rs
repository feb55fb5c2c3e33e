//! What goes into a connector and what comes out of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::addr::Candidate;
use crate::fingerprint::Fingerprint;
use crate::id::{ChannelId, Name, Nameplate, PairSecret, PeerId, RequestId};
use crate::path::{Path, SocketId};
use crate::plan::Plan;
use crate::punch::TrafficReport;
use crate::transmit::Transmit;
use crate::wire::{ConnectRefusal, FromServer, PairEnd, PathPolicy, Refusal, Role, ToServer};

/// The way to one other node, numbered by the connector; numbers are never used twice in one run.
///
/// A link is one pair of node runs. It outlives rounds of punching and control connections; QUIC connections to that
/// node, in either direction, run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Something happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A control connection to the server was established and authenticated. STUN questions go to `stun` from the
    /// named sockets.
    ControlUp {
        /// Address of the server for each socket that can reach it.
        stun: Vec<(SocketId, SocketAddr)>,
    },
    /// The control connection ended or could not be made.
    ControlDown,
    /// A message arrived on the control connection.
    Control(FromServer),
    /// A datagram that is neither QUIC nor a relay frame arrived.
    Datagram {
        /// The socket it came in on.
        socket: SocketId,
        /// Its source.
        from: SocketAddr,
        /// Its bytes, from anyone.
        bytes: &'a [u8],
    },
    /// The socket of an [`Output::Open`] is there.
    Opened {
        /// Which.
        socket: SocketId,
        /// Its port, and the address of this machine from which the system would send to the server.
        local: SocketAddr,
    },
    /// It could not be opened. What is to be sent from it is dropped.
    NotOpened {
        /// Which.
        socket: SocketId,
    },
    /// This network was fingerprinted before, and nothing points to a change since; saves the questions.
    Network(Box<Fingerprint>),
    /// These are the node's own addresses now (host and mapped candidates).
    LocalCandidates(Vec<Candidate>),
    /// QUIC traffic of a link with a direct path.
    Traffic {
        /// The link.
        link: LinkId,
        /// What there was of it.
        report: TrafficReport,
    },
    /// Somebody wants something.
    Command(Command),
    /// The deadline of the last [`Output::Wait`] has come.
    Timeout,
}

/// What the application above wants.
#[derive(Debug)]
pub enum Command {
    /// These are the paired machines now; whoever is not among them is neither accepted nor answered.
    SetPeers(Vec<(PeerId, PairSecret)>),
    /// Open a link to a paired machine, or start another round on the one there is.
    Connect {
        /// Matches the events.
        request: RequestId,
        /// Whom to.
        peer: PeerId,
        /// Which paths are wanted.
        policy: PathPolicy,
    },
    /// Nobody uses this link any more.
    Close {
        /// The link.
        link: LinkId,
    },
    /// Which key holds this name at the server?
    Lookup {
        /// Matches the answer.
        request: RequestId,
        /// The name.
        name: Name,
    },
    /// Open a nameplate; the code for the other person comes as an event.
    PairOpen,
    /// Join the nameplate of a code that a person typed.
    PairJoin {
        /// The code as typed.
        code: crate::pairing::Code,
    },
    /// Give up pairing.
    PairCancel,
    /// Leave the server on purpose.
    Bye,
}

/// What the connector wants done, or what it has to say.
#[derive(Debug)]
pub enum Output {
    /// Send this on the control connection.
    Control(ToServer),
    /// Send this datagram.
    Transmit(Transmit),
    /// Open another UDP socket on a port of the system's choice, then feed [`Input::Opened`] or [`Input::NotOpened`] before
    /// anything else. It takes part in everything: probes, STUN, and QUIC if a path comes to use it.
    Open {
        /// Its number; free again after [`Output::Close`].
        socket: SocketId,
        /// IPv6, otherwise IPv4.
        v6: bool,
    },
    /// This socket is of no more use.
    Close {
        /// Which.
        socket: SocketId,
    },
    /// Something the application should know.
    Event(Event),
    /// Nothing more to do until an input comes, or until this moment (then feed [`Input::Timeout`]).
    Wait(Option<(Instant, super::Timer)>),
}

/// What the node's NAT does, as far as its own questions to the server tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Not known yet, or the server answered from one port only.
    Unknown,
    /// The server sees an address that an interface of this machine has.
    None,
    /// Endpoint-independent mapping as far as two ports of one server tell (RFC 4787 section 4.1).
    EndpointIndependent,
    /// Another port for another destination port: address- and port-dependent mapping.
    EndpointDependent,
}

/// Something the application should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server admitted this node.
    Registered {
        /// The name it holds.
        name: Option<Name>,
        /// Its public address, as the server sees it.
        reflexive: SocketAddr,
        /// Does the server grant relay channels?
        relay: bool,
    },
    /// The server did not admit this node; the control connection ends.
    Refused(Refusal),
    /// More is known about the NAT in front of this node.
    Nat {
        /// Public address.
        reflexive: SocketAddr,
        /// What kind.
        nat: Nat,
    },
    /// What the network does was found out. Comes once for each network, not for one that was told.
    Fingerprint(Box<Fingerprint>),
    /// How a round of punching goes about it, and why so.
    Plan {
        /// The link.
        link: LinkId,
        /// The round of its session.
        round: u8,
        /// What both sides do.
        plan: Plan,
    },
    /// The server will be back after this time.
    Draining {
        /// How long to wait before coming back.
        retry_after: Duration,
    },
    /// A link exists; the relay can be used if a channel is there. Comes again for a link that was already up when a
    /// [`Command::Connect`] of this node met it: then it carries that request, and a path event follows as well.
    LinkUp(Link),
    /// The relay channel of a link changed.
    Channel {
        /// The link.
        link: LinkId,
        /// The channel, or none.
        channel: Option<ChannelId>,
    },
    /// Datagrams from this address belong to this link: an authentic probe came from there.
    Source {
        /// The link.
        link: LinkId,
        /// The socket.
        socket: SocketId,
        /// The address.
        remote: SocketAddr,
    },
    /// Datagrams from this address no longer belong to this link.
    SourceGone {
        /// The link.
        link: LinkId,
        /// The socket.
        socket: SocketId,
        /// The address.
        remote: SocketAddr,
    },
    /// Traffic of a link is to run here from now on.
    Path {
        /// The link.
        link: LinkId,
        /// The path.
        path: Path,
        /// Time since the link's introduction.
        after: Duration,
    },
    /// No link came about for this request.
    ConnectFailed {
        /// The request.
        request: RequestId,
        /// Why.
        why: ConnectFailure,
    },
    /// A link is gone.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Why.
        why: LinkEnd,
    },
    /// Answer to a look-up.
    Found {
        /// The request.
        request: RequestId,
        /// The key that holds the name.
        peer: Option<PeerId>,
    },
    /// Pairing moved on.
    Pair(PairEvent),
}

/// The beginning of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The link.
    pub link: LinkId,
    /// The other node's key: the only one that a session on this link may show.
    pub peer: PeerId,
    /// The name that it holds at the server.
    pub peer_name: Option<Name>,
    /// Which side this node is: the caller opens the QUIC connection.
    pub role: Role,
    /// The request that it answers; `None` at the callee.
    pub request: Option<RequestId>,
    /// The relay channel.
    pub channel: Option<ChannelId>,
    /// Which paths may be used.
    pub policy: PathPolicy,
}

/// What a link has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Probes that were sent, answers and openers among them.
    pub probes: u32,
    /// Sockets that were opened for it.
    pub sockets: u32,
    /// Entries that its probes and questions made in a NAT that has one for each pair of endpoints: an estimate, as no NAT
    /// tells.
    pub nat_entries: u32,
}

/// Why there is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// The server said no.
    Refused(ConnectRefusal),
    /// The peer is not among the paired machines.
    NotPaired,
    /// There is no control connection, or it ended before the server answered.
    ServerLost,
    /// The server did not answer in time.
    Timeout,
}

/// Why a link is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEnd {
    /// This node closed it.
    Closed,
    /// The other side left it or vanished, and no path is left.
    PeerGone,
    /// The peer is no longer among the paired machines.
    Unpaired,
}

/// How pairing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairEvent {
    /// A nameplate is open: this code is for the other person, for this long, once.
    Code {
        /// The code.
        code: crate::pairing::Code,
        /// How long it waits.
        ttl: Duration,
    },
    /// The other side has come.
    Joined,
    /// Both sides proved that they know the code.
    Paired {
        /// The other machine's key.
        peer: PeerId,
        /// The name it calls itself.
        name: Option<Name>,
        /// What the two share from now on.
        secret: PairSecret,
    },
    /// Pairing failed; the code is used up.
    Failed(PairFailure),
}

/// Why pairing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairFailure {
    /// The two codes differ, or somebody in between meddled.
    WrongCode,
    /// The server ended it.
    Ended(PairEnd),
    /// The server is gone.
    ServerLost,
    /// The nameplate of this code is in use by this very node.
    Nameplate(Nameplate),
}
