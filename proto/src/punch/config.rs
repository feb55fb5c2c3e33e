//! Every number of the punching algorithm, with its unit, its reason, and what changing it costs.
//!
//! [`PunchConfig`] holds those that tests and simulations vary; the rest are constants.

use std::time::Duration;

/// When a pair with an attested remote address is probed, in milliseconds after the start. Dense at first, because a
/// start on a common clock leaves a skew of a few milliseconds; over in 1.5 s, because 97.6 % of all successes in the
/// field came on the first attempt (arXiv 2510.27500). More probes cost each unreachable address 64 bytes apiece.
pub const SCHEDULE_ATTESTED_MS: &[u64] = &[0, 20, 50, 100, 200, 400, 700, 1000, 1500];

/// When a pair with an attested remote address is probed where one network is not known yet, in milliseconds after the start. Sparser
/// than [`SCHEDULE_ATTESTED_MS`], because the other side may find this one by itself, and then the rest is in vain: with 50 ms between
/// the two nobody sends more than two before he hears the other. A first packet that comes too early or gets lost costs 50 ms.
pub const SCHEDULE_UNKNOWN_MS: &[u64] = &[0, 50, 150, 400, 700, 1000, 1500];

/// When a pair with an unattested remote address is probed, in milliseconds after the start. Two datagrams are what
/// anybody can make this node send to a stranger; a third would raise that, a single one fails on 2 % loss.
pub const SCHEDULE_UNATTESTED_MS: &[u64] = &[0, 100];

/// However many rounds come one after the other, an unattested address gets its two probes once within this time.
pub const UNATTESTED_WINDOW: Duration = Duration::from_secs(2);

/// When a pair is probed after the own nonce came back on it, in milliseconds after that: the first tells the peer, the
/// others ask for the peer's word that its own came back too, until it comes.
pub const SCHEDULE_FOLLOW_UP_MS: &[u64] = &[0, 200, 400, 700, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 9000];

/// When a pair is probed after both halves of its proof are there, or after it was chosen, in milliseconds after that. The second
/// is for loss, and measures the round trip again.
pub const SCHEDULE_PROVEN_MS: &[u64] = &[0, 200];

/// When a pair is probed because the peer was heard on it, in milliseconds after that: the way in is open, so one probe and
/// its repeats for loss are enough.
pub const SCHEDULE_HEARD_MS: &[u64] = &[0, 200, 400, 700, 1000, 1500];

/// When an address is probed that only a network of the peer's own can have, which does not seem to be this one, in milliseconds
/// after the start. Two sites of a company, or machines in one VPN, meet there and nobody else does.
pub const SCHEDULE_UNLIKELY_MS: &[u64] = &[0];

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

/// The peer sends through the relay, and nothing has come on the direct path for this long: the path is suspected. The peer
/// takes a new path a round trip later than this side at the most, and what it sent through the relay before comes in meanwhile;
/// less would suspect every new path, more leaves the answers on the dead path for longer.
pub const DESERTED_AFTER: Duration = Duration::from_millis(500);

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

/// When the side whose port is not known beforehand dials one that lets it in, in milliseconds after the start. Sparse,
/// because the first one does it unless it is lost.
pub const SCHEDULE_DIAL_MS: &[u64] = &[0, 100, 250, 500, 1000, 1500];

/// When the other side sends to it meanwhile, in milliseconds after the start: it only makes the own filter let the peer's
/// address in. The second is for loss.
pub const SCHEDULE_OPENER_MS: &[u64] = &[0, 250];

/// When an address is probed at which the peer cannot be found if what is known of its network is right, in milliseconds after
/// the start. It may be wrong.
pub const SCHEDULE_DOUBTFUL_MS: &[u64] = &[0, 100];

/// How long before the start a packet leaves that dies behind the own router. Clocks of the two may differ by so much and the
/// way between them besides; more would have to be waited for.
pub const OPENER_GAP: Duration = Duration::from_millis(40);

/// Time to live of openers where the depth of the own router is not known: past a home router and a carrier's NAT right
/// behind it. Greater ones come nearer to the peer's router, which they must not reach; smaller ones open nothing.
pub const OPENER_TTL_ASSUMED: u8 = 3;

/// Time between two openers: 500 a second, which a home router's CPU bears (`nat-techniques` part 4).
pub const OPENER_SPACING: Duration = Duration::from_millis(2);

/// A packet of a plan that is late by more than this is left out. A busy machine is late by some milliseconds.
pub const OVERDUE: Duration = Duration::from_millis(250);

/// Something was found: nothing more is tried for so long, which is a proof's time on any path. If it comes to nothing the rest
/// follows.
pub const FIND_PAUSE: Duration = Duration::from_secs(1);

/// How long after the second start a side fires although the peer has not said that it has opened.
pub const FRESH_PATIENCE: Duration = Duration::from_millis(400);

/// Openers between two readings of a counter. One of them has to be met; six leave room for lost probes, for ports that the box
/// skips, and for those that do not get past the own router. More take more entries in its table.
pub const BRACKET_OPENERS: usize = 6;

/// Time between the packets of a bracket: together 3 ms, in which a hundred foreign flows a second take half a port.
pub const BRACKET_SPACING: Duration = Duration::from_micros(400);

/// How long readings are waited for before the one that is there is told alone.
pub const BRACKET_WAIT: Duration = Duration::from_millis(900);

/// Ports beyond the openers that are probed where one reading is missing.
pub const BRACKET_EDGE: usize = 8;

/// When a bracket is probed, in milliseconds after the readings came. The later passes are for loss.
pub const BRACKET_PASSES_MS: &[u64] = &[0, 200, 500];

/// Ports of a bracket that the first pass probes, from its beginning: all six openers unless three foreign flows came in between,
/// and some of them even then. A wider bracket waits for the second pass, so that a single burst of foreign flows does not cost as
/// many entries in the own router.
pub const BRACKET_FIRST: usize = 9;

/// Most probes of a bracket, all passes together: with them a round stays below 60 packets.
pub const BRACKET_PROBES_MAX: usize = 48;

/// Time between the probes of a bracket, which are few.
pub const GUESS_BURST_SPACING: Duration = Duration::from_millis(1);

/// Time between guesses: 200 a second. Faster finds sooner, and looks like a port scan to more boxes.
pub const GUESS_SPACING: Duration = Duration::from_millis(5);

/// Sockets that the side with random ports opens. With as many openers and [`BIRTHDAY_PROBES`] over 64,512 ports the chance
/// is 99.97 %, and the mean of all packets smallest (`nat-techniques` section 3.1).
pub const BIRTHDAY_OPENERS: usize = 512;

/// Ports that the other side tries at most; see [`BIRTHDAY_OPENERS`]. Each is an entry in its own router.
pub const BIRTHDAY_PROBES: usize = 1024;

/// When guesses at random ports begin, after the start: 150 openers are on their way by then.
pub const GUESS_LEAD: Duration = Duration::from_millis(300);

/// When guesses at a block begin, after the start.
pub const BLOCK_LEAD: Duration = Duration::from_millis(50);

/// Fewest and most openers into a block. 64 is an eighth of the 512 ports that carriers give at the least.
pub const BLOCK_OPENERS: std::ops::Range<usize> = 8..64;

/// One opener for so many ports of a block: 16 for 512 ports, found after 28 probes in the median.
pub const BLOCK_SHARE: usize = 32;

/// When a round over a block has failed, after its start: a pass over 512 ports and the third of one take 3.5 s.
pub const BLOCK_VERDICT: Duration = Duration::from_millis(4500);

/// When a round of guesses at random ports has failed, after its start: the last one leaves after 5.4 s.
pub const BIRTHDAY_VERDICT: Duration = Duration::from_millis(6500);

/// Most packets of one side in a round, whatever the plan.
pub const PACKETS_MAX: usize = 1536;

/// Flows of each side that steps through the peer's counted ports. A drift of `a` and `b` ports is met at flow `a + 2b + 12`,
/// so 128 are enough for 30 foreign flows a second on both sides; each is sent twice.
pub const STEPS_FLOWS: i32 = 128;

/// Ports before the peer's next one at which the steps begin: at rest the first flows would miss each other.
pub const STEPS_GUARD: i32 = 4;

/// Time between two steps. In it both boxes together must open less than one foreign flow.
pub const STEPS_SPACING: Duration = Duration::from_millis(2);

/// Fresh sockets that no path came to use are closed so long after a path was locked or the round failed: the caller has
/// chosen by then, and late answers have come.
pub const SPARE_LINGER: Duration = Duration::from_millis(1500);

/// A pair of endpoints on which nothing was ever heard is left alone for so long before it is tried again, if fresh sockets
/// are tried meanwhile: what an early packet has left in a router is gone then (60 s in OpenWrt, 30 s in Linux).
pub const REST: Duration = Duration::from_secs(65);

/// What tests and simulations vary. `Default` is what nodes use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PunchConfig {
    /// A round that has proven nothing this long after its start has failed. The last scheduled probe leaves at 1.5 s;
    /// half a second more lets it be answered across the world. The relay carries traffic meanwhile.
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
            verdict: Duration::from_millis(2000),
            keepalive: Duration::from_secs(15),
            allow_loopback: false,
        }
    }
}
