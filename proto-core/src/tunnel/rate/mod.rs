//! How fast and how much at once: a model of the path (its bandwidth and its least round trip time) in
//! the manner of BBR (draft-ietf-ccwg-bbr; sections are named where a rule stands). Random loss is no
//! congestion and does not slow it.
//!
//! Other than there, most of the time the model knows whether it has the bottleneck to itself: then round
//! trips come down to the least one whenever its own excess has drained. So it
//! - looks for more bandwidth by short trains that are a quarter faster and add 20 ms of queue at most; how
//!   fast a train arrives at the other end is the sample, and the excess is taken back at once;
//! - takes a queue that stands through a whole round for a sign that the bandwidth is less than it
//!   believed, and drains it.
//!
//! Where others keep the queue filled that does not help, and would starve it. There it probes as BBR does.

mod bandwidth;
mod delay;
mod losses;

use std::time::{Duration, Instant};

use crate::tunnel::ledger::{Arrived, Epoch, Report};
use bandwidth::Bandwidth;
use delay::Delay;
use losses::{Losses, Sent};

/// What the controller allows. Another controller can stand in its place.
pub(crate) trait Controller: std::fmt::Debug + Send {
    /// An acknowledgement's report; `in_flight` after it, `floor_rtt` the least known.
    fn on_report(&mut self, now: Instant, report: &Report, in_flight: u64, floor_rtt: Duration);
    /// What packets that are sent now are to be marked with.
    fn epoch(&self) -> Epoch;
    /// Bytes per second.
    fn pacing_rate(&self) -> f64;
    /// Bytes that may be on their way.
    fn window(&self) -> u64;
    /// Caps the rate, in bytes per second.
    fn set_cap(&mut self, cap: Option<f64>);
}

/// 2/ln 2: the least gain that doubles the rate in each round trip (§2.4).
const STARTUP_GAIN: f64 = 2.885;
/// Twice the bandwidth-delay product may be on its way (`DefaultCwndGain`), less where more is lost than
/// the link's own; in startup as much more as its rate is.
const WINDOW_GAIN: f64 = 2.0;
const DRAIN_GAIN: f64 = 0.35;
const UP_GAIN: f64 = 1.25;
const DOWN_GAIN: f64 = 0.75;
/// For more than a quarter of a round trip.
const DEEP_DOWN_GAIN: f64 = 0.5;
/// Startup ends when the rate grew by less than a quarter in three rounds (§5.3.1.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
const PROBE_RTT_SHARE: f64 = 0.5;

const PACKET: f64 = 1280.0;
const INITIAL_WINDOW: f64 = 32.0 * PACKET;
const MIN_WINDOW: f64 = 16.0 * PACKET;
/// What is acknowledged late or not yet read is still on its way by our count.
const ACK_SLACK: Duration = Duration::from_millis(4);
const MIN_RATE: f64 = 16_000.0;
/// Below the estimate by so much, so that a queue that was built drains again (§2.6,
/// `BBRPacingMarginPercent`).
const PACING_MARGIN: f64 = 0.99;
/// What the link loses by itself is made up for, up to this loss.
const MAX_MADE_UP: f64 = 0.6;

/// The queue that a train adds at most, and the part of a round trip.
const TRAIN_QUEUE: Duration = Duration::from_millis(20);
const TRAIN_SHARE: u32 = 4;
/// Packets without which a train says nothing, and how many it has at least.
const TRAIN_PACKETS: u64 = 24;
const TRAIN_LEAST: f64 = 32.0;
/// The bandwidth has grown if a train arrived so much faster than the estimate was. Two in a row: there is
/// far more, and startup finds it sooner.
const TRAIN_GROWTH: f64 = 1.12;
const TRAINS_TO_START: u32 = 2;
/// Between two trains, in round trips and within bounds.
const CRUISE_ROUNDS: u32 = 6;
const CRUISE_LEAST: Duration = Duration::from_millis(400);
const CRUISE_MOST: Duration = Duration::from_secs(3);
/// Draining did not help so often in a row: others keep the queue filled.
const DRAINS_TO_RIVAL: u32 = 2;
const DRAIN_HELPS: f64 = 0.7;
/// They are believed gone after so many rounds in a row without a standing queue.
const ROUNDS_TO_ALONE: u32 = 8;

/// Loss in excess of the link's own, or marks, bound what is on its way to so much of the bandwidth-delay
/// product, step by step, and the bound goes again with every round without.
const SHRINK: f64 = 0.85;
const LEAST_GAIN: f64 = 1.1;
const REGROW: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Startup,
    Drain,
    Cruise { until: Instant, since_round: u64 },
    Up { until: Instant },
    Down { until: Instant, gain: f64, to_bdp: bool },
    ProbeRtt { until: Instant },
}

impl Phase {
    fn sent(self) -> Sent {
        match self {
            Phase::Up { .. } => Sent::Fast,
            // Until a queue is seen, startup is not faster than the bottleneck.
            Phase::Startup | Phase::Cruise { .. } => Sent::Even,
            Phase::Drain | Phase::Down { .. } | Phase::ProbeRtt { .. } => Sent::Slow,
        }
    }
}

/// A train on its way, and what is known of its arrival.
#[derive(Debug, Clone, Copy)]
struct Train {
    epoch: Epoch,
    /// The estimate when it left.
    estimate: f64,
    began: Option<Arrived>,
    ended: Option<Arrived>,
    app_limited: bool,
}

/// Epochs whose phase is remembered: no more begin in a round trip.
const EPOCHS: usize = 16;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct PathModel {
    phase: Phase,
    epoch: Epoch,
    /// How packets of recent epochs were sent, by number.
    sent: [Sent; EPOCHS],
    bandwidth: Bandwidth,
    /// Not only what the application had to send was measured.
    is_measured: bool,
    delay: Delay,
    losses: Losses,
    rtt_hint: Duration,
    round: u64,
    /// What arrived in the last whole round.
    recent: Option<bandwidth::Measured>,
    /// The application limited the last round.
    app_limited: bool,
    full_bandwidth: f64,
    full_rounds: u32,
    train: Option<Train>,
    grown_trains: u32,
    /// Drains of a standing queue in a row that did not help.
    drains: u32,
    /// The queue that stood before the last one.
    drained: Duration,
    /// Others keep the queue filled.
    rival: bool,
    clear_rounds: u32,
    window_gain: f64,
    marks: u64,
    /// Of the newest packet that was acknowledged.
    newest: Option<Epoch>,
    arrived: Arrived,
    cap: Option<f64>,
}

impl PathModel {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Startup,
            epoch: Epoch::default(),
            sent: [Sent::Fast; EPOCHS],
            bandwidth: Bandwidth::default(),
            is_measured: false,
            delay: Delay::new(),
            losses: Losses::default(),
            rtt_hint: Duration::from_millis(100),
            round: 0,
            recent: None,
            app_limited: true,
            full_bandwidth: 0.0,
            full_rounds: 0,
            train: None,
            grown_trains: 0,
            drains: 0,
            drained: Duration::ZERO,
            rival: false,
            clear_rounds: 0,
            window_gain: WINDOW_GAIN,
            marks: 0,
            newest: None,
            arrived: Arrived::default(),
            cap: None,
        }
    }

    fn rtt(&self) -> Duration {
        self.delay.least().unwrap_or(self.rtt_hint)
    }

    /// Bytes per second that arrive.
    fn estimate(&self) -> f64 {
        let measured = self.bandwidth.get();
        if self.is_measured {
            return measured.max(MIN_RATE);
        }
        measured.max(INITIAL_WINDOW / self.rtt().as_secs_f64().max(0.001))
    }

    /// Bytes to be sent for each that is to arrive.
    fn made_up(&self) -> f64 {
        1.0 / (1.0 - self.losses.own().min(MAX_MADE_UP))
    }

    /// Bytes on their way that fill the path and no queue.
    fn bdp(&self) -> f64 {
        self.estimate() * self.made_up() * self.usual_rtt().as_secs_f64()
    }

    /// Round trip time where nothing waits.
    fn usual_rtt(&self) -> Duration {
        self.rtt() + self.delay.spread()
    }

    fn gain(&self) -> f64 {
        match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => DRAIN_GAIN,
            Phase::Up { .. } => UP_GAIN,
            Phase::Down { gain, .. } => gain,
            Phase::Cruise { .. } | Phase::ProbeRtt { .. } => 1.0,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.epoch.0 = self.epoch.0.wrapping_add(1);
        if let Some(slot) = self.sent.get_mut(self.epoch.0 as usize % EPOCHS) {
            *slot = phase.sent();
        }
    }

    fn how_sent(&self, epoch: Epoch) -> Sent {
        self.sent.get(epoch.0 as usize % EPOCHS).copied().unwrap_or(Sent::Fast)
    }

    fn cruise(&mut self, now: Instant) {
        let length = (self.usual_rtt() * CRUISE_ROUNDS).clamp(CRUISE_LEAST, CRUISE_MOST);
        self.enter(Phase::Cruise { until: now + length, since_round: self.round });
    }

    fn startup(&mut self) {
        self.full_bandwidth = self.bandwidth.get();
        self.full_rounds = 0;
        self.grown_trains = 0;
        self.enter(Phase::Startup);
    }

    /// Sends a train. Alone, it adds a bounded queue; among rivals it lasts a round trip (§5.3.3.3).
    fn up(&mut self, now: Instant) {
        let rtt = self.rtt();
        let time = if self.rival {
            rtt
        } else {
            let queue = TRAIN_QUEUE.min(rtt / TRAIN_SHARE);
            let packets = TRAIN_LEAST * PACKET * self.made_up();
            let packets = Duration::from_secs_f64(packets / self.pacing_rate());
            // Jitter blurs the ends of a train: it is longer than those.
            queue.div_f64(UP_GAIN - 1.0).max(packets).max(self.delay.spread() * 3)
        };
        self.enter(Phase::Up { until: now + time });
        self.train = Some(Train {
            epoch: self.epoch,
            estimate: self.bandwidth.get(),
            began: None,
            ended: None,
            app_limited: false,
        });
    }

    /// Takes back what stands in the queue by our doing.
    fn down(&mut self, now: Instant, queue: Duration) {
        let gain = if queue > self.rtt() / 4 { DEEP_DOWN_GAIN } else { DOWN_GAIN };
        let time = queue.div_f64(1.0 - gain).min(self.rtt() * 4);
        self.enter(Phase::Down { until: now + time, gain, to_bdp: self.rival });
    }

    fn on_rate(&mut self, report: &Report) {
        let Some(sample) = &report.rate else { return };
        self.is_measured |= !sample.app_limited;
        if report.round {
            self.app_limited = sample.app_limited;
            self.bandwidth.next_round();
            if let Some(measured) = self.bandwidth.merge(sample) {
                self.recent = Some(measured);
                self.bandwidth.insert(measured.rate, measured.app_limited);
            }
        }
        if self.phase == Phase::Startup {
            self.bandwidth.insert(sample.rate(), sample.app_limited);
        }
    }

    /// Follows the train in flight.
    fn on_train(&mut self, now: Instant, report: &Report) {
        let (Some(train), Some(epoch)) = (&mut self.train, report.epoch) else { return };
        train.app_limited |= report.rate.is_some_and(|sample| sample.app_limited);
        if report.arrived.bytes < self.arrived.bytes {
            // The account of another session.
            self.train = None;
            return;
        }
        if epoch <= train.epoch {
            let slot = if epoch < train.epoch { &mut train.began } else { &mut train.ended };
            *slot = Some(report.arrived);
            return;
        }
        let train = *train;
        self.train = None;
        let (Some(began), Some(ended)) = (train.began, train.ended) else { return };
        let packets = ended.packets.saturating_sub(began.packets);
        let seconds = ended.at.saturating_sub(began.at).as_secs_f64();
        if packets < TRAIN_PACKETS || seconds <= 0.0 {
            return;
        }
        // It cannot have arrived much faster than it left, whatever clocks and batches make of it.
        let rate = ended.bytes.saturating_sub(began.bytes) as f64 / seconds;
        let rate = rate.min(train.estimate.max(MIN_RATE) * 2.0);
        self.bandwidth.insert(rate, train.app_limited);
        if train.app_limited || rate < train.estimate * TRAIN_GROWTH {
            self.grown_trains = 0;
            return;
        }
        self.grown_trains += 1;
        if self.grown_trains >= TRAINS_TO_START {
            self.startup();
        } else if matches!(self.phase, Phase::Cruise { .. } | Phase::Down { .. }) {
            self.up(now);
        }
    }

    /// A round trip ended.
    fn on_round(&mut self, now: Instant) {
        self.round += 1;
        self.delay.next_round();
        self.losses.next_round();
        let is_marked = std::mem::take(&mut self.marks) > 0;
        let overtaken = self.estimate() / PACKET * self.delay.spread().as_secs_f64();
        let is_excess = self.losses.is_excess(overtaken);
        if is_excess && self.delay.is_waiting() {
            self.believe_limited();
        }
        self.window_gain = if is_marked || is_excess {
            (self.window_gain * SHRINK).max(LEAST_GAIN)
        } else {
            (self.window_gain + REGROW).min(WINDOW_GAIN)
        };
        let standing = self.delay.standing();
        self.clear_rounds = if standing.is_none() { self.clear_rounds + 1 } else { 0 };
        if self.clear_rounds >= ROUNDS_TO_ALONE {
            self.rival = false;
        }
        match self.phase {
            Phase::Startup => self.check_full(is_marked || is_excess),
            Phase::Cruise { since_round, .. } if self.round >= since_round + 2 => {
                let queue = standing.or(is_marked.then(|| self.delay.tolerance()));
                self.on_cruise_round(now, queue);
            }
            _ => {}
        }
    }

    /// The bottleneck had more than it carries, though the application paused at times: what arrived is a
    /// sample of its rate. A sender behind a relay is slowed by what is lost here, so that there would be no
    /// other.
    fn believe_limited(&mut self) {
        if let Some(recent) = self.recent.as_mut().filter(|recent| recent.app_limited) {
            recent.app_limited = false;
            self.bandwidth.insert(recent.rate, false);
        }
    }

    /// A whole round was sent at an even rate.
    fn on_cruise_round(&mut self, now: Instant, queue: Option<Duration>) {
        let Some(queue) = queue else {
            self.drains = 0;
            self.drained = Duration::ZERO;
            return;
        };
        if self.rival {
            return;
        }
        // Ours would have shrunk by what was taken back.
        let helped = queue < self.drained.mul_f64(DRAIN_HELPS);
        self.drained = queue;
        if helped {
            self.drains = 0;
        }
        if self.drains >= DRAINS_TO_RIVAL {
            self.rival = true;
            self.drains = 0;
            return;
        }
        self.drains += 1;
        // While a queue stands, what arrives is all that the bottleneck gives.
        if let Some(recent) = self.recent.filter(|recent| !recent.app_limited) {
            self.bandwidth.lower(recent.rate);
        }
        self.down(now, queue);
    }

    /// Whether startup is over by what a whole round told; a queue ends it sooner.
    fn check_full(&mut self, is_congested: bool) {
        let bandwidth = self.bandwidth.get();
        if bandwidth >= self.full_bandwidth * FULL_GROWTH && !is_congested {
            self.full_bandwidth = bandwidth;
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += u32::from(!self.app_limited);
        if is_congested || self.full_rounds >= FULL_ROUNDS {
            self.enter(Phase::Drain);
        }
    }

    /// No packet came near the least times for long.
    fn doubt(&mut self, now: Instant) {
        match self.phase {
            Phase::ProbeRtt { .. } => {}
            // What there is of traffic makes no queue.
            Phase::Startup => self.delay.give_in(),
            _ => {
                let until = now + PROBE_RTT_TIME.max(self.rtt() * 2);
                self.delay.begin_anew();
                self.enter(Phase::ProbeRtt { until });
            }
        }
    }

    fn step(&mut self, now: Instant, in_flight: u64) {
        let is_drained = in_flight as f64 <= self.bdp();
        match self.phase {
            Phase::Startup => {
                if self.delay.is_rising() {
                    self.enter(Phase::Drain);
                }
            }
            Phase::Drain => {
                if is_drained {
                    self.cruise(now);
                }
            }
            Phase::Cruise { until, .. } => {
                if now >= until {
                    self.up(now);
                }
            }
            Phase::Up { until } => {
                if now >= until {
                    self.down(now, TRAIN_QUEUE.min(self.rtt() / TRAIN_SHARE));
                }
            }
            Phase::Down { until, to_bdp, .. } => {
                if now >= until || (to_bdp && is_drained) {
                    self.cruise(now);
                }
            }
            Phase::ProbeRtt { until } => {
                if now >= until {
                    self.delay.end_anew(now);
                    self.cruise(now);
                }
            }
        }
    }
}

impl Controller for PathModel {
    fn on_report(&mut self, now: Instant, report: &Report, in_flight: u64, floor_rtt: Duration) {
        self.rtt_hint = floor_rtt;
        self.marks += report.ce_marks;
        // What only came late belongs to those before.
        self.newest = report.epoch.or(self.newest);
        if let Some(epoch) = self.newest {
            let clear = !self.delay.is_rising();
            // While the rate doubles, so does the number of packets that jitter holds back: not to be told
            // from loss.
            let jittery = self.delay.is_jittery();
            let is_vague = self.phase == Phase::Startup && jittery;
            let sent = if is_vague { Sent::Fast } else { self.how_sent(epoch) };
            self.losses.on_report(report, sent, clear, jittery);
        }
        self.on_rate(report);
        self.on_train(now, report);
        self.arrived = report.arrived;
        if let (Some(rtt), Some(transit)) = (report.rtt, report.transit)
            && self.delay.on_packet(now, rtt, transit)
        {
            self.doubt(now);
        }
        if report.round {
            self.on_round(now);
        }
        self.step(now, in_flight);
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn pacing_rate(&self) -> f64 {
        let rate = self.estimate() * self.gain() * self.made_up() * PACING_MARGIN;
        // A cap may be lower than what is sent at least without one.
        self.cap.map_or(rate.max(MIN_RATE), |cap| rate.max(MIN_RATE).min(cap)).max(1.0)
    }

    fn window(&self) -> u64 {
        let sent = self.estimate() * self.made_up();
        let rate = self.cap.map_or(sent, |cap| sent.min(cap));
        let gain = match self.phase {
            Phase::Startup => STARTUP_GAIN * self.window_gain / WINDOW_GAIN,
            Phase::ProbeRtt { .. } => PROBE_RTT_SHARE,
            _ => self.window_gain,
        };
        let slack = rate * ACK_SLACK.as_secs_f64();
        (gain * rate * self.usual_rtt().as_secs_f64() + slack).max(MIN_WINDOW) as u64
    }

    fn set_cap(&mut self, cap: Option<f64>) {
        self.cap = cap;
    }
}
