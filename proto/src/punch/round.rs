//! One round of punching: which pairs it makes, and what its outcome says about the network in between.

use std::net::IpAddr;
use std::time::Instant;

use super::choice::{how, rank, usable};
use super::config::{BIRTHDAY_VERDICT, BLOCK_VERDICT, PAIRS_MAX, REMOTES_MAX};
use super::pair::Pair;
use super::{LocalSocket, PunchConfig, Round};
use crate::addr::{Candidate, CandidateKind, OfferedCandidate, canonical};
use crate::path::Why;
use crate::plan::Plan;

/// What is remembered of the present round.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) number: u8,
    /// When it has failed; `None` once it has, or has not.
    pub(super) verdict_at: Option<Instant>,
    /// IP addresses of the peer that the server vouches for.
    pub(super) attested: Vec<IpAddr>,
    /// An address of the peer could be probed at all.
    pub(super) had_pairs: bool,
    /// Something authentic arrived.
    pub(super) heard: bool,
    /// An own nonce came back.
    pub(super) echoed: bool,
}

impl Progress {
    pub(super) fn new(round: &Round, config: &PunchConfig) -> Self {
        let attested = round
            .remote
            .iter()
            .filter(|offered| offered.attested)
            .take(REMOTES_MAX);
        Self {
            number: round.number,
            verdict_at: Some(verdict_at(round, config)),
            attested: attested
                .map(|offered| canonical(offered.candidate.addr).ip())
                .collect(),
            had_pairs: false,
            heard: false,
            echoed: false,
        }
    }

    /// Why this round has proven nothing.
    pub(super) fn why(&self) -> Why {
        match (self.heard, self.echoed) {
            (false, _) if !self.had_pairs => Why::NoCandidates,
            (false, _) => Why::Silence,
            (true, false) => Why::OneWayIn,
            (true, true) => Why::OneWayOut,
        }
    }
}

/// When a round has failed: its plan may take longer than the schedule of probes.
fn verdict_at(round: &Round, config: &PunchConfig) -> Instant {
    let plain = round.start + config.verdict;
    let Some(orders) = &round.orders else { return plain };
    match orders.plan {
        Plan::Fresh | Plan::Steps => plain.max(orders.second + config.verdict),
        Plan::Block { .. } => round.start + BLOCK_VERDICT,
        Plan::Birthday { .. } => round.start + BIRTHDAY_VERDICT,
        _ => plain,
    }
}

/// Add a pair for each usable candidate and each socket of its family; pairs that exist learn what is new about them.
pub(super) fn merge(
    pairs: &mut Vec<Pair>,
    remote: &[OfferedCandidate],
    sockets: &[LocalSocket],
    local: &[Candidate],
    config: &PunchConfig,
    now: Instant,
) {
    let old = pairs.len();
    for offered in remote
        .iter()
        .filter(|offered| usable(canonical(offered.candidate.addr), config.allow_loopback))
        .take(REMOTES_MAX)
    {
        let addr = canonical(offered.candidate.addr);
        let how = how(addr, Some(offered.candidate.kind), local);
        for socket in sockets.iter().filter(|socket| socket.v6 == addr.is_ipv6()) {
            if let Some(pair) = pairs.iter_mut().find(|pair| pair.is(socket.id, addr)) {
                pair.attested |= offered.attested;
                if offered.candidate.kind != CandidateKind::Reflexive {
                    pair.how = how;
                }
            } else if pairs.len() < PAIRS_MAX {
                pairs.push(Pair::offered(socket.id, addr, how, offered.attested, now));
            }
        }
    }
    // The order in which a burst leaves: likely and short ways first.
    if let Some(new) = pairs.get_mut(old..) {
        new.sort_by_key(|pair| (rank(pair.how), !pair.attested));
    }
}
