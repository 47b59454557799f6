//! The bottleneck: a rate and the drop-tail queue before it.

use super::config::{QueueLimit, Rate};
use crate::time::{Time, nanos};

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A transmitter that is busy until some moment; what waits is known from that moment alone.
#[derive(Debug)]
pub(super) struct Bottleneck {
    bits_per_second: u64,
    /// Bytes, with what is being sent.
    limit: u64,
    /// When everything accepted so far will have left.
    busy_until: Time,
    /// The part of a nanosecond beyond `busy_until`, in units of 1 / `bits_per_second`: without it a
    /// rate would be off by up to a nanosecond per packet.
    remainder: u64,
}

impl Bottleneck {
    pub(super) fn new(rate: Rate) -> Self {
        let bits_per_second = (rate.mbps * 1e6) as u64;
        let limit = match rate.queue {
            QueueLimit::Bytes(bytes) => bytes,
            QueueLimit::Time(time) => {
                let bits = u128::from(nanos(time)) * u128::from(bits_per_second) / NANOS_PER_SECOND;
                u64::try_from(bits / 8).unwrap_or(u64::MAX)
            }
        };
        Self { bits_per_second, limit, busy_until: Time::ZERO, remainder: 0 }
    }

    /// When the last bit of a packet of `bytes` bytes will have left, or `None` if the queue is full.
    pub(super) fn accept(&mut self, now: Time, bytes: u64) -> Option<Time> {
        let backlog = self.backlog(now);
        if backlog > 0 && backlog.saturating_add(bytes) > self.limit {
            return None;
        }
        if self.busy_until < now {
            (self.busy_until, self.remainder) = (now, 0);
        }
        let work = u128::from(bytes) * 8 * NANOS_PER_SECOND + u128::from(self.remainder);
        let rate = u128::from(self.bits_per_second);
        let duration = u64::try_from(work / rate).unwrap_or(u64::MAX);
        // Below the rate, which is a u64.
        self.remainder = (work % rate) as u64;
        self.busy_until = Time::from_nanos(self.busy_until.as_nanos().saturating_add(duration));
        Some(self.busy_until)
    }

    /// When what is queued will have left.
    pub(super) fn busy_until(&self, now: Time) -> Time {
        self.busy_until.max(now)
    }

    /// Bytes that wait or are being sent, rounded up.
    pub(super) fn backlog(&self, now: Time) -> u64 {
        let wait = u128::from(nanos(self.busy_until.since(now)));
        let bits = (wait * u128::from(self.bits_per_second)).div_ceil(NANOS_PER_SECOND);
        u64::try_from(bits.div_ceil(8)).unwrap_or(u64::MAX)
    }
}
