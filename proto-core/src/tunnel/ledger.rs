//! The packets of one session as its sender remembers them, and what an acknowledgement's counter
//! part says of them: round trip time, delivery rate, losses before recovery. It knows no symbols.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::ack::CounterPart;

/// Packets remembered at most; older ones give no samples any more.
pub(super) const MAX_REMEMBERED: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    /// Bytes sent in this session that count as in flight, this packet included.
    total: u64,
    /// Bytes delivered when it was sent, when that was known, and when the first packet after that
    /// was sent (draft-ietf-ccwg-bbr §4.1.1.2).
    delivered: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    app_limited: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Ledger {
    packets: VecDeque<Sent>,
    /// Counter of the front of `packets`.
    base: u64,
    sent_bytes: u64,
    /// Those of them in packets that elicit an acknowledgement: others may never hear of one, and
    /// must not keep the window closed (RFC 9002 §2).
    flying_bytes: u64,
    /// `flying_bytes` just after the largest packet that is acknowledged or written off.
    sent_at_largest: u64,
    acked: Option<CounterPart>,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// While less than this has been delivered, samples are limited by the application.
    app_limited_until: u64,
}

/// What one acknowledgement told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    /// When the largest acknowledged packet was sent, if this acknowledgement is the first for it.
    pub newest_sent: Option<Instant>,
    /// From there to now, the delay at the other end taken off.
    pub rtt: Option<Duration>,
    pub rate: Option<RateSample>,
    /// Packets passed since the last report, and how many of them are missing. Late arrivals count
    /// negative.
    pub passed: u64,
    pub missing: i64,
    pub loss_runs: u64,
    /// Bytes delivered in this session.
    pub delivered: u64,
}

/// A delivery rate sample (draft-ietf-ccwg-bbr §4.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateSample {
    pub bytes_per_s: f64,
    pub app_limited: bool,
    /// Bytes delivered when the packet was sent.
    pub prior_delivered: u64,
}

impl Ledger {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            packets: VecDeque::new(),
            base: 0,
            sent_bytes: 0,
            flying_bytes: 0,
            sent_at_largest: 0,
            acked: None,
            delivered_at: now,
            first_sent_at: now,
            app_limited_until: 0,
        }
    }

    /// Records the next packet; counters ascend by one. `elicits`: it will be acknowledged.
    pub(crate) fn record(&mut self, now: Instant, bytes: usize, elicits: bool) {
        if self.in_flight() == 0 {
            self.delivered_at = now;
            self.first_sent_at = now;
        }
        self.sent_bytes += bytes as u64;
        self.flying_bytes += if elicits { bytes as u64 } else { 0 };
        if self.packets.len() == MAX_REMEMBERED {
            self.packets.pop_front();
            self.base += 1;
        }
        self.packets.push_back(Sent {
            at: now,
            total: self.flying_bytes,
            delivered: self.delivered(),
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.app_limited_until > self.delivered(),
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

    fn delivered(&self) -> u64 {
        self.acked.map_or(0, |c| c.bytes)
    }

    /// The sender had nothing to send although it was allowed to.
    pub(crate) fn note_app_limited(&mut self) {
        self.app_limited_until = (self.delivered() + self.in_flight()).max(1);
    }

    /// Takes an acknowledgement; `None` if it is impossible or older than one taken before.
    pub(crate) fn on_ack(&mut self, now: Instant, ack: &CounterPart) -> Option<Report> {
        let before = self.acked;
        let next_before = before.map_or(0, |c| c.largest + 1);
        let is_possible = ack.largest < self.base + self.packets.len() as u64
            && ack.packets <= ack.largest + 1
            && ack.bytes <= self.sent_bytes;
        let is_newer = before.is_none_or(|b| {
            ack.largest >= b.largest
                && ack.packets >= b.packets
                && ack.bytes >= b.bytes
                && ack.loss_runs >= b.loss_runs
                && ack.ce_marks >= b.ce_marks
        });
        if !is_possible || !is_newer {
            return None;
        }
        let had = before.map_or(0, |c| c.packets);
        let passed = (ack.largest + 1).saturating_sub(next_before);
        let newest = if passed > 0 { self.forget_through(ack.largest) } else { None };
        self.acked = Some(*ack);
        let delay = Duration::from_micros(ack.delay_us);
        // The other end's clock of acknowledgements is taken out: what is left is the path's.
        let arrived = now.checked_sub(delay).unwrap_or(now).max(self.delivered_at);
        let mut rate = None;
        if let Some(sent) = newest {
            self.sent_at_largest = self.sent_at_largest.max(sent.total);
            self.first_sent_at = sent.at;
            rate = self.rate_sample(arrived, &sent);
        }
        if ack.bytes > before.map_or(0, |b| b.bytes) {
            self.delivered_at = arrived;
        }
        Some(Report {
            newest_sent: newest.map(|s| s.at),
            rtt: newest.map(|s| {
                let whole = now.saturating_duration_since(s.at);
                // A peer cannot make the path look shorter than nothing.
                if delay < whole { whole - delay } else { whole }
            }),
            rate,
            passed,
            missing: passed as i64 - (ack.packets - had) as i64,
            loss_runs: ack.loss_runs - before.map_or(0, |b| b.loss_runs),
            delivered: ack.bytes,
        })
    }

    fn forget_through(&mut self, largest: u64) -> Option<Sent> {
        let n = usize::try_from((largest + 1).saturating_sub(self.base)).ok()?;
        let newest = self.packets.drain(..n.min(self.packets.len())).next_back();
        self.base = self.base.max(largest + 1);
        newest
    }

    fn rate_sample(&self, arrived: Instant, sent: &Sent) -> Option<RateSample> {
        let delivered = self.delivered().checked_sub(sent.delivered)?;
        let send_time = sent.at.saturating_duration_since(sent.first_sent_at);
        let ack_time = arrived.saturating_duration_since(sent.delivered_at);
        let time = send_time.max(ack_time).as_secs_f64();
        (time > 0.0).then(|| RateSample {
            bytes_per_s: delivered as f64 / time,
            app_limited: sent.app_limited,
            prior_delivered: sent.delivered,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;
    use crate::tests::epoch;

    #[test]
    fn what_elicits_no_acknowledgement_does_not_fill_the_window() {
        let now = epoch();
        let mut ledger = Ledger::new(now);
        ledger.record(now, 1_000, true);
        for _ in 0..1_000 {
            ledger.record(now, 60, false);
        }
        assert_eq!(ledger.in_flight(), 1_000);
        ledger.write_off(now);
        assert_eq!((ledger.in_flight(), ledger.oldest_in_flight()), (0, None));
    }
}
