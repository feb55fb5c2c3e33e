//! How many probes an address that has not agreed may get from this node, over all links: whatever peers and server say,
//! nobody can be flooded with them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::punch::Consent;

/// Length of the window in which probes are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Probes per window to an IP address that somebody only claims. A link sends two per round to such an address, so
/// 30 rounds a minute may name the same one.
const CLAIMED_MAX: u32 = 60;

/// Probes per window to an IP address that the server vouches for: 66 rounds of nine.
const ATTESTED_MAX: u32 = 600;

/// Guesses and openers per window to an IP address that the server vouches for: one round of the dearest plan.
const GUESSED_MAX: u32 = 1536;

/// Addresses that are counted at a time, 40 bytes each. When they are full of running windows, further addresses get
/// nothing: a node that probes a thousand addresses a minute is being abused.
const ADDRESSES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Budget {
    probes: Windows,
    guesses: Windows,
}

/// What was sent to each address of late.
#[derive(Debug, Default)]
struct Windows(BTreeMap<IpAddr, Window>);

#[derive(Debug)]
struct Window {
    begun: Instant,
    sent: u32,
}

impl Budget {
    /// May one more probe go there?
    pub(super) fn admit(&mut self, to: IpAddr, consent: Consent, now: Instant) -> bool {
        match consent {
            Consent::Heard => true,
            Consent::Attested => self.probes.admit(to, ATTESTED_MAX, now),
            Consent::Claimed => self.probes.admit(to, CLAIMED_MAX, now),
            Consent::Guessed => self.guesses.admit(to, GUESSED_MAX, now),
        }
    }
}

impl Windows {
    fn admit(&mut self, to: IpAddr, limit: u32, now: Instant) -> bool {
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&to) {
            self.0.retain(|_, window| window.begun + WINDOW > now);
            if self.0.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        let window = self.0.entry(to).or_insert(Window { begun: now, sent: 0 });
        if window.begun + WINDOW <= now {
            *window = Window { begun: now, sent: 0 };
        }
        let admitted = window.sent < limit;
        window.sent += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    #[test]
    fn an_address_gets_its_share_per_minute_and_an_answer_lifts_the_limit() {
        let now = epoch();
        let ip: IpAddr = "5.5.5.5".parse().unwrap();
        let mut budget = Budget::default();
        let sent =
            |budget: &mut Budget, consent, now| (0..1000).filter(|_| budget.admit(ip, consent, now)).count();
        assert_eq!(sent(&mut budget, Consent::Claimed, now), 60);
        assert_eq!(sent(&mut budget, Consent::Attested, now), 540);
        assert_eq!(sent(&mut budget, Consent::Heard, now), 1000);
        assert_eq!(sent(&mut budget, Consent::Guessed, now), 1000);
        assert_eq!(
            sent(&mut budget, Consent::Guessed, now),
            536,
            "one round of the dearest plan"
        );
        assert_eq!(sent(&mut budget, Consent::Claimed, now + WINDOW), 60);
    }

    #[test]
    fn one_round_of_the_dearest_plan_fits_and_no_second_one() {
        let most = crate::punch::config::PACKETS_MAX;
        assert_eq!(usize::try_from(GUESSED_MAX), Ok(most));
    }

    #[test]
    fn a_thousand_addresses_a_minute_are_enough() {
        let now = epoch();
        let mut budget = Budget::default();
        let address = |n: u32| IpAddr::V4(std::net::Ipv4Addr::from(0x0500_0000 + n));
        let admitted = |budget: &mut Budget, from: u32, now| {
            (from..from + 2000)
                .filter(|n| budget.admit(address(*n), Consent::Claimed, now))
                .count()
        };
        assert_eq!(admitted(&mut budget, 0, now), ADDRESSES_MAX);
        assert_eq!(admitted(&mut budget, 5000, now + WINDOW), ADDRESSES_MAX);
    }
}
