//! What a connector is told once, and the numbers that it follows.

use std::time::Duration;

use crate::id::{Instance, Name, PeerId, Token};
use crate::punch::PunchConfig;

/// What a connector is told when it is made.
#[derive(Clone, Debug)]
pub struct ConnectorConfig {
    /// The node's own key.
    pub own: PeerId,
    /// This run of the node: drawn by the driver when the node starts.
    pub instance: Instance,
    /// The name it wants at the server, if any.
    pub name: Option<Name>,
    /// The token it shows at the server, if any.
    pub token: Option<Token>,
    /// May others be introduced to it?
    pub accepting: bool,
    /// Program and version; cut to [`crate::wire::AGENT_LEN_MAX`] bytes.
    pub agent: String,
    /// How it punches.
    pub punch: PunchConfig,
    /// Find out what the network does, and tell the server. Off where every socket and packet counts.
    pub fingerprint: bool,
    /// Take part in plans of more than 50 packets. Off where port scans raise alarms, or packets cost money.
    pub guesses: bool,
    /// Sockets that may be open at a time beside the main ones, as far as the system's limits allow.
    pub sockets_max: u16,
    /// Take loopback addresses as candidates, own and remote. For tests on one machine only.
    pub allow_loopback: bool,
}

/// Most links at a time. The server allows 32 sessions for each control connection; links that live on without one
/// (their server restarted) are the rest. Each takes a few kilobytes.
pub const LINKS_MAX: usize = 64;

/// Most questions to the server that wait for an answer.
pub const QUESTIONS_MAX: usize = 64;

/// A question that the server did not answer for this long has failed. The server answers at once; 5 s are two lost
/// packets on a satellite path.
pub const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses before the caller asks for another round, in milliseconds; the last one repeats. Reset by a path, by new
/// addresses of this node, and by a new registration. The second round comes at once, because it does something else than the first.
pub const ROUND_BACKOFF_MS: &[u64] = &[0, 2_000, 8_000, 30_000, 60_000, 120_000, 300_000];

/// Pauses and refreshes come up to this share earlier, in percent, so that nodes that lost their server together do
/// not ask together.
pub const BACKOFF_JITTER_PERCENT: u64 = 10;

/// A link without any path and without a session is dropped after this long. A server that restarts is back within
/// it; a node that vanished is not worth more memory.
pub const ORPHAN_LIFETIME: Duration = Duration::from_secs(60);

/// Time exchanges right after registration, and the time between them: the best of three gives a clock offset with a
/// 99th percentile of 3 to 12 ms.
pub const CLOCK_BURST: u32 = 3;

/// See [`CLOCK_BURST`].
pub const CLOCK_BURST_SPACING: Duration = Duration::from_millis(100);

/// Time exchanges that the estimate of the clock remembers; it takes the one with the shortest round trip.
pub const CLOCK_SAMPLES: usize = 8;

/// An introduction may not set the start further ahead than this; a server that does is answered by starting then.
pub const START_AHEAD_MAX: Duration = Duration::from_secs(3);

/// Shortest refresh interval that a server can ask for: a wrong number must not make the node flood it.
pub const REFRESH_MIN: Duration = Duration::from_millis(500);

/// Longest refresh interval: mappings for the control connection die sooner.
pub const REFRESH_MAX: Duration = Duration::from_secs(60);

/// The mapping of a socket that carries no control connection is kept and checked with a STUN question so often;
/// 20 to 26 s is what other programs with the same need take.
pub const STUN_REPEAT: Duration = Duration::from_secs(23);
