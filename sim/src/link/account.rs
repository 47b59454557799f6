//! What became of packets: of one, and of all of them.

use serde::Serialize;

use crate::time::Time;

/// What became of one packet, decided the moment it is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Of the packet itself.
    pub outcome: Outcome,
    /// When the older packet is due that was sent again behind this one, if one was. That can
    /// happen behind a dropped packet, too.
    pub replayed: Option<Time>,
}

/// What became of a packet itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in flight.
    Passed {
        /// When it arrives. A clog makes that later.
        due: Time,
        /// It arrives with one bit flipped.
        corrupted: bool,
        /// It arrives twice.
        copied: bool,
        /// The bottleneck marked it.
        marked: bool,
    },
    /// It never arrives.
    Dropped(DropReason),
}

/// Why a packet was dropped. If there are several reasons, the first in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The link was cut.
    Cut,
    /// It was larger than the MTU.
    TooBig,
    /// The queue before the bottleneck was full.
    QueueFull,
    /// Random loss.
    Lost,
    /// The link was clogged and already held [`CLOG_LIMIT`](super::CLOG_LIMIT) packets.
    Clogged,
}

/// What happened to packets so far; monotonic.
///
/// No packet vanishes uncounted ([`is_conserved`](Self::is_conserved)): `offered + duplicated +
/// replayed = too_big + queue_dropped + lost + cut + clog_dropped + delivered + in flight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LinkCounters {
    /// Packets handed to the link.
    pub offered: u64,
    /// Their bytes, with IP and UDP headers.
    pub offered_bytes: u64,
    /// Dropped: above the MTU.
    pub too_big: u64,
    /// Dropped: the queue before the bottleneck was full.
    pub queue_dropped: u64,
    /// Dropped by random loss.
    pub lost: u64,
    /// Dropped: the link was cut.
    pub cut: u64,
    /// Dropped: the link was clogged and held as much as it may.
    pub clog_dropped: u64,
    /// Runs of random losses among the packets that passed the bottleneck: `lost / loss_runs` is
    /// the mean burst.
    pub loss_runs: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Older packets sent again.
    pub replayed: u64,
    /// Packets that passed with a flipped bit.
    pub corrupted: u64,
    /// Packets that passed with a mark (ECN CE) set by the bottleneck.
    pub marked: u64,
    /// Packets that were made late.
    pub held_back: u64,
    /// Packets handed out, copies included.
    pub delivered: u64,
    /// Their bytes, with IP and UDP headers.
    pub delivered_bytes: u64,
}

impl LinkCounters {
    /// Share of the packets that passed the bottleneck and were lost at random behind it.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let passed = self.offered - self.cut - self.too_big - self.queue_dropped;
        if passed == 0 { 0.0 } else { self.lost as f64 / passed as f64 }
    }

    /// Whether every packet is accounted for while `in_flight` of them are on their way
    /// ([`Link::in_flight`](super::Link::in_flight)).
    #[must_use]
    pub fn is_conserved(&self, in_flight: usize) -> bool {
        let entered = self.offered + self.duplicated + self.replayed;
        let dropped = self.too_big + self.queue_dropped + self.lost + self.cut + self.clog_dropped;
        entered == dropped + self.delivered + in_flight as u64
    }

    pub(super) fn count_drop(&mut self, reason: DropReason) {
        let counter = match reason {
            DropReason::Cut => &mut self.cut,
            DropReason::TooBig => &mut self.too_big,
            DropReason::QueueFull => &mut self.queue_dropped,
            DropReason::Lost => &mut self.lost,
            DropReason::Clogged => &mut self.clog_dropped,
        };
        *counter += 1;
    }
}
