//! What can go wrong at a node, one enum per operation.

use std::io;
use std::time::Duration;

use knothole_proto::path::{Path, Why};
use knothole_proto::wire::{PairEnd, Refusal};

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No UDP socket could be bound.
    #[error("no UDP socket could be opened")]
    Bind(#[source] io::Error),
    /// The operating system gave no randomness, or a key cannot be used.
    #[error("no cryptographic configuration could be made")]
    Crypto,
    /// The folder for traces cannot be made.
    #[error("the folder for qlog traces cannot be made ({0})")]
    Traces(#[source] io::Error),
    /// The name of the server has no address.
    #[error("the server's name {host} cannot be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing at the server's address answered in time.
    #[error(
        "the server {server} does not answer (waited {waited:?}): is it running, and does UDP get there?"
    )]
    Unreachable {
        /// Host and port.
        server: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The server shows another key than the one in its address.
    #[error(
        "the server shows another key than its address says: it was set up anew, or somebody poses as it; ask its operator for the line to use"
    )]
    WrongServerKey,
    /// The connection to the server broke off before it admitted this node.
    #[error("the server broke off the connection")]
    ServerLost,
    /// The server does not admit this node.
    #[error("the server does not admit this node: {}", refusal_sentence(*.0))]
    Refused(Refusal),
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The peer is not among the paired machines.
    #[error("this machine is not paired with that peer")]
    NotPaired,
    /// No machine with this key was ever registered at the server.
    #[error("the server does not know that peer")]
    Unknown,
    /// The peer is not connected to the server, or does not accept this machine.
    #[error("the peer is offline, or does not accept connections from this machine")]
    Offline,
    /// Too many attempts in too short a time.
    #[error("too many attempts in too short a time")]
    TooFast,
    /// The peer is this very node.
    #[error("that peer is this machine")]
    Yourself,
    /// This node or the peer has too many sessions at the server.
    #[error("this machine or the peer has too many sessions")]
    TooMany,
    /// There is no connection to the server.
    #[error("the connection to the server is lost")]
    ServerLost,
    /// The server or the peer did not answer in time; with a path, it was the peer's QUIC over that path.
    #[error("no answer in time")]
    Timeout {
        /// The path on which the peer was waited for; `None` if the server had not introduced the two.
        path: Option<Path>,
    },
    /// No path that the policy allows came about in time.
    #[error("no path to the peer: {}", .0.sentence())]
    NoPath(Why),
    /// Whoever answered does not hold the peer's key.
    #[error("whoever answered does not hold the peer's key")]
    WrongIdentity,
    /// The peer refused or broke off the handshake.
    #[error("the peer broke off the handshake")]
    Handshake(#[source] quinn::ConnectionError),
    /// The link to the peer went down during the attempt.
    #[error("the peer went away")]
    PeerGone,
    /// The node has stopped, or cannot take more requests.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a name could not be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// There is no connection to the server.
    #[error("the connection to the server is lost")]
    ServerLost,
    /// The server did not answer in time.
    #[error("the server did not answer in time")]
    Timeout,
    /// Too many questions are waiting for an answer.
    #[error("too many questions in too short a time")]
    TooFast,
    /// The node has stopped, or cannot take more requests.
    #[error("the node has stopped")]
    Stopped,
}

/// Why pairing failed. In every case the code is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The two codes differ, or somebody in between meddled.
    #[error("the codes differ: ask for a new one and type it again")]
    WrongCode,
    /// The server ended the meeting.
    #[error("{}", pair_end_sentence(*.0))]
    Ended(PairEnd),
    /// The server is gone.
    #[error("the connection to the server is lost")]
    ServerLost,
    /// The code was made by this very node.
    #[error("this code was made on this machine; type it on the other one")]
    OwnCode,
    /// Another pairing is going on.
    #[error("another pairing is going on")]
    Busy,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

fn refusal_sentence(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::TokenMissing => "it wants a token; use the whole line that the server printed",
        Refusal::TokenWrong => "the token is not valid there (used up, expired, or of another server)",
        Refusal::NameTaken => "the name belongs to another key; choose another name",
        Refusal::Busy => "it is at a limit; try later",
        Refusal::Protocol => "it does not understand this node; are both of the same version?",
        Refusal::Storage => "it could not write to its disk; tell its operator",
        Refusal::TooManyNames => "this key holds too many names there",
        _ => "for a reason that this version does not know",
    }
}

fn pair_end_sentence(end: PairEnd) -> &'static str {
    match end {
        PairEnd::Unknown => "no such code, or it was used before; ask for a new one",
        PairEnd::Expired => "nobody came in time; ask for a new code",
        PairEnd::PeerLeft => "the other side left",
        PairEnd::TooFast => "too many attempts; wait some minutes",
        PairEnd::Yourself => "both sides are this machine",
        _ => "the server ended the pairing",
    }
}
