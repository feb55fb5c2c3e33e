//! Files and folders from one machine to another.
//!
//! The sender lists what it has, the receiver checks the whole list and says which of it it wants, the bytes of each
//! file follow on a stream of their own, and each file is compared by its hash before it takes its name
//! ([`messages`] has the conversation). Nothing is packed or unpacked, no link is followed on either side, and what is
//! kept in memory does not grow with the size of a file.
//!
//! | module | what |
//! |---|---|
//! | [`messages`] | what the two say to each other |
//! | [`names`], [`manifest`] | judging names, and the list as a whole |
//! | [`mod@scan`], [`sender`] | the sending side |
//! | [`receiver`], `receiving`, `incoming_file`, [`inbox`] | the receiving side |

pub mod inbox;
mod incoming_file;
pub mod manifest;
pub mod messages;
pub mod names;
pub mod receiver;
mod receiving;
pub mod scan;
pub mod sender;

pub use inbox::{Conflict, Inbox};
pub use messages::{AbortReason, Outcome, Refused, SERVICE};
pub use receiver::{Incoming, ReceiveError, Received};
pub use scan::{ScanError, Sources, scan};
pub use sender::{SendError, Sent, send};

/// Bytes that go between disk and network in one piece. Large enough that hashing runs at full width and system
/// calls do not count; eight transfers with four of them each hold 16 MiB.
const BLOCK_LEN: usize = 512 * 1024;

/// Blocks that wait between the thread at the disk and the task at the network. Two would do when both are steady;
/// four bridge the moments when one is not.
const BLOCKS_WAITING: usize = 4;

#[cfg(test)]
mod tests;
