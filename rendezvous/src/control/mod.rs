//! Control connections: from the first packet of a handshake to the messages that the registry sees.
//!
//! [`gate`] decides which attempts are looked at, [`accept`] runs handshakes and watches over connections,
//! [`connection`] reads and writes the one stream of each, and [`hub`] is the one task that owns the registry. [`proof`]
//! tells it whether a node that moved is where it seems to be.

mod accept;
mod connection;
mod gate;
mod hub;
mod proof;

pub(crate) use accept::Acceptor;
pub(crate) use connection::codes;
pub(crate) use gate::Gate;
pub(crate) use hub::{Hub, ToHub, queue};
pub(crate) use proof::Witnesses;
