//! What the registry is told at its start, what it counts, and its limits with their reasons.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::outcomes::Outcomes;
use crate::id::Token;
use crate::quota::Rate;
use crate::wire::{ConnectRefusal, Refusal};

/// How often a node must be heard of. NATs keep a UDP mapping for 30 s at the least that was measured (Hatonen 2010),
/// so half of it keeps the mapping too. A longer one loses nodes behind such NATs, a shorter one costs traffic.
pub const REFRESH: Duration = Duration::from_secs(15);

/// Silent for this many refreshes means gone. Fewer would drop nodes over two lost packets in a row.
pub(super) const REFRESHES_MISSED: u32 = 3;

/// How long a connection may take to say hello. A round trip and a signature need far less than a second.
pub(super) const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// How long a nameplate waits and lasts: time to read a code over the telephone. Longer gives guesses more time.
pub(super) const NAMEPLATE_TTL: Duration = Duration::from_secs(600);

/// A session without a question for this long is given up. A link whose path is not direct asks every 300 s, and one
/// that is direct needs no session until it asks anew; a shorter time costs needless introductions.
pub(super) const SESSION_IDLE: Duration = Duration::from_secs(3600);

/// Added to three quarters of a round trip, so to the way of the message and half as much again, for the time that messages
/// wait in the two nodes, and for the packets that open a router before the start. Every attempt waits for it, so more delays
/// everybody; with less, a busy node begins late, and its early packets find the other side closed.
pub(super) const LEAD_EXTRA: Duration = Duration::from_millis(50);

/// Added to two and a half round trips for the second start: the introduction arrives (half of one), each side measures at
/// the server (one), tells the server (half), which tells the other (half).
pub(super) const SECOND_EXTRA: Duration = Duration::from_millis(60);

/// Round trip assumed of a node that has not told one: right for most of a continent.
pub(super) const RTT_ASSUMED: Duration = Duration::from_millis(100);

/// Longest round trip believed. A node that claims more would only make its peer wait.
pub(super) const RTT_MAX: Duration = Duration::from_secs(2);

/// When the server stops, nodes come back after a time drawn from this range, so that they do not come all at once.
pub(super) const RETRY_AFTER_MS: std::ops::Range<u64> = 500..5_000;

/// What a registry is told at its start.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Admit any key, without a token.
    pub open: bool,
    /// Tokens that admit a key for the first time.
    pub tokens: Vec<Token>,
    /// Grant relay channels.
    pub relay: bool,
    /// Second port at the same address, told to the nodes; 0 if there is none.
    pub alternate_port: u16,
    /// Second address and port, told to the nodes.
    pub alternate: Option<SocketAddr>,
    /// Pass on loopback candidates: for tests on one machine.
    pub allow_loopback: bool,
    /// Limits.
    pub limits: Limits,
}

/// What nobody may exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Control connections in all; more are refused as busy. An idle one takes about 1 KB here and 30 KB in QUIC.
    pub connections: usize,
    /// Control connections of one key: a node at work, its restart, and copies of its key made by mistake.
    pub connections_per_key: usize,
    /// Keys on record. They are never evicted; at about 200 bytes each this many fit into 200 MB.
    pub keys: usize,
    /// Names of one key.
    pub names_per_key: usize,
    /// Writes to disk that have not come back.
    pub claims: usize,
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one connection.
    pub sessions_per_connection: usize,
    /// Nameplates in use.
    pub nameplates: usize,
    /// Nameplates in use and resting together.
    pub nameplates_resting: usize,
    /// Messages of one connection; excess ends it.
    pub messages: Rate,
    /// Introductions that one connection asks for.
    pub connects: Rate,
    /// Rounds in which ports are guessed at one public address: of all that one address is to bear from everybody.
    pub guesses_per_target: Rate,
    /// Nameplates that one key opens or joins: the bound on guesses by one key.
    pub pairings: Rate,
    /// Nameplates that are opened or joined from one network (not loopback): the bound on guesses by one who makes keys at will.
    pub pairings_per_network: Rate,
    /// Keys that are recorded for the first time from one network (not loopback): bounds how fast the record fills.
    pub new_keys_per_network: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 131_072,
            connections_per_key: 8,
            keys: 1_000_000,
            names_per_key: 16,
            claims: 1024,
            sessions: super::relay::CHANNELS_MAX,
            sessions_per_connection: 32,
            nameplates: 1024,
            nameplates_resting: 8192,
            messages: Rate::new(Duration::from_millis(20), 200),
            connects: Rate::new(Duration::from_millis(200), 10),
            guesses_per_target: Rate::new(Duration::from_secs(15), 8),
            pairings: Rate::new(Duration::from_secs(360), 10),
            pairings_per_network: Rate::new(Duration::from_secs(60), 60),
            new_keys_per_network: Rate::new(Duration::from_secs(2), 2000),
        }
    }
}

/// Why the registry wants to be called at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// A node may have been silent for too long.
    Silence,
    /// A session may have been idle for too long.
    SessionIdle,
    /// A nameplate expires, or its number may be used again.
    Nameplate,
}

/// Gauges, and counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Gauge: control connections, registered or not.
    pub connections: usize,
    /// Gauge: registered nodes that are connected.
    pub connected: usize,
    /// Gauge: keys on record.
    pub keys: usize,
    /// Gauge: names on record.
    pub names: usize,
    /// Gauge: writes to disk under way.
    pub claims: usize,
    /// Gauge: sessions.
    pub sessions: usize,
    /// Gauge: relay channels.
    pub channels: usize,
    /// Gauge: nameplates in use.
    pub nameplates: usize,
    /// Gauge: nameplates whose number rests.
    pub nameplates_resting: usize,
    /// Gauge: deadlines that are set.
    pub deadlines: usize,
    /// Counter: registrations.
    pub welcomed: u64,
    /// Counter: introductions (rounds, each told to two nodes).
    pub introduced: u64,
    /// Counter: nameplates at which two nodes met.
    pub paired: u64,
    /// Counter: nodes forgotten because they fell silent.
    pub silenced: u64,
    /// Counter: refused registrations and ended connections by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Counter: refused introductions by reason.
    pub connect_refused: BTreeMap<ConnectRefusal, u64>,
    /// Counters: how attempts to connect directly ended.
    pub outcomes: Outcomes,
}
