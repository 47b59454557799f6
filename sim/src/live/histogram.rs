//! Counts of microseconds, for percentiles in constant memory.

/// Buckets of 10 µs up to 20 ms.
const WIDTH: u64 = 10;
const BUCKETS: usize = 2_000;

/// A histogram of durations in microseconds; what is above 20 ms is known only by the maximum.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, micros: u64) {
        let bucket = usize::try_from(micros / WIDTH).unwrap_or(usize::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// The upper edge of the bucket in which `percent` of all are reached, at most the maximum.
    pub(super) fn percentile(&self, percent: f64) -> u64 {
        let rank = (self.count as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (edge, &count) in (1..).zip(self.buckets.iter()) {
            seen += count;
            if seen >= rank {
                return (edge * WIDTH).min(self.max);
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
