//! Every number of the punching algorithm, with its unit, its reason, and what changing it costs.
//!
//! [`PunchConfig`] holds those that tests and simulations vary; the rest are constants.

use std::time::Duration;

/// When a pair with an attested remote address is probed, in milliseconds after the start. Dense at first, because a
/// start on a common clock leaves a skew of a few milliseconds; over in 1.5 s, because 97.6 % of all successes in the
/// field came on the first attempt (arXiv 2510.27500). More probes cost each unreachable address 64 bytes apiece.
pub const SCHEDULE_ATTESTED_MS: &[u64] = &[0, 20, 50, 100, 200, 400, 700, 1000, 1500];

/// When a pair with an unattested remote address is probed, in milliseconds after the start. Two datagrams are what
/// anybody can make this node send to a stranger; a third would raise that, a single one fails on 2 % loss.
pub const SCHEDULE_UNATTESTED_MS: &[u64] = &[0, 100];

/// However many rounds come one after the other, an unattested address gets its two probes once within this time.
pub const UNATTESTED_WINDOW: Duration = Duration::from_secs(2);

/// When a pair is probed after its first proof, in milliseconds after it. The first tells the peer that the pair is
/// proven, the others repeat it in case of loss, and measure the round trip again.
pub const SCHEDULE_FOLLOW_UP_MS: &[u64] = &[0, 100, 300];

/// When a pair is checked because the peer asks on it although this side had given it up: at once, once.
pub const SCHEDULE_TRIGGERED_MS: &[u64] = &[0];

/// When pairs that once worked are probed after the used path was lost, in milliseconds. Both sides do so without the
/// server, which may be the very thing that is gone; a mapping in a NAT outlives about the first half minute.
pub const SCHEDULE_RECOVERY_MS: &[u64] = &[250, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000];

/// Jitter added to every scheduled probe but the first, in microseconds: enough that two nodes on one network do
/// not collide packet for packet, small against the steps of the schedule.
pub const JITTER_US: u64 = 2_000;

/// Most pairs of one link. RFC 8445 section 6.1.2.5 takes 100 as its default limit; 16 candidates over two sockets,
/// each in its own family, and as many addresses learnt on the way come to less than 64.
pub const PAIRS_MAX: usize = 64;

/// Probes per second over all pairs of a link once [`PROBE_BURST`] is used up; RFC 8445 section 14.2 has a floor of
/// 5 ms between checks. More looks like a port scan to some routers.
pub const PROBES_PER_SECOND: u64 = 200;

/// Probes that may leave at once before [`PROBES_PER_SECOND`] applies.
pub const PROBE_BURST: u64 = 20;

/// Answers per second over all pairs of a link once [`ANSWER_BURST`] is used up. A peer that keeps to its own limits
/// asks at most [`PROBES_PER_SECOND`] questions.
pub const ANSWERS_PER_SECOND: u64 = PROBES_PER_SECOND;

/// Answers that may leave at once: probes that were spaced when they left can arrive together.
pub const ANSWER_BURST: u64 = 64;

/// Addresses of the peer that one round takes, out of any number that a server passes on: what a node may offer and
/// as many that the server may add.
pub const REMOTES_MAX: usize = 2 * crate::addr::CANDIDATES_MAX;

/// When the used path is weighed against the other proven ones, in milliseconds after the first lock. Waiting 200 ms
/// would have cut the regret of "first" from 29 ms to 8 ms of round trip in the 99th percentile with two radios on
/// both ends, and to nothing between two homes.
pub const CHOICES_MS: &[u64] = &[50, 200, 1000];

/// A path of the same class must be faster by this much to be switched to, in milliseconds. Less makes paths flap.
pub const SWITCH_MS: u64 = 5;

/// A path of the same class must be faster by this share of the used one's round trip, in percent.
pub const SWITCH_PERCENT: u32 = 15;

/// A pair counts as proven for a switch only if an own nonce came back on it so recently.
pub const PROOF_FRESH: Duration = Duration::from_secs(2);

/// An idle path is probed up to this share earlier than the interval says, in percent: the mappings of many nodes
/// behind one router are then not refreshed in step.
pub const KEEPALIVE_JITTER_PERCENT: u64 = 10;

/// Waits for an answer to a keepalive, in milliseconds: three tries, then the path is lost. With a retry after 1 s a
/// mapping survives the loss of one packet, so the interval need not be halved.
pub const KEEPALIVE_RETRY_MS: &[u64] = &[1000, 2000, 4000];

/// A used path whose probes were not answered for this long is probed even under load. RFC 7675 section 5.1 lets
/// nothing be sent without consent for longer than 30 s; three tries of 7 s in all must fit in.
pub const CONSENT: Duration = Duration::from_secs(20);

/// Sent without anything coming back for this long: the path is suspected. QUIC has asked for an acknowledgement
/// several times by then. Shorter suspects slow paths, longer delays the switch to the relay.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// Traffic that came in steadily and stopped for this long is asked about once. The side that only answers learns in this
/// way that its router forgot the mapping, instead of waiting for its keepalive. Shorter asks after every pause of a person
/// who types, longer lets a video stand still; each pause costs a probe and its answer.
pub const HUSH_AFTER: Duration = Duration::from_secs(2);

/// Time between check probes on a suspected path.
pub const CHECK_EVERY: Duration = Duration::from_millis(250);

/// Unanswered check probes after which a suspected path is lost: with 30 % loss each way (an answer comes in half of
/// the cases) a live path is dropped in one of 16 suspicions.
pub const CHECKS: u32 = 4;

/// Own nonces that a pair remembers. An answer to an older probe proves nothing; nine scheduled probes within 1.5 s
/// and their answers fit.
pub const NONCES_PER_PAIR: usize = 12;

/// An answer that comes later than this proves nothing: the longest round trip that a path may have, twice.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(5);

/// Nonces of the peer that a link remembers, so that a recorded probe is taken once. The peer sends about 60 in a
/// round; more would cost 64 bytes each per link.
pub const SEEN_MAX: usize = 256;

/// A nonce that was taken is taken once more from another address within this time. It covers the lead that a copier
/// on the way can have over the original; longer would let recordings count as copies.
pub const RACE: Duration = Duration::from_millis(500);

/// A source that was silent for this long and carries no traffic is forgotten.
pub const SOURCE_LIFETIME: Duration = Duration::from_secs(60);

/// Probes of the session before are taken for this long after the keys changed, so that a live path does not break
/// while the two sides learn of the new session one after the other.
pub const OLD_KEYS: Duration = Duration::from_secs(30);

/// What tests and simulations vary. `Default` is what nodes use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PunchConfig {
    /// A round that has proven nothing this long after its start has failed. The last scheduled probe leaves at 1.5 s;
    /// 1 s more lets it be answered across the world. The relay carries traffic meanwhile.
    pub verdict: Duration,
    /// The used path is probed when it was idle for this long. RFC 4787 REQ-5 asks NATs to keep a mapping for 2
    /// minutes, the shortest seen in the field is 30 s (Hatonen 2010), RFC 8445 section 11 takes 15 s. A third less
    /// costs a phone's radio more, a third more loses mappings of the worst routers.
    pub keepalive: Duration,
    /// Are probes to addresses of this machine allowed? For tests only: a remote must not name local services.
    pub allow_loopback: bool,
}

impl Default for PunchConfig {
    fn default() -> Self {
        Self {
            verdict: Duration::from_millis(2500),
            keepalive: Duration::from_secs(15),
            allow_loopback: false,
        }
    }
}
