//! The packets of one session as its sender remembers them, and what an acknowledgement's counter
//! part says of them: round trip time, delivery rate, losses before recovery. It knows no symbols.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::ack::CounterPart;

/// Packets remembered at most; older ones give no samples any more.
pub(super) const MAX_REMEMBERED: usize = 65_536;

/// A stretch of time in which the rate controller asked for one thing; packets remember theirs, so that
/// what becomes of them tells of that time and not of a round trip later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Epoch(pub u32);

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    /// Bytes sent in this session that count as in flight, this packet included.
    total: u64,
    /// What was known to have arrived when it was sent, and when the first packet after that was sent
    /// (draft-ietf-ccwg-bbr §4.1.1.2).
    arrived: Arrived,
    arrived_at: Since,
    first_sent_at: Instant,
    epoch: Epoch,
    app_limited: bool,
    elicits: bool,
    bytes: u32,
}

/// Where an interval of arrivals begins.
#[derive(Debug, Clone, Copy)]
enum Since {
    /// At a time of the other end's clock.
    There(Duration),
    /// When this end began to send, after it had nothing in flight: what came before was not a rate.
    Here(Instant),
}

/// What had arrived at the other end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrived {
    pub packets: u64,
    pub bytes: u64,
    /// When the last of it came, by the other end's clock.
    pub at: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Ledger {
    packets: VecDeque<Sent>,
    /// Begin of this end's clock, from which transit times are told.
    started: Instant,
    /// Counter of the front of `packets`.
    base: u64,
    sent_bytes: u64,
    /// Those of them in packets that elicit an acknowledgement: others may never hear of one, and
    /// must not keep the window closed (RFC 9002 §2).
    flying_bytes: u64,
    /// `flying_bytes` just after the largest packet that is acknowledged or written off.
    sent_at_largest: u64,
    acked: Option<CounterPart>,
    arrived_at: Since,
    first_sent_at: Instant,
    /// A round trip ends when something is acknowledged that was sent after so much had arrived
    /// (draft-ietf-ccwg-bbr §4.1.2.3).
    round_ends_at: u64,
    /// Of packets that elicit no acknowledgement, sent after the newest that is acknowledged: they may have
    /// arrived, and nobody told.
    quiet: Arrived,
    /// What had arrived, at most, when this end began to send after it had nothing in flight.
    restart: Arrived,
    /// While less than this has been delivered, samples are limited by the application.
    app_limited_until: u64,
}

/// What one acknowledgement told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Report {
    /// When the largest acknowledged packet was sent, if this acknowledgement is the first for it.
    pub newest_sent: Option<Instant>,
    /// That one carried something that is paced. The others tell nothing of rates and queues.
    pub elicited: bool,
    /// From there to now, the delay at the other end taken off.
    pub rtt: Option<Duration>,
    /// How long it was on its way, in microseconds, but for the difference of the clocks.
    pub transit: Option<i64>,
    pub rate: Option<RateSample>,
    /// Packets passed since the last report, and how many of them are missing. Late arrivals count
    /// negative.
    pub passed: u64,
    pub missing: i64,
    pub loss_runs: u64,
    /// Packets that newly arrived with a congestion mark.
    pub ce_marks: u64,
    /// Of the largest acknowledged packet.
    pub epoch: Option<Epoch>,
    /// A round trip ended.
    pub round: bool,
    /// All that arrived in this session.
    pub arrived: Arrived,
}

/// A delivery rate sample (draft-ietf-ccwg-bbr §4.1): what arrived at the other end from the time that
/// was known when the packet was sent to when it was acknowledged, which is a round trip or more. The
/// time is the other end's, so that it does not matter how acknowledgements come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateSample {
    pub packets: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub app_limited: bool,
}

impl Report {
    /// Adds what another one told of losses and marks.
    pub(crate) fn absorb(&mut self, other: &Report) {
        self.passed += other.passed;
        self.missing += other.missing;
        self.loss_runs += other.loss_runs;
        self.ce_marks += other.ce_marks;
    }
}

impl RateSample {
    /// Bytes per second.
    pub(crate) fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

impl Ledger {
    pub(crate) fn new(now: Instant, started: Instant) -> Self {
        Self {
            packets: VecDeque::new(),
            started,
            base: 0,
            sent_bytes: 0,
            flying_bytes: 0,
            sent_at_largest: 0,
            acked: None,
            arrived_at: Since::Here(now),
            first_sent_at: now,
            round_ends_at: 0,
            // Nothing is known of the first packet: it may be all that there is.
            app_limited_until: 1,
            quiet: Arrived::default(),
            restart: Arrived::default(),
        }
    }

    /// Records the next packet; counters ascend by one. `elicits`: it will be acknowledged.
    pub(crate) fn record(&mut self, now: Instant, bytes: usize, elicits: bool, epoch: Epoch) {
        if self.in_flight() == 0 {
            self.arrived_at = Since::Here(now);
            self.first_sent_at = now;
            let arrived = self.arrived();
            self.restart = Arrived {
                packets: arrived.packets + self.quiet.packets,
                bytes: arrived.bytes + self.quiet.bytes,
                at: arrived.at,
            };
        }
        if !elicits {
            self.quiet.packets += 1;
            self.quiet.bytes += bytes as u64;
        }
        let arrived = match self.arrived_at {
            Since::Here(_) => self.restart,
            Since::There(_) => self.arrived(),
        };
        self.sent_bytes += bytes as u64;
        self.flying_bytes += if elicits { bytes as u64 } else { 0 };
        if self.packets.len() == MAX_REMEMBERED {
            self.packets.pop_front();
            self.base += 1;
        }
        self.packets.push_back(Sent {
            at: now,
            total: self.flying_bytes,
            arrived,
            arrived_at: self.arrived_at,
            first_sent_at: self.first_sent_at,
            epoch,
            app_limited: self.app_limited_until > self.arrived().bytes,
            elicits,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        });
    }

    /// Packets that may still give a sample.
    pub(crate) fn remembered(&self) -> usize {
        self.packets.len()
    }

    /// Bytes sent after the largest acknowledged packet, in packets that elicit an acknowledgement. Those
    /// before it are delivered or lost.
    pub(crate) fn in_flight(&self) -> u64 {
        self.flying_bytes - self.sent_at_largest
    }

    /// When the oldest packet in flight was sent.
    pub(crate) fn oldest_in_flight(&self) -> Option<Instant> {
        let is_flying = |sent: &Sent| sent.total > self.sent_at_largest;
        // What is acknowledged is forgotten: only after a write-off is there anything before it.
        let front = self.packets.front()?;
        if is_flying(front) {
            return Some(front.at);
        }
        let passed = self.packets.partition_point(|sent| !is_flying(sent));
        self.packets.get(passed).map(|sent| sent.at)
    }

    /// What was sent until then will not be heard of any more.
    pub(crate) fn write_off(&mut self, until: Instant) {
        let passed = self.packets.partition_point(|sent| sent.at <= until);
        if let Some(last) = passed.checked_sub(1).and_then(|at| self.packets.get(at)) {
            self.sent_at_largest = self.sent_at_largest.max(last.total);
        }
    }

    fn arrived(&self) -> Arrived {
        self.acked.map_or(Arrived::default(), |c| Arrived {
            packets: c.packets,
            bytes: c.bytes,
            at: Duration::from_micros(c.at_us.saturating_sub(c.idle_us)),
        })
    }

    /// The sender had nothing to send although it was allowed to.
    pub(crate) fn note_app_limited(&mut self) {
        self.app_limited_until = (self.arrived().bytes + self.in_flight()).max(1);
    }

    /// Takes an acknowledgement; `None` if it is impossible or older than one taken before.
    pub(crate) fn on_ack(&mut self, now: Instant, ack: &CounterPart) -> Option<Report> {
        let before = self.acked;
        if !self.is_possible(ack) || !before.is_none_or(|before| is_newer(ack, &before)) {
            return None;
        }
        let next_before = before.map_or(0, |c| c.largest + 1);
        let passed = (ack.largest + 1).saturating_sub(next_before);
        let newest = if passed > 0 { self.forget_through(ack.largest) } else { None };
        self.acked = Some(*ack);
        let arrived = self.arrived();
        if before.is_none_or(|before| ack.bytes > before.bytes) {
            self.arrived_at = Since::There(arrived.at);
        }
        let delay = Duration::from_micros(ack.delay_us);
        let mut rate = None;
        let mut round = false;
        if let Some(sent) = newest {
            self.sent_at_largest = self.sent_at_largest.max(sent.total);
            self.first_sent_at = sent.at;
        }
        // What is sent once in a while by itself is no rate, and what is answered no round trip of data.
        if let Some(sent) = newest.filter(|sent| sent.elicits) {
            rate = rate_sample(now.checked_sub(delay).unwrap_or(now), &arrived, &sent);
            round = sent.arrived.bytes >= self.round_ends_at;
            if round {
                self.round_ends_at = arrived.bytes;
            }
        }
        let had = before.map_or(0, |c| c.packets);
        Some(Report {
            newest_sent: newest.map(|s| s.at),
            elicited: newest.is_none_or(|s| s.elicits),
            rtt: newest.map(|s| {
                let whole = now.saturating_duration_since(s.at);
                // A peer cannot make the path look shorter than nothing.
                if delay < whole { whole - delay } else { whole }
            }),
            transit: newest.map(|s| self.transit(ack, s.at)),
            rate,
            passed,
            missing: passed as i64 - (ack.packets - had) as i64,
            loss_runs: ack.loss_runs - before.map_or(0, |b| b.loss_runs),
            ce_marks: ack.ce_marks - before.map_or(0, |b| b.ce_marks),
            epoch: newest.map(|s| s.epoch),
            round,
            arrived,
        })
    }

    fn transit(&self, ack: &CounterPart, sent: Instant) -> i64 {
        let arrived = ack.at_us.saturating_sub(ack.delay_us);
        let sent = sent.saturating_duration_since(self.started).as_micros();
        // Varints have 62 bits.
        arrived as i64 - i64::try_from(sent).unwrap_or(i64::MAX)
    }

    fn is_possible(&self, ack: &CounterPart) -> bool {
        ack.largest < self.base + self.packets.len() as u64
            && ack.packets <= ack.largest + 1
            && ack.bytes <= self.sent_bytes
            && ack.ce_marks <= ack.packets
            && ack.loss_runs <= ack.largest + 1
    }

    fn forget_through(&mut self, largest: u64) -> Option<Sent> {
        let n = usize::try_from((largest + 1).saturating_sub(self.base)).ok()?;
        let mut newest = None;
        for sent in self.packets.drain(..n.min(self.packets.len())) {
            if !sent.elicits {
                self.quiet.packets = self.quiet.packets.saturating_sub(1);
                self.quiet.bytes = self.quiet.bytes.saturating_sub(u64::from(sent.bytes));
            }
            newest = Some(sent);
        }
        if self.packets.is_empty() {
            self.quiet = Arrived::default();
        }
        self.base = self.base.max(largest + 1);
        newest
    }
}

fn is_newer(ack: &CounterPart, before: &CounterPart) -> bool {
    ack.largest >= before.largest
        && ack.packets >= before.packets
        && ack.bytes >= before.bytes
        && ack.loss_runs >= before.loss_runs
        && ack.ce_marks >= before.ce_marks
        && ack.at_us >= before.at_us
        && ack.idle_us <= ack.at_us
}

/// `now` is when the packet arrived, as seen from here.
fn rate_sample(now: Instant, arrived: &Arrived, sent: &Sent) -> Option<RateSample> {
    let bytes = arrived.bytes.saturating_sub(sent.arrived.bytes);
    let packets = arrived.packets.saturating_sub(sent.arrived.packets);
    let send_time = sent.at.saturating_duration_since(sent.first_sent_at);
    let arrival_time = match sent.arrived_at {
        Since::There(at) => arrived.at.saturating_sub(at),
        Since::Here(at) => now.saturating_duration_since(at),
    };
    let seconds = send_time.max(arrival_time).as_secs_f64();
    (seconds > 0.0).then_some(RateSample { packets, bytes, seconds, app_limited: sent.app_limited })
}

#[cfg(test)]
mod tests {
    use super::{Epoch, Ledger};
    use crate::tests::epoch;

    #[test]
    fn what_elicits_no_acknowledgement_does_not_fill_the_window() {
        let now = epoch();
        let mut ledger = Ledger::new(now, now);
        ledger.record(now, 1_000, true, Epoch::default());
        for _ in 0..1_000 {
            ledger.record(now, 60, false, Epoch::default());
        }
        assert_eq!(ledger.in_flight(), 1_000);
        ledger.write_off(now);
        assert_eq!((ledger.in_flight(), ledger.oldest_in_flight()), (0, None));
    }
}
