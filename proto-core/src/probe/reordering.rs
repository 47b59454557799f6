//! How much later than others a packet may come that is not lost (as RACK's adaptive reordering window,
//! RFC 8985 §6.2, but measured: symbols tell when they come late, whether they were repaired meanwhile or
//! not).

use std::time::{Duration, Instant};

/// The greatest lateness is remembered for one to two of these: round trips, and a second at least.
const ROUNDS: u32 = 8;
const LEAST: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Reordering {
    before: Duration,
    present: Duration,
    since: Option<Instant>,
}

impl Reordering {
    /// The latest of what an acknowledgement told was late by so much.
    pub(crate) fn update(&mut self, now: Instant, lateness: Duration, rtt: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= LEAST.max(rtt * ROUNDS) {
            self.before = std::mem::take(&mut self.present);
            self.since = Some(now);
        }
        self.present = self.present.max(lateness);
    }

    /// To be waited for what is late: a quarter more than what was seen lately.
    pub(crate) fn window(&self) -> Duration {
        let latest = self.before.max(self.present);
        latest + latest / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn the_window_follows_what_comes_late_and_forgets_it_again() {
        let (ms, mut now) = (Duration::from_millis(1), epoch());
        let mut reordering = Reordering::default();
        assert_eq!(reordering.window(), Duration::ZERO);
        for n in 0..3000u32 {
            now += ms;
            let late = if n == 100 { ms * 40 } else { ms * 4 };
            reordering.update(now, late, ms * 50);
            match n {
                0..100 => assert_eq!(reordering.window(), ms * 5),
                100..2000 => assert_eq!(reordering.window(), ms * 50, "{n}"),
                _ => {}
            }
        }
        assert_eq!(reordering.window(), ms * 5);
    }
}
