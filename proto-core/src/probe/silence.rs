//! Whether what is sent to a neighbour still arrives there. Traffic that comes from it proves only the
//! other direction; proof is that something *sent* was acknowledged.
//!
//! Evidence is counted in slots: the times at which something was sent that has to be answered, a little
//! apart. A slot is overdue when its answer should have come and nothing sent in it or later is known to
//! have arrived. The first overdue slot starts fast probes, which make more slots; enough of them are a
//! suspicion. Slots are made by packets alone: where nothing is sent, because nothing was there to be sent
//! or because the process slept, nothing is suspected.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::probe::LossEstimator;

/// Between two slots at least, and between two fast probes.
const SPACING: Duration = Duration::from_millis(20);
pub(crate) const PROBE_SPACING: Duration = Duration::from_millis(25);
/// Overdue slots that make a suspicion: never fewer, and never more.
const LEAST_SLOTS: usize = 6;
pub(crate) const MAX_SLOTS: usize = 64;
/// How likely chance alone may make a run of slots overdue.
const BY_CHANCE: f64 = 1e-6;
/// Loss that is assumed at least; what is believed of a path before anything is known, at most; and how many
/// packets that belief is worth.
const LEAST_LOSS: f64 = 0.01;
const PRIOR_LOSS: f64 = 0.4;
const PRIOR_PACKETS: f64 = 8.0;
/// Standard deviations by which the loss may be more than was measured, over so many packets at most.
const DOUBT: f64 = 2.0;
const MEASURED_OVER: f64 = 1024.0;
/// A timer that comes so late tells that this process did not run: answers may wait in the socket.
const STALL: Duration = Duration::from_millis(100);
/// Between two probes of a suspect neighbour at first; it grows with the time of the suspicion, up to the
/// usual interval.
const SUSPECT_PROBES: Duration = Duration::from_millis(100);
const SUSPECT_SLOWING: u32 = 16;
/// So many proofs within such a time end a suspicion: one lucky packet does not.
const PROOFS: u8 = 3;
const PROOFS_WITHIN: Duration = Duration::from_secs(1);

/// What came of a proof, or of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Suspect,
    Trusted,
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    since: Instant,
    /// Proofs in the present series, when it began, and when the last of them was sent.
    proofs: u8,
    series: Option<(Instant, Instant)>,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Silence {
    /// Times of sending of which no proof is known, ascending. When it is full the oldest stay: they are
    /// the first to be overdue.
    slots: VecDeque<Instant>,
    last_sent: Option<Instant>,
    /// When the newest packet was sent that is known to have arrived.
    proved: Option<Instant>,
    needed: usize,
    /// When the time was last looked at, and until when slots are not counted because this process slept.
    checked: Option<Instant>,
    grace_until: Option<Instant>,
    suspicion: Option<Suspicion>,
    suspected: u64,
}

impl Silence {
    pub(crate) fn new() -> Self {
        let mut new = Self {
            slots: VecDeque::with_capacity(MAX_SLOTS),
            last_sent: None,
            proved: None,
            needed: 0,
            checked: None,
            grace_until: None,
            suspicion: None,
            suspected: 0,
        };
        let nothing = LossEstimator::new();
        new.set_path([(&nothing, 1.0), (&nothing, 1.0)]);
        new
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Whether it is suspect and nothing was proved lately: what is lost now is an outage, and not the path's
    /// nature.
    pub(crate) fn is_silent(&self) -> bool {
        self.suspicion.is_some() && !self.is_recovering()
    }

    fn is_recovering(&self) -> bool {
        let series = self.suspicion.and_then(|suspicion| suspicion.series);
        series.is_some_and(|(began, _)| {
            self.last_sent.is_none_or(|last| last < began + PROOFS_WITHIN)
        })
    }

    /// How often it became suspect.
    pub(crate) fn suspected(&self) -> u64 {
        self.suspected
    }

    /// Slots that are not proved.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Takes what is known of the path towards the neighbour and of the way back, and how many packets go
    /// each way in the time between two probes: where they come fast, a run of lost ones is over before the
    /// next probe.
    pub(crate) fn set_path(&mut self, ways: [(&LossEstimator, f64); 2]) {
        let [there, back] = ways.map(|(path, per_probe)| {
            let burst = 1.0 + (path.assumed_burst() - 1.0) / per_probe.max(1.0);
            (assumed_loss(path), burst)
        });
        let unanswered = 1.0 - (1.0 - there.0) * (1.0 - back.0);
        let bursts = run(there.0, 1.0 - 1.0 / there.1).max(run(back.0, 1.0 - 1.0 / back.1));
        self.needed = run(1.0, unanswered).max(bursts).clamp(LEAST_SLOTS, MAX_SLOTS);
    }

    /// Overdue slots that make a suspicion at present.
    #[cfg(test)]
    pub(crate) fn needed(&self) -> usize {
        self.needed
    }

    /// Something was sent that has to be answered. `rto`: until its answer is overdue.
    pub(crate) fn sent(&mut self, now: Instant, rto: Duration) {
        self.notice(now, rto);
        self.last_sent = Some(now);
        let is_apart = self.slots.back().is_none_or(|last| *last + SPACING <= now);
        if is_apart && self.slots.len() < MAX_SLOTS {
            self.slots.push_back(now);
        }
    }

    /// It is known that what was sent at `sent` arrived.
    pub(crate) fn proof(&mut self, now: Instant, sent: Instant) -> Option<Verdict> {
        if self.proved.is_some_and(|proved| proved >= sent) {
            return None;
        }
        self.proved = Some(sent);
        while self.slots.front().is_some_and(|slot| *slot <= sent) {
            self.slots.pop_front();
        }
        // What was too close to a slot to be one.
        if let Some(last) = self.last_sent.filter(|last| *last > sent && self.slots.is_empty()) {
            self.slots.push_back(last);
        }
        let suspicion = self.suspicion.as_mut()?;
        match &mut suspicion.series {
            Some((began, counted)) if now.saturating_duration_since(*began) <= PROOFS_WITHIN => {
                if *counted + SPACING <= sent {
                    *counted = sent;
                    suspicion.proofs += 1;
                }
            }
            series => {
                *series = Some((now, sent));
                suspicion.proofs = 1;
            }
        }
        if suspicion.proofs < PROOFS {
            return None;
        }
        self.suspicion = None;
        Some(Verdict::Trusted)
    }

    /// What was sent so far may never be answered: keys or lives were changed. That they were is a proof.
    pub(crate) fn renewed(&mut self, now: Instant, sent: Instant) -> Option<Verdict> {
        self.slots.clear();
        self.last_sent = None;
        self.proof(now, sent)
    }

    /// When a fast probe is due, or one of a suspect neighbour, which comes no less often than `interval`.
    pub(crate) fn probe_at(&self, rto: Duration, interval: Duration) -> Option<Instant> {
        let last = self.last_sent?;
        let Some(suspicion) = &self.suspicion else {
            return Some((*self.slots.front()? + rto).max(last + PROBE_SPACING));
        };
        let age = last.saturating_duration_since(suspicion.since);
        let spacing = (age / SUSPECT_SLOWING).max(SUSPECT_PROBES).min(interval);
        Some(last + if self.is_recovering() { PROBE_SPACING.min(spacing) } else { spacing })
    }

    /// When enough slots are overdue.
    pub(crate) fn verdict_at(&self, rto: Duration) -> Option<Instant> {
        let at = self.enough_at(rto)?;
        Some(self.grace_until.map_or(at, |grace| grace.max(at)))
    }

    fn enough_at(&self, rto: Duration) -> Option<Instant> {
        if self.suspicion.is_some() {
            return None;
        }
        self.slots.get(self.needed.checked_sub(1)?).map(|slot| *slot + rto)
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, rto: Duration) -> Option<Verdict> {
        self.notice(now, rto);
        if self.verdict_at(rto).is_none_or(|at| at > now) {
            return None;
        }
        self.suspicion = Some(Suspicion { since: now, proofs: 0, series: None });
        self.suspected += 1;
        Some(Verdict::Suspect)
    }

    /// Whether this process slept through what it had asked to be woken for: then what it was sent meanwhile
    /// is still to be read, and that needs no longer than an answer.
    fn notice(&mut self, now: Instant, rto: Duration) {
        let Some(checked) = self.checked.replace(now) else { return };
        if self.suspicion.is_some() {
            return;
        }
        let asked = [self.probe_at(rto, Duration::MAX), self.enough_at(rto)];
        let asked = asked.into_iter().flatten().filter(|at| *at >= checked).min();
        if asked.is_some_and(|at| at + STALL < now) {
            self.grace_until = Some(now + rto);
        }
    }
}

/// Loss that a path may well have.
fn assumed_loss(path: &LossEstimator) -> f64 {
    let packets = (path.known() as f64).min(MEASURED_OVER);
    if packets == 0.0 {
        return PRIOR_LOSS;
    }
    let weight = packets + PRIOR_PACKETS;
    let loss = (path.loss() * packets + PRIOR_LOSS * PRIOR_PACKETS) / weight;
    let doubt = DOUBT * (loss * (1.0 - loss) / weight).sqrt();
    (loss + doubt).clamp(LEAST_LOSS, 1.0)
}

/// How long a run must be to be no chance, if it begins with that probability and goes on with that one.
fn run(begins: f64, goes_on: f64) -> usize {
    let mut chance = begins;
    let mut length = 0;
    while chance > BY_CHANCE && length < MAX_SLOTS {
        chance *= goes_on;
        length += 1;
    }
    length
}

#[cfg(test)]
#[path = "silence_tests.rs"]
mod tests;
