//! What goes next, and when. Control first: it is little. Then express, which has a share of the rate at
//! most while bulk waits. Then bulk; and when nothing at all waits, parity for bulk.

use std::time::{Duration, Instant};

use crate::ids::Lane;
use crate::tunnel::{Source, Tunnel};

/// What express may send at once beside bulk, beyond its share: a keystroke, its parity and its repairs
/// need no turn.
const EXPRESS_BURST: i64 = 32 * 1024;
/// Bytes that may be on their way while nothing is acknowledged.
const SILENT_WINDOW: u64 = 16 * 1500;
/// Bulk is given parity while there was nothing to be sent so lately.
const SPARE: Duration = Duration::from_millis(5);

/// What a packet is to carry besides small frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cargo {
    Repair(Lane),
    New(Lane),
    Parity(Lane),
}

impl Cargo {
    fn lane(self) -> Lane {
        match self {
            Cargo::Repair(lane) | Cargo::New(lane) | Cargo::Parity(lane) => lane,
        }
    }
}

/// How express and bulk share the rate.
#[derive(Debug)]
pub(super) struct Turns {
    /// Percent of the rate that express may have while bulk waits.
    share: i64,
    /// Bytes that express may send before bulk has its turn.
    credit: i64,
    /// When nothing was waiting although something might have gone.
    spare_at: Option<Instant>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self { share: 100, credit: EXPRESS_BURST, spare_at: None }
    }

    pub(super) fn set_share(&mut self, percent: u8) {
        self.share = i64::from(percent.clamp(1, 100));
    }

    /// Accounts for a packet that carried `cargo`; `contested`: bulk was waiting.
    pub(super) fn sent(&mut self, cargo: Cargo, bytes: usize, contested: bool) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        match cargo.lane() {
            Lane::Control => {}
            Lane::Express if contested && self.share < 100 => self.credit -= bytes,
            Lane::Express => {}
            Lane::Bulk if self.share < 100 => {
                let earned = bytes.saturating_mul(self.share) / (100 - self.share);
                self.credit = (self.credit + earned).min(EXPRESS_BURST);
            }
            Lane::Bulk => {}
        }
    }

    fn is_spare(&self, now: Instant) -> bool {
        self.spare_at.is_some_and(|at| now.saturating_duration_since(at) <= SPARE)
    }
}

impl Tunnel {
    /// What is to go next, if anything may.
    pub(super) fn choose(&mut self, now: Instant, source: &dyn Source) -> Option<Cargo> {
        if self.probes_owed > 0 {
            if let Some(lane) = self.lane_with_repairs(&Lane::ALL) {
                return Some(Cargo::Repair(lane));
            }
            self.probes_owed = 0;
        }
        if !self.window_open() {
            return None;
        }
        let rate = self.rate.pacing_rate();
        if !self.pacer.allows(rate, true) {
            return None;
        }
        let wants = Lane::ALL.map(|lane| source.has(lane));
        if let Some(cargo) = self.urgent(now, wants) {
            return Some(cargo);
        }
        if !self.pacer.allows(rate, false) {
            return None;
        }
        if let Some(cargo) = self.bulk(wants) {
            return Some(cargo);
        }
        self.parity_due(now, Lane::Bulk).then_some(Cargo::Parity(Lane::Bulk))
    }

    /// Of control, and of express unless it is bulk's turn.
    fn urgent(&self, now: Instant, wants: [bool; 3]) -> Option<Cargo> {
        let express = self.turns.credit > 0 || self.bulk(wants).is_none();
        let lanes = [Lane::Control, Lane::Express];
        let lanes = if express { &lanes[..] } else { &lanes[..1] };
        if let Some(lane) = self.lane_with_repairs(lanes) {
            return Some(Cargo::Repair(lane));
        }
        if self.is_wanted(wants, Lane::Control) {
            return Some(Cargo::New(Lane::Control));
        }
        if let Some(lane) = lanes.iter().copied().find(|lane| self.parity_due(now, *lane)) {
            return Some(Cargo::Parity(lane));
        }
        (express && self.is_wanted(wants, Lane::Express)).then_some(Cargo::New(Lane::Express))
    }

    fn bulk(&self, wants: [bool; 3]) -> Option<Cargo> {
        if self.lane_with_repairs(&[Lane::Bulk]).is_some() {
            return Some(Cargo::Repair(Lane::Bulk));
        }
        self.is_wanted(wants, Lane::Bulk).then_some(Cargo::New(Lane::Bulk))
    }

    /// Whether bulk waits that might go but for the pace.
    pub(super) fn is_contested(&self, source: &dyn Source) -> bool {
        self.bulk(Lane::ALL.map(|lane| source.has(lane))).is_some()
    }

    /// Whether a new symbol of that lane is to be covered by parity: on bulk, if tokens are left over.
    pub(super) fn is_covered(&self, now: Instant, lane: Lane) -> bool {
        lane != Lane::Bulk || self.turns.is_spare(now)
    }

    fn is_wanted(&self, wants: [bool; 3], lane: Lane) -> bool {
        let wanted = wants.get(lane as usize).is_some_and(|wanted| *wanted);
        let lane = self.lanes.get(lane as usize);
        wanted && lane.is_some_and(|lane| lane.next_ssn().is_some())
    }

    fn parity_due(&self, now: Instant, lane: Lane) -> bool {
        self.parity_at(lane).is_some_and(|at| at <= now)
    }

    fn parity_at(&self, lane: Lane) -> Option<Instant> {
        self.fec_out.get(lane as usize).and_then(|sender| sender.parity_at())
    }

    pub(super) fn window_open(&self) -> bool {
        let in_flight = self.current.as_ref().map_or(0, |s| s.ledger.in_flight());
        // Where a probe timeout has passed in silence, the path may be gone: a few packets go on looking.
        let window = self.rate.window();
        let window = if self.pto_backoff > 0 { window.min(SILENT_WINDOW) } else { window };
        in_flight < window && self.allows(self.mtud.size())
    }

    /// Whether the peer's address may be sent a packet of that size.
    pub(super) fn allows(&self, len: usize) -> bool {
        self.remote.is_some_and(|r| r.allowance.is_none_or(|a| a >= len as u64))
    }

    fn lane_with_repairs(&self, lanes: &[Lane]) -> Option<Lane> {
        let has = |lane: &Lane| self.lanes.get(*lane as usize).is_some_and(|l| l.has_repairs());
        lanes.iter().copied().find(has)
    }

    /// Nothing waits although something might go: what is measured now says little of the path.
    pub(super) fn note_idle(&mut self, now: Instant, source: &dyn Source) {
        let waiting = Lane::ALL.into_iter().any(|lane| source.has(lane))
            || self.lane_with_repairs(&Lane::ALL).is_some();
        if waiting || !self.window_open() {
            return;
        }
        self.turns.spare_at = Some(now);
        if let Some(session) = &mut self.current {
            session.ledger.note_app_limited();
        }
    }

    /// When [`Tunnel::choose`] will find something; mirrors its conditions.
    pub(super) fn sending_at(&self, wants: [bool; 3]) -> Option<Instant> {
        let rate = self.rate.pacing_rate();
        if self.probes_owed > 0
            && self.allows(self.mtud.size())
            && self.lane_with_repairs(&Lane::ALL).is_some()
        {
            return self.last_eliciting;
        }
        if !self.window_open() {
            return None;
        }
        let bulk = self.bulk(wants).is_some();
        let express = self.turns.credit > 0 || !bulk;
        let urgent_at = self.pacer.ready_at(rate, true);
        let urgent = self.lane_with_repairs(&[Lane::Control]).is_some()
            || self.is_wanted(wants, Lane::Control)
            || (express
                && (self.lane_with_repairs(&[Lane::Express]).is_some()
                    || self.is_wanted(wants, Lane::Express)));
        if urgent {
            return Some(urgent_at);
        }
        let control_parity = self.parity_at(Lane::Control);
        let express_parity = self.parity_at(Lane::Express).filter(|_| express);
        let parity = control_parity.into_iter().chain(express_parity).min();
        let parity = parity.map(|at| at.max(urgent_at));
        let later = self.pacer.ready_at(rate, false);
        let bulk_at =
            if bulk { Some(later) } else { self.parity_at(Lane::Bulk).map(|at| at.max(later)) };
        [parity, bulk_at].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_bulk_express_has_its_share_in_the_long_run_and_a_burst_at_once() {
        for share in [1u8, 20, 50, 80, 100] {
            let mut turns = Turns::new();
            turns.set_share(share);
            let (mut express, mut bulk) = (0usize, 0usize);
            while express + bulk < 50_000_000 {
                if turns.credit > 0 {
                    turns.sent(Cargo::New(Lane::Express), 1200, true);
                    express += 1200;
                } else {
                    turns.sent(Cargo::New(Lane::Bulk), 1200, false);
                    bulk += 1200;
                }
            }
            let found = 100.0 * express as f64 / (express + bulk) as f64;
            assert!((found - f64::from(share)).abs() < 0.5, "{share} %: {found}");
            // After a time of bulk alone a burst may go first.
            for _ in 0..10_000 {
                turns.sent(Cargo::New(Lane::Bulk), 1200, false);
            }
            assert!(turns.credit == EXPRESS_BURST || share == 100);
        }
    }
}
