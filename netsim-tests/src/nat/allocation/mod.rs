//! Choosing an external address and port. Knows the ways of RFC 4787 sections 4.1 and 4.2, not which ports are free:
//! the caller says.

mod counter;
mod ports;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::spec::{Pooling, PortAllocation};
use counter::Counter;
use ports::{FIRST_PORT, PORTS};

/// The external addresses of a box: consecutive ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    first: Ipv4Addr,
    /// At least 1.
    count: u8,
}

impl Pool {
    pub(super) fn new(first: Ipv4Addr, count: u8) -> Self {
        Self {
            first,
            count: count.max(1),
        }
    }

    pub(super) fn first(self) -> Ipv4Addr {
        self.first
    }

    pub(super) fn contains(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => u32::from(ip).wrapping_sub(u32::from(self.first)) < u32::from(self.count),
            IpAddr::V6(_) => false,
        }
    }

    /// All of them, from the one with this number on.
    pub(super) fn beginning_at(self, start: u8) -> impl Iterator<Item = Ipv4Addr> {
        (start..self.count)
            .chain(0..start.min(self.count))
            .map(move |number| self.at(number))
    }

    fn at(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first).wrapping_add(u32::from(number)))
    }
}

/// The ports of one subscriber: a range at one external address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Block {
    pub(super) address: Ipv4Addr,
    pub(super) first: u16,
    pub(super) size: u16,
}

/// Draws addresses and ports from a seed.
#[derive(Debug)]
pub(super) struct Picker {
    seed: u64,
    rng: ChaCha8Rng,
    counter: Counter,
}

impl Picker {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let counter = Counter::new(&mut rng);
        Self { seed, rng, counter }
    }

    /// Which addresses a new mapping of the host `inside` may have, in the order of preference.
    pub(super) fn addresses(
        &mut self,
        pool: Pool,
        pooling: Pooling,
        inside: IpAddr,
    ) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (start, most) = match pooling {
            _ if pool.count == 1 => (0, 1),
            Pooling::Paired => (self.pair(pool, inside), 1),
            Pooling::Arbitrary => (number(self.rng.next_u32(), pool), usize::from(pool.count)),
        };
        pool.beginning_at(start).take(most)
    }

    /// A port for which `free` holds, or `None` if there is none. `kept` is the port of the inside endpoint, if it may
    /// be kept. A [`PortAllocation::Block`] has its own ways, [`Picker::block`] and [`Picker::port_in`].
    pub(super) fn port(
        &mut self,
        allocation: PortAllocation,
        kept: Option<u16>,
        free: impl Fn(u16) -> bool,
        now: Instant,
    ) -> Option<u16> {
        let kept = kept.filter(|port| *port != 0 && free(*port));
        match (allocation, kept) {
            (PortAllocation::Preserving | PortAllocation::PreserveThenCounter { .. }, Some(kept)) => {
                Some(kept)
            }
            (PortAllocation::Preserving | PortAllocation::Random | PortAllocation::Block { .. }, _) => {
                ports::draw_port(&mut self.rng, FIRST_PORT, PORTS, free)
            }
            (PortAllocation::Counter { step, foreign }, _) => {
                let step = step.max(1);
                self.counter.pass_time(step, foreign, &mut self.rng, now);
                self.counter.pick(step, free)
            }
            (PortAllocation::PreserveThenCounter { step }, None) => self.counter.pick(step.max(1), free),
        }
    }

    /// A block at `address` for which `free` holds, or `None` if there is none. Blocks are aligned to their size.
    pub(super) fn block(
        &mut self,
        address: Ipv4Addr,
        size: u16,
        free: impl Fn(&Block) -> bool,
    ) -> Option<Block> {
        let size = size.max(1);
        let lowest = FIRST_PORT.div_ceil(size);
        let count = (65_536 / u32::from(size)).saturating_sub(u32::from(lowest));
        let block = |place: u32| Block {
            address,
            first: u16::try_from((u32::from(lowest) + place) * u32::from(size)).unwrap_or(u16::MAX),
            size,
        };
        ports::draw(&mut self.rng, count, |place| free(&block(place))).map(block)
    }

    /// A random port of a block for which `free` holds, or `None` if there is none.
    pub(super) fn port_in(&mut self, block: Block, free: impl Fn(u16) -> bool) -> Option<u16> {
        ports::draw_port(&mut self.rng, block.first, u32::from(block.size), free)
    }

    /// The number of the address that belongs to a host for good. It hangs on the seed and the host alone, so that
    /// nothing has to be remembered.
    fn pair(&self, pool: Pool, inside: IpAddr) -> u8 {
        let mut material = [0; 32];
        material[..8].copy_from_slice(&self.seed.to_le_bytes());
        match inside {
            IpAddr::V4(ip) => material[8..12].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => material[16..].copy_from_slice(&ip.octets()),
        }
        number(ChaCha8Rng::from_seed(material).next_u32(), pool)
    }
}

fn number(random: u32, pool: Pool) -> u8 {
    u8::try_from(random % u32::from(pool.count)).unwrap_or(0)
}
