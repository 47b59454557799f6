//! Whether the neighbour can be used, what the way there is like, and what becomes of symbols when it cannot:
//! they are handed out, to go another way.

use std::time::{Duration, Instant};

use crate::ids::Lane;
use crate::probe::{LinkQuality, Verdict};
use crate::tunnel::{MAX_ACK_DELAY, Tunnel, TunnelEvent};

/// Acknowledgements may come later than they should by so much: they wait for company, and for a turn of
/// the other end's process.
const ACK_MARGIN: Duration = Duration::from_millis(10);

impl Tunnel {
    /// Whether routes may lead over it: it is up, what is sent there arrives, and it is known how fast.
    pub(crate) fn is_usable(&self, now: Instant) -> bool {
        self.is_up(now) && !self.silence.is_suspect() && self.latency.rtt().is_some()
    }

    /// What the way there is like; `None` before the first round trip.
    pub(crate) fn quality(&self) -> Option<LinkQuality> {
        Some(LinkQuality {
            rtt: self.latency.rtt()?,
            jitter: self.latency.jitter(),
            loss: self.loss.loss(),
            burst: self.loss.mean_burst(),
        })
    }

    /// Until the answer to something sent now is overdue.
    pub(super) fn rto(&self) -> Duration {
        self.rtt.pto(MAX_ACK_DELAY) + ACK_MARGIN
    }

    /// When the next PING is due.
    pub(super) fn ping_at(&self) -> Instant {
        let usual = self.pinger.due();
        let fast = self.silence.probe_at(self.rto(), self.pinger.interval());
        fast.map_or(usual, |fast| fast.min(usual))
    }

    pub(super) fn on_rtt(&mut self, now: Instant, sample: Duration) {
        self.rtt.update(now, sample);
        let bytes = self.counters.bytes_in + self.counters.bytes_out;
        self.latency.sample(now, sample, self.pinger.interval(), bytes);
    }

    /// What was sent at `sent` has arrived.
    pub(super) fn on_proof(&mut self, now: Instant, sent: Instant) {
        let was_silent = self.silence.is_silent();
        let verdict = self.silence.proof(now, sent);
        self.after_proof(now, was_silent, verdict);
    }

    /// A session was made by an initiation of that time.
    pub(super) fn on_renewed(&mut self, now: Instant, begun: Instant) {
        let was_silent = self.silence.is_silent();
        let verdict = self.silence.renewed(now, begun);
        self.after_proof(now, was_silent, verdict);
    }

    fn after_proof(&mut self, now: Instant, was_silent: bool, verdict: Option<Verdict>) {
        if was_silent && self.lanes.iter().any(|lane| lane.retired() > 0) {
            self.owe_forget(now);
        }
        self.tell(now, verdict);
    }

    pub(super) fn tell(&mut self, now: Instant, verdict: Option<Verdict>) {
        let Some(verdict) = verdict else { return };
        let rtt_ms = self.rtt.smoothed().as_millis();
        let heard = self.last_heard.map(|at| now.saturating_duration_since(at).as_millis());
        tracing::debug!(peer = %self.remote_id, ?verdict, rtt_ms, heard_ms = ?heard, "neighbour");
        self.events.push_back(match verdict {
            Verdict::Suspect => TunnelEvent::Suspect,
            Verdict::Trusted => TunnelEvent::Trusted,
        });
    }

    /// Hands out the symbols that the other end is not known to have and `wanted` names, lane by lane, the
    /// oldest first, each with how long it has been held. They are not sent here any more: when the tunnel
    /// works again the other end is told to forget them.
    pub(crate) fn take_unacked(
        &mut self,
        now: Instant,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut dyn FnMut(Lane, Duration, &[u8]),
    ) {
        let mut any = false;
        for (which, lane) in Lane::ALL.into_iter().zip(&mut self.lanes) {
            any |= lane.take_unacked(wanted, &mut |born, content| {
                out(which, now.saturating_duration_since(born), content);
            });
        }
        if any {
            self.owe_forget(now);
        }
        if self.lanes.iter().all(|lane| lane.large() == 0) {
            self.mtud.none_large();
        }
    }

    /// Hands out what was unacknowledged when a life of either end was over, in the same way. Once: whatever
    /// is not taken before the next life is dropped.
    pub(crate) fn take_orphans(
        &mut self,
        now: Instant,
        out: &mut dyn FnMut(Lane, Duration, &[u8]),
    ) {
        let Some(mut lanes) = self.orphans.take() else { return };
        for (which, lane) in Lane::ALL.into_iter().zip(lanes.iter_mut()) {
            lane.take_unacked(&mut |_| true, &mut |born, content| {
                out(which, now.saturating_duration_since(born), content);
            });
        }
    }
}

#[cfg(test)]
#[path = "suspect_tests.rs"]
mod tests;
