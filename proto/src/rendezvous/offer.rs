//! From what a node says about its addresses to what its peer is told.

use std::net::SocketAddr;

use crate::addr::{CANDIDATES_MAX, Candidate, CandidateKind, OfferedCandidate, Reach, canonical};

/// The candidates that may be kept: canonical, somewhere a probe may go, each address once.
pub(super) fn accept(told: Vec<Candidate>, allow_loopback: bool) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::with_capacity(told.len());
    for candidate in told {
        let addr = canonical(candidate.addr);
        if may_be_probed(addr, allow_loopback) && kept.iter().all(|other| other.addr != addr) {
            kept.push(Candidate { addr, ..candidate });
        }
    }
    kept
}

/// What the other side is told of a node at `from`: first where the server sees it, then what it said itself.
pub(super) fn offer(from: SocketAddr, kept: &[Candidate], allow_loopback: bool) -> Vec<OfferedCandidate> {
    let reflexive = Candidate {
        kind: CandidateKind::Reflexive,
        addr: from,
    };
    let seen = may_be_probed(from, allow_loopback).then_some(reflexive);
    // A node without a NAT says the very address that the server sees; the kind that says more is kept.
    let told = kept.iter().copied();
    let seen = seen.filter(|seen| kept.iter().all(|candidate| candidate.addr != seen.addr));
    seen.into_iter()
        .chain(told)
        .take(CANDIDATES_MAX)
        .map(|candidate| OfferedCandidate {
            candidate,
            attested: candidate.addr.ip() == from.ip(),
        })
        .collect()
}

fn may_be_probed(addr: SocketAddr, allow_loopback: bool) -> bool {
    match Reach::of(addr) {
        Reach::Global | Reach::Private => true,
        Reach::Loopback => allow_loopback,
        Reach::Never => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(kind: CandidateKind, text: &str) -> Candidate {
        Candidate {
            kind,
            addr: text.parse().unwrap(),
        }
    }

    #[test]
    fn each_address_is_kept_once_and_in_one_spelling() {
        let told = vec![
            candidate(CandidateKind::Host, "[::ffff:10.0.0.2]:9"),
            candidate(CandidateKind::Mapped, "10.0.0.2:9"),
            candidate(CandidateKind::Host, "10.0.0.2:10"),
        ];
        let kept = accept(told, false);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[0], candidate(CandidateKind::Host, "10.0.0.2:9"));
    }

    #[test]
    fn an_address_that_the_server_sees_is_attested_and_another_is_not() {
        let kept = accept(
            vec![
                candidate(CandidateKind::Host, "10.0.0.2:9"),
                candidate(CandidateKind::Mapped, "5.5.5.5:7000"),
                candidate(CandidateKind::Mapped, "6.6.6.6:7000"),
            ],
            false,
        );
        let offered = offer("5.5.5.5:9".parse().unwrap(), &kept, false);
        let attested: Vec<bool> = offered.iter().map(|offer| offer.attested).collect();
        assert_eq!(attested, [true, false, true, false]);
        assert_eq!(
            offered[0].candidate,
            candidate(CandidateKind::Reflexive, "5.5.5.5:9")
        );
    }

    #[test]
    fn loopback_and_places_for_nobody_are_dropped_also_as_the_source() {
        let told = vec![
            candidate(CandidateKind::Host, "127.0.0.1:9"),
            candidate(CandidateKind::Host, "169.254.169.254:9"),
            candidate(CandidateKind::Host, "10.0.0.2:0"),
        ];
        assert_eq!(accept(told.clone(), false), []);
        assert_eq!(accept(told.clone(), true), [told[0]]);
        assert_eq!(offer("127.0.0.1:9".parse().unwrap(), &[], false), []);
        assert_eq!(offer("127.0.0.1:9".parse().unwrap(), &[], true).len(), 1);
    }
}
