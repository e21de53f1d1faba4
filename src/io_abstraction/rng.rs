//! Randomness: independent named streams from one root seed.
//!
//! The seed of a stream is a hash of (root, path of names), so a draw added in one task shifts no other. All identifiers
//! and all jitter come from here.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// A deterministic generator (ChaCha8).
pub type DetRng = ChaCha8Rng;

/// A place in the tree of streams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RngSource {
    root: u128,
}

impl RngSource {
    /// `root` is entropy from the operating system in production, and derived from (seed, host, incarnation) in the simulator.
    pub fn new(root: u128) -> RngSource {
        RngSource { root }
    }

    /// A subtree.
    pub fn child(&self, name: &str) -> RngSource {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&self.root.to_le_bytes());
        hasher.update(name.as_bytes());
        RngSource { root: hasher.digest128() }
    }

    /// The generator of this name. The same name gives the same sequence again: use a fresh name per use.
    pub fn stream(&self, name: &str) -> DetRng {
        let seed = self.child(name).root.to_le_bytes();
        let mut key = [0; 32];
        key[..16].copy_from_slice(&seed);
        DetRng::from_seed(key)
    }
}

/// A number in `0..bound`; `bound` must not be 0.
pub fn below(rng: &mut DetRng, bound: u64) -> u64 {
    assert!(bound > 0, "below() needs a positive bound");
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_independent_and_repeatable() {
        let source = RngSource::new(7);
        assert_eq!(source.stream("a").next_u64(), source.stream("a").next_u64());
        assert_ne!(source.stream("a").next_u64(), source.stream("b").next_u64());
        assert_ne!(source.child("a").stream("x").next_u64(), source.child("b").stream("x").next_u64());
        let mut rng = source.stream("range");
        assert!((0..1000).all(|_| below(&mut rng, 3) < 3));
    }
}
