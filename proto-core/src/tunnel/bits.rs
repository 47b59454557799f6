//! A bit for each number of a window that moves upwards, searched a word at a time.

const WORD_BITS: u64 = 64;

/// Bits of numbers modulo the window. The user keeps the numbers that count within one window, and clears
/// the bits of those that leave it.
pub(crate) struct BitRing {
    words: Box<[u64]>,
    /// Bits less one; a power of two, less one.
    mask: u64,
}

impl BitRing {
    /// A window of `bits`, which is a power of two and no less than 64, all clear.
    pub(crate) fn new(bits: u64) -> Self {
        debug_assert!(bits.is_power_of_two() && bits >= WORD_BITS, "whole words, and a mask");
        Self { words: vec![0; (bits / WORD_BITS) as usize].into_boxed_slice(), mask: bits - 1 }
    }

    fn slot(&self, n: u64) -> (usize, u64) {
        (((n & self.mask) / WORD_BITS) as usize, 1 << (n % WORD_BITS))
    }

    fn word(&self, n: u64) -> u64 {
        self.words.get(self.slot(n).0).copied().unwrap_or(0)
    }

    pub(crate) fn get(&self, n: u64) -> bool {
        self.word(n) & self.slot(n).1 != 0
    }

    pub(crate) fn set(&mut self, n: u64) {
        let (word, bit) = self.slot(n);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    pub(crate) fn clear(&mut self, n: u64) {
        let (word, bit) = self.slot(n);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Sets or clears the bits of `from..end`, a word at a time; no more than a window of them.
    pub(crate) fn fill(&mut self, from: u64, end: u64, value: bool) {
        let mut at = from;
        while at < end {
            let bit = at % WORD_BITS;
            let count = (WORD_BITS - bit).min(end - at);
            let run = u64::MAX >> (WORD_BITS - count) << bit;
            let slot = self.slot(at).0;
            if let Some(word) = self.words.get_mut(slot) {
                *word = if value { *word | run } else { *word & !run };
            }
            at += count;
        }
    }

    /// The first of `from..end` whose bit is `value`; no more than a window of them.
    pub(crate) fn seek(&self, from: u64, end: u64, value: bool) -> Option<u64> {
        let mut at = from;
        while at < end {
            let word = if value { self.word(at) } else { !self.word(at) };
            let word = word >> (at % WORD_BITS);
            if word != 0 {
                let found = at + u64::from(word.trailing_zeros());
                return (found < end).then_some(found);
            }
            at += WORD_BITS - at % WORD_BITS;
        }
        None
    }

    /// The first number of the run of set bits that ends just before `end`, and no less than `floor`.
    pub(crate) fn seek_back(&self, floor: u64, end: u64) -> u64 {
        let mut at = end;
        while at > floor {
            let below = at - 1;
            // The bits from `below` downwards, at the top of the word.
            let shift = WORD_BITS - 1 - below % WORD_BITS;
            let run = u64::from((self.word(below) << shift).leading_ones());
            at -= run.min(at - floor);
            if run < WORD_BITS - shift {
                break;
            }
        }
        at
    }
}

impl std::fmt::Debug for BitRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BitRing({})", self.mask + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::BitRing;

    proptest! {
        #[test]
        fn agrees_with_a_set_wherever_the_window_lies(
            floor in 0u64..1000,
            steps in prop::collection::vec((any::<bool>(), 0u64..128), 0..200),
            fills in prop::collection::vec((any::<bool>(), 0u64..128, 0u64..128), 0..6),
            spans in prop::collection::vec((0u64..128, 0u64..=128), 1..20),
        ) {
            let mut ring = BitRing::new(128);
            let mut model = BTreeSet::new();
            for (set, from, len) in fills {
                let end = (from + len).min(128);
                ring.fill(floor + from, floor + end, set);
                for n in floor + from..floor + end {
                    if set { model.insert(n) } else { model.remove(&n) };
                }
            }
            for (set, n) in steps {
                if set {
                    ring.set(floor + n);
                    model.insert(floor + n);
                } else {
                    ring.clear(floor + n);
                    model.remove(&(floor + n));
                }
            }
            for (from, end) in spans {
                let (from, end) = (floor + from, floor + end);
                for value in [true, false] {
                    let first = (from..end).find(|n| model.contains(n) == value);
                    prop_assert_eq!(ring.seek(from, end, value), first);
                }
                let run = (floor..end).rev().take_while(|n| model.contains(n)).count() as u64;
                prop_assert_eq!(ring.seek_back(floor, end), end - run);
                prop_assert_eq!(ring.get(from), model.contains(&from));
            }
        }
    }
}
