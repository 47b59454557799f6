//! The link's own loss, as distinct from what queues drop.

use crate::tunnel::ledger::Report;

/// Packets that make a sample of the link's own loss, and over how many it is averaged.
const SAMPLE: u64 = 64;
const MEMORY: u64 = 2048;
/// Of those that met a queue only lower samples count: they are long, lest chance or jitter lowers it.
const QUEUED_SAMPLE: u64 = 1024;
/// What is sent slower than the bottleneck is never dropped by it: loss at other times counts up to so much
/// above the loss at those times.
const MARGIN: f64 = 0.06;
/// Weight of a sample of slow times, which are few.
const SLOW_WEIGHT: f64 = 0.5;
const SLOW_SAMPLE: u64 = 32;
/// A round's loss is in excess of the link's own if it is greater by this and by three times its
/// statistical error (draft-ietf-ccwg-bbr §2.7 has 2 % for `LossThresh`).
const EXCESS: f64 = 0.03;
const ROUND_SAMPLE: u64 = 64;

/// When packets were sent, by how they may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// Slower than the bottleneck.
    Slow,
    /// About as fast.
    Even,
    /// Faster.
    Fast,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    passed: u64,
    missing: i64,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        self.passed += report.passed;
        self.missing += report.missing;
    }

    /// Below zero if more arrived late than was lost: over many samples that and its contrary cancel out.
    fn share(&self) -> f64 {
        self.missing as f64 / self.passed.max(1) as f64
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Losses {
    share: f64,
    /// Packets that `share` rests on.
    packets: u64,
    tally: Tally,
    /// Of packets that met a queue.
    queued: Tally,
    slow_share: Option<f64>,
    slow: Tally,
    round: Tally,
    last: Tally,
}

impl Losses {
    /// Takes a report; `clear`: its packets met no queue. Where packets overtake each other, those of a short
    /// time cannot be told from those before and after.
    pub(super) fn on_report(&mut self, report: &Report, sent: Sent, clear: bool, jittery: bool) {
        self.round.add(report);
        if jittery {
            self.slow_share = None;
        } else if sent == Sent::Slow {
            self.slow.add(report);
            if self.slow.passed >= SLOW_SAMPLE {
                let sample = self.slow.share();
                let share = self.slow_share.get_or_insert(sample);
                *share += (sample - *share) * SLOW_WEIGHT;
                self.slow = Tally::default();
            }
        }
        let is_own = clear && sent != Sent::Fast;
        let tally = if is_own { &mut self.tally } else { &mut self.queued };
        tally.add(report);
        if tally.passed < if is_own { SAMPLE } else { QUEUED_SAMPLE } {
            return;
        }
        let sample = std::mem::take(tally);
        if is_own {
            self.packets = (self.packets + sample.passed).min(MEMORY);
        }
        // The first samples are averaged.
        let weight = (sample.passed as f64 / self.packets.max(1) as f64).min(1.0);
        // A queue adds to the loss and never takes from it: where one stands, the link's own is no more
        // than what is lost in all.
        if is_own || sample.share() < self.share {
            self.share += (sample.share() - self.share) * weight;
        }
    }

    /// A round trip ended.
    pub(super) fn next_round(&mut self) {
        self.last = std::mem::take(&mut self.round);
    }

    /// The link's own loss, 0 to 1.
    pub(super) fn own(&self) -> f64 {
        self.slow_share.map_or(self.share, |slow| self.share.min(slow + MARGIN)).clamp(0.0, 1.0)
    }

    /// Whether more was lost in the last round than the link loses by itself. About so many packets
    /// (`overtaken`) that jitter holds back are not lost, but seem so at any moment.
    pub(super) fn is_excess(&self, overtaken: f64) -> bool {
        if self.last.passed < ROUND_SAMPLE || self.packets < ROUND_SAMPLE {
            return false;
        }
        let own = self.own();
        let (few, many) = (self.last.passed as f64, self.packets as f64);
        let binomial = own.max(0.01) * (1.0 - own) * (1.0 / few + 1.0 / many);
        let deviation = (binomial + 2.0 * overtaken / (few * few)).sqrt();
        self.last.share() > own + EXCESS.max(3.0 * deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of 100 packets of which so many are missing.
    fn feed(losses: &mut Losses, rounds: usize, missing: i64, sent: Sent, clear: bool) {
        for _ in 0..rounds {
            let report = Report { passed: 100, missing, ..Report::default() };
            losses.on_report(&report, sent, clear, false);
            losses.next_round();
        }
    }

    fn own(losses: &Losses) -> i64 {
        (losses.own() * 100.0).round() as i64
    }

    #[test]
    fn what_is_lost_where_nothing_waits_is_the_links_own() {
        let mut losses = Losses::default();
        feed(&mut losses, 30, 10, Sent::Even, true);
        assert_eq!(own(&losses), 10);
        assert!(!losses.is_excess(0.0));
    }

    #[test]
    fn what_a_queue_or_haste_loses_is_in_excess_and_not_the_links_own() {
        for (sent, clear) in [(Sent::Even, false), (Sent::Fast, true)] {
            let mut losses = Losses::default();
            feed(&mut losses, 30, 2, Sent::Even, true);
            feed(&mut losses, 100, 30, sent, clear);
            assert_eq!(own(&losses), 2);
            assert!(losses.is_excess(0.0));
            assert!(!losses.is_excess(5_000.0), "jitter holds back as many");
        }
    }

    #[test]
    fn where_a_queue_stands_the_links_own_can_only_turn_out_less() {
        let mut losses = Losses::default();
        feed(&mut losses, 30, 20, Sent::Even, true);
        feed(&mut losses, 200, 5, Sent::Even, false);
        assert_eq!(own(&losses), 5);
    }

    #[test]
    fn a_policer_takes_nothing_from_what_is_slow_and_is_told_by_that() {
        let mut losses = Losses::default();
        feed(&mut losses, 20, 1, Sent::Slow, true);
        feed(&mut losses, 100, 30, Sent::Even, true);
        assert_eq!(own(&losses), 1 + (MARGIN * 100.0) as i64);
    }

    #[test]
    fn late_is_not_lost() {
        let mut losses = Losses::default();
        for _ in 0..100 {
            feed(&mut losses, 1, 40, Sent::Even, true);
            feed(&mut losses, 1, -30, Sent::Even, true);
        }
        assert!((4..=6).contains(&own(&losses)), "{}", own(&losses));
    }
}
