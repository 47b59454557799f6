//! The bottleneck's rate: the greatest of recent samples.

use crate::tunnel::ledger::RateSample;

/// The bandwidth is the greatest sample of so many round trips (draft-ietf-ccwg-bbr §2.10 has two probing
/// cycles).
const ROUNDS: u64 = 10;
/// A sample of a round trip rests on so many packets at least, or on so many round trips: where few packets
/// make a round trip, the luck of losses would make the greatest sample too great.
const PACKETS: u64 = 64;
const MERGED: u32 = 4;

/// Bytes per second that arrive at the other end when the bottleneck is busy.
#[derive(Debug, Default)]
pub(super) struct Bandwidth {
    round: u64,
    /// The greatest, and the greatest since each of two later moments (as in Linux, lib/minmax.c).
    best: [(u64, f64); 3],
    /// Samples of whole round trips, put together until they are enough.
    packets: u64,
    bytes: u64,
    seconds: f64,
    merged: u32,
    app_limited: bool,
}

/// What arrived per second over the last round trip or more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub rate: f64,
    pub app_limited: bool,
}

impl Bandwidth {
    /// 0 while unknown.
    pub(super) fn get(&self) -> f64 {
        self.best[0].1
    }

    /// A round trip began.
    pub(super) fn next_round(&mut self) {
        self.round += 1;
    }

    /// Takes a sample as it is.
    pub(super) fn insert(&mut self, rate: f64, app_limited: bool) {
        // One that the application limited says "at least so much" (draft-ietf-ccwg-bbr §4.1.1.3).
        if app_limited && rate <= self.get() {
            return;
        }
        let entry = (self.round, rate);
        if rate >= self.best[0].1 || self.round.saturating_sub(self.best[2].0) > ROUNDS {
            self.best = [entry; 3];
            return;
        }
        if rate >= self.best[1].1 {
            self.best = [self.best[0], entry, entry];
        } else if rate >= self.best[2].1 {
            self.best[2] = entry;
        }
        let age = self.round.saturating_sub(self.best[0].0);
        if age > ROUNDS {
            self.best = [self.best[1], self.best[2], entry];
            if self.round.saturating_sub(self.best[0].0) > ROUNDS {
                self.best = [self.best[1], self.best[2], entry];
            }
        } else if self.best[1].0 == self.best[0].0 && age > ROUNDS / 4 {
            self.best = [self.best[0], entry, entry];
        } else if self.best[2].0 == self.best[1].0 && age > ROUNDS / 2 {
            self.best[2] = entry;
        }
    }

    /// Takes the sample of a whole round trip; what it and those before it come to, once they are enough.
    pub(super) fn merge(&mut self, sample: &RateSample) -> Option<Measured> {
        self.packets += sample.packets;
        self.bytes += sample.bytes;
        self.seconds += sample.seconds;
        self.merged += 1;
        self.app_limited |= sample.app_limited;
        if self.packets < PACKETS && self.merged < MERGED {
            return None;
        }
        let measured =
            Measured { rate: self.bytes as f64 / self.seconds, app_limited: self.app_limited };
        (self.packets, self.bytes, self.seconds, self.merged) = (0, 0, 0.0, 0);
        self.app_limited = false;
        Some(measured)
    }

    /// It is no more than this, whatever was measured before.
    pub(super) fn lower(&mut self, rate: f64) {
        if rate < self.get() {
            self.best = [(self.round, rate); 3];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(packets: u64, seconds: f64) -> RateSample {
        RateSample { packets, bytes: packets * 1000, seconds, app_limited: false }
    }

    #[test]
    fn the_greatest_sample_is_forgotten_after_ten_round_trips() {
        let mut bandwidth = Bandwidth::default();
        bandwidth.insert(200.0, false);
        for n in 0..12 {
            bandwidth.next_round();
            bandwidth.insert(100.0, false);
            assert_eq!(bandwidth.get(), if n < 10 { 200.0 } else { 100.0 }, "{n}");
        }
    }

    #[test]
    fn what_the_application_limited_never_lowers() {
        let mut bandwidth = Bandwidth::default();
        bandwidth.insert(100.0, false);
        for _ in 0..50 {
            bandwidth.next_round();
            bandwidth.insert(10.0, true);
        }
        assert_eq!(bandwidth.get(), 100.0);
        bandwidth.insert(120.0, true);
        assert_eq!(bandwidth.get(), 120.0);
    }

    #[test]
    fn small_round_trips_are_put_together() {
        let mut bandwidth = Bandwidth::default();
        assert!(bandwidth.merge(&sample(30, 0.1)).is_none());
        assert!(bandwidth.merge(&sample(10, 0.1)).is_none());
        let found = bandwidth.merge(&sample(60, 0.2)).expect("a hundred packets");
        assert_eq!((found.rate, found.app_limited), (250_000.0, false));
        assert!(bandwidth.merge(&sample(64, 0.1)).is_some());
    }
}
