//! Spreads packets in time: a token bucket that may run into debt by one packet.

use std::time::{Duration, Instant};

/// What is saved up at most, in time and in bytes: a burst that offload can use, no more.
const BURST_TIME: Duration = Duration::from_micros(1500);
const MIN_BURST: f64 = 2.0 * 1280.0;
const MAX_BURST: f64 = 40_000.0;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pacer {
    tokens: f64,
    at: Instant,
}

impl Pacer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { tokens: MIN_BURST, at: now }
    }

    fn burst(rate: f64) -> f64 {
        (rate * BURST_TIME.as_secs_f64()).clamp(MIN_BURST, MAX_BURST)
    }

    /// Adds what came in since; `rate` in bytes per second.
    pub(crate) fn refill(&mut self, now: Instant, rate: f64) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * rate).min(Self::burst(rate));
        self.at = now;
    }

    /// Whether a packet may go. Urgent ones may borrow from the next burst.
    pub(crate) fn allows(&self, rate: f64, urgent: bool) -> bool {
        self.tokens > if urgent { -Self::burst(rate) } else { 0.0 }
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }

    /// When a packet may go again: for the ordinary not at the first token but once half a burst is
    /// there, so that wake-ups and system calls are shared by several packets.
    pub(crate) fn ready_at(&self, rate: f64, urgent: bool) -> Instant {
        if self.allows(rate, urgent) {
            return self.at;
        }
        let goal = if urgent { 1.0 - Self::burst(rate) } else { Self::burst(rate) / 2.0 };
        let wait = (goal - self.tokens) / rate.max(1.0);
        self.at + Duration::from_secs_f64(wait.clamp(0.0, 10.0)) + Duration::from_micros(1)
    }
}
