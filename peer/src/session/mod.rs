//! QUIC between this node, its server and its peers: keys pinned, one endpoint for all.

mod congestion;
mod connection;
mod endpoint;
mod in_order;
mod model;
mod qlog;
pub mod reference;
mod stream;
mod tls;
mod transport;
mod window;

pub(crate) use connection::CODE_DONE;
pub use connection::{Connection, PathState};
pub(crate) use endpoint::{DialError, Quic};
pub(crate) use in_order::CODE_IN_PIECES;
pub use in_order::InOrder;
pub(crate) use qlog::Traces;
pub use quinn::{RecvStream, SendStream};
pub(crate) use stream::CODE_NO_SERVICE;
pub use stream::{SERVICE_LEN_MAX, StreamError, refuse};
