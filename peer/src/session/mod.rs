//! QUIC between this node, its server and its peers: keys pinned, one endpoint for all.

mod connection;
mod stream;

pub use connection::{Connection, PathState};
pub use quinn::{RecvStream, SendStream};
pub use stream::{StreamError, refuse};
