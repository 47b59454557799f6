//! What one direction of a link was put through: how long packets waited at its bottleneck, and how much
//! was sent in its busiest second.

use std::time::Duration;

use crate::outcome::QueueOutcome;
use crate::time::Time;

/// Width of the time slots over which bytes are summed up, and how many make a second.
const SLOT: Duration = Duration::from_millis(100);
const SLOTS: usize = 10;
/// Waiting times are told apart by this, up to the number of bins.
const BIN: Duration = Duration::from_micros(100);
const BINS: usize = 50_000;
/// A sender is said to have settled so long after the link's first packet.
const SETTLED: Duration = Duration::from_secs(10);

/// Counts of waiting times.
#[derive(Debug, Default)]
struct Waits {
    bins: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Waits {
    fn record(&mut self, wait: Duration) {
        let bin = usize::try_from(wait.as_nanos() / BIN.as_nanos()).unwrap_or(BINS).min(BINS - 1);
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += 1;
        self.count += 1;
        self.max = self.max.max(wait);
    }

    /// By nearest rank, in milliseconds; the lower edge of the bin.
    fn percentile(&self, percent: u64) -> f64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (n, count) in self.bins.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return n as f64 * BIN.as_secs_f64() * 1e3;
            }
        }
        0.0
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Watch {
    first: Option<Time>,
    all: Waits,
    settled: Waits,
    /// Bytes of the last slots, and the number of the newest.
    slots: [u64; SLOTS],
    slot: u128,
    busiest: u64,
}

impl Watch {
    /// A packet of so many bytes, IP and UDP headers included, is put on the link and will wait so long.
    pub(super) fn offered(&mut self, now: Time, bytes: u64, wait: Duration) {
        let since = now.since(*self.first.get_or_insert(now));
        self.all.record(wait);
        if since >= SETTLED {
            self.settled.record(wait);
        }
        let slot = since.as_nanos() / SLOT.as_nanos();
        for passed in 1..=(slot - self.slot).min(SLOTS as u128) {
            self.slots[((self.slot + passed) % SLOTS as u128) as usize] = 0;
        }
        self.slot = slot;
        self.slots[(slot % SLOTS as u128) as usize] += bytes;
        self.busiest = self.busiest.max(self.slots.iter().sum());
    }

    pub(super) fn outcome(&self) -> QueueOutcome {
        QueueOutcome {
            queue_p50_ms: self.all.percentile(50),
            queue_p99_ms: self.all.percentile(99),
            queue_max_ms: self.all.max.as_secs_f64() * 1e3,
            settled_queue_p50_ms: self.settled.percentile(50),
            settled_queue_p99_ms: self.settled.percentile(99),
            busiest_second_mbps: self.busiest as f64 * 8.0 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn waits_are_told_for_the_whole_and_for_the_settled_time() {
        let mut watch = Watch::default();
        for n in 0..200u32 {
            let wait = if n < 100 { MS * 100 } else { MS * 5 };
            watch.offered(Time::ZERO + MS * 100 * n, 1000, wait);
        }
        let found = watch.outcome();
        assert_eq!((found.queue_p99_ms, found.queue_max_ms), (100.0, 100.0));
        assert_eq!((found.settled_queue_p50_ms, found.settled_queue_p99_ms), (5.0, 5.0));
    }

    #[test]
    fn the_busiest_second_is_any_ten_slots_in_a_row() {
        let mut watch = Watch::default();
        // 1 Mbit in the half second around 2 s, nothing else.
        for n in 0..50u32 {
            watch.offered(Time::ZERO + MS * (1_750 + 10 * n), 2_500, Duration::ZERO);
        }
        watch.offered(Time::ZERO + MS * 60_000, 2_500, Duration::ZERO);
        assert_eq!(watch.outcome().busiest_second_mbps, 1.0);
    }
}
