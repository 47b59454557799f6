//! How much of a flow may be on its way over relays. A tunnel has a rate of its own, and a flow that ends at
//! the next node needs no other bound; but behind a relay there may be a slower tunnel. Such a relay marks
//! what waits for long, the other end counts the marked bytes, and here the window follows their share
//! (RFC 8257 §3.3): a little for a few, a half for all. Loss is not congestion here; only a relay's word that
//! it dropped something is.

use std::time::{Duration, Instant};

use crate::flow::receive::INITIAL_WINDOW;
use crate::flow::state::ACK_DELAY;

/// What the window grows by at the least, and its least size.
const STEP: f64 = 1200.0;
const LEAST: f64 = 4.0 * STEP;
/// In each round it grows by this share, marks or not, and is then cut by theirs: so few of them keep a
/// queue where it is, and fewer do not stop the window far below what there is (the tunnel behind the relay
/// can only find more when it is given more).
const LEAST_GROWTH: f64 = 1.0 / 64.0;
/// In each further round without a mark it grows by twice as much as before, but by no more than this share.
const MOST_GROWTH: f64 = 1.0 / 8.0;
/// Weight of the last round in the mean share of marked bytes. (RFC 8257 §4.2 has 1/16 for rounds of
/// microseconds.)
const GAIN: f64 = 0.25;
/// Marks alone do not lower it below this share of what fits the path: a relay serves its flows in turn, so
/// that each is delivered what its share of the bottleneck is.
const KEPT: f64 = 0.95;
/// That is known from the best of so many rounds: one in which the relay's tunnel stood still tells less.
const ROUNDS: usize = 4;
/// If more than this share was marked of late, a queue has been there for rounds: what is delivered now is all
/// that fits, and the rest only waits. So it is where a relay dropped something. (One round may be all marked
/// when the window grew too fast.)
const FILLED: f64 = 0.4;
/// What is left of the window when a relay dropped something (RFC 9438 §4.6).
const AFTER_DROP: f64 = 0.7;

/// From one look at what arrived to the next, a round trip later.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    /// What had arrived then, and of it marked.
    delivered: u64,
    marked: u64,
    /// When so much has arrived, it is over.
    until: u64,
    /// The window was full at some time.
    limited: bool,
    cut: bool,
}

/// See the module's text. Sizes in bytes.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    /// It doubles in each round until the first mark.
    starting: bool,
    /// Mean share of marked bytes.
    share: f64,
    marked: u64,
    delivered: u64,
    quiet_rounds: u32,
    round: Option<Round>,
    /// What fitted the path in each of the last rounds.
    fits: [f64; ROUNDS],
}

/// What an acknowledgement told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Bytes known to have arrived, in all; and of them marked.
    pub delivered: u64,
    pub marked: u64,
    /// Bytes under way before it, and after.
    pub before: u64,
    pub after: u64,
}

impl Window {
    /// `delivered` bytes have arrived so far, `in_flight` are under way.
    pub(super) fn new(delivered: u64, marked: u64, in_flight: u64) -> Self {
        Self {
            size: in_flight.max(INITIAL_WINDOW) as f64,
            starting: true,
            share: GAIN,
            marked,
            delivered,
            quiet_rounds: 0,
            round: None,
            fits: [0.0; ROUNDS],
        }
    }

    /// Whether more may be under way than `in_flight`.
    pub(super) fn allows(&self, in_flight: u64) -> bool {
        (in_flight as f64) < self.size
    }

    /// Takes an acknowledgement. `rtt` is that of the path without queues.
    pub(super) fn on_ack(&mut self, now: Instant, rtt: Duration, told: &Told) {
        let limited = told.before as f64 + 2.0 * STEP >= self.size;
        if self.starting && limited {
            self.size += told.delivered.saturating_sub(self.delivered) as f64;
        }
        let news = told.marked > self.marked;
        self.delivered = told.delivered;
        self.marked = self.marked.max(told.marked);
        let Some(round) = &mut self.round else { return self.begin(now, told.after) };
        round.limited |= limited;
        if self.starting && news {
            let round = *round;
            self.starting = false;
            self.size = self.size.min(self.fits(now, rtt, &round).max(INITIAL_WINDOW as f64));
            return self.begin(now, told.after);
        }
        if told.delivered < round.until {
            return;
        }
        let round = *round;
        let fits = self.fits(now, rtt, &round);
        self.fits.rotate_right(1);
        self.fits[0] = fits;
        self.turn(&round);
        self.begin(now, told.after);
    }

    /// What fits the path without a queue, as far as this round tells.
    fn fits(&self, now: Instant, rtt: Duration, round: &Round) -> f64 {
        let took = now.saturating_duration_since(round.began).max(Duration::from_millis(1));
        let rate = (self.delivered - round.delivered) as f64 / took.as_secs_f64();
        rate * (rtt + ACK_DELAY).as_secs_f64()
    }

    fn begin(&mut self, now: Instant, in_flight: u64) {
        self.round = Some(Round {
            began: now,
            delivered: self.delivered,
            marked: self.marked,
            until: self.delivered + in_flight.max(1),
            limited: false,
            cut: false,
        });
    }

    fn turn(&mut self, round: &Round) {
        let delivered = (self.delivered - round.delivered).max(1) as f64;
        let share = ((self.marked - round.marked) as f64 / delivered).min(1.0);
        self.share += GAIN * (share - self.share);
        if share > 0.0 {
            self.quiet_rounds = 0;
        }
        if share > 0.0 && (round.cut || self.share > FILLED) {
            let [fits, before @ ..] = &mut self.fits;
            before.fill(0.0);
            self.size = self.size.min(*fits * KEPT).max(LEAST);
            return;
        }
        if round.cut {
            return;
        }
        if share > 0.0 {
            let fits = self.fits.iter().copied().fold(0.0, f64::max);
            let cut = self.size * (1.0 - self.share / 2.0);
            self.size = cut.max(fits * KEPT).min(self.size).max(LEAST);
        }
        if round.limited && !self.starting {
            let step = (self.size * LEAST_GROWTH).max(STEP);
            let most = (self.size * MOST_GROWTH).max(STEP);
            self.size += (step * f64::from(1u32 << self.quiet_rounds.min(20))).min(most);
            self.quiet_rounds += u32::from(share <= 0.0);
        }
    }

    /// A relay dropped something.
    pub(super) fn on_drop(&mut self) {
        let was_cut =
            self.round.as_mut().is_some_and(|round| std::mem::replace(&mut round.cut, true));
        if !was_cut {
            self.size = (self.size * AFTER_DROP).max(LEAST);
        }
        self.starting = false;
        self.quiet_rounds = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::epoch;

    /// A path of one bottleneck with a queue that is marked from 12 ms on, and all of it from 50 ms on.
    struct Path {
        now: Instant,
        rtt: Duration,
        /// Bytes per second.
        rate: f64,
        queue: f64,
        delivered: u64,
        marked: u64,
        /// Shares of packets that were to be marked and are not yet.
        marks: f64,
        /// Bytes under way, and what of them waits for its acknowledgement, with the time of it.
        acks: std::collections::VecDeque<(Instant, u64, bool)>,
        in_flight: u64,
    }

    impl Path {
        fn new(rate_mbps: f64, rtt_ms: u64) -> Self {
            Self {
                now: epoch(),
                rtt: Duration::from_millis(rtt_ms),
                rate: rate_mbps * 1e6 / 8.0,
                queue: 0.0,
                delivered: 0,
                marked: 0,
                marks: 0.0,
                acks: std::collections::VecDeque::new(),
                in_flight: 0,
            }
        }

        /// Lets a millisecond pass; the queue in milliseconds.
        fn tick(&mut self, window: &mut Window) -> f64 {
            self.now += Duration::from_millis(1);
            while window.allows(self.in_flight) {
                self.queue += 1200.0;
                self.in_flight += 1200;
                let wait = self.queue / self.rate;
                let at = self.now + self.rtt + Duration::from_secs_f64(wait);
                self.marks += ((wait - 0.012) / 0.038).clamp(0.0, 1.0);
                let mark = self.marks >= 1.0;
                self.marks -= f64::from(u8::from(mark));
                self.acks.push_back((at, 1200, mark));
            }
            self.queue = (self.queue - self.rate / 1e3).max(0.0);
            let before = self.in_flight;
            let delivered = self.delivered;
            while self.acks.front().is_some_and(|(at, ..)| *at <= self.now) {
                let Some((_, bytes, marked)) = self.acks.pop_front() else { break };
                self.delivered += bytes;
                self.in_flight -= bytes;
                self.marked += if marked { bytes } else { 0 };
            }
            if self.delivered > delivered {
                let told = Told {
                    delivered: self.delivered,
                    marked: self.marked,
                    before,
                    after: self.in_flight,
                };
                window.on_ack(self.now, self.rtt, &told);
            }
            self.queue / self.rate * 1e3
        }
    }

    #[test]
    fn a_slow_hop_is_kept_busy_and_its_queue_short() {
        for (mbps, rtt) in [(20.0, 100), (5.0, 300), (200.0, 30), (50.0, 10)] {
            let (mut path, mut window) = (Path::new(mbps, rtt), Window::new(0, 0, 0));
            for _ in 0..10_000 {
                path.tick(&mut window);
            }
            let had = path.delivered;
            let mut waits: Vec<f64> = (0..20_000).map(|_| path.tick(&mut window)).collect();
            waits.sort_by(f64::total_cmp);
            let used = (path.delivered - had) as f64 / (path.rate * 20.0);
            assert!(used > 0.93, "{mbps} Mbit/s, {rtt} ms: {used:.3} of the rate");
            let p99 = waits[waits.len() * 99 / 100];
            assert!(p99 < 45.0, "{mbps} Mbit/s, {rtt} ms: {p99:.1} ms of queue");
        }
    }

    #[test]
    fn freed_capacity_is_taken_within_seconds() {
        let (mut path, mut window) = (Path::new(20.0, 100), Window::new(0, 0, 0));
        for _ in 0..10_000 {
            path.tick(&mut window);
        }
        path.rate *= 5.0;
        for _ in 0..4_000 {
            path.tick(&mut window);
        }
        let had = path.delivered;
        for _ in 0..2_000 {
            path.tick(&mut window);
        }
        assert!((path.delivered - had) as f64 > path.rate * 2.0 * 0.8);
    }

    #[test]
    fn a_fall_of_the_rate_is_answered_within_seconds() {
        let (mut path, mut window) = (Path::new(100.0, 100), Window::new(0, 0, 0));
        for _ in 0..10_000 {
            path.tick(&mut window);
        }
        path.rate /= 5.0;
        let longest = (0..1_000).map(|_| path.tick(&mut window)).fold(0.0, f64::max);
        assert!(longest > 200.0, "what was under way waits: {longest:.0} ms");
        for _ in 0..2_000 {
            path.tick(&mut window);
        }
        let had = path.delivered;
        let longest = (0..2_000).map(|_| path.tick(&mut window)).fold(0.0, f64::max);
        let used = (path.delivered - had) as f64 / (path.rate * 2.0);
        assert!(longest < 60.0 && used > 0.9, "{longest:.0} ms, {used:.3} of the rate");
    }

    /// Rounds of 100 ms at full window, in which so much is delivered and of it such a share marked.
    fn rounds(window: &mut Window, now: &mut Instant, deliver: u64, share: f64, rounds: usize) {
        let rtt = Duration::from_millis(80);
        for _ in 0..rounds {
            *now += Duration::from_millis(100);
            let delivered = window.delivered + deliver;
            let marked = window.marked + (deliver as f64 * share) as u64;
            let told = Told { delivered, marked, before: window.size as u64, after: 1 };
            window.on_ack(*now, rtt, &told);
        }
    }

    /// Past the start, with 100 kB in each round.
    fn settled(now: &mut Instant) -> Window {
        let mut window = Window::new(0, 0, 100_000);
        window.starting = false;
        rounds(&mut window, now, 100_000, 0.0, 2);
        window.size = 100_000.0;
        window.share = 0.0;
        window
    }

    #[test]
    fn few_marks_do_not_stop_the_growth_and_many_do() {
        let mut now = epoch();
        let mut window = settled(&mut now);
        rounds(&mut window, &mut now, 100_000, 0.01, 50);
        assert!(window.size > 140_000.0, "{}", window.size);
        let mut window = settled(&mut now);
        rounds(&mut window, &mut now, 100_000, 0.1, 50);
        assert!(window.size < 105_000.0, "{}", window.size);
    }

    #[test]
    fn one_slow_round_does_not_lower_what_fits_but_a_filled_queue_does() {
        let mut now = epoch();
        let mut window = settled(&mut now);
        rounds(&mut window, &mut now, 20_000, 0.5, 2);
        assert!(window.size > 95_000.0, "{}", window.size);
        rounds(&mut window, &mut now, 20_000, 1.0, 2);
        assert!((18_000.0..20_000.0).contains(&window.size), "{}", window.size);
    }

    #[test]
    fn a_drop_is_answered_once_in_a_round() {
        let mut window = Window::new(0, 0, 1_000_000);
        window.begin(epoch(), 1_000_000);
        window.on_drop();
        window.on_drop();
        assert!(window.allows(699_000) && !window.allows(700_001));
    }
}
