//! Smoothed round trip time (RFC 9002 §5; α = 1/8 as for the probes of DESIGN).

use std::time::{Duration, Instant};

/// How long a minimum is trusted.
const MIN_WINDOW: Duration = Duration::from_secs(10);
/// Until there is a sample (RFC 9002 §6.2.2 says 333 ms; a mesh path is seldom longer).
const INITIAL: Duration = Duration::from_millis(300);

/// See the module's text.
#[derive(Debug, Clone)]
pub(crate) struct RttEstimator {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Duration,
    min_at: Option<Instant>,
}

impl RttEstimator {
    pub(crate) fn new() -> Self {
        Self { smoothed: None, variation: INITIAL / 2, min: INITIAL, min_at: None }
    }

    pub(crate) fn update(&mut self, now: Instant, sample: Duration) {
        let expired = self.min_at.is_none_or(|at| now.saturating_duration_since(at) > MIN_WINDOW);
        if expired || sample <= self.min {
            self.min = sample;
            self.min_at = Some(now);
        }
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    /// `None` before the first sample.
    pub(crate) fn sampled(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(crate) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(INITIAL)
    }

    /// Least sample of the last seconds.
    pub(crate) fn min(&self) -> Duration {
        self.min
    }

    /// When something sent now, and acknowledged at once, is overdue (RFC 9002 §6.2.1).
    pub(crate) fn pto(&self, max_ack_delay: Duration) -> Duration {
        self.smoothed() + (self.variation * 4).max(Duration::from_millis(1)) + max_ack_delay
    }
}
