//! What a workload is measured by.

use std::time::Duration;

use crate::outcome::{Latency, WorkloadOutcome};
use crate::time::Time;

/// Width of the bins in which delivered bytes are counted.
const BIN: u64 = 10_000_000;
/// Bins of the first 15 s.
const START: usize = 1500;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub connections: u64,
    pub completed: u64,
    pub reset: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    samples_us: Vec<u64>,
    first: Option<Time>,
    last: Time,
    longest_gap: Duration,
    /// Payload of both directions, by bins of 10 ms since `first`.
    bins: Vec<u64>,
}

impl Meter {
    pub(crate) fn opened(&mut self, now: Time) {
        self.connections += 1;
        self.first.get_or_insert(now);
    }

    pub(crate) fn delivered(&mut self, now: Time, up: bool, bytes: u64, waited: Duration) {
        *(if up { &mut self.bytes_up } else { &mut self.bytes_down }) += bytes;
        self.last = now;
        self.longest_gap = self.longest_gap.max(waited);
        let since = now.since(self.first.unwrap_or(now));
        let bin = (since.as_nanos() / u128::from(BIN)) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += bytes;
    }

    pub(crate) fn exchanged(&mut self, took: Duration) {
        self.samples_us.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }

    pub(crate) fn outcome(&self) -> WorkloadOutcome {
        let whole = self.last.since(self.first.unwrap_or(self.last)).as_secs_f64();
        let mbps = |bytes: u64, seconds: f64| {
            if seconds > 0.0 { bytes as f64 * 8.0 / 1e6 / seconds } else { 0.0 }
        };
        // Whole bins: the half begins at most 10 ms late.
        let half = self.bins.len().div_ceil(2);
        let late: u64 = self.bins[half..].iter().sum();
        let late_s = whole - half as f64 * BIN as f64 / 1e9;
        let start = self.bins.len().min(START);
        let early: u64 = self.bins[..start].iter().sum();
        let early_s = whole.min(start as f64 * BIN as f64 / 1e9);
        WorkloadOutcome {
            connections: self.connections,
            completed: self.completed,
            reset: self.reset,
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            exchanges: self.samples_us.len() as u64,
            goodput_mbps: mbps(self.bytes(), whole),
            second_half_mbps: mbps(late, late_s),
            first_15s_mbps: mbps(early, early_s),
            longest_gap_ms: self.longest_gap.as_secs_f64() * 1e3,
            latency: latency(&self.samples_us),
            samples_us: self.samples_us.clone(),
        }
    }
}

/// Percentiles by nearest rank.
fn latency(samples_us: &[u64]) -> Option<Latency> {
    let mut sorted = samples_us.to_vec();
    sorted.sort_unstable();
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    let rank = |per_mille: usize| {
        let at = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
        sorted[at] as f64 / 1e3
    };
    Some(Latency {
        min_ms: min as f64 / 1e3,
        p50_ms: rank(500),
        p95_ms: rank(950),
        p99_ms: rank(990),
        p999_ms: rank(999),
        max_ms: max as f64 / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let mut meter = Meter::default();
        (1..=1000).rev().for_each(|n| meter.exchanged(MS * n));
        let found = meter.outcome().latency.expect("samples");
        let all = (found.min_ms, found.p50_ms, found.p99_ms, found.p999_ms, found.max_ms);
        assert_eq!(all, (1.0, 500.0, 990.0, 999.0, 1000.0));
    }

    #[test]
    fn the_second_half_is_measured_for_itself() {
        let mut meter = Meter::default();
        meter.opened(Time::ZERO);
        // 1 kB each 10 ms for 10 s, then 3 kB each 10 ms for as long.
        for n in 0..2000u32 {
            let bytes = if n < 1000 { 1_000 } else { 3_000 };
            meter.delivered(Time::ZERO + MS * 10 * n, true, bytes, MS);
        }
        let found = meter.outcome();
        assert!((found.goodput_mbps - 1.6).abs() < 0.01, "{}", found.goodput_mbps);
        assert!((found.second_half_mbps - 2.4).abs() < 0.01, "{}", found.second_half_mbps);
        let first_15s = (10.0 * 0.8 + 5.0 * 2.4) / 15.0;
        assert!((found.first_15s_mbps - first_15s).abs() < 0.01, "{}", found.first_15s_mbps);
    }

    #[test]
    fn nothing_measured_is_nothing_found() {
        let found = Meter::default().outcome();
        assert_eq!((found.goodput_mbps, found.second_half_mbps, found.latency), (0.0, 0.0, None));
    }
}
