//! How long the frames of a queue wait at the least. A wait that none of them was spared for a tenth of a
//! second stands there. What waits after a burst, or while a tunnel drains a queue of its own, does not, and
//! is no reason for its sender to be slower (the idea of RFC 8289 §3.1).

use std::time::{Duration, Instant};

/// The least is that of the present one of such times and of the one before.
const HALF: Duration = Duration::from_millis(50);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Standing {
    since: Option<Instant>,
    before: Duration,
    present: Duration,
}

impl Standing {
    /// Notes the wait of a frame that leaves; what the least is by that.
    pub(super) fn least(&mut self, now: Instant, wait: Duration) -> Duration {
        let past = self.since.map(|since| now.saturating_duration_since(since));
        match past {
            Some(past) if past < HALF => self.present = self.present.min(wait),
            Some(past) if past < 2 * HALF => {
                (self.since, self.before, self.present) = (Some(now), self.present, wait);
            }
            // Nothing is known of the time before.
            _ => (self.since, self.before, self.present) = (Some(now), Duration::ZERO, wait),
        }
        self.before.min(self.present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_wait_stands_after_a_tenth_of_a_second_and_until_one_is_spared_it() {
        let mut standing = Standing::default();
        let at = |ms| epoch() + ms * MS;
        assert!((0..50).all(|ms| standing.least(at(ms), 30 * MS).is_zero()));
        assert!((50..300).all(|ms| standing.least(at(ms), 30 * MS) == 30 * MS));
        assert_eq!(standing.least(at(300), 2 * MS), 2 * MS);
        assert_eq!(standing.least(at(340), 40 * MS), 2 * MS);
        assert_eq!((360..460).map(|ms| standing.least(at(ms), 40 * MS)).max(), Some(40 * MS));
        assert!(standing.least(at(900), 50 * MS).is_zero(), "it was empty for long");
    }
}
