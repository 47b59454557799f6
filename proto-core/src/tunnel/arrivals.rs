//! The counter part of an acknowledgement, from the receiving end: what arrived, before any recovery.

use crate::wire::ack::CounterPart;
use crate::wire::packet::SessionIndex;

/// Cumulative account of the authenticated packets of one session.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: u64,
    packets: u64,
    bytes: u64,
    ce_marks: u64,
    loss_runs: u64,
}

impl Arrivals {
    /// Records a packet that the replay window accepted.
    pub(crate) fn record(&mut self, counter: u64, bytes: usize, ce: bool) {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.ce_marks += u64::from(ce);
        if counter >= self.next {
            self.loss_runs += u64::from(counter > self.next);
            self.next = counter.saturating_add(1);
        }
    }

    /// `None` before the first packet.
    pub(crate) fn report(&self, session: SessionIndex, delay_us: u64) -> Option<CounterPart> {
        Some(CounterPart {
            session,
            largest: self.next.checked_sub(1)?,
            delay_us,
            packets: self.packets,
            bytes: self.bytes,
            ce_marks: self.ce_marks,
            loss_runs: self.loss_runs,
        })
    }
}
