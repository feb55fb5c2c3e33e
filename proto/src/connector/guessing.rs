//! Who may be guessed at, and how often: limits that hold whatever peers and server say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::LinkId;
use crate::id::PeerId;
use crate::punch::config::BIRTHDAY_VERDICT;

/// Rounds of guessing that go on at a time: each may hold 512 sockets, or a thousand entries in the own router.
const RUNNING_MAX: usize = 2;

/// Between two such rounds with one peer, or at one address.
const PAUSE: Duration = Duration::from_secs(60);

/// Failed rounds in an hour after which that peer, or that address, is left alone.
const FAILURES_MAX: usize = 4;

/// See [`FAILURES_MAX`].
const HOUR: Duration = Duration::from_secs(3600);

/// Peers and addresses that are remembered, about 100 bytes each. When they are full of fresh records nothing is guessed: a
/// node with so many peers behind such networks within the hour is being abused.
const RECORDS_MAX: usize = 512;

/// What was guessed lately.
#[derive(Debug, Default)]
pub(super) struct Guessing {
    records: BTreeMap<Whom, Record>,
    running: Vec<(LinkId, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Peer(PeerId),
    Address(IpAddr),
}

/// Rounds that were begun and have not led to a path, the latest last.
#[derive(Debug, Default)]
struct Record(Vec<Instant>);

impl Guessing {
    /// Would a round with this peer be allowed now?
    pub(super) fn may(&self, peer: PeerId, now: Instant) -> bool {
        self.is_free(Whom::Peer(peer), now) && self.running(now).count() < RUNNING_MAX
    }

    /// Begin a round, if it is allowed.
    pub(super) fn begin(&mut self, link: LinkId, peer: PeerId, at: IpAddr, now: Instant) -> bool {
        let whom = [Whom::Peer(peer), Whom::Address(at)];
        if !self.may(peer, now) || !whom.iter().all(|whom| self.is_free(*whom, now)) {
            return false;
        }
        if self.records.len() + whom.len() > RECORDS_MAX {
            self.records.retain(|_, record| record.is_of_use(now));
            if self.records.len() + whom.len() > RECORDS_MAX {
                return false;
            }
        }
        self.running.retain(|(_, until)| *until > now);
        self.running.push((link, now + BIRTHDAY_VERDICT));
        for whom in whom {
            let record = self.records.entry(whom).or_default();
            record.0.retain(|at| *at + HOUR > now);
            record.0.push(now);
        }
        true
    }

    /// A round led to a path, or is over without: it holds nothing any more. A path clears the record of its peer.
    pub(super) fn end(&mut self, link: LinkId, peer: PeerId, direct: bool) {
        self.running.retain(|(running, _)| *running != link);
        if direct && let Some(record) = self.records.get_mut(&Whom::Peer(peer)) {
            let last = record.0.pop();
            record.0.clear();
            record.0.extend(last);
        }
    }

    fn running(&self, now: Instant) -> impl Iterator<Item = &(LinkId, Instant)> {
        self.running.iter().filter(move |(_, until)| *until > now)
    }

    fn is_free(&self, whom: Whom, now: Instant) -> bool {
        let Some(Record(begun)) = self.records.get(&whom) else {
            return true;
        };
        let rested = begun.last().is_none_or(|last| *last + PAUSE <= now);
        rested && begun.iter().filter(|at| **at + HOUR > now).count() < FAILURES_MAX
    }
}

impl Record {
    fn is_of_use(&self, now: Instant) -> bool {
        self.0.iter().any(|at| *at + HOUR > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    fn peer(number: u8) -> PeerId {
        PeerId::from_spki(&[number])
    }

    fn ip(number: u8) -> IpAddr {
        IpAddr::from([5, 5, 5, number])
    }

    #[test]
    fn a_peer_is_guessed_at_once_a_minute_and_four_times_an_hour_in_vain() {
        let now = epoch();
        let mut guessing = Guessing::default();
        let begun = (0..3600)
            .filter(|second| {
                let now = now + Duration::from_secs(*second);
                let begun = guessing.begin(LinkId(1), peer(1), ip(1), now);
                guessing.end(LinkId(1), peer(1), false);
                begun
            })
            .count();
        assert_eq!(begun, 4);
        assert!(guessing.may(peer(1), now + HOUR + PAUSE));
    }

    #[test]
    fn one_address_is_spared_whatever_peers_are_said_to_be_there() {
        let now = epoch();
        let mut guessing = Guessing::default();
        let begun = (0..200u8)
            .filter(|number| {
                let now = now + Duration::from_secs(10) * u32::from(*number);
                guessing.begin(LinkId(u64::from(*number)), peer(*number), ip(1), now)
            })
            .count();
        assert_eq!(begun, 4, "in two thousand seconds");
    }

    #[test]
    fn two_rounds_go_on_at_a_time() {
        let now = epoch();
        let mut guessing = Guessing::default();
        let begin = |guessing: &mut Guessing, number, now| {
            guessing.begin(LinkId(u64::from(number)), peer(number), ip(number), now)
        };
        assert!(begin(&mut guessing, 1, now) && begin(&mut guessing, 2, now));
        assert!(!begin(&mut guessing, 3, now));
        guessing.end(LinkId(1), peer(1), true);
        assert!(begin(&mut guessing, 3, now), "one has ended");
        assert!(begin(&mut guessing, 4, now + BIRTHDAY_VERDICT), "or must have");
    }

    #[test]
    fn success_wipes_the_slate_but_not_the_pause() {
        let now = epoch();
        let mut guessing = Guessing::default();
        for minute in 0..4 {
            let now = now + PAUSE * minute;
            assert!(guessing.begin(LinkId(1), peer(1), ip(u8::try_from(minute).unwrap()), now));
            guessing.end(LinkId(1), peer(1), minute == 3);
        }
        assert!(!guessing.may(peer(1), now + PAUSE * 3));
        assert!(guessing.may(peer(1), now + PAUSE * 4));
    }

    #[test]
    fn the_records_are_bounded() {
        let now = epoch();
        let mut guessing = Guessing::default();
        for number in 0..2000u64 {
            let peer = PeerId::from_spki(&number.to_be_bytes());
            let at = IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
            guessing.begin(LinkId(number), peer, at, now);
            guessing.end(LinkId(number), peer, false);
        }
        assert!(guessing.records.len() <= RECORDS_MAX);
    }
}
