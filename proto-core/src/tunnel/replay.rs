//! Which counters of a session have been accepted: a sliding bitmap (RFC 6479).

/// Counters that are accepted below the highest one.
pub(crate) const WINDOW: u64 = 65_536;

const WORD_BITS: u64 = 64;
// One word more than the window, so that the word that is being filled never holds stale bits
// within the window (RFC 6479 §2).
const WORDS: u64 = WINDOW / WORD_BITS + 1;

/// A counter is accepted once; those too far below the highest never.
pub(crate) struct ReplayWindow {
    words: Box<[u64]>,
    next: u64,
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self { words: vec![0; WORDS as usize].into_boxed_slice(), next: 0 }
    }

    fn slot(counter: u64) -> (usize, u64) {
        (((counter / WORD_BITS) % WORDS) as usize, 1 << (counter % WORD_BITS))
    }

    /// Whether `counter` may still be accepted. To be asked before the packet is opened.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let (word, bit) = Self::slot(counter);
        self.next - counter <= WINDOW && self.words.get(word).is_some_and(|w| w & bit == 0)
    }

    /// Records an authenticated counter; whether it is the highest so far.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        let highest = counter >= self.next;
        if highest {
            let last = self.next.saturating_sub(1) / WORD_BITS;
            let steps = (counter / WORD_BITS).saturating_sub(last).min(WORDS);
            for step in 1..=steps {
                if let Some(word) = self.words.get_mut(((last + step) % WORDS) as usize) {
                    *word = 0;
                }
            }
            self.next = counter.saturating_add(1);
        }
        let (word, bit) = Self::slot(counter);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
        highest
    }
}

impl std::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplayWindow(next {})", self.next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{ReplayWindow, WINDOW};

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_counters_within_the_window(
            steps in prop::collection::vec((0u64..200_000, any::<bool>()), 1..400),
        ) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            let mut highest = None::<u64>;
            let mut base = 0u64;
            for (step, jump) in steps {
                let counter = if jump { base + step } else { (base + 100).saturating_sub(step) };
                base = base.max(counter);
                let too_old = highest.is_some_and(|h| counter <= h && h + 1 - counter > WINDOW);
                let expected = !too_old && !seen.contains(&counter);
                prop_assert_eq!(window.is_fresh(counter), expected);
                if expected {
                    let is_highest = highest.is_none_or(|h| counter > h);
                    prop_assert_eq!(window.accept(counter), is_highest);
                    seen.insert(counter);
                    highest = Some(highest.map_or(counter, |h| h.max(counter)));
                }
            }
        }
    }
}
