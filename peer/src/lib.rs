//! A Knothole node: finds paired machines by name, reaches them directly where the networks allow it and through the
//! server's relay where they do not, and speaks QUIC with them either way.
//!
//! [`Node`] is the whole interface: start one with an [`Identity`] and a [`ServerUrl`], then [`Node::connect`] and
//! [`Node::accept`] give [`Connection`]s, whose streams carry whatever two programs want to say. Decisions are made
//! by the state machines of `knothole-proto`; this crate owns what they may not touch: sockets, clocks, entropy, files.
//!
//! # Map
//!
//! | module | what |
//! |---|---|
//! | [`identity`] | who this node is |
//! | `net` | UDP sockets, the path table under QUIC, addresses of this machine |
//! | `driver` | the task that drives the connector, and the control connection |
//! | [`session`] | QUIC with pinned keys: endpoint, connections, streams |
//! | [`node`] | the public interface |
//! | [`netcheck`] | what the network around this machine does to its packets |
//! | [`app`] | what people do over a connection: files, ping, speed |
//! | [`book`], [`home`] | paired machines, and where files are |
//! | [`untrusted`] | text of others, made safe to show |
//! | [`cli`] | the program `knothole` |
#![forbid(unsafe_code)]

pub mod app;
pub mod book;
pub mod cli;
mod driver;
pub mod home;
pub mod identity;
mod net;
pub mod netcheck;
pub mod node;
pub mod session;
pub mod untrusted;

pub use book::{AddressBook, BookError, Contact, ResolveError};
pub use home::Home;
pub use identity::{Identity, IdentityError};
pub use knothole_proto::connector::{Effort, Nat};
pub use knothole_proto::id::{Name, PairSecret, PeerId, Token};
pub use knothole_proto::pairing::Code;
pub use knothole_proto::path::{How, Path, Why};
pub use knothole_proto::punch::Plan;
pub use knothole_proto::server_url::{ServerUrl, ServerUrlError};
pub use knothole_proto::wire::{NetworkClass, OddsRow, PathPolicy, Refusal};
pub use node::{
    Bind, ConnectError, ConnectOptions, LookupError, Node, NodeConfig, NodeEvent, PairError, Paired, Pairing,
    Peer, Registered, StartError,
};
pub use session::{Connection, PathState, RecvStream, SendStream, StreamError, refuse};
