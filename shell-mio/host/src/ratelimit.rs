//! At most one log line per key and interval, so that whoever causes an error cannot fill a disk.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Keys remembered at most; beyond it unknown keys share one slot.
const MAX_KEYS: usize = 256;

/// Says for each occurrence whether to log it, and how many were kept quiet since the last line.
#[derive(Debug)]
pub struct RateLimit<K> {
    interval: Duration,
    slots: HashMap<K, Slot>,
    overflow: Slot,
}

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    last: Option<Instant>,
    suppressed: u64,
}

impl Slot {
    fn hit(&mut self, now: Instant, interval: Duration) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl<K: Hash + Eq> RateLimit<K> {
    /// One line per key and `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, slots: HashMap::new(), overflow: Slot::default() }
    }

    /// `Some(suppressed)` if this occurrence of `key` should be logged, with the number of those
    /// that were not since the last line.
    pub fn hit(&mut self, now: Instant, key: K) -> Option<u64> {
        let interval = self.interval;
        if self.slots.len() >= MAX_KEYS && !self.slots.contains_key(&key) {
            // A slot whose interval is over and that owes no count says nothing that a new one
            // would not.
            self.slots.retain(|_, slot| {
                slot.suppressed > 0
                    || slot.last.is_some_and(|l| now.saturating_duration_since(l) < interval)
            });
            if self.slots.len() >= MAX_KEYS {
                return self.overflow.hit(now, interval);
            }
        }
        self.slots.entry(key).or_default().hit(now, interval)
    }
}

/// The end of a log line: how many like it were kept quiet.
#[derive(Debug, Clone, Copy)]
pub struct Suppressed(pub u64);

impl std::fmt::Display for Suppressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            n => write!(f, " ({n} more like this were not logged)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_line_per_key_and_interval_with_the_count_of_the_rest() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10 * SECOND);
        assert_eq!(limit.hit(start, "a"), Some(0));
        assert_eq!(limit.hit(start + SECOND, "a"), None);
        assert_eq!(limit.hit(start + 9 * SECOND, "a"), None);
        assert_eq!(limit.hit(start + SECOND, "b"), Some(0), "keys do not share");
        assert_eq!(limit.hit(start + 10 * SECOND, "a"), Some(2));
        assert_eq!(limit.hit(start + 20 * SECOND, "a"), Some(0));
    }

    #[test]
    fn any_number_of_keys_costs_bounded_memory_and_bounded_lines() {
        let start = Instant::now();
        let mut limit = RateLimit::new(10 * SECOND);
        let lines = (0..10_000).filter(|k| limit.hit(start, *k).is_some()).count();
        assert_eq!(lines, MAX_KEYS + 1);
        assert!(limit.slots.len() <= MAX_KEYS);
        // What is over makes room.
        assert_eq!(limit.hit(start + 11 * SECOND, 20_000), Some(0));
        assert_eq!(limit.slots.len(), 1);
    }

    #[test]
    fn the_count_reads_well() {
        assert_eq!(Suppressed(0).to_string(), "");
        assert_eq!(Suppressed(3).to_string(), " (3 more like this were not logged)");
    }
}
