//! Files and folders from one machine to another.
//!
//! The sender lists what it has, the receiver checks the whole list, looks what earlier attempts left of it, and says which
//! of it it wants; bytes follow in chunks that are compared one by one before they count, and a file takes its name when it
//! is whole, compared, and on disk ([`messages`] has the conversation). Nothing is packed or unpacked, no link is followed on
//! either side, and what is kept in memory does not grow with the size of a file.
//!
//! | module | what |
//! |---|---|
//! | [`messages`] | what the two say to each other |
//! | [`tree`] | chunks of a file, and how their hashes give the hash of the file |
//! | [`names`], [`manifest`] | judging names, and the list as a whole |
//! | [`mod@scan`], [`sender`], `jobs`, `source` | the sending side: listing, talking, handing out, reading |
//! | [`receiver`], `plan`, `receiving`, `voice` | the receiving side: being offered, looking what is there, deciding, talking |
//! | `arrival`, `pieces`, `part`, `desk`, `keeper` | bytes from a stream to a chunk, to the disk, into the journal, to a name |
//! | [`inbox`], `partial`, `journal`, `disk` | places in the folder for received files, and what survives a crash |
//! | [`limit`], [`running`] | a limit on the rate; one attempt of a transfer at a time |

mod arrival;
mod desk;
mod disk;
pub mod inbox;
mod jobs;
mod journal;
mod keeper;
pub mod limit;
pub mod manifest;
pub mod messages;
pub mod names;
mod part;
mod partial;
mod pieces;
mod plan;
pub mod receiver;
mod receiving;
pub mod running;
pub mod scan;
pub mod sender;
mod source;
pub mod tree;
mod voice;

pub use inbox::{Conflict, Inbox};
pub use limit::Limit;
pub use messages::{AbortReason, Outcome, Refused, SERVICE};
pub use receiver::{Incoming, ReceiveError, Received, STALL_TIMEOUT, Terms, turn_away};
pub use running::Running;
pub use scan::{ScanError, Sources, scan};
pub use sender::{SendError, Sending, Sent, send};

/// Bytes that go from a stream to the disk in one piece at most. Large enough that hashing runs at full width and system
/// calls do not count, small enough to be in the processor's cache from one to the other.
const BLOCK_LEN: usize = 256 * 1024;

/// Blocks that wait between the task at the network and the thread at the disk. One is enough when both are steady; two
/// bridge the moments when one is not, and what waits here is lost in a crash.
const BLOCKS_WAITING: usize = 2;

#[cfg(test)]
mod tests;
