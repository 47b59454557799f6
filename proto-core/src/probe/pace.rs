//! How fast packets go, each way.

use std::time::{Duration, Instant};

use super::silence::PROBE_SPACING;

/// Time over which they are counted, at least.
const WHILE: Duration = Duration::from_millis(250);

/// See the module's text. Two ways: towards the neighbour, and back.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    began: Option<(Instant, [u64; 2])>,
    /// Packets in the time between two probes.
    per_probe: [f64; 2],
}

impl Pace {
    /// Packets that went in the time between two fast probes lately, on average. `packets`: all so far.
    pub(crate) fn per_probe(&mut self, now: Instant, packets: [u64; 2]) -> [f64; 2] {
        let (began, before) = *self.began.get_or_insert((now, packets));
        let took = now.saturating_duration_since(began);
        if took >= WHILE {
            let share = PROBE_SPACING.as_secs_f64() / took.as_secs_f64();
            for ((mean, now), before) in self.per_probe.iter_mut().zip(packets).zip(before) {
                *mean = (*mean + now.saturating_sub(before) as f64 * share) / 2.0;
            }
            self.began = Some((now, packets));
        }
        self.per_probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    #[test]
    fn packets_between_two_probes_are_told_soon_after_they_came_faster_or_slower() {
        let (mut pace, mut now, mut sent) = (Pace::default(), epoch(), 0);
        for (every_ms, seconds) in [(1u64, 3), (100, 3), (5, 3)] {
            for _ in 0..seconds * 1000 / every_ms {
                now += Duration::from_millis(every_ms);
                sent += 1;
                pace.per_probe(now, [sent, 0]);
            }
            let [out, back] = pace.per_probe(now, [sent, 0]);
            let wanted = 25.0 / every_ms as f64;
            assert!((out - wanted).abs() < 0.2 * wanted, "{out} instead of {wanted}");
            assert_eq!(back, 0.0);
        }
    }
}
