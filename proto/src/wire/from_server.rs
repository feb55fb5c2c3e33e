//! What the server says to a node, on the control stream.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::network::{Aim, Network};
use super::odds::OddsRow;
use super::to_server::PathPolicy;
use crate::addr::OfferedCandidate;
use crate::id::{ChannelId, Instance, Name, Nameplate, PairTag, PeerId, RequestId, SessionId};

/// A message from the server to a node. Numbers of variants are their order and never change; retired ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromServer {
    /// 0: registered.
    Welcome(Welcome),
    /// 1: not registered, and the connection ends.
    Refused(Refusal),
    /// 2: the node's datagrams now come from this address.
    Observed {
        /// Public address of the control connection.
        reflexive: SocketAddr,
    },
    /// 3: answer to a question for the time.
    Time {
        /// The question's `sent_us`.
        sent_us: u64,
        /// The server's clock when it answered.
        server: ServerTime,
    },
    /// 4: meet this peer at this moment.
    Introduction(Introduction),
    /// 5: no introduction came about.
    ConnectFailed {
        /// The question.
        request: RequestId,
        /// Why.
        why: ConnectRefusal,
    },
    /// 6: answer to a look-up.
    Found {
        /// The question.
        request: RequestId,
        /// The key that holds the name; `None` if nobody does.
        peer: Option<PeerId>,
    },
    /// 7: the other side of this session is gone, or the server ends it; its relay channel is closed.
    SessionClosed {
        /// The session.
        session: SessionId,
        /// Why.
        why: CloseReason,
    },
    /// 8: a nameplate was opened.
    PairOpened {
        /// Its number.
        nameplate: Nameplate,
        /// How long it waits for the other side, in milliseconds.
        ttl_ms: u32,
    },
    /// 9: both sides are at the nameplate; nobody else can join it any more.
    PairJoined {
        /// The nameplate.
        nameplate: Nameplate,
    },
    /// 10: from the other side of the nameplate.
    PairMessage {
        /// The nameplate.
        nameplate: Nameplate,
        /// What it sent.
        body: Vec<u8>,
    },
    /// 11: the nameplate is gone, or none was opened.
    PairEnded {
        /// The nameplate; 0 in answer to a wish to open one.
        nameplate: Nameplate,
        /// Why.
        why: PairEnd,
    },
    /// 12: the server is about to stop; come back after this many milliseconds.
    Draining {
        /// Milliseconds.
        retry_after_ms: u32,
    },
    /// 13: where the other side of a session is to be found.
    Aim(Aim),
    /// 14: how attempts have ended here since the server started.
    Odds {
        /// The question.
        request: RequestId,
        /// At most [`super::odds::ODDS_ROWS_MAX`], one for a pair of classes.
        rows: Vec<OddsRow>,
    },
}

/// Registration succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The name this node holds here, if it asked for one.
    pub name: Option<Name>,
    /// Public address of the control connection, as the server sees it.
    pub reflexive: SocketAddr,
    /// The server's clock.
    pub server: ServerTime,
    /// Say something at least this often, in milliseconds, or be forgotten after three times as long.
    pub refresh_ms: u32,
    /// Second port at the same address for NAT behaviour discovery (RFC 5780); 0 if there is none.
    pub alternate_port: u16,
    /// Second address and port for the same purpose.
    pub alternate: Option<SocketAddr>,
    /// May sessions of this node use the relay?
    pub relay: bool,
}

/// Microseconds on the server's clock, counted from a moment that the server chose. Only differences mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerTime(pub u64);

/// Two nodes are told of each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The session. A pair of node runs has one at a time; another round keeps it.
    pub session: SessionId,
    /// Counts the rounds of the session from 0.
    pub round: u8,
    /// Which side this node is.
    pub role: Role,
    /// The question that this round answers; `None` at the side that did not ask for it. Two who ask at once get two
    /// rounds of one session, each answering one of them; the roles stay those of the first.
    pub request: Option<RequestId>,
    /// The other side's key.
    pub peer: PeerId,
    /// The name that it holds at this server.
    pub peer_name: Option<Name>,
    /// Which run of the other node this is.
    pub peer_instance: Instance,
    /// The tag that both share.
    pub tag: PairTag,
    /// Where the other side may be, in no order; empty if either side wants the relay only.
    pub candidates: Vec<OfferedCandidate>,
    /// The relay channel; `None` if no relay is granted.
    pub channel: Option<ChannelId>,
    /// What the two policies come to together.
    pub policy: PathPolicy,
    /// When both send their first probe.
    pub start: ServerTime,
    /// The server's clock when it sent this.
    pub now: ServerTime,
    /// When both begin what needs an exchange after the introduction: each has measured something at the server by then,
    /// and told the other side.
    pub second: ServerTime,
    /// The networks of caller and callee, from which both come to the same plan.
    pub networks: [Network; 2],
    /// May this round guess ports?
    pub guess: bool,
    /// What the plan would do first was tried in vain.
    pub again: bool,
}

/// The side of a session. The caller is the client of the QUIC connection and decides between equal paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// 0: asked for the introduction.
    Caller,
    /// 1: was introduced.
    Callee,
}

impl Role {
    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Callee,
            Self::Callee => Self::Caller,
        }
    }
}

/// Why a registration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// 0: this server wants a token, and none was shown.
    TokenMissing,
    /// 1: the token is not valid here.
    TokenWrong,
    /// 2: the name belongs to another key.
    NameTaken,
    /// 3: the server is at a limit.
    Busy,
    /// 4: the node said something that the protocol does not allow.
    Protocol,
    /// 5: the server could not write the claim to its disk.
    Storage,
    /// 6: this key may not hold more names.
    TooManyNames,
}

/// Why no introduction came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ConnectRefusal {
    /// 0: no node with this key was ever registered here.
    Unknown,
    /// 1: it is not connected, or does not list the tag; the two look alike to a caller.
    Offline,
    /// 2: too many questions in too short a time.
    TooFast,
    /// 3: both sides are the same run of the same node.
    Yourself,
    /// 4: the caller or the callee has too many sessions.
    TooMany,
}

/// Why a session ended at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CloseReason {
    /// 0: the other side left it.
    PeerLeft,
    /// 1: the other side lost its connection to the server.
    PeerGone,
    /// 2: nothing was relayed or asked in it for a long time.
    Idle,
    /// 3: the operator or a limit ended it.
    Ended,
}

/// Why a nameplate is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PairEnd {
    /// 0: no such nameplate, or its code was used before.
    Unknown,
    /// 1: nobody came in time.
    Expired,
    /// 2: the other side left.
    PeerLeft,
    /// 3: too many attempts.
    TooFast,
    /// 4: both sides are the same key.
    Yourself,
}
