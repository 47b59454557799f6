//! One 64-bit seed for a whole run, split by name, so that a new consumer of randomness does not
//! shift the draws of those that were there before.

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// A seed from which named streams and further seeds are derived.
///
/// Deriving is a hash of the seed and the name: it consumes nothing, so the order in which streams
/// are asked for does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The root of a run.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The number itself, as a person would pass it to reproduce the run.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// A seed of its own for the part called `name`.
    #[must_use]
    pub fn child(self, name: &str) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&self.hash(b"seed", name)[..8]);
        Self(u64::from_be_bytes(first))
    }

    /// 32 bytes for the part called `name`, as keys and nodes want them.
    #[must_use]
    pub fn bytes(self, name: &str) -> [u8; 32] {
        self.hash(b"bytes", name)
    }

    /// The stream of random numbers called `name`.
    #[must_use]
    pub fn stream(self, name: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.hash(b"stream", name))
    }

    fn hash(self, kind: &[u8], name: &str) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"entrouter-sim/");
        hash.update(kind);
        hash.update(self.0.to_be_bytes());
        hash.update(name.as_bytes());
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::RngCore;

    #[test]
    fn names_and_kinds_give_unrelated_streams() {
        let seed = Seed::new(1);
        assert_eq!(seed.stream("loss").next_u64(), seed.stream("loss").next_u64());
        assert_ne!(seed.stream("loss").next_u64(), seed.stream("jitter").next_u64());
        assert_ne!(seed.stream("loss").next_u64(), Seed::new(2).stream("loss").next_u64());
        assert_ne!(seed.child("loss").get().to_be_bytes(), seed.bytes("loss")[..8]);
    }
}
