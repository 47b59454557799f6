//! How much may be under way to a client. Loss on the last mile is mostly no congestion, so this follows what
//! is delivered instead: as much as the path delivers in its round trip time, and a quarter more, after BBR
//! (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14, 2016), but with a window alone:
//! quinn-proto paces by it.
//!
//! The one that comes with quinn-proto takes randomness from the operating system, and its pacing gains are
//! never used there.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

/// Packets that a connection begins with, and that may always be under way.
const FIRST_PACKETS: u64 = 32;
const LEAST_PACKETS: u64 = 4;
/// What may be under way, as a multiple of what the path holds: as long as more than is known of is delivered,
/// it grows by this in each round; in the beginning by more, to at most this.
const GAIN: f64 = 1.25;
const FIRST_GAIN: f64 = 3.0;
/// The beginning is over when what is delivered has not grown so for so many rounds.
const GROWTH: f64 = 1.25;
const ROUNDS_WITHOUT: u32 = 3;
/// With so many times what the path holds under way, it is full, whatever the sender lacked meanwhile: where
/// data come in lumps, it lacks some in every round.
const FULL: f64 = 2.0;
/// The rate is the highest of so many rounds: where much is lost, that of one tells little.
const ROUNDS: usize = 10;
/// A round trip without a queue is looked for if none was seen for so long, …
const RTT_LIFE: Duration = Duration::from_secs(10);
/// … by letting so much of what the path holds under way, a round trip and so much longer.
const LOOK_GAIN: f64 = 0.5;
const LOOK_TIME: Duration = Duration::from_millis(200);

/// Makes a controller for each path.
#[derive(Debug, Default)]
pub(crate) struct Follow;

impl ControllerFactory for Follow {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Model::new(now, current_mtu))
    }
}

/// From one look at what was delivered to the next, a round trip later.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    delivered: u64,
    /// When a later packet than this one is acknowledged, it is over.
    until: u64,
    /// There was nothing to send at some time.
    idle: bool,
    /// Yet so much was under way that the path was surely full.
    full: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The rate is not known: twice as much in each round.
    Beginning,
    /// The queue of the beginning goes away.
    Draining,
    Cruising,
    /// A round trip without a queue is looked for, until then.
    Looking(Instant),
}

/// See the module's text. Sizes in bytes.
#[derive(Debug, Clone)]
struct Model {
    mtu: u64,
    window: u64,
    phase: Phase,
    delivered: u64,
    last_sent: u64,
    round: Round,
    /// Bytes per second that the last rounds delivered.
    rates: [f64; ROUNDS],
    best: f64,
    rounds_without: u32,
    /// The least round trip time, and when it was seen.
    rtt: Option<(Duration, Instant)>,
    /// The least since it is looked for.
    seen: Option<Duration>,
}

impl Model {
    fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            window: FIRST_PACKETS * mtu,
            phase: Phase::Beginning,
            delivered: 0,
            last_sent: 0,
            round: Round { began: now, delivered: 0, until: 0, idle: false, full: false },
            rates: [0.0; ROUNDS],
            best: 0.0,
            rounds_without: 0,
            rtt: None,
            seen: None,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn least(&self) -> u64 {
        LEAST_PACKETS * self.mtu
    }

    /// So many times what the path holds; if that is known.
    fn share(&self, gain: f64) -> Option<u64> {
        let (rtt, _) = self.rtt?;
        let rate = self.rate();
        (rate > 0.0).then(|| ((gain * rate * rtt.as_secs_f64()) as u64).max(self.least()))
    }

    /// A packet arrived.
    fn on_delivered(&mut self, now: Instant, sent: Instant, bytes: u64, idle: bool) {
        self.delivered += bytes;
        self.round.idle |= idle;
        let sample = now.saturating_duration_since(sent);
        if self.rtt.is_none_or(|(least, _)| sample <= least) {
            self.rtt = Some((sample, now));
        }
        if matches!(self.phase, Phase::Looking(_)) {
            self.seen = Some(self.seen.map_or(sample, |seen| seen.min(sample)));
        }
    }

    /// All that one acknowledgement told was told.
    fn on_told(&mut self, now: Instant, in_flight: u64, idle: bool, largest: Option<u64>) {
        let news = self.delivered - self.round.delivered;
        self.round.full |= self.share(FULL).is_some_and(|full| in_flight >= full);
        if largest.is_some_and(|largest| largest > self.round.until) && news > 0 {
            self.end_round(now);
        }
        self.look(now, idle);
        match self.phase {
            Phase::Draining if self.share(1.0).is_none_or(|full| in_flight <= full) => {
                self.phase = Phase::Cruising;
            }
            Phase::Looking(until) if now >= until => {
                self.rtt = self.seen.take().map(|seen| (seen, now)).or(self.rtt);
                self.phase = if self.rounds_without < ROUNDS_WITHOUT {
                    Phase::Beginning
                } else {
                    Phase::Cruising
                };
            }
            _ => {}
        }
    }

    fn end_round(&mut self, now: Instant) {
        let took = now.saturating_duration_since(self.round.began).max(Duration::from_micros(100));
        let rate = (self.delivered - self.round.delivered) as f64 / took.as_secs_f64();
        // A round in which there was nothing to send tells only that at least so much is possible.
        let [last, ..] = &mut self.rates;
        if !self.round.idle || self.round.full {
            self.rates.rotate_right(1);
            let [last, ..] = &mut self.rates;
            *last = rate;
            if rate >= self.best * GROWTH {
                self.best = rate;
                self.rounds_without = 0;
            } else {
                self.rounds_without = self.rounds_without.saturating_add(1);
            }
        } else if rate > *last {
            *last = rate;
            self.best = self.best.max(rate);
        }
        if self.phase == Phase::Beginning && self.rounds_without >= ROUNDS_WITHOUT {
            self.phase = Phase::Draining;
        }
        self.round = Round {
            began: now,
            delivered: self.delivered,
            until: self.last_sent,
            idle: false,
            full: false,
        };
    }

    /// Looks for a round trip without a queue if it is time to.
    fn look(&mut self, now: Instant, idle: bool) {
        let Some((least, at)) = self.rtt else { return };
        if now.saturating_duration_since(at) < RTT_LIFE || matches!(self.phase, Phase::Looking(_)) {
            return;
        }
        if idle {
            // There is no queue of ours: the next round trip tells.
            self.rtt = None;
            return;
        }
        self.seen = None;
        self.phase = Phase::Looking(now + 2 * least + LOOK_TIME);
    }

    /// So much arrived that the window may be larger.
    fn grow(&mut self, bytes: u64) {
        let grown = self.window + bytes;
        self.window = match self.phase {
            Phase::Beginning => {
                let first = FIRST_PACKETS * self.mtu;
                self.share(FIRST_GAIN).map_or(grown, |most| grown.min(most.max(first)))
            }
            Phase::Draining => self.share(1.0).map_or(grown, |most| grown.min(most)),
            Phase::Cruising => self.share(GAIN).map_or(grown, |most| grown.min(most)),
            Phase::Looking(_) => return,
        }
        .max(self.least());
    }
}

impl Controller for Model {
    fn on_sent(&mut self, _now: Instant, _bytes: u64, last_packet_number: u64) {
        self.last_sent = last_packet_number;
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.on_delivered(now, sent, bytes, app_limited);
        self.grow(bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.on_told(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        _lost_bytes: u64,
    ) {
        // Nothing arrived for a long time: begin with little, and be back as soon as it arrives.
        if is_persistent_congestion {
            self.window = self.least();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(self.least());
    }

    fn window(&self) -> u64 {
        match self.phase {
            Phase::Looking(_) => {
                self.share(LOOK_GAIN).unwrap_or(self.window).min(self.window).max(self.least())
            }
            _ => self.window,
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST_PACKETS * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::rng::Rng;
    use crate::tests::epoch;

    const PACKET: u64 = 1200;

    /// A path with one bottleneck, whose queue holds all; and loss. Only what is lost is told of after the
    /// packet sent next.
    struct Path {
        now: Instant,
        rtt: Duration,
        /// Bytes per second.
        rate: f64,
        loss: f64,
        queue: f64,
        /// When it is known, its number, when it was sent, whether it arrived.
        under_way: VecDeque<(Instant, u64, Instant, bool)>,
        next: u64,
        delivered: u64,
        rng: Rng,
        credit: f64,
    }

    impl Path {
        fn new(mbps: f64, rtt_ms: u64, loss: f64) -> Self {
            Self {
                now: epoch(),
                rtt: Duration::from_millis(rtt_ms),
                rate: mbps * 1e6 / 8.0,
                loss,
                queue: 0.0,
                under_way: VecDeque::new(),
                next: 1,
                delivered: 0,
                rng: Rng::new([7; 32]),
                credit: 0.0,
            }
        }

        /// Lets a millisecond pass; the queue in milliseconds.
        fn tick(&mut self, model: &mut Model) -> f64 {
            self.now += Duration::from_millis(1);
            // As quinn-proto's pacer does.
            let rtt = self.rtt.as_secs_f64() + self.queue / self.rate;
            let pace = 1.25 * model.window() as f64 * 0.001 / rtt;
            self.credit = (self.credit + pace).min((10 * PACKET) as f64 + pace);
            let in_flight = |path: &Self| path.under_way.len() as u64 * PACKET;
            while in_flight(self) + PACKET < model.window() && self.credit >= PACKET as f64 {
                self.credit -= PACKET as f64;
                self.queue += PACKET as f64;
                let at = self.now + self.rtt + Duration::from_secs_f64(self.queue / self.rate);
                let arrives = self.rng.unit() >= self.loss;
                self.under_way.push_back((at, self.next, self.now, arrives));
                model.on_sent(self.now, PACKET, self.next);
                self.next += 1;
            }
            self.queue = (self.queue - self.rate / 1e3).max(0.0);
            let mut largest = None;
            while self.under_way.front().is_some_and(|(at, ..)| *at <= self.now) {
                let Some((_, number, sent, arrived)) = self.under_way.pop_front() else { break };
                if arrived {
                    model.on_delivered(self.now, sent, PACKET, false);
                    model.grow(PACKET);
                    self.delivered += PACKET;
                    largest = Some(number);
                } else {
                    model.on_congestion_event(self.now, sent, false, PACKET);
                }
            }
            if largest.is_some() {
                model.on_told(self.now, in_flight(self), false, largest);
            }
            self.queue / self.rate * 1e3
        }

        /// Share of the rate that is used in so many milliseconds, and the 99th percentile of the queue.
        fn run(&mut self, model: &mut Model, ms: u64) -> (f64, f64) {
            let had = self.delivered;
            let mut waits: Vec<f64> = (0..ms).map(|_| self.tick(model)).collect();
            waits.sort_by(f64::total_cmp);
            let used = (self.delivered - had) as f64 * 1e3 / (self.rate * ms as f64);
            (used, waits[waits.len() * 99 / 100])
        }
    }

    #[test]
    fn the_path_is_filled_whatever_it_loses_and_its_queue_is_short() {
        for (mbps, rtt, loss) in [
            (100.0, 271, 0.0),
            (100.0, 271, 0.02),
            (20.0, 40, 0.1),
            (5.0, 300, 0.05),
            (500.0, 20, 0.01),
        ] {
            let mut path = Path::new(mbps, rtt, loss);
            let mut model = Model::new(path.now, PACKET as u16);
            path.run(&mut model, 10_000);
            let (used, queue) = path.run(&mut model, 60_000);
            let what = format!("{mbps} Mbit/s, {rtt} ms, {loss}: {used:.3}, {queue:.0} ms");
            assert!(used > 0.88 * (1.0 - loss), "{what}");
            assert!(queue < 0.5 * rtt as f64 + 15.0, "{what}");
        }
    }

    #[test]
    fn the_beginning_doubles_in_each_round_trip() {
        let mut path = Path::new(100.0, 271, 0.02);
        let mut model = Model::new(path.now, PACKET as u16);
        // 38 kB, and seven times twice as much: the path holds 3.4 MB.
        path.run(&mut model, 271 * 9);
        let (used, _) = path.run(&mut model, 1_000);
        assert!(used > 0.75, "{used:.3}");
    }

    #[test]
    fn a_path_that_changes_is_followed() {
        let mut path = Path::new(20.0, 50, 0.02);
        let mut model = Model::new(path.now, PACKET as u16);
        path.run(&mut model, 20_000);
        path.rate *= 5.0;
        path.run(&mut model, 3_000);
        assert!(path.run(&mut model, 10_000).0 > 0.85, "five times the rate");
        path.rate /= 5.0;
        path.run(&mut model, 8_000);
        let (used, queue) = path.run(&mut model, 10_000);
        assert!(used > 0.85 && queue < 60.0, "and back: {used:.3}, {queue:.0} ms");
        path.rtt *= 4;
        path.run(&mut model, 15_000);
        assert!(path.run(&mut model, 30_000).0 > 0.85, "four times the round trip");
    }

    #[test]
    fn after_an_outage_it_begins_with_little_and_is_soon_back() {
        let mut path = Path::new(20.0, 50, 0.0);
        let mut model = Model::new(path.now, PACKET as u16);
        path.run(&mut model, 5_000);
        model.on_congestion_event(path.now, path.now, true, PACKET);
        assert_eq!(model.window(), LEAST_PACKETS * PACKET);
        path.run(&mut model, 1_000);
        assert!(path.run(&mut model, 2_000).0 > 0.9);
    }
}
