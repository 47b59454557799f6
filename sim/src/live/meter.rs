//! What is measured where packets enter a link.

use std::time::Duration;

use serde::Serialize;

use super::histogram::Histogram;
use crate::time::Time;

/// Queueing delays are counted in steps of 0.1 ms up to 2 s.
const STEP_US: u64 = 100;
const STEPS: usize = 20_000;
/// A whole second is looked for in steps of that length.
const SLICE: Duration = Duration::from_millis(100);
const SLICES: u64 = 10;

/// At one entrance: how long the queue was that each packet found, and how much was offered in any
/// one second.
#[derive(Debug)]
pub(super) struct Meter {
    queue: Histogram,
    late_queue: Histogram,
    rate: RateMeter,
}

impl Default for Meter {
    fn default() -> Self {
        let queue = || Histogram::with_steps(STEP_US, STEPS);
        Self { queue: queue(), late_queue: queue(), rate: RateMeter::default() }
    }
}

impl Meter {
    /// A packet comes that has to wait for so long.
    pub(super) fn offer(&mut self, now: Time, waits: Duration, bytes: usize) {
        let micros = u64::try_from(waits.as_micros()).unwrap_or(u64::MAX);
        self.queue.record(micros);
        self.late_queue.record(micros);
        self.rate.add(now, bytes as u64);
    }

    /// Forgets what counts as late.
    pub(super) fn mark(&mut self) {
        self.late_queue = Histogram::with_steps(STEP_US, STEPS);
    }

    pub(super) fn figures(&self) -> DirectionFigures {
        DirectionFigures {
            queue: QueueDelay::of(&self.queue),
            late_queue: QueueDelay::of(&self.late_queue),
            most_mbps: self.rate.most as f64 * 8.0 / 1e6,
        }
    }
}

/// One direction of a link, as the packets found it that were offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct DirectionFigures {
    /// How long they had to wait before the bottleneck.
    pub queue: QueueDelay,
    /// The same for those of the second half.
    pub late_queue: QueueDelay,
    /// The most that was offered within one second, in Mbit/s of IP packets.
    pub most_mbps: f64,
}

/// Delays before the bottleneck in milliseconds, rounded up to 0.1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct QueueDelay {
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Greatest.
    pub max_ms: f64,
}

impl QueueDelay {
    fn of(histogram: &Histogram) -> Self {
        let millis = |micros: u64| micros as f64 / 1e3;
        Self {
            p50_ms: millis(histogram.percentile(50.0)),
            p99_ms: millis(histogram.percentile(99.0)),
            max_ms: millis(histogram.max()),
        }
    }
}

/// The greatest sum of bytes over a second, whenever that began (to a tenth of one).
#[derive(Debug, Default)]
struct RateMeter {
    /// The slice that bytes are added to, and the bytes of the last ten by their number modulo ten.
    slice: u64,
    sums: [u64; SLICES as usize],
    most: u64,
}

impl RateMeter {
    fn add(&mut self, now: Time, bytes: u64) {
        let slice = now.as_nanos() / SLICE.as_nanos() as u64;
        if slice - self.slice >= SLICES {
            self.sums = [0; SLICES as usize];
        } else {
            for passed in self.slice + 1..=slice {
                self.sums[(passed % SLICES) as usize] = 0;
            }
        }
        self.slice = slice;
        self.sums[(slice % SLICES) as usize] += bytes;
        self.most = self.most.max(self.sums.iter().sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_of_a_second_is_found_whenever_it_began() {
        let mut rate = RateMeter::default();
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        rate.add(at(0), 1_000);
        for ms in (2_500..3_500).step_by(10) {
            rate.add(at(ms), 10);
        }
        assert_eq!(rate.most, 1_000);
        for ms in (3_500..4_500).step_by(10) {
            rate.add(at(ms), 20);
        }
        assert_eq!(rate.most, 2_000);
        rate.add(at(1_000_000), 1_999);
        assert_eq!(rate.most, 2_000);
    }

    #[test]
    fn a_mark_forgets_the_queue_of_the_start() {
        let mut meter = Meter::default();
        meter.offer(Time::ZERO, Duration::from_millis(300), 1_500);
        meter.mark();
        meter.offer(Time::ZERO, Duration::from_millis(5), 1_500);
        let figures = meter.figures();
        assert_eq!((figures.queue.max_ms, figures.late_queue.max_ms), (300.0, 5.0));
        assert_eq!((figures.queue.p50_ms, figures.late_queue.p50_ms), (5.1, 5.0));
    }
}
