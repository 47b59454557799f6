//! The least round trip time, and how much of the way towards the peer is spent in queues. The latter is
//! told by when packets left and when they arrived, each by its end's clock: the clocks' difference is
//! unknown, but constant, and what waits on the way back does not matter.

use std::time::{Duration, Instant};

/// The least is doubted if nothing has come near it for so long (draft-ietf-ccwg-bbr §2.15,
/// `MinRTTFilterLen`). Clocks drift apart by less than a millisecond meanwhile.
const WINDOW: Duration = Duration::from_secs(10);
/// A queue stands if no packet of a whole round came nearer to the least than an eighth of the round trip
/// time, within these bounds (as HyStart++, RFC 9406 §4.2, judges the end of slow start) …
const LEAST_QUEUE: Duration = Duration::from_millis(4);
const MOST_QUEUE: Duration = Duration::from_millis(12);
/// … and there were so many (RFC 9406 `N_RTT_SAMPLE`).
const SAMPLES: u32 = 8;
const NO_RTTS: (u32, Duration, Duration) = (0, Duration::MAX, Duration::ZERO);
/// Packets that tell whether a queue grows while startup goes on.
const FEW: u32 = 12;

/// The least of the window before, of the present one, and since it was doubted.
#[derive(Debug, Clone, Copy)]
struct Least<T> {
    before: T,
    present: T,
    fresh: T,
}

impl<T: Ord + Copy> Least<T> {
    fn new(most: T) -> Self {
        Self { before: most, present: most, fresh: most }
    }

    fn take(&mut self, value: T) {
        self.present = self.present.min(value);
        self.fresh = self.fresh.min(value);
    }

    fn get(&self) -> T {
        self.before.min(self.present)
    }

    fn turn(&mut self, most: T) {
        self.before = std::mem::replace(&mut self.present, most);
    }

    fn replace(&mut self, most: T) {
        if self.fresh < most {
            (self.before, self.present) = (most, self.fresh);
        }
    }
}

/// Transit times of one round, in microseconds on the difference of the clocks.
#[derive(Debug, Clone, Copy)]
struct Round {
    samples: u32,
    min: i64,
    sum: i64,
}

impl Round {
    const EMPTY: Self = Self { samples: 0, min: i64::MAX, sum: 0 };

    fn take(&mut self, transit: i64) {
        self.samples += 1;
        self.min = self.min.min(transit);
        self.sum = self.sum.saturating_add(transit);
    }

    /// How far above the least of all the least of so few may be by chance, where they scatter: if evenly,
    /// one time in some thousand.
    fn scatter(&self) -> i64 {
        let samples = i64::from(self.samples);
        (self.sum / samples.max(1)).saturating_sub(self.min).saturating_mul(16) / (samples + 1)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Delay {
    rtt: Least<Duration>,
    transit: Least<i64>,
    present_since: Option<Instant>,
    last_at: Option<Instant>,
    round: Round,
    last: Round,
    /// Round trip times of the round: how many, least and sum.
    rtts: (u32, Duration, Duration),
    spread: Duration,
    /// Transit times of the last packets, whatever the round, and of those before.
    few: Round,
    few_before: Round,
}

impl Delay {
    pub(super) fn new() -> Self {
        Self {
            rtt: Least::new(Duration::MAX),
            transit: Least::new(i64::MAX),
            present_since: None,
            last_at: None,
            round: Round::EMPTY,
            last: Round::EMPTY,
            rtts: NO_RTTS,
            spread: Duration::ZERO,
            few: Round::EMPTY,
            few_before: Round::EMPTY,
        }
    }

    /// The least round trip time, if there is any.
    pub(super) fn least(&self) -> Option<Duration> {
        Some(self.rtt.get()).filter(|least| *least < Duration::MAX)
    }

    /// Takes the times of one packet; whether the least ones are to be doubted: for a whole window, none
    /// came near. `transit` is in microseconds.
    pub(super) fn on_packet(&mut self, now: Instant, rtt: Duration, transit: i64) -> bool {
        // Over a long rest the clocks may have drifted apart by more than a queue, or the path changed.
        let rested = self.last_at.is_some_and(|at| now.saturating_duration_since(at) > WINDOW);
        if rested {
            *self = Self { spread: self.spread, ..Self::new() };
        }
        self.last_at = Some(now);
        self.round.take(transit);
        self.few.take(transit);
        if self.few.samples >= FEW {
            self.few_before = std::mem::replace(&mut self.few, Round::EMPTY);
        }
        let since = *self.present_since.get_or_insert(now);
        let mut doubtful = false;
        if now.saturating_duration_since(since) > WINDOW {
            let near = self.transit.before.saturating_add(micros(self.tolerance() / 2));
            doubtful = self.transit.present > near;
            if !doubtful {
                self.rtt.turn(Duration::MAX);
                self.transit.turn(i64::MAX);
            }
            self.present_since = Some(now);
        }
        self.rtt.take(rtt);
        let (samples, min, sum) = self.rtts;
        self.rtts = (samples + 1, min.min(rtt), sum + rtt);
        self.transit.take(transit);
        doubtful
    }

    /// The least of the present window is believed, and that of the one before forgotten.
    pub(super) fn give_in(&mut self) {
        self.rtt.turn(Duration::MAX);
        self.transit.turn(i64::MAX);
    }

    /// What is measured from now on will replace the least.
    pub(super) fn begin_anew(&mut self) {
        (self.rtt.fresh, self.transit.fresh) = (Duration::MAX, i64::MAX);
    }

    /// The least is what it was since [`Delay::begin_anew`].
    pub(super) fn end_anew(&mut self, now: Instant) {
        self.rtt.replace(Duration::MAX);
        self.transit.replace(i64::MAX);
        self.present_since = Some(now);
    }

    /// A round trip ended.
    pub(super) fn next_round(&mut self) {
        self.last = std::mem::replace(&mut self.round, Round::EMPTY);
        let (samples, min, sum) = std::mem::replace(&mut self.rtts, NO_RTTS);
        if samples >= SAMPLES {
            let spread = (sum / samples).saturating_sub(min);
            let before = if self.spread.is_zero() { spread } else { self.spread };
            self.spread = (before * 7 + spread) / 8;
        }
    }

    /// How far the usual round trip time is above the least where nothing waits: jitter, and not queues,
    /// which delay the fastest packets, too.
    pub(super) fn spread(&self) -> Duration {
        self.spread
    }

    /// Whether packets overtake each other by more than a queue's tolerance.
    pub(super) fn is_jittery(&self) -> bool {
        self.spread > LEAST_QUEUE
    }

    /// Queueing delay that is taken for none.
    pub(super) fn tolerance(&self) -> Duration {
        let least = self.least().unwrap_or(MOST_QUEUE);
        (least / 8).clamp(LEAST_QUEUE, MOST_QUEUE)
    }

    /// The queue that stood through the whole of the last round, if it is more than none.
    pub(super) fn standing(&self) -> Option<Duration> {
        self.queue(&self.last)
    }

    /// Whether a queue met the packets of the last round on average, if not all of them.
    pub(super) fn is_waiting(&self) -> bool {
        let samples = i64::from(self.last.samples);
        let wait = |mean: i64| mean.saturating_sub(self.transit.get());
        let mean = self.last.sum.checked_div(samples).filter(|_| self.last.samples >= SAMPLES);
        mean.is_some_and(|mean| wait(mean) > micros(self.tolerance()))
    }

    /// Whether a queue met all of the last packets.
    pub(super) fn is_rising(&self) -> bool {
        self.queue(&self.few_before).is_some()
    }

    fn queue(&self, round: &Round) -> Option<Duration> {
        if round.samples < SAMPLES {
            return None;
        }
        let queue = round.min.saturating_sub(self.transit.get());
        let none = micros(self.tolerance()).saturating_add(round.scatter());
        (queue > none).then_some(Duration::from_micros(queue.unsigned_abs()))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    const MS: Duration = Duration::from_millis(1);

    fn round(delay: &mut Delay, transit_ms: impl Iterator<Item = i64>) -> Option<Duration> {
        for ms in transit_ms {
            delay.on_packet(epoch(), MS * 100, ms * 1000);
        }
        delay.next_round();
        delay.standing()
    }

    #[test]
    fn a_queue_stands_if_no_packet_of_a_round_was_fast() {
        let mut delay = Delay::new();
        // The other end's clock is behind.
        assert_eq!(round(&mut delay, -5000..-4980), None);
        assert_eq!(round(&mut delay, -4980..-4960), Some(MS * 20));
        assert_eq!(round(&mut delay, -4995..-4960), None);
        assert_eq!(round(&mut delay, -4900..-4896), None, "too few to tell");
    }

    #[test]
    fn packets_wait_if_most_of_them_met_a_queue() {
        let mut delay = Delay::new();
        round(&mut delay, 0..20);
        assert!(!delay.is_waiting());
        assert_eq!(round(&mut delay, 0..60), None, "some met none");
        assert!(delay.is_waiting());
        round(&mut delay, 50..54);
        assert!(!delay.is_waiting(), "too few to tell");
    }

    #[test]
    fn after_a_long_rest_nothing_is_known_of_queues() {
        let mut delay = Delay::new();
        round(&mut delay, 0..20);
        let later = epoch() + WINDOW * 2;
        for n in 0..20 {
            delay.on_packet(later, MS * 100, 50_000 + n * 10);
        }
        delay.next_round();
        assert_eq!((delay.standing(), delay.is_rising()), (None, false));
    }

    #[test]
    fn the_least_is_doubted_when_none_came_near_for_ten_seconds() {
        let (mut delay, mut now) = (Delay::new(), epoch());
        let mut doubted_at = None;
        delay.on_packet(now, MS * 50, 25_000);
        for _ in 0..400 {
            now += MS * 100;
            // The path has become longer.
            if delay.on_packet(now, MS * 90, 65_000) && doubted_at.is_none() {
                doubted_at = Some(now);
                delay.begin_anew();
                delay.on_packet(now, MS * 90, 65_000);
                delay.end_anew(now);
            }
        }
        assert!(doubted_at.is_some_and(|at| at < epoch() + MS * 21_000), "{doubted_at:?}");
        assert!(delay.least() == Some(MS * 90) && !delay.is_rising());
    }
}
