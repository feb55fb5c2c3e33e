//! Two NATs of which one at least takes another port for each destination: can the port be foreseen, or guessed?

use super::Expect;
use crate::nat::{Mapping, NatSpec, Pooling, PortAllocation};

/// Most foreign flows a second on a counter that openers between two readings of it are found behind.
const FOREIGN_MAX: u32 = 100;

/// The same where both sides count, and each is stepped through.
const FOREIGN_BOTH_MAX: u32 = 30;

/// Largest block that a few openers and probes over it are tried in.
const BLOCK_MAX: u16 = 4_096;

/// Entries that a table must hold for many openers or many probes among all ports: twice what such a plan makes.
const ROOM: usize = 2_048;

/// What comes of a pair of chains that the plain technique does not open.
pub(super) fn guessed(nats: [&[NatSpec]; 2], stable: [bool; 2]) -> Expect {
    let found = match (nats, stable) {
        ([easy, hard], [true, false]) | ([hard, easy], [false, true]) => one_hard(easy, hard),
        ([a, b], [false, false]) => steps(a) && steps(b),
        _ => false,
    };
    if found { Expect::Likely } else { Expect::May }
}

/// Is the hard side's port found from the easy side?
fn one_hard(easy: &[NatSpec], hard: &[NatSpec]) -> bool {
    let Some(unstable) = only_unstable(hard) else {
        return false;
    };
    match unstable.ports {
        PortAllocation::Counter { foreign, .. } => foreign <= FOREIGN_MAX,
        PortAllocation::PreserveThenCounter { .. } => true,
        PortAllocation::Block { size } => size <= BLOCK_MAX,
        PortAllocation::Random | PortAllocation::Preserving => {
            easy.iter().chain(hard).all(|nat| nat.table_size >= ROOM)
        }
    }
}

/// Do its ports come in steps, one for each destination?
fn steps(nats: &[NatSpec]) -> bool {
    let Some(unstable) = only_unstable(nats) else {
        return false;
    };
    let counted = match unstable.ports {
        PortAllocation::Counter { foreign, .. } => foreign <= FOREIGN_BOTH_MAX,
        PortAllocation::PreserveThenCounter { .. } => true,
        _ => false,
    };
    counted && unstable.mapping == Mapping::AddressAndPortDependent
}

/// The NAT of a chain that changes ports, if there is one, it has one address, and what is outside of it keeps its ports.
fn only_unstable(nats: &[NatSpec]) -> Option<&NatSpec> {
    let at = nats
        .iter()
        .position(|nat| nat.mapping != Mapping::EndpointIndependent)?;
    let (unstable, outside) = nats[at..].split_first()?;
    let keeps = |nat: &NatSpec| {
        nat.mapping == Mapping::EndpointIndependent && nat.ports == PortAllocation::Preserving
    };
    let one_address = unstable.addresses <= 1 || unstable.pooling == Pooling::Paired;
    (one_address && outside.iter().all(keeps)).then_some(unstable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::kind;

    fn of(a: &str, b: &str) -> Expect {
        let side = |name: &str| kind(name).unwrap().side(&[]);
        super::super::expect(&side(a), &side(b))
    }

    #[test]
    fn what_counts_or_is_few_is_found_and_what_fills_a_small_table_is_not() {
        for hard in [
            "symmetric-counter",
            "counter-100-step-2",
            "symmetric-preserve-first",
            "port-block",
            "address-dependent",
        ] {
            assert_eq!(of("port-restricted", hard), Expect::Likely, "{hard}");
        }
        assert_eq!(of("small-table", "symmetric"), Expect::May);
        assert_eq!(of("small-table", "port-block"), Expect::Likely);
    }

    #[test]
    fn two_counters_meet_and_a_counter_and_chance_do_not() {
        assert_eq!(of("symmetric-counter", "symmetric-counter-busy"), Expect::Likely);
        assert_eq!(
            of("symmetric-counter", "symmetric-preserve-first"),
            Expect::Likely
        );
        assert_eq!(of("symmetric-counter", "counter-100"), Expect::May);
        assert_eq!(of("symmetric-counter", "symmetric"), Expect::May);
        assert_eq!(of("port-block", "port-block"), Expect::May);
    }

    #[test]
    fn a_carrier_that_keeps_ports_hides_nothing_and_one_that_draws_them_does() {
        let counter = kind("symmetric-counter").unwrap().chain(&[]);
        let outer = |name: &str| [counter.clone(), kind(name).unwrap().chain(&[])].concat();
        assert!(only_unstable(&outer("full-cone")).is_some());
        assert!(only_unstable(&outer("full-cone-random")).is_none());
        assert!(only_unstable(&outer("symmetric")).is_none());
    }
}
