//! Which flows of one ingress this egress has had: an id is opened once.

use std::collections::BTreeSet;

/// Ids above the floor that are remembered one by one.
pub(crate) const MAX_ABOVE: usize = 4096;
/// A reset overtakes no more opens than so.
const MAX_OVERTAKEN: u64 = 1024;

/// A floor, below which every id has been had, and a bounded set above it. At the bound the floor is
/// raised over ids that never came: those are then refused, which their ingress is told.
#[derive(Debug, Default)]
pub(crate) struct HadIds {
    floor: u64,
    above: BTreeSet<u64>,
}

impl HadIds {
    /// Whether the id was had, or must be taken to have been.
    pub(crate) fn contains(&self, id: u64) -> bool {
        id < self.floor || self.above.contains(&id)
    }

    /// Whether no id was had.
    pub(crate) fn is_blank(&self) -> bool {
        self.floor == 0 && self.above.is_empty()
    }

    /// Ids above the floor.
    pub(crate) fn len(&self) -> usize {
        self.above.len()
    }

    /// Records that the id must not be opened: its reset overtook it. One far above all others did not; were
    /// it believed, a few made-up ones would shut out all ids below.
    pub(crate) fn forbid(&mut self, id: u64) {
        let highest = self.above.last().copied().unwrap_or(self.floor);
        if id <= highest.saturating_add(MAX_OVERTAKEN) {
            self.insert(id);
        }
    }

    /// Records that the id was opened.
    pub(crate) fn insert(&mut self, id: u64) {
        if id >= self.floor {
            self.above.insert(id);
        }
        if self.above.len() > MAX_ABOVE
            && let Some(lowest) = self.above.pop_first()
        {
            self.floor = lowest + 1;
        }
        while self.above.remove(&self.floor) {
            self.floor += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HadIds, MAX_ABOVE};

    #[test]
    fn an_id_that_was_had_stays_refused_however_many_follow() {
        let mut had = HadIds::default();
        for id in (0..100_000).filter(|id| id % 3 != 1) {
            assert!(!had.contains(id));
            had.insert(id);
            assert!(had.above.len() <= MAX_ABOVE);
        }
        assert!((0..100_000).filter(|id| id % 3 != 1).all(|id| had.contains(id)));
        // One that was overtaken a little is still welcome, one from long ago is not.
        assert!(!had.contains(99_997));
        assert!(had.contains(1));
    }
}
