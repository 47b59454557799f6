//! The counter part of an acknowledgement, from the receiving end: what arrived, before any recovery.

use std::time::{Duration, Instant};

use crate::wire::ack::CounterPart;
use crate::wire::packet::SessionIndex;

/// Packets that were passed by an arrival, itself included, and how many of them are missing, in how many
/// runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    pub packets: u64,
    pub missing: i64,
    pub runs: u64,
}

/// Cumulative account of the authenticated packets of one session.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: u64,
    packets: u64,
    bytes: u64,
    ce_marks: u64,
    loss_runs: u64,
    /// When the last one came, and that with the largest counter.
    last_at: Option<Instant>,
    largest_at: Option<Instant>,
}

impl Arrivals {
    /// Records a packet that the replay window accepted; what it tells of losses on the way here.
    pub(crate) fn record(&mut self, now: Instant, counter: u64, bytes: usize, ce: bool) -> Passed {
        self.last_at = Some(now);
        self.packets += 1;
        self.bytes += bytes as u64;
        self.ce_marks += u64::from(ce);
        // One that comes late was counted as missing.
        let Some(missing) = counter.checked_sub(self.next) else {
            return Passed { packets: 0, missing: -1, runs: 0 };
        };
        let runs = u64::from(missing > 0);
        self.loss_runs += runs;
        self.next = counter.saturating_add(1);
        self.largest_at = Some(now);
        let missing = i64::try_from(missing).unwrap_or(i64::MAX);
        Passed { packets: missing.unsigned_abs().saturating_add(1), missing, runs }
    }

    /// At `now`, which is `clock` since this life began; `None` before the first packet.
    pub(crate) fn report(
        &self,
        now: Instant,
        clock: Duration,
        session: SessionIndex,
    ) -> Option<CounterPart> {
        let since =
            |at: Option<Instant>| at.map_or(0, |at| micros(now.saturating_duration_since(at)));
        Some(CounterPart {
            session,
            largest: self.next.checked_sub(1)?,
            delay_us: since(self.largest_at),
            idle_us: since(self.last_at),
            at_us: micros(clock),
            packets: self.packets,
            bytes: self.bytes,
            ce_marks: self.ce_marks,
            loss_runs: self.loss_runs,
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
