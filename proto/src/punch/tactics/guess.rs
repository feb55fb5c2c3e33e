//! Block and birthday: one side opens many sockets towards the other, which tries ports until two meet.
//!
//! With K openers and M probes over N ports they meet with a chance of about 1 - exp(-K M / N). A probe of a new port is
//! worth as much as a copy of an old one and covers more, so nothing is sent twice.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{LOWEST_PORT, Stock};
use crate::punch::config::{
    BIRTHDAY_PROBES, BLOCK_LEAD, BLOCK_OPENERS, BLOCK_SHARE, GUESS_LEAD, GUESS_SPACING, PACKETS_MAX,
};
use crate::seed::Rng;
use crate::wire::network::Ports;

/// Openers into a block: a small share of what the subscriber has.
pub(super) fn block_openers(ports: Ports) -> usize {
    let Ports::Block { low, high } = ports else {
        return BLOCK_OPENERS.start;
    };
    let size = usize::from(high.saturating_sub(low)) + 1;
    (size / BLOCK_SHARE).clamp(BLOCK_OPENERS.start, BLOCK_OPENERS.end)
}

/// Probes over the peer's block, each port once and in random order, and the first third of them once more.
pub(super) fn plan_block(stock: &mut Stock, start: Instant) {
    let Ports::Block { low, high } = stock.orders.peer.ports else {
        return;
    };
    let mut ports: Vec<u16> = (low.max(1)..=high.max(low)).collect();
    shuffle(&mut ports, &mut stock.rng);
    let again = ports.len() / 3;
    ports.extend_from_within(..again);
    ports.truncate(PACKETS_MAX);
    stock.guess(stock.main, ports, start + BLOCK_LEAD, GUESS_SPACING);
}

/// Probes of random ports.
pub(super) fn plan_birthday(stock: &mut Stock, start: Instant) {
    let from = match stock.orders.peer.ports {
        Ports::From(from) => from.max(LOWEST_PORT),
        _ => LOWEST_PORT,
    };
    let room = u64::from(u16::MAX - from) + 1;
    let count = BIRTHDAY_PROBES.min(usize::try_from(room).unwrap_or(BIRTHDAY_PROBES));
    let (mut ports, mut drawn) = (Vec::with_capacity(count), BTreeSet::new());
    while ports.len() < count {
        let port = from + u16::try_from(stock.rng.below(room)).unwrap_or(0);
        if drawn.insert(port) {
            ports.push(port);
        }
    }
    stock.guess(stock.main, ports, start + GUESS_LEAD, GUESS_SPACING);
}

/// Every order equally likely (Fisher and Yates).
fn shuffle(ports: &mut [u16], rng: &mut Rng) {
    for end in (1..ports.len()).rev() {
        let other = usize::try_from(rng.below(end as u64 + 1)).unwrap_or(0);
        ports.swap(end, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn a_block_gives_a_small_share_of_its_ports_for_openers() {
        let openers = |size: u16| {
            block_openers(Ports::Block {
                low: 1024,
                high: 1023 + size,
            })
        };
        assert_eq!([64, 512, 1024, 8192].map(openers), [8, 16, 32, 64]);
        for size in [64, 512, 1024, 4096] {
            assert!(openers(size) <= usize::from(size / 8));
        }
    }

    #[test]
    fn a_shuffle_keeps_every_port_and_changes_their_order() {
        let mut ports: Vec<u16> = (0..512).collect();
        shuffle(&mut ports, &mut Seed::from_number(1).rng());
        assert!(!ports.is_sorted());
        ports.sort_unstable();
        assert!(ports.into_iter().eq(0..512));
    }
}
