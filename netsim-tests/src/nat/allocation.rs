//! Choosing an external port. Knows the ways of RFC 4787 section 4.2, not which ports are free: the caller says.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::spec::PortAllocation;

/// Lowest port that is handed out by choice: the registered well-known ports below are only ever preserved.
const FIRST_PORT: u16 = 1024;

/// Random tries before the free ports are walked in order. At nine tenths full, 64 tries miss in one case of a
/// thousand; more tries cost time in a full table, fewer make ports less random in a nearly full one.
const RANDOM_TRIES: usize = 64;

/// Draws ports from a seed.
#[derive(Debug)]
pub(super) struct PortPicker {
    rng: ChaCha8Rng,
    counter: u16,
}

impl PortPicker {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let counter = random_port(&mut rng);
        Self { rng, counter }
    }

    /// A port for which `free` holds, or `None` if there is none. `inside` is the port of the inside endpoint.
    pub(super) fn pick(
        &mut self,
        allocation: PortAllocation,
        inside: u16,
        free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        match allocation {
            PortAllocation::Preserving if inside != 0 && free(inside) => Some(inside),
            PortAllocation::Preserving | PortAllocation::Random | PortAllocation::Block { .. } => {
                self.random(free)
            }
            PortAllocation::Counter { step, .. } | PortAllocation::PreserveThenCounter { step } => {
                self.count(step.max(1), free)
            }
        }
    }

    fn random(&mut self, free: impl Fn(u16) -> bool) -> Option<u16> {
        for _ in 0..RANDOM_TRIES {
            let port = random_port(&mut self.rng);
            if free(port) {
                return Some(port);
            }
        }
        let start = random_port(&mut self.rng);
        walk(start, 1).find(|port| free(*port))
    }

    fn count(&mut self, step: u16, free: impl Fn(u16) -> bool) -> Option<u16> {
        let port = walk(self.counter, step).find(|port| free(*port));
        if let Some(port) = port {
            self.counter = advance(port, step);
        }
        port
    }
}

/// All ports from `start` on in steps, each at most once when `step` is 1 and at least once round otherwise.
fn walk(start: u16, step: u16) -> impl Iterator<Item = u16> {
    let mut port = start;
    (FIRST_PORT..=u16::MAX).map(move |_| {
        let this = port;
        port = advance(port, step);
        this
    })
}

fn advance(port: u16, step: u16) -> u16 {
    let span = u32::from(u16::MAX - FIRST_PORT) + 1;
    let offset = (u32::from(port.max(FIRST_PORT) - FIRST_PORT) + u32::from(step)) % span;
    FIRST_PORT + u16::try_from(offset).unwrap_or(0)
}

fn random_port(rng: &mut ChaCha8Rng) -> u16 {
    let span = u32::from(u16::MAX - FIRST_PORT) + 1;
    FIRST_PORT + u16::try_from(rng.next_u32() % span).unwrap_or(0)
}
