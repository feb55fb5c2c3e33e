//! STUN (RFC 8489) with NAT behaviour discovery (RFC 5780): one question of a node, and the server that answers it.
//!
//! Only Binding, without authentication: an answer says where a datagram came from, and nobody's security rests on it.
//! Not here: what a node concludes from the answers (that is [`crate::fingerprint`]'s and the connector's), TURN, ICE's use of STUN. This folder
//! alone names the STUN library.

mod client;
mod codec;
mod server;

pub use client::{BindingAnswer, BindingRequest, Change, REQUEST_LEN, indication};
pub use server::{ServerSocket, StunConfig, StunPolicy, StunReply, StunServer, StunStats};
