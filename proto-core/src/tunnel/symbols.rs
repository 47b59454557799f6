//! Which symbols of a lane have arrived or been recovered: each is handed up once; and the symbol
//! part of an acknowledgement.

use std::collections::VecDeque;

use crate::ids::Ssn;
use crate::tunnel::bits::BitRing;
use crate::wire::ack::{LanePart, MAX_RANGES};
use crate::wire::ranges::Ranges;

/// Symbols above the floor that can be told apart. A sender keeps within half of it.
pub(crate) const WINDOW: u64 = 65_536;

const RECENT: usize = 64;
/// Ranges around recent arrivals; the rest of an acknowledgement tells of the oldest holes.
const RECENT_RANGES: usize = 24;

/// What became of an arriving symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// For the first time. `gap`: symbols before it are missing that were not missing so far.
    New { gap: bool },
    /// It was here before.
    Duplicate,
    /// So far ahead that no honest sender would send it.
    TooFar,
}

/// See the module's text.
pub(crate) struct SymbolWindow {
    /// Those of `floor..next` that are here.
    here: BitRing,
    floor: u64,
    next: u64,
    recent: VecDeque<u64>,
    /// In how many acknowledgements more this lane is worth mentioning.
    mentions: u8,
}

impl SymbolWindow {
    pub(crate) fn new() -> Self {
        Self {
            here: BitRing::new(WINDOW),
            floor: 0,
            next: 0,
            recent: VecDeque::with_capacity(RECENT),
            mentions: 0,
        }
    }

    /// Whether the symbol is here.
    pub(crate) fn contains(&self, ssn: Ssn) -> bool {
        ssn.0 < self.floor || (ssn.0 < self.next && self.here.get(ssn.0))
    }

    /// Records an arrival.
    pub(crate) fn insert(&mut self, ssn: Ssn) -> Arrival {
        let ssn = ssn.0;
        if ssn >= self.floor.saturating_add(WINDOW) {
            return Arrival::TooFar;
        }
        // Also for a duplicate: the sender would not repeat it if it knew.
        self.note(ssn);
        if self.contains(Ssn(ssn)) {
            return Arrival::Duplicate;
        }
        let gap = ssn > self.next;
        self.next = self.next.max(ssn + 1);
        self.here.set(ssn);
        self.raise_floor();
        Arrival::New { gap }
    }

    /// The sender will not send the symbols of `start..end` any more: they count as here. It may have sent
    /// nothing since, so this is also true of what lies above all that arrived; but not of what no honest
    /// sender would have sent.
    pub(crate) fn forget(&mut self, start: u64, end: u64) {
        // Also of what was here before: the sender would not say it if it knew.
        self.mentions = 3;
        let start = start.max(self.floor);
        let end = end.min(self.floor.saturating_add(WINDOW));
        if start >= end {
            return;
        }
        self.next = self.next.max(end);
        self.here.fill(start, end, true);
        self.note(start);
        self.raise_floor();
    }

    fn raise_floor(&mut self) {
        let floor = self.here.seek(self.floor, self.next, false).unwrap_or(self.next);
        self.here.fill(self.floor, floor, false);
        self.floor = floor;
    }

    /// An acknowledgement is to tell of that symbol.
    fn note(&mut self, ssn: u64) {
        self.mentions = 3;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(ssn);
    }

    /// The symbol part for this lane, if there is anything new to tell. `force` tells it anyway.
    pub(crate) fn report(&mut self, force: bool) -> Option<LanePart> {
        if self.mentions == 0 && !(force && self.next > 0) {
            return None;
        }
        self.mentions = self.mentions.saturating_sub(1);
        let mut ranges = [(0u64, 0u64); MAX_RANGES];
        let mut len = 0;
        if self.floor < self.next {
            for ssn in self.recent.iter().rev().filter(|ssn| **ssn >= self.floor) {
                let found = ranges.get(..len).unwrap_or_default();
                // Most of the recent arrivals stand beside one another.
                if found.iter().rev().any(|(start, end)| (*start..*end).contains(ssn)) {
                    continue;
                }
                let Some(slot) = ranges.get_mut(len).filter(|_| len < RECENT_RANGES) else { break };
                *slot = self.range_around(*ssn);
                len += 1;
            }
            let mut at = self.floor;
            while let Some(start) = self.here.seek(at, self.next, true) {
                at = self.end_of_run(start);
                if ranges.get(..len).unwrap_or_default().contains(&(start, at)) {
                    continue;
                }
                let Some(slot) = ranges.get_mut(len) else { break };
                *slot = (start, at);
                len += 1;
            }
        }
        let found = ranges.get_mut(..len).unwrap_or_default();
        found.sort_unstable();
        let mut part = LanePart { floor: Ssn(self.floor), ranges: Ranges::new() };
        for (start, end) in found {
            part.ranges.push(*start, *end);
        }
        Some(part)
    }

    /// The run of symbols around one that is here.
    fn range_around(&self, ssn: u64) -> (u64, u64) {
        let start = self.here.seek_back(self.floor, ssn);
        (start, self.end_of_run(ssn))
    }

    fn end_of_run(&self, ssn: u64) -> u64 {
        self.here.seek(ssn, self.next, false).unwrap_or(self.next)
    }
}

impl std::fmt::Debug for SymbolWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SymbolWindow({}..{})", self.floor, self.next)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Arrival, SymbolWindow, WINDOW};
    use crate::ids::Ssn;

    proptest! {
        #[test]
        fn hands_each_symbol_up_once_and_reports_only_what_it_has(
            steps in prop::collection::vec(0u64..300, 1..600), start in 0u64..3,
        ) {
            let mut window = SymbolWindow::new();
            let offset = start * (WINDOW - 150);
            (window.floor, window.next) = (offset, offset);
            let mut model = BTreeSet::new();
            for step in steps {
                let ssn = offset + step;
                let expected = !model.insert(ssn);
                prop_assert_eq!(window.insert(Ssn(ssn)) == Arrival::Duplicate, expected);
                let part = window.report(false).expect("an arrival is worth mentioning");
                prop_assert!((offset..part.floor.0).all(|s| model.contains(&s)));
                prop_assert!(!model.contains(&part.floor.0));
                let mut at = part.floor.0;
                for (start, end) in part.ranges.as_slice() {
                    prop_assert!(*start > at && end > start);
                    prop_assert!((*start..*end).all(|s| model.contains(&s)));
                    prop_assert!(!model.contains(&(start - 1)) && !model.contains(end));
                    at = *end;
                }
                prop_assert!(ssn < part.floor.0
                    || part.ranges.as_slice().iter().any(|(s, e)| (*s..*e).contains(&ssn)));
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_forgotten_counts_as_here_and_raises_the_floor(
            arrivals in prop::collection::btree_set(0u64..300, 1..200),
            forgets in prop::collection::vec((0u64..400, 1u64..100), 1..10),
        ) {
            let mut window = SymbolWindow::new();
            for ssn in &arrivals {
                window.insert(Ssn(*ssn));
            }
            let mut model = arrivals.clone();
            for (start, len) in forgets {
                window.forget(start, start + len);
                model.extend(start..start + len);
                let floor = (0..).find(|s| !model.contains(s)).expect("a hole or the end");
                let part = window.report(true).expect("forced");
                prop_assert_eq!(part.floor, Ssn(floor));
                prop_assert!((0..500).all(|s| window.contains(Ssn(s)) == model.contains(&s)));
            }
            let floor = window.floor;
            window.forget(0, u64::MAX);
            prop_assert_eq!(window.report(true).expect("forced").floor, Ssn(floor + WINDOW));
        }
    }

    #[test]
    fn a_symbol_beyond_the_window_is_refused() {
        let mut window = SymbolWindow::new();
        assert_eq!(window.insert(Ssn(WINDOW)), Arrival::TooFar);
        assert_eq!(window.insert(Ssn(u64::MAX)), Arrival::TooFar);
        assert_eq!(window.insert(Ssn(WINDOW - 1)), Arrival::New { gap: true });
    }
}
