//! Counts of microseconds, for percentiles in constant memory.

/// Steps of 10 µs up to 20 ms, unless others are asked for.
const STEP: u64 = 10;
const STEPS: usize = 2_000;

/// A histogram of durations in microseconds; what is above its last step is known only by the
/// maximum.
#[derive(Debug)]
pub(super) struct Histogram {
    step: u64,
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::with_steps(STEP, STEPS)
    }
}

impl Histogram {
    pub(super) fn with_steps(step: u64, steps: usize) -> Self {
        Self { step, buckets: vec![0; steps].into(), count: 0, max: 0 }
    }

    pub(super) fn record(&mut self, micros: u64) {
        let bucket = usize::try_from(micros / self.step).unwrap_or(usize::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
        self.count += 1;
        self.max = self.max.max(micros);
    }

    pub(super) fn percentile(&self, percent: f64) -> u64 {
        let rank = (self.count as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (edge, &count) in (1..).zip(self.buckets.iter()) {
            seen += count;
            if seen >= rank {
                return (edge * self.step).min(self.max);
            }
        }
        self.max
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_edges_of_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(99.0), 0);
        for micros in 0..100 {
            histogram.record(micros * 10);
        }
        assert_eq!(histogram.percentile(50.0), 500);
        assert_eq!(histogram.percentile(100.0), 990);
        histogram.record(1_000_000);
        assert_eq!((histogram.percentile(100.0), histogram.max()), (1_000_000, 1_000_000));
    }
}
