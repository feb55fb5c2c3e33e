//! Where a state machine's randomness comes from: a seed in its constructor, never the operating system.
//!
//! The generator is named (ChaCha with 12 rounds), so a seed gives the same run after every upgrade. A driver makes
//! the root seed from the operating system's entropy; a simulation makes it from a number, and can then be replayed.

use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 bytes from which a machine draws everything unpredictable.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed from entropy that a driver obtained.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A seed for simulations and tests: equal numbers give equal runs.
    pub fn from_number(number: u64) -> Self {
        Self(blake3::derive_key(
            "knothole 1 simulation seed",
            &number.to_le_bytes(),
        ))
    }

    /// An independent seed for a part, named by a label and a number.
    pub fn child(&self, label: &str, number: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("knothole 1 child seed");
        hasher
            .update(&self.0)
            .update(&number.to_le_bytes())
            .update(label.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The generator that this seed starts.
    pub fn rng(&self) -> Rng {
        Rng(ChaCha12Rng::from_seed(self.0))
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// The generator of a state machine.
#[derive(Debug)]
pub struct Rng(ChaCha12Rng);

impl Rng {
    /// 64 unpredictable bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 64 unpredictable bits of which at least one is set: for values in which 0 means "none".
    pub fn nonzero_u64(&mut self) -> u64 {
        self.u64().max(1)
    }

    /// `N` unpredictable bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// A number below `bound` (0 if `bound` is 0). The bias of the reduction is below `bound` / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.u64()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// The underlying generator, for key exchanges that want one.
    pub fn inner(&mut self) -> &mut ChaCha12Rng {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_runs_and_children_differ() {
        let seed = Seed::from_number(7);
        assert_eq!(seed.rng().u64(), Seed::from_number(7).rng().u64());
        assert_ne!(seed.child("a", 0).rng().u64(), seed.child("b", 0).rng().u64());
        assert_ne!(seed.child("a", 0).rng().u64(), seed.child("a", 1).rng().u64());
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Seed::from_number(1).rng();
        assert!((0..1000).all(|_| rng.below(7) < 7));
        assert_eq!(rng.below(0), 0);
    }
}
