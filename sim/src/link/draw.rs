//! Decisions by chance, in arithmetic that is the same on every platform.

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

/// Whether a uniform `draw` falls below `probability`.
///
/// The product is exact (a scaling by 2^64), and the cast saturates: 1 is "always" but for one draw
/// in 2^64, which is made up for.
pub(super) fn below(draw: u64, probability: f64) -> bool {
    probability >= 1.0 || draw < (probability * 18_446_744_073_709_551_616.0) as u64
}

/// A uniform `draw`, scaled to 0 ..= `most`.
pub(super) fn scaled(draw: u64, most: u64) -> u64 {
    // At most u64::MAX by construction.
    ((u128::from(draw) * (u128::from(most) + 1)) >> 64) as u64
}

/// Something that happens to each packet with the same probability.
#[derive(Debug)]
pub(super) struct Chance {
    probability: f64,
    rng: ChaCha8Rng,
}

impl Chance {
    pub(super) fn new(probability: f64, rng: ChaCha8Rng) -> Self {
        Self { probability, rng }
    }

    /// The stream goes on where it stood.
    pub(super) fn set(&mut self, probability: f64) {
        self.probability = probability;
    }

    pub(super) fn is_present(&self) -> bool {
        self.probability > 0.0
    }

    /// Whether it happens. One draw, or none while the element is absent.
    pub(super) fn roll(&mut self) -> bool {
        self.is_present() && below(self.rng.next_u64(), self.probability)
    }
}
