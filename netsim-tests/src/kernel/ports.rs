//! The rules that choose a new flow's external port, on an address that is chosen already.

use std::net::{IpAddr, Ipv4Addr};

use crate::nat::{NatSpec, PortAllocation};

use super::form::Place;
use super::table::Chain;

/// What is handed out by choice, as in the model.
const FIRST_PORT: u16 = 1024;

/// How many ports there are from [`FIRST_PORT`] on.
const PORTS: u32 = 65_536 - 1024;

/// Most ports that a counter goes through before it begins again; each is an element of a map that must be loaded (24 ms
/// for so many). More flows than that within one timeout would share ports.
const COUNTED: u32 = 4096;

/// How often a port of a block is drawn anew when it is in use. In a block that is half full one draw in 500 ends at a
/// port in use all the same; more draws are more rules for every new flow.
const REDRAWS: usize = 8;

/// The chains that bind a flow to the external address number `index`; the first is the one to go to.
///
/// `exclusive`: ports in use by another mapping are not preserved.
pub(super) fn allocation(spec: &NatSpec, place: &Place, index: usize, exclusive: bool) -> Vec<Chain> {
    let address = place.externals[index];
    let mut chain = Chain::named(&take(index)).with(format!("meta l4proto != udp snat to {address}"));
    let any_port = format!("meta l4proto udp snat to {address}:{FIRST_PORT}-65535 random");
    match spec.ports {
        PortAllocation::Preserving => {
            if exclusive {
                chain.rule(format!("udp sport @{} {any_port}", used(index)));
            }
            chain.rule(format!("snat to {address}"));
        }
        PortAllocation::Random => chain.rule(any_port),
        PortAllocation::Counter { .. } => chain.rule(format!("goto {}", count(index))),
        PortAllocation::PreserveThenCounter { .. } => {
            chain.rule(format!("ip saddr . udp sport @seen goto {}", count(index)));
            chain.rule(format!("udp sport @{} goto {}", used(index), count(index)));
            chain.rule(format!("snat to {address}"));
        }
        PortAllocation::Block { size } => {
            chain.rule(draw(size));
            for _ in 0..REDRAWS {
                chain.rule(format!("ip saddr . meta mark @taken {}", draw(size)));
            }
            chain.rule("ct mark set meta mark");
            for (subscriber, first, last) in subscribers(place, index, size) {
                let ports: Vec<String> = (1..)
                    .zip(first..=last)
                    .map(|(mark, port)| format!("{mark} : {port}"))
                    .collect();
                chain.rule(format!(
                    "ip saddr {subscriber} meta l4proto udp snat to {address}:meta mark map {{ {} }}",
                    ports.join(", ")
                ));
            }
            chain.rule("drop");
        }
    }
    let mut chains = vec![chain];
    if let PortAllocation::Counter { step, .. } | PortAllocation::PreserveThenCounter { step } = spec.ports {
        chains.push(counter(index, address, step.max(1), place.seed));
    }
    chains
}

/// The chain to go to for the external address number `index`.
pub(super) fn take(index: usize) -> String {
    format!("take{index}")
}

/// The set of the ports in use on the external address number `index`.
pub(super) fn used(index: usize) -> String {
    format!("used{index}")
}

fn count(index: usize) -> String {
    format!("count{index}")
}

/// Which external address a subscriber is paired with: they take turns.
pub(super) fn paired(place: &Place, subscriber: usize) -> usize {
    subscriber % place.externals.len()
}

/// The inside IPv4 addresses in order.
pub(super) fn inside_v4(place: &Place) -> Vec<Ipv4Addr> {
    let v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    };
    let mut ips: Vec<Ipv4Addr> = place.inside.iter().filter_map(v4).collect();
    ips.sort_unstable();
    ips
}

/// Draws the number of a port in a block, from 1 on; the mark of the flow keeps it.
fn draw(size: u16) -> String {
    format!("meta mark set numgen random mod {} offset 1", size.max(1))
}

/// How many aligned blocks of this size there are from [`FIRST_PORT`] on.
pub(super) fn blocks(size: u16) -> u32 {
    let size = u32::from(size.max(1));
    (65_536 / size).saturating_sub(u32::from(FIRST_PORT).div_ceil(size))
}

/// The subscribers that have a block on one address, with its first and last port. Each has one on every address, so
/// that it does not matter how addresses are paired. Those for whom there is none left are absent.
fn subscribers(place: &Place, index: usize, size: u16) -> Vec<(Ipv4Addr, u32, u32)> {
    let count = blocks(size);
    let size = u32::from(size.max(1));
    let shift = place.seed.wrapping_add(index as u64) % u64::from(count.max(1));
    let first_block = u32::from(FIRST_PORT).div_ceil(size);
    let mine = (0..count).zip(inside_v4(place)).map(|(number, ip)| {
        let block = (u64::from(number) + shift) % u64::from(count);
        let first = (first_block + u32::try_from(block).unwrap_or(0)) * size;
        (ip, first, first + size - 1)
    });
    mine.collect()
}

/// Ports in a row. A literal map of the kernel's own counter: its bare form stores ports with their bytes swapped.
fn counter(index: usize, address: Ipv4Addr, step: u16, seed: u64) -> Chain {
    let ports = counted(step, seed);
    let elements: Vec<String> = (0u32..)
        .zip(&ports)
        .map(|(i, port)| format!("{i} : {port}"))
        .collect();
    Chain::named(&count(index)).with(format!(
        "meta l4proto udp snat to {address}:numgen inc mod {} map {{ {} }}",
        elements.len(),
        elements.join(", ")
    ))
}

fn counted(step: u16, seed: u64) -> Vec<u32> {
    let step = u32::from(step);
    let round = PORTS / greatest_common_divisor(step, PORTS);
    let start = u32::try_from(seed % u64::from(PORTS)).unwrap_or(0);
    (0..round.min(COUNTED))
        .map(|i| u32::from(FIRST_PORT) + (start + i * step) % PORTS)
        .collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn counted_ports_are_a_step_apart_and_never_come_twice_in_a_round() {
        for step in [1, 2, 3, 7, 1000, 64_512 / 2, u16::MAX] {
            let ports = counted(step, 77);
            assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len(), "{step}");
            assert!(ports.iter().all(|port| (1024..65_536).contains(port)));
            for pair in ports.windows(2) {
                assert_eq!((pair[0] + u32::from(step) - pair[1]) % PORTS, 0);
            }
        }
    }

    #[test]
    fn blocks_are_aligned_and_disjoint_and_as_many_as_fit() {
        assert_eq!(
            (blocks(512), blocks(1), blocks(0), blocks(40_000)),
            (126, 64_512, 64_512, 0)
        );
        let place = Place {
            externals: vec![Ipv4Addr::new(5, 5, 16, 2)],
            inside: (1..=3).map(|i| IpAddr::from([192, 168, 1, i])).collect(),
            seed: 125,
        };
        let all = subscribers(&place, 0, 512);
        assert_eq!(
            all.iter()
                .map(|(_, first, last)| (*first, *last))
                .collect::<Vec<_>>(),
            [(65_024, 65_535), (1024, 1535), (1536, 2047)]
        );
        assert_eq!(subscribers(&place, 0, 32_768).len(), 1, "the others get none");
    }
}
