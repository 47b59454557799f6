//! Loss towards a neighbour before recovery, and how bursty it is.

/// Packets that make a sample.
const SAMPLE: u64 = 64;
/// Weight of a sample above the estimate, and of one below it: protection comes fast and goes slowly.
const UP: f64 = 0.25;
const DOWN: f64 = 0.06;
/// Losses over which the mean burst is taken, roughly.
const BURST_MEMORY: f64 = 128.0;
const MAX_BURST: f64 = 64.0;

/// Fed by the counter parts of acknowledgements.
#[derive(Debug, Clone)]
pub(crate) struct LossEstimator {
    loss: f64,
    packets: u64,
    passed: u64,
    missing: i64,
    burst_losses: f64,
    burst_runs: f64,
}

impl LossEstimator {
    pub(crate) fn new() -> Self {
        Self { loss: 0.0, packets: 0, passed: 0, missing: 0, burst_losses: 0.0, burst_runs: 0.0 }
    }

    /// `passed` packets more, `missing` of them lost (late ones count negative), in `runs` runs.
    pub(crate) fn update(&mut self, passed: u64, missing: i64, runs: u64) {
        self.packets += passed;
        self.passed += passed;
        self.missing += missing;
        self.burst_losses = (self.burst_losses + missing as f64).max(0.0);
        self.burst_runs += runs as f64;
        if self.burst_losses > BURST_MEMORY || self.burst_runs > BURST_MEMORY {
            self.burst_losses /= 2.0;
            self.burst_runs /= 2.0;
        }
        if self.passed < SAMPLE {
            return;
        }
        let sample = (self.missing.max(0) as f64 / self.passed as f64).min(1.0);
        // The first samples are averaged, so that one of them does not stand for all.
        let first = self.passed as f64 / self.packets.max(1) as f64;
        let weight = if sample > self.loss { UP } else { DOWN };
        self.loss += (sample - self.loss) * weight.max(first);
        // What arrives late from now on belongs to the next sample.
        self.missing = self.missing.min(0);
        self.passed = 0;
    }

    /// Share of packets, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        self.loss
    }

    /// Packets lost in a row, on average; at least 1.
    pub(crate) fn mean_burst(&self) -> f64 {
        if self.burst_runs < 1.0 {
            return 1.0;
        }
        (self.burst_losses / self.burst_runs).clamp(1.0, MAX_BURST)
    }

    /// Packets that the estimates rest on.
    pub(crate) fn samples(&self) -> u64 {
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::LossEstimator;

    #[test]
    fn a_rise_is_followed_faster_than_a_fall() {
        let mut e = LossEstimator::new();
        for _ in 0..50 {
            e.update(64, 0, 0);
        }
        for _ in 0..8 {
            e.update(64, 6, 6);
        }
        let risen = e.loss();
        assert!(risen > 0.08, "{risen}");
        for _ in 0..8 {
            e.update(64, 0, 0);
        }
        assert!(e.loss() > risen / 2.0, "{}", e.loss());
    }

    #[test]
    fn reordering_is_no_loss() {
        let mut e = LossEstimator::new();
        for _ in 0..1000 {
            e.update(20, 4, 2);
            e.update(12, -4, 1);
        }
        assert!(e.loss() < 0.02, "{}", e.loss());
    }

    #[test]
    fn the_mean_burst_is_losses_per_run() {
        let mut e = LossEstimator::new();
        for _ in 0..500 {
            e.update(100, 6, 2);
        }
        assert!((e.mean_burst() - 3.0).abs() < 0.1, "{}", e.mean_burst());
    }
}
