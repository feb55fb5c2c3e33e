//! Which hosts inside hold which blocks of ports. Who gets one, and which, is decided elsewhere.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::nat::allocation::Block;

/// One block for each host that has mappings in it.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    held: HashMap<IpAddr, Holding>,
    taken: HashSet<Block>,
}

#[derive(Debug)]
struct Holding {
    block: Block,
    mappings: usize,
}

impl Blocks {
    pub(super) fn of(&self, inside: IpAddr) -> Option<Block> {
        self.held.get(&inside).map(|holding| holding.block)
    }

    pub(super) fn is_taken(&self, block: &Block) -> bool {
        self.taken.contains(block)
    }

    /// A mapping of a host begins in a block, which is the host's own from now on.
    pub(super) fn begin(&mut self, inside: IpAddr, block: Block) {
        let holding = self.held.entry(inside).or_insert(Holding { block, mappings: 0 });
        holding.mappings += 1;
        self.taken.insert(holding.block);
    }

    /// A mapping of a host ends. With the last one the block is free again.
    pub(super) fn end(&mut self, inside: IpAddr) {
        if let Some(holding) = self.held.get_mut(&inside) {
            holding.mappings -= 1;
            if holding.mappings == 0 {
                self.taken.remove(&holding.block);
                self.held.remove(&inside);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let mappings = self.held.values().map(|holding| holding.mappings).sum();
        (self.held.len(), self.taken.len(), mappings)
    }
}
