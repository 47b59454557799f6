//! PING and PONG with one neighbour.

use std::time::{Duration, Instant};

use crate::rng::Rng;

/// Unanswered PINGs that are remembered. Fast probes come every 25 ms, and round trips of more than a second occur.
const REMEMBERED: usize = 64;
/// An interval is varied by so much either way, so that nodes do not march in step.
const JITTER: f64 = 0.1;

/// When to ask, and what an answer says.
#[derive(Debug)]
pub(crate) struct Pinger {
    interval: Duration,
    next: Instant,
    asked: [Option<(u64, Instant)>; REMEMBERED],
    cursor: usize,
}

impl Pinger {
    pub(crate) fn new(now: Instant, interval: Duration) -> Self {
        Self { interval, next: now, asked: [None; REMEMBERED], cursor: 0 }
    }

    pub(crate) fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
    }

    pub(crate) fn interval(&self) -> Duration {
        self.interval
    }

    /// When the next PING is due.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// Asks for a PING as soon as possible.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.next = self.next.min(now);
    }

    /// Unanswered PINGs prove nothing any more: they went to another address.
    pub(crate) fn forget(&mut self) {
        self.asked = [None; REMEMBERED];
    }

    /// The token of a PING that is sent now.
    pub(crate) fn ask(&mut self, now: Instant, rng: &mut Rng) -> u64 {
        let token = rng.next_u64();
        if let Some(slot) = self.asked.get_mut(self.cursor) {
            *slot = Some((token, now));
        }
        self.cursor = (self.cursor + 1) % REMEMBERED;
        self.next = now + self.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.unit());
        token
    }

    /// When the PING was sent and the round trip time that its PONG proves; `None` for a token that was not
    /// asked with.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        token: u64,
        held: Duration,
    ) -> Option<(Instant, Duration)> {
        let slot = self.asked.iter_mut().find(|s| s.is_some_and(|(t, _)| t == token))?;
        let (_, at) = slot.take()?;
        let whole = now.saturating_duration_since(at);
        Some((at, whole.checked_sub(held).unwrap_or(whole)))
    }
}
