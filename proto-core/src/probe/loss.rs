//! Loss towards a neighbour before recovery, and how bursty it is.
//!
//! Two means are kept: a long one, whose noise is small, and a short one, which sees a change soon.
//! The long one is the estimate. Where the short one stands above it by more than chance explains, given
//! how bursty the losses were so far, the path has changed: the long one jumps there and for a while
//! learns as fast as at the beginning. So a rise is followed within some hundred packets, a fall in a
//! thousand, and on a steady path the estimate is right on average.

/// Packets that make a sample.
const SAMPLE: u64 = 32;
/// Packets that the long mean rests on at most, the weight of what came before in the short one, and
/// how much of the long mean's weight is left when it jumps.
const LONG: f64 = 1024.0;
const SHORT: f64 = 64.0;
const JUMPED: f64 = 192.0;
/// Standard deviations that chance is granted.
const CHANCE: f64 = 5.0;
/// Mean runs of losses that it is granted in addition where losses come in runs.
const LONG_RUNS: f64 = 3.0;
/// Runs after which half of that is granted.
const NEWS_RUNS: f64 = 8.0;
/// The short mean cannot tell less than this from nothing.
const LEAST: f64 = 1.0 / 160.0;

/// Runs of losses over which the mean burst is taken, roughly, and the single losses that are assumed
/// before any was seen: one long run is no proof.
const BURST_MEMORY: f64 = 64.0;
const PRIOR_RUNS: f64 = 2.0;
const MAX_BURST: f64 = 64.0;
/// Runs that may be outages and say nothing of those to come.
const FEW_RUNS: f64 = 4.0;
/// Standard deviations by which the mean run must exceed that of independent losses.
const BURST_CHANCE: f64 = 2.0;

/// Fed by the counter parts of acknowledgements.
#[derive(Debug, Clone)]
pub(crate) struct LossEstimator {
    packets: u64,
    /// The sample in the making. What is late counts as missing until it comes: a sample that has
    /// more late arrivals than losses hands the rest on to the next.
    passed: u64,
    missing: i64,
    runs: u64,
    long: f64,
    /// Packets that `long` rests on.
    weight: f64,
    short: f64,
    burst_losses: f64,
    burst_runs: f64,
}

impl LossEstimator {
    pub(crate) fn new() -> Self {
        Self {
            packets: 0,
            passed: 0,
            missing: 0,
            runs: 0,
            long: 0.0,
            weight: 0.0,
            short: 0.0,
            burst_losses: 0.0,
            burst_runs: 0.0,
        }
    }

    /// `passed` packets more, `missing` of them lost (late ones count negative), in `runs` runs.
    pub(crate) fn update(&mut self, passed: u64, missing: i64, runs: u64) {
        self.packets += passed;
        self.passed += passed;
        self.missing += missing;
        self.runs += runs;
        if self.passed < SAMPLE {
            return;
        }
        let passed = self.passed as f64;
        let lost = (self.missing.max(0) as f64).min(passed);
        let chance = self.chance(passed);
        self.short = (self.short * SHORT + lost) / (SHORT + passed);
        let limit = self.long + chance;
        self.long = (self.long * self.weight + lost) / (self.weight + passed);
        self.weight = (self.weight + passed).min(LONG);
        if self.short > limit {
            self.long = self.long.max(self.short);
            self.weight = self.weight.min(JUMPED);
        }
        self.note_bursts(lost, self.runs as f64);
        self.passed = 0;
        self.missing = self.missing.min(0);
        self.runs = 0;
    }

    /// How far chance may lift the short mean of a steady path above the long one. Losses in runs
    /// spread wider than single ones: for a chain of two states by 2·run − 1.
    fn chance(&self, passed: f64) -> f64 {
        let loss = self.long.max(LEAST);
        // The first runs of a path that had none are news, not its nature.
        let known = self.burst_runs / (self.burst_runs + NEWS_RUNS);
        let run = 1.0 + (self.mean_burst() * (1.0 - loss) - 1.0).max(0.0) * known;
        let variance = loss * (1.0 - loss) * (2.0 * run - 1.0);
        let short = 1.0 / (2.0 * SHORT + passed);
        // Their number also has a longer tail than the normal law's.
        let tail = LONG_RUNS * (run - 1.0) / (SHORT + passed);
        CHANCE * (variance * (short + 1.0 / self.weight.max(1.0))).sqrt() + tail
    }

    fn note_bursts(&mut self, losses: f64, runs: f64) {
        self.burst_losses += losses;
        self.burst_runs += runs;
        let largest = self.burst_runs.max(self.burst_losses / MAX_BURST);
        if largest > BURST_MEMORY {
            self.burst_losses *= BURST_MEMORY / largest;
            self.burst_runs *= BURST_MEMORY / largest;
        }
    }

    /// Share of packets, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        self.long
    }

    /// Packets lost in a row, on average; at least 1. It is what independent losses would give,
    /// 1 / (1 − loss), unless there is proof of more.
    pub(crate) fn mean_burst(&self) -> f64 {
        let runs = self.burst_runs + PRIOR_RUNS;
        let measured = (self.burst_losses + PRIOR_RUNS) / runs;
        let kept = 1.0 - self.long.min(0.95);
        let independent = 1.0 / kept;
        let noise = (self.long / runs).sqrt() / kept;
        if measured <= independent + BURST_CHANCE * noise {
            return independent;
        }
        measured.min(MAX_BURST)
    }

    /// A mean run that may well be, where so many were seen that they are its nature: one or two long ones are
    /// outages.
    pub(crate) fn assumed_burst(&self) -> f64 {
        let burst = self.mean_burst();
        if self.burst_runs < FEW_RUNS {
            return burst.min(1.0 / (1.0 - self.long.min(0.95)));
        }
        burst * (1.0 + 1.0 / self.burst_runs.sqrt())
    }

    /// Packets that the estimates rest on, without those of the sample in the making.
    pub(crate) fn known(&self) -> u64 {
        self.packets.saturating_sub(self.passed)
    }

    /// Packets that the estimates rest on.
    pub(crate) fn samples(&self) -> u64 {
        self.packets
    }
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
