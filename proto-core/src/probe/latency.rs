//! Round trip time and jitter of the path itself, as routes are chosen by: without the queues that the
//! tunnel's own traffic makes.
//!
//! The least sample of each probe interval is smoothed. Where the tunnel is busy, in either direction, what
//! is above the least of some seconds is taken for its own queue: a transfer that begins fills one for a
//! second or two. So a path that becomes longer is followed at once while little is carried, and after six
//! seconds at the latest while much is.

use std::time::{Duration, Instant};

/// Bytes per probe interval, both ways, that may make a queue.
const BUSY: u64 = 16 * 1024;
/// How long it takes to drain.
const DRAINS: Duration = Duration::from_secs(1);
/// The least is that of the present window and of the one before: so long where the tunnel is busy, and so
/// many intervals at least.
const WINDOW: Duration = Duration::from_secs(3);
const INTERVALS: u32 = 4;
/// So many intervals in a row that are all above or all below the smoothed time by more than this share of it,
/// a little, and what jitter explains, are another path: it is not approached but taken.
const SHIFTED: i32 = 3;
const SHIFT: f64 = 0.25;
const LEAST_SHIFT: Duration = Duration::from_millis(2);
const JITTERS: u32 = 3;

/// The samples of one interval.
#[derive(Debug, Clone, Copy)]
struct Interval {
    began: Instant,
    /// Bytes that the tunnel had carried when it began.
    bytes: u64,
    first: Duration,
    least: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Latency {
    rtt: Option<Duration>,
    /// The next sample is taken as it is.
    anew: bool,
    jitter: Duration,
    interval: Option<Interval>,
    busy_until: Option<Instant>,
    /// Intervals in a row that looked like a longer path, or, below zero, like a shorter one.
    shifted: i32,
    before: Duration,
    present: Duration,
    present_since: Option<Instant>,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self {
            rtt: None,
            anew: true,
            jitter: Duration::ZERO,
            interval: None,
            busy_until: None,
            shifted: 0,
            before: Duration::MAX,
            present: Duration::MAX,
            present_since: None,
        }
    }

    /// `None` before the first sample.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(crate) fn jitter(&self) -> Duration {
        self.jitter
    }

    /// The path is another one: what the next samples say counts at once.
    pub(crate) fn path_changed(&mut self) {
        *self = Self { rtt: self.rtt, jitter: self.jitter, ..Self::new() };
    }

    /// What the handshake let guess, until there is a sample.
    pub(crate) fn guess(&mut self, rtt: Duration) {
        self.rtt.get_or_insert(rtt);
    }

    /// Takes the round trip time of one packet. `interval`: between two probes; `bytes`: that the tunnel has
    /// carried so far, both ways.
    pub(crate) fn sample(
        &mut self,
        now: Instant,
        sample: Duration,
        interval: Duration,
        bytes: u64,
    ) {
        if std::mem::take(&mut self.anew) {
            self.rtt = Some(sample);
            self.present_since = Some(now);
        }
        // Probes are not exactly an interval apart.
        let is_over = |i: &Interval| now.saturating_duration_since(i.began) >= interval * 3 / 4;
        if let Some(ended) = self.interval.take_if(|i| is_over(i)) {
            self.fold(now, &ended, interval, bytes);
        }
        self.present = self.present.min(sample);
        let new = Interval { began: now, bytes, first: sample, least: sample };
        let present = self.interval.get_or_insert(new);
        present.least = present.least.min(sample);
    }

    fn note_shift(&mut self, smoothed: Duration, rtt: Duration) {
        let explained = smoothed.mul_f64(SHIFT) + LEAST_SHIFT + self.jitter * JITTERS;
        let way = match smoothed.cmp(&rtt) {
            _ if smoothed.abs_diff(rtt) <= explained => 0,
            std::cmp::Ordering::Less => 1,
            _ => -1,
        };
        self.shifted = if way == 0 || way * self.shifted < 0 { way } else { self.shifted + way };
    }

    fn fold(&mut self, now: Instant, ended: &Interval, interval: Duration, bytes: u64) {
        let lasted = now.saturating_duration_since(ended.began);
        let allowed = lasted.as_secs_f64() / interval.as_secs_f64().max(0.001) * BUSY as f64;
        if bytes.saturating_sub(ended.bytes) as f64 >= allowed {
            self.busy_until = Some(now + DRAINS.max(interval));
        }
        let is_busy = self.busy_until.is_some_and(|until| now <= until);
        let (rtt, newest) = if is_busy {
            let least = self.before.min(self.present);
            (ended.least.min(least), ended.least.min(least))
        } else {
            (ended.least, ended.first)
        };
        let smoothed = self.rtt.unwrap_or(rtt);
        self.note_shift(smoothed, rtt);
        if self.shifted.abs() >= SHIFTED {
            self.rtt = Some(rtt);
            self.shifted = 0;
        } else {
            if self.shifted == 0 {
                self.jitter = (self.jitter * 7 + smoothed.abs_diff(newest)) / 8;
            }
            self.rtt = Some((smoothed * 7 + rtt) / 8);
        }
        let window = if is_busy { WINDOW } else { Duration::ZERO }.max(interval * INTERVALS);
        let since = *self.present_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= window {
            self.before = std::mem::replace(&mut self.present, Duration::MAX);
            self.present_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::tests::epoch;

    const MS: Duration = Duration::from_millis(1);
    const INTERVAL: Duration = Duration::from_millis(500);

    struct Link {
        latency: Latency,
        now: Instant,
        bytes: u64,
        rng: Rng,
    }

    impl Link {
        fn new(seed: u8) -> Self {
            let rng = Rng::new([seed; 32]);
            Self { latency: Latency::new(), now: epoch(), bytes: 0, rng }
        }

        /// One interval, with that many samples and that much carried.
        fn interval(
            &mut self,
            samples: u32,
            bytes: u64,
            mut rtt: impl FnMut(f64, &mut Rng) -> u64,
        ) {
            for n in 0..samples {
                let sample = MS * rtt(f64::from(n) / f64::from(samples), &mut self.rng) as u32;
                self.now += INTERVAL / samples;
                self.bytes += bytes / u64::from(samples);
                self.latency.sample(self.now, sample, INTERVAL, self.bytes);
            }
        }

        fn rtt(&self) -> u128 {
            self.latency.rtt().expect("sampled").as_millis()
        }
    }

    #[test]
    fn the_queue_of_a_transfer_that_begins_is_not_the_paths() {
        for length in [2.0, 4.0] {
            let mut link = Link::new(1);
            for _ in 0..20 {
                link.interval(1, 300, |_, _| 80);
            }
            // Startup: up to a quarter of a second of queue, for one or two seconds, then steady.
            for n in 0..100u32 {
                link.interval(50, 5_000_000, |part, rng| {
                    let at = f64::from(n) + part;
                    let queue = if at < length { 250.0 * at / length } else { rng.unit() * 25.0 };
                    80 + queue as u64
                });
                assert!((80..=83).contains(&link.rtt()), "{n}: {}", link.rtt());
                assert!(link.latency.jitter() <= MS * 5);
            }
            // And what drains after it.
            link.interval(10, 0, |part, _| 80 + (100.0 * (1.0 - part)) as u64);
            link.interval(1, 300, |_, _| 80);
            assert!((80..=83).contains(&link.rtt()));
        }
    }

    #[test]
    fn a_longer_path_is_followed_within_ten_intervals_or_ten_seconds_more_under_load() {
        for (samples, bytes, waits) in [(1, 300, 0), (50, 5_000_000, 20)] {
            let mut link = Link::new(2);
            for _ in 0..40 {
                link.interval(samples, bytes, |_, rng| 80 + (rng.unit() * 10.0) as u64);
            }
            let mut intervals = 0;
            // Three quarters of the way.
            while link.rtt() < 170 {
                link.interval(samples, bytes, |_, rng| 200 + (rng.unit() * 10.0) as u64);
                intervals += 1;
            }
            assert!(intervals <= waits + 12, "{intervals}");
            // Shorter again: at once in either case.
            intervals = 0;
            while link.rtt() > 110 {
                link.interval(samples, bytes, |_, _| 80);
                intervals += 1;
            }
            assert!(intervals <= 12, "{intervals}");
        }
    }

    #[test]
    fn jitter_is_the_mean_deviation() {
        let mut link = Link::new(3);
        for _ in 0..200 {
            link.interval(1, 300, |_, rng| 80 + (rng.unit() * 40.0) as u64);
        }
        let jitter = link.latency.jitter();
        assert!(jitter > MS * 5 && jitter < MS * 16, "{jitter:?}");
        assert!((90..=110).contains(&link.rtt()));
    }
}
