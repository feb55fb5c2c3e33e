//! How much the relay forwards, and in whose turn: limits that delay before they drop, and fair shares.
//!
//! Two parts. The [`Gate`] is asked for every batch of frames by whatever thread received it, and takes no lock: a token
//! bucket over all, one for each sending key, and a flag that says whether anybody waits. While nobody does and the
//! buckets have enough, that is all, and the batch leaves at once. Whatever may not leave at once goes to the one
//! [`FairQueue`], which lets it out in deficit round robin over the channels, or where keys have a limit over these and
//! over the channels of each, says when to ask again, and tells senders to slow down before it drops.
//!
//! The driver:
//! 1. [`Gate::pass`] says yes: send. If the socket is full, [`FairQueue::hold`] it.
//! 2. It says no: [`FairQueue::offer`], and do what it answers.
//! 3. While something waits: [`FairQueue::poll`] until there is nothing, sending each; at [`FairQueue::poll_timeout`]
//!    again. A release that the socket does not take goes back by [`FairQueue::put_back`]; when the socket takes more,
//!    [`FairQueue::socket_ready`].
//!
//! What it is not: it holds no addresses, and the payload of a unit is opaque to it.

mod codel;
mod gate;
mod queue;
mod turns;

pub use gate::{Blocked, ByteRate, Gate, Lane, LaneId, RelayConfig, SendingKey};
pub use queue::{Dropped, FairQueue, Offered, QueueStats, Release, Unit};
