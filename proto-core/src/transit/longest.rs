//! Which flow has the most waiting: a heap that knows where each flow stands in it, so that any may
//! change at any time. Kept with every frame it costs a few comparisons and no allocation; a search when
//! the bound is met would look at every flow for every frame, and just when there is most to do.

const NOWHERE: usize = usize::MAX;

/// See the module's text. Flows are named by their slots.
#[derive(Debug, Default)]
pub(super) struct Longest {
    heap: Vec<(u64, usize)>,
    /// Where in the heap a slot stands.
    places: Vec<usize>,
}

impl Longest {
    /// The flow with the most, and how much that is.
    pub(super) fn top(&self) -> Option<(u64, usize)> {
        self.heap.first().copied()
    }

    /// Notes how much waits of a flow. One with nothing is forgotten.
    pub(super) fn set(&mut self, slot: usize, waiting: u64) {
        if self.places.len() <= slot {
            self.places.resize(slot + 1, NOWHERE);
        }
        let mut at = self.place(slot);
        if at == NOWHERE {
            if waiting == 0 {
                return;
            }
            at = self.heap.len();
            self.heap.push((waiting, slot));
            self.note(at);
        } else if waiting == 0 {
            self.heap.swap_remove(at);
            self.put_place(slot, NOWHERE);
            if at == self.heap.len() {
                return;
            }
            self.note(at);
        } else if let Some(entry) = self.heap.get_mut(at) {
            entry.0 = waiting;
        }
        self.sift(at);
    }

    fn place(&self, slot: usize) -> usize {
        self.places.get(slot).copied().unwrap_or(NOWHERE)
    }

    fn put_place(&mut self, slot: usize, at: usize) {
        if let Some(place) = self.places.get_mut(slot) {
            *place = at;
        }
    }

    fn note(&mut self, at: usize) {
        if let Some((_, slot)) = self.heap.get(at).copied() {
            self.put_place(slot, at);
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    /// Moves what stands at `at` up or down to where it belongs.
    fn sift(&mut self, mut at: usize) {
        while at > 0 && self.heap.get(at) > self.heap.get((at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let child = if self.heap.get(right) > self.heap.get(left) { right } else { left };
            // Nothing is less than something.
            if self.heap.get(child) <= self.heap.get(at) {
                return;
            }
            self.swap(at, child);
            at = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::Longest;

    proptest! {
        #[test]
        fn the_longest_is_known_whatever_changes(steps in vec((0usize..12, 0u64..50), 1..300)) {
            let mut longest = Longest::default();
            let mut model = [0u64; 12];
            for (slot, waiting) in steps {
                longest.set(slot, waiting);
                model[slot] = waiting;
                let most = model.iter().copied().max().filter(|most| *most > 0);
                prop_assert_eq!(longest.top().map(|(waiting, _)| waiting), most);
                if let Some((waiting, slot)) = longest.top() {
                    prop_assert_eq!(model[slot], waiting);
                }
            }
        }
    }
}
