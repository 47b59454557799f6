//! How fast and how much at once: a model of the path (its bandwidth and its least round trip time)
//! in the manner of BBR (draft-ietf-ccwg-bbr; sections are named where a rule stands). Random loss is
//! no congestion and does not slow it; what bounds it is the model: never more than twice the
//! bandwidth-delay product is on its way.

use std::time::{Duration, Instant};

use crate::tunnel::ledger::{RateSample, Report};

/// What the controller allows. Another controller can stand in its place.
pub(crate) trait Controller: std::fmt::Debug + Send {
    /// An acknowledgement's report; `in_flight` after it, `floor_rtt` the least known.
    fn on_report(&mut self, now: Instant, report: &Report, in_flight: u64, floor_rtt: Duration);
    /// Bytes per second.
    fn pacing_rate(&self) -> f64;
    /// Bytes that may be on their way.
    fn window(&self) -> u64;
    /// Caps the rate, in bytes per second.
    fn set_cap(&mut self, cap: Option<f64>);
}

/// 2/ln 2: the least gain that doubles the rate in each round trip (§2.4).
const STARTUP_GAIN: f64 = 2.885;
const DRAIN_GAIN: f64 = 1.0 / STARTUP_GAIN;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const WINDOW_GAIN: f64 = 2.0;
/// The bandwidth is the greatest sample of so many round trips.
const BANDWIDTH_ROUNDS: u64 = 10;
/// Startup ends when the rate grew by less than a quarter in three rounds (§5.3.1.2).
const FULL_GROWTH: f64 = 1.25;
const FULL_ROUNDS: u32 = 3;
/// The least round trip time is looked for anew so often, for so long (§5.3.4).
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
const PROBE_RTT_TIME: Duration = Duration::from_millis(200);
const PROBE_RTT_SHARE: f64 = 0.5;

const PACKET: f64 = 1280.0;
const INITIAL_WINDOW: f64 = 32.0 * PACKET;
const MIN_WINDOW: f64 = 16.0 * PACKET;
/// What is acknowledged late or not yet read is still on its way by our count.
const ACK_SLACK: Duration = Duration::from_millis(4);
const MIN_RATE: f64 = 16_000.0;
/// Random loss beyond what the probing gain outweighs by itself is made up for by sending more, up to
/// this share. (What is made up for is no longer told from what a full queue drops.)
const OUTWEIGHED: f64 = 0.1;
const MAX_MADE_UP: f64 = 0.6;
/// Below the estimate by so much, so that a queue that was built drains again (§5.6.2).
const PACING_MARGIN: f64 = 0.99;
/// Packets that make a sample of it, and the weight of a sample.
const LOSS_SAMPLE: u64 = 64;
const LOSS_WEIGHT: f64 = 0.15;
/// Round trips are taken to have met no queue while they are so little above the least.
const NO_QUEUE: Duration = Duration::from_millis(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Startup,
    Drain,
    Probe { step: usize, since: Instant },
    ProbeRtt { until: Instant },
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct PathModel {
    phase: Phase,
    bandwidth: MaxFilter,
    min_rtt: Option<(Duration, Instant)>,
    rtt_hint: Duration,
    round: u64,
    round_ends_at: u64,
    full_bandwidth: f64,
    full_rounds: u32,
    cap: Option<f64>,
    random_loss: f64,
    passed: u64,
    missing: i64,
}

impl PathModel {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Startup,
            bandwidth: MaxFilter::default(),
            min_rtt: None,
            rtt_hint: Duration::from_millis(100),
            round: 0,
            round_ends_at: 0,
            full_bandwidth: 0.0,
            full_rounds: 0,
            cap: None,
            random_loss: 0.0,
            passed: 0,
            missing: 0,
        }
    }

    fn rtt(&self) -> Duration {
        self.min_rtt.map_or(self.rtt_hint, |(rtt, _)| rtt)
    }

    /// Bytes per second.
    fn estimate(&self) -> f64 {
        let measured = self.bandwidth.max();
        if measured > 0.0 {
            return measured.max(MIN_RATE);
        }
        INITIAL_WINDOW / self.rtt().as_secs_f64().max(0.001)
    }

    fn bdp(&self) -> f64 {
        self.estimate() * self.rtt().as_secs_f64()
    }

    fn gain(&self) -> f64 {
        match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => DRAIN_GAIN,
            Phase::Probe { step, .. } => CYCLE.get(step).copied().unwrap_or(1.0),
            Phase::ProbeRtt { .. } => 1.0,
        }
    }

    fn on_rate(&mut self, sample: &RateSample, delivered: u64) {
        let new_session = sample.prior_delivered + delivered < self.round_ends_at / 2;
        if sample.prior_delivered >= self.round_ends_at || new_session {
            self.round += 1;
            self.round_ends_at = delivered;
            self.check_full(sample.app_limited);
        }
        // A sample that the application limited says "at least so much" (§4.1.2.4).
        if !sample.app_limited || sample.bytes_per_s > self.bandwidth.max() {
            self.bandwidth.insert(self.round, sample.bytes_per_s);
        }
    }

    fn check_full(&mut self, app_limited: bool) {
        if self.phase != Phase::Startup || app_limited {
            return;
        }
        let bandwidth = self.bandwidth.max();
        if bandwidth >= self.full_bandwidth * FULL_GROWTH {
            self.full_bandwidth = bandwidth;
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        if self.full_rounds >= FULL_ROUNDS {
            self.phase = Phase::Drain;
        }
    }

    fn on_rtt(&mut self, now: Instant, rtt: Duration) {
        let expired =
            self.min_rtt.is_some_and(|(_, at)| now.saturating_duration_since(at) > MIN_RTT_WINDOW);
        let lower = self.min_rtt.is_none_or(|(min, _)| rtt <= min);
        if expired && !lower && matches!(self.phase, Phase::Probe { .. }) {
            self.phase = Phase::ProbeRtt { until: now + PROBE_RTT_TIME.max(self.rtt() * 2) };
        }
        if expired || lower {
            self.min_rtt = Some((rtt, now));
        }
    }

    /// Losses on a path whose queue is empty are not its queue's. They hide a part of what is sent from
    /// the bandwidth samples; without making up for it a fifth of loss would outweigh the probing gain
    /// and the estimate would fall round by round.
    fn on_loss(&mut self, report: &Report) {
        let Some(rtt) = report.rtt else { return };
        if rtt > self.rtt() + (self.rtt() / 8).max(NO_QUEUE) {
            (self.passed, self.missing) = (0, 0);
            return;
        }
        self.passed += report.passed;
        self.missing += report.missing;
        if self.passed >= LOSS_SAMPLE {
            let sample = self.missing.max(0) as f64 / self.passed as f64;
            self.random_loss += (sample.min(1.0) - self.random_loss) * LOSS_WEIGHT;
            (self.passed, self.missing) = (0, self.missing.min(0));
        }
    }

    /// Bytes to be sent for each that is to arrive.
    fn made_up(&self) -> f64 {
        ((1.0 - OUTWEIGHED) / (1.0 - self.random_loss.min(MAX_MADE_UP))).max(1.0)
    }

    fn step(&mut self, now: Instant, in_flight: u64) {
        let in_flight = in_flight as f64;
        match self.phase {
            Phase::Startup => {}
            Phase::Drain => {
                if in_flight <= self.bdp() * self.made_up() {
                    self.phase = Phase::Probe { step: 2, since: now };
                }
            }
            Phase::Probe { step, since } => {
                let whole = now.saturating_duration_since(since) > self.rtt();
                let done = match self.gain() {
                    // Until the queue that the last step made is gone (§5.3.3.1).
                    gain if gain < 1.0 => whole || in_flight <= self.bdp() * self.made_up(),
                    _ => whole,
                };
                if done {
                    self.phase = Phase::Probe { step: (step + 1) % CYCLE.len(), since: now };
                }
            }
            Phase::ProbeRtt { until } => {
                if now >= until {
                    self.phase = Phase::Probe { step: 2, since: now };
                }
            }
        }
    }
}

impl Controller for PathModel {
    fn on_report(&mut self, now: Instant, report: &Report, in_flight: u64, floor_rtt: Duration) {
        self.rtt_hint = floor_rtt;
        self.on_loss(report);
        if let Some(sample) = &report.rate {
            self.on_rate(sample, report.delivered);
        }
        if let Some(rtt) = report.rtt {
            self.on_rtt(now, rtt);
        }
        self.step(now, in_flight);
    }

    fn pacing_rate(&self) -> f64 {
        let rate = self.estimate() * self.gain() * self.made_up() * PACING_MARGIN;
        self.cap.map_or(rate, |cap| rate.min(cap)).max(MIN_RATE)
    }

    fn window(&self) -> u64 {
        let sent = self.estimate() * self.made_up();
        let bandwidth = self.cap.map_or(sent, |cap| sent.min(cap));
        let bdp = bandwidth * self.rtt().as_secs_f64();
        let slack = bandwidth * ACK_SLACK.as_secs_f64();
        let gain = match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::ProbeRtt { .. } => PROBE_RTT_SHARE,
            _ => WINDOW_GAIN,
        };
        (gain * bdp + slack).max(MIN_WINDOW) as u64
    }

    fn set_cap(&mut self, cap: Option<f64>) {
        self.cap = cap;
    }
}

/// The greatest of the samples of the last rounds: the best, and the best since each of two later
/// moments (as in Linux, lib/minmax.c).
#[derive(Debug, Default)]
struct MaxFilter {
    best: [(u64, f64); 3],
}

impl MaxFilter {
    fn max(&self) -> f64 {
        self.best[0].1
    }

    fn insert(&mut self, round: u64, value: f64) {
        let entry = (round, value);
        if value >= self.best[0].1 || round.saturating_sub(self.best[2].0) > BANDWIDTH_ROUNDS {
            self.best = [entry; 3];
            return;
        }
        if value >= self.best[1].1 {
            self.best = [self.best[0], entry, entry];
        } else if value >= self.best[2].1 {
            self.best[2] = entry;
        }
        let age = round.saturating_sub(self.best[0].0);
        if age > BANDWIDTH_ROUNDS {
            self.best = [self.best[1], self.best[2], entry];
            if round.saturating_sub(self.best[0].0) > BANDWIDTH_ROUNDS {
                self.best = [self.best[1], self.best[2], entry];
            }
        } else if self.best[1].0 == self.best[0].0 && age > BANDWIDTH_ROUNDS / 4 {
            self.best = [self.best[0], entry, entry];
        } else if self.best[2].0 == self.best[1].0 && age > BANDWIDTH_ROUNDS / 2 {
            self.best[2] = entry;
        }
    }
}
