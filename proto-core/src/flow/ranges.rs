//! A set of offsets as disjoint half-open ranges.

use std::collections::BTreeMap;

/// See the module's text. Adjacent ranges are one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start → end.
    ranges: BTreeMap<u64, u64>,
    /// Offsets in all.
    total: u64,
}

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// How many offsets are in it.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.total = 0;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(start, end)| (*start, *end))
    }

    /// The lowest range.
    pub(crate) fn first(&self) -> Option<(u64, u64)> {
        self.iter().next()
    }

    /// The highest range.
    pub(crate) fn last(&self) -> Option<(u64, u64)> {
        self.ranges.last_key_value().map(|(start, end)| (*start, *end))
    }

    /// Whether `start..end` would be a range of its own.
    pub(crate) fn is_apart(&self, start: u64, end: u64) -> bool {
        let below = self.ranges.range(..=end).next_back();
        below.is_none_or(|(_, e)| *e < start)
    }

    /// Adds `start..end`; how many offsets of it were new.
    pub(crate) fn insert(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        // Mostly bytes follow those that came just before: then there is nothing to remove.
        if let Some((&s, e)) = self.ranges.range_mut(..=end).next_back()
            && (s..=*e).contains(&start)
        {
            let known = (*e).min(end) - start;
            *e = (*e).max(end);
            self.total += end - start - known;
            return end - start - known;
        }
        let (mut low, mut high, mut known) = (start, end, 0);
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            known += e.min(end).saturating_sub(s.max(start));
            self.ranges.remove(&s);
            low = low.min(s);
            high = high.max(e);
        }
        self.ranges.insert(low, high);
        self.total += end - start - known;
        end - start - known
    }

    /// Removes `start..end`.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        while let Some((&s, &e)) = self.ranges.range(..end).next_back() {
            if start >= end || e <= start {
                break;
            }
            self.ranges.remove(&s);
            self.total -= e.min(end) - s.max(start);
            if e > end {
                self.ranges.insert(end, e);
            }
            if s < start {
                self.ranges.insert(s, start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::RangeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_offsets(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..60),
        ) {
            let mut ranges = RangeSet::default();
            let mut model = BTreeSet::new();
            for (insert, start, len) in steps {
                let span = start..start + len;
                if insert {
                    let new = span.clone().filter(|o| model.insert(*o)).count() as u64;
                    prop_assert_eq!(ranges.insert(span.start, span.end), new);
                } else {
                    span.clone().for_each(|o| { model.remove(&o); });
                    ranges.remove(span.start, span.end);
                }
                let flat: BTreeSet<u64> = ranges.iter().flat_map(|(s, e)| s..e).collect();
                prop_assert_eq!(&flat, &model);
                prop_assert_eq!(ranges.total(), model.len() as u64);
                let mut last_end = None;
                for (s, e) in ranges.iter() {
                    prop_assert!(s < e && last_end.is_none_or(|l| l < s));
                    last_end = Some(e);
                }
            }
        }
    }
}
