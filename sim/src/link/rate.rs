//! The bottleneck: a rate and the drop-tail queue before it, which may mark.

use super::config::{QueueLimit, Rate};
use crate::time::{Time, nanos};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A transmitter that is busy until some moment; what waits is known from that moment alone.
#[derive(Debug)]
pub(super) struct Bottleneck {
    /// `None`: sends in no time.
    line: Option<Line>,
    /// When everything accepted so far will have left.
    busy_until: Time,
    /// The part of a nanosecond beyond `busy_until`, in units of 1 / bits per second: without it a
    /// rate would be off by up to a nanosecond per packet.
    remainder: u64,
    /// Former rates in bits per second, and until when what was accepted under them keeps the
    /// transmitter busy; oldest first.
    former: Vec<(Time, u64)>,
}

#[derive(Debug)]
struct Line {
    bits_per_second: u64,
    /// Bytes, with what is being sent.
    limit: u64,
    /// The same.
    mark_above: Option<u64>,
}

/// A packet that the queue took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    /// When its last bit will have left.
    pub(super) departs: Time,
    /// It found so much waiting that it is to be marked.
    pub(super) marks: bool,
}

impl Line {
    fn new(rate: Rate) -> Self {
        let bits_per_second = (rate.mbps * 1e6) as u64;
        let bytes = |limit| match limit {
            QueueLimit::Bytes(bytes) => bytes,
            QueueLimit::Time(time) => {
                let bits = u128::from(nanos(time)) * u128::from(bits_per_second) / NANOS_PER_SECOND;
                u64::try_from(bits / 8).unwrap_or(u64::MAX)
            }
        };
        Self { bits_per_second, limit: bytes(rate.queue), mark_above: rate.mark_above.map(bytes) }
    }
}

impl Bottleneck {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        let line = rate.map(Line::new);
        Self { line, busy_until: Time::ZERO, remainder: 0, former: Vec::new() }
    }

    /// What was accepted leaves at the rate that held then, and before anything accepted later.
    pub(super) fn set(&mut self, rate: Option<Rate>, now: Time) {
        let former = self.line.take().map(|line| line.bits_per_second);
        self.line = rate.map(Line::new);
        if former == self.line.as_ref().map(|line| line.bits_per_second) {
            return;
        }
        self.former.retain(|&(until, _)| until > now);
        if let Some(former) = former
            && self.busy_until > now
        {
            self.former.push((self.busy_until, former));
        }
        self.remainder = 0;
    }

    /// Takes a packet of `bytes` bytes, or `None` if the queue is full.
    pub(super) fn accept(&mut self, now: Time, bytes: u64) -> Option<Accepted> {
        let backlog = self.backlog(now);
        let Some(line) = &self.line else {
            return Some(Accepted { departs: self.busy_until(now), marks: false });
        };
        if backlog > 0 && backlog.saturating_add(bytes) > line.limit {
            return None;
        }
        if self.busy_until < now {
            (self.busy_until, self.remainder) = (now, 0);
            self.former.clear();
        }
        let work = u128::from(bytes) * 8 * NANOS_PER_SECOND + u128::from(self.remainder);
        let rate = u128::from(line.bits_per_second);
        let duration = u64::try_from(work / rate).unwrap_or(u64::MAX);
        // Below the rate, which is a u64.
        self.remainder = (work % rate) as u64;
        self.busy_until = Time::from_nanos(self.busy_until.as_nanos().saturating_add(duration));
        let marks = line.mark_above.is_some_and(|limit| backlog > limit);
        Some(Accepted { departs: self.busy_until, marks })
    }

    /// When what is queued will have left.
    pub(super) fn busy_until(&self, now: Time) -> Time {
        self.busy_until.max(now)
    }

    /// Bytes that wait or are being sent, rounded up.
    pub(super) fn backlog(&self, now: Time) -> u64 {
        if self.busy_until <= now {
            return 0;
        }
        let present = self.line.as_ref().map(|line| (self.busy_until, line.bits_per_second));
        // In bits × nanoseconds per second.
        let (mut from, mut bits) = (now, 0u128);
        for (until, rate) in self.former.iter().copied().chain(present) {
            bits = bits.saturating_add(u128::from(nanos(until.since(from))) * u128::from(rate));
            from = from.max(until);
        }
        u64::try_from(bits.div_ceil(NANOS_PER_SECOND).div_ceil(8)).unwrap_or(u64::MAX)
    }
}
