//! When a tunnel has something to do, and what time itself brings about: blocks close, packets are found
//! lost, silence is probed and at last written off.

use std::time::{Duration, Instant};

use crate::io::TimerReason;
use crate::tunnel::lane::SendLane;
use crate::tunnel::{ECN_PATIENCE, MAX_ACK_DELAY, MAX_PTO, PARITY_PATIENCE, Shared, Tunnel, send};

impl Tunnel {
    /// When [`Tunnel::handle_timeout`] or [`Tunnel::poll_transmit`] has something to do. `wants`:
    /// which lanes have new frames.
    pub(crate) fn poll_timeout(&self, wants: [bool; 3]) -> Option<(Instant, TimerReason)> {
        let mut next = None::<(Instant, TimerReason)>;
        let mut at = |when: Option<Instant>, reason| {
            if let Some(when) = when.filter(|w| next.is_none_or(|(n, _)| *w < n)) {
                next = Some((when, reason));
            }
        };
        at(self.handshake_at(), TimerReason::Handshake);
        at((!self.outbox.is_empty()).then_some(self.handshakes.last_event), TimerReason::Output);
        if self.current.is_none() {
            return next;
        }
        if self.allows(self.mtud.size()) {
            at(self.debt.due, TimerReason::Recovery);
            at(self.forget_due(), TimerReason::Recovery);
        }
        if self.allows(send::SMALL) {
            at(Some(self.ping_at()), TimerReason::Probe);
            at(self.pongs.front().map(|(_, since)| *since), TimerReason::Output);
            at(self.mtu_answers.front().map(|(_, _, since)| *since), TimerReason::Output);
            at(self.closing.then_some(self.handshakes.last_event), TimerReason::Output);
        }
        at(self.silence.verdict_at(self.rto()), TimerReason::Probe);
        at(self.loss_timer, TimerReason::Recovery);
        at(self.pto_at(), TimerReason::Recovery);
        at(self.write_off_at(wants), TimerReason::Recovery);
        for sender in &self.fec_out {
            at(sender.close_at(), TimerReason::Fec);
        }
        at(self.mtu_probe_at(), TimerReason::Probe);
        at(self.sending_at(wants), TimerReason::Pacing);
        next
    }

    pub(super) fn pto_at(&self) -> Option<Instant> {
        if !self.has_unacked() {
            return None;
        }
        let first = self.rtt.pto(MAX_ACK_DELAY);
        let pto = first * 2u32.saturating_pow(self.pto_backoff.min(6));
        self.last_eliciting.map(|at| at + pto.min(first.max(MAX_PTO)))
    }

    /// How long a packet counts as in flight when nothing is heard of it. Acknowledgements may all be
    /// lost, and parity is never acknowledged by itself: without this the window might stay closed.
    /// A path that has fallen silent gets less and less.
    pub(super) fn flight_time(&self) -> Duration {
        self.rtt.pto(MAX_ACK_DELAY) * 2u32.saturating_pow(1 + self.pto_backoff.min(6))
    }

    pub(super) fn write_off_at(&self, wants: [bool; 3]) -> Option<Instant> {
        let waiting = wants.contains(&true) || self.lanes.iter().any(SendLane::has_repairs);
        // While symbols are unacknowledged, a probe timeout comes first.
        let may_hear = self.pto_backoff == 0 && self.has_unacked();
        if !waiting || may_hear || self.window_open() {
            return None;
        }
        let oldest = self.current.as_ref()?.ledger.oldest_in_flight()?;
        // From the last report on: while there are some, the window opens by them.
        Some(self.reported.map_or(oldest, |at| at.max(oldest)) + self.flight_time())
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, shared: &mut Shared) {
        if self.write_off_at([true; 3]).is_some_and(|at| at <= now) {
            let until = now.checked_sub(self.flight_time());
            if let (Some(session), Some(until)) = (&mut self.current, until) {
                session.ledger.write_off(until);
            }
        }
        if self.current.is_some() {
            let verdict = self.silence.handle_timeout(now, self.rto());
            self.tell(now, verdict);
        }
        self.drive_handshakes(now, shared);
        let estimate = self.estimate();
        for sender in &mut self.fec_out {
            sender.handle_timeout(now, &mut shared.codec, &estimate);
            // What waited longer than a repair would take is none any more, and would hold that back.
            sender.give_up_older(now, estimate.rtt + PARITY_PATIENCE);
        }
        self.collect_finished(now);
        if self.loss_timer.is_some_and(|at| at <= now) {
            self.detect_losses(now);
        }
        if self.pto_at().is_some_and(|at| at <= now) {
            // One probe for each lane that has something outstanding (RFC 9002 §6.2.4).
            self.probes_owed = 0;
            for lane in &mut self.lanes {
                self.probes_owed += u8::from(lane.probe());
            }
            self.pto_backoff += 1;
            // RFC 9000 §13.4.2.1: something on the path may drop what is marked.
            self.ecn &= self.pto_backoff < ECN_PATIENCE;
            self.last_eliciting = Some(now);
        }
    }

    pub(super) fn detect_losses(&mut self, now: Instant) {
        self.loss_timer = None;
        let Some(mut evidence) = self.evidence else { return };
        evidence.reordering = self.reordering();
        let mut lost = 0;
        for lane in &mut self.lanes {
            let again = lane.detect(now, &evidence, &mut lost);
            self.loss_timer = match (self.loss_timer, again) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
    }

    /// Symbols whose last parity is out can be judged from now on.
    pub(super) fn collect_finished(&mut self, now: Instant) {
        for (sender, lane) in self.fec_out.iter_mut().zip(&mut self.lanes) {
            while let Some(done) = sender.pop_finished() {
                lane.uncovered(now, done.first, u64::from(done.k));
            }
        }
    }
}
