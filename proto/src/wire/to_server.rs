//! What a node says to the server, on the control stream.

use serde::{Deserialize, Serialize};

use super::network::{Aim, Network};
use crate::addr::Candidate;
use crate::id::{Instance, Name, Nameplate, PairTag, PeerId, RequestId, SessionId, Token};

/// Most tags in one [`Update`]: how many paired machines one node can be reached by. 512 x 16 bytes keep the largest
/// message under [`super::codec::MESSAGE_LEN_MAX`].
pub const ACCEPT_TAGS_MAX: usize = 512;

/// Longest text by which a program describes itself, in bytes.
pub const AGENT_LEN_MAX: usize = 64;

/// Longest body of one pairing message in bytes: a key exchange element, a confirmation, or a sealed identity.
pub const PAIR_BODY_LEN_MAX: usize = 512;

/// A message from a node to the server. Numbers of variants are their order and never change; retired ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToServer {
    /// 0: first message on the stream, once.
    Hello(Hello),
    /// 1: new facts about the node; replaces those of the hello or of the update before.
    Update(Update),
    /// 2: what time is it at the server? Also counts as a sign of life.
    Time {
        /// The node's own clock in microseconds since any moment; returned as it is.
        sent_us: u64,
        /// Round trip to the server as the node's QUIC measures it, in microseconds; 0 if unknown.
        rtt_us: u32,
    },
    /// 3: introduce me to this peer, or start another round with it.
    Connect(Connect),
    /// 4: which key holds this name?
    Lookup {
        /// Matches the answer.
        request: RequestId,
        /// The name asked for.
        name: Name,
    },
    /// 5: this session is over for me.
    Leave {
        /// The session.
        session: SessionId,
    },
    /// 6: open a nameplate for pairing.
    PairOpen,
    /// 7: join the nameplate that a person typed.
    PairJoin {
        /// The number in the code.
        nameplate: Nameplate,
    },
    /// 8: pass this to the other side of the nameplate.
    PairMessage {
        /// The nameplate that both sides joined.
        nameplate: Nameplate,
        /// At most [`PAIR_BODY_LEN_MAX`] bytes; the server does not read them.
        body: Vec<u8>,
    },
    /// 9: I am done with this nameplate.
    PairLeave {
        /// The nameplate.
        nameplate: Nameplate,
    },
    /// 10: going away on purpose; be seen as offline at once.
    Bye,
    /// 11: tell the other side of the session where to aim.
    Aim(Aim),
    /// 12: how a round ended for this side.
    Report(Report),
    /// 13: how do attempts between two networks end here?
    Odds {
        /// Matches the answer.
        request: RequestId,
    },
}

/// Who a node is and what it can be reached by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// This run of the node.
    pub instance: Instance,
    /// The name it wants, if any.
    pub name: Option<Name>,
    /// Needed for the first registration of a key unless the server is open.
    pub token: Option<Token>,
    /// Does it accept introductions, or only ask for them?
    pub accepting: bool,
    /// Program and version, at most [`AGENT_LEN_MAX`] bytes of text; for the operator's eyes.
    pub agent: String,
    /// The first facts.
    pub facts: Update,
}

/// What may change while a node is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Its own addresses: at most [`crate::addr::CANDIDATES_MAX`].
    pub candidates: Vec<Candidate>,
    /// Who may be introduced to it: at most [`ACCEPT_TAGS_MAX`], in ascending order.
    pub accept: Vec<PairTag>,
    /// What is known of its network.
    pub network: Network,
}

/// A wish to be introduced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Matches the answer.
    pub request: RequestId,
    /// Whom to.
    pub peer: PeerId,
    /// The tag that both share; the server introduces nobody who does not list it.
    pub tag: PairTag,
    /// Which paths the caller wants.
    pub policy: PathPolicy,
    /// The caller's own limits let this round guess ports.
    pub guess: bool,
}

/// What came of a round, for the server's statistics. No address is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The session.
    pub session: SessionId,
    /// The round.
    pub round: u8,
    /// Milliseconds from the introduction to a proven path; `None` if there is none.
    pub direct_ms: Option<u32>,
    /// Probes that this side has sent in the round.
    pub probes: u16,
}

/// Which paths a connection may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathPolicy {
    /// 0: relay at once, direct when proven.
    #[default]
    Auto,
    /// 1: never the relay.
    DirectOnly,
    /// 2: only the relay; no address of either side is told to the other.
    RelayOnly,
}
