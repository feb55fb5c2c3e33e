//! The task that owns a running node: it feeds the connector and carries out what the connector wants.
//!
//! Nothing is decided here that could be decided in `knothole-proto`. Handles talk to the task through [`Request`]s;
//! the task never waits for anything but its next input.

mod accept;
mod connect;
mod control;
mod dial;
mod events;
mod extra;
mod link;
mod network;
mod request;
mod run;
mod start;

pub(crate) use connect::connect;
pub(crate) use link::LinkUse;
pub(crate) use request::Request;
pub(crate) use start::start;
