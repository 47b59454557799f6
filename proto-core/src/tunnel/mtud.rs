//! Path MTU discovery (DPLPMTUD, RFC 8899), one direction: the size of the datagrams that a tunnel
//! sends. It begins with what every path carries, searches upwards once the tunnel is used, and falls
//! back where large datagrams vanish and small ones do not.
//!
//! A probe is a datagram of the size in question; the other end answers with the size that it saw.
//! Sizes are bytes of UDP payload.

use std::time::{Duration, Instant};

use crate::config::BASE_UDP_PAYLOAD;
use crate::tunnel::ledger::Report;

/// UDP payload of a packet that fills an Ethernet frame, over IPv4.
pub(super) const ETHERNET: usize = 1472;
/// Sizes that are tried first, in this order, after [`ETHERNET`] and the greatest (RFC 8899 §5.3.2): just
/// above Ethernet, lest it be halved down to it; then tunnels, `PPPoE`, IPv6.
const COMMON: [usize; 5] = [1496, 1372, 1452, 1392, 1432];
/// A search ends where what may be left is less than this, or than this share of the size.
const CLOSE_ENOUGH: usize = 24;
const CLOSE_SHARE: usize = 64;
/// Unanswered probes of a size after which it is too large: `MAX_PROBES` of RFC 8899 §5.1.2 where little
/// is lost, else as many as are lost by chance less often than this.
const MIN_PROBES: u32 = 3;
const MAX_PROBES: u32 = 16;
const BY_CHANCE: f64 = 2e-3;
/// `PMTU_RAISE_TIMER` of RFC 8899 §5.1.1.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// The first search after a black hole waits so long, and after each further one within
/// [`RAISE_AFTER`] twice as long.
const HOLD_OFF: Duration = Duration::from_secs(10);

/// Datagrams of the present size and small ones, in pairs, tell a black hole from a path that is cut or
/// lossy: so often the large ones may be lost by chance.
const CONFUSED: f64 = 4e-3;
const MAX_PAIRS: usize = 24;
/// So many at first without waiting for an answer, which suffice where nothing else is lost.
const FIRST_PAIRS: usize = 4;
const MIN_SPACING: Duration = Duration::from_millis(5);
const MAX_SPACING: Duration = Duration::from_millis(500);
/// UDP payload of a small one.
const SMALL_PROBE: usize = 64;
/// Marks the tokens of pairs.
const OF_PAIR: u64 = 0x8000;

/// What the tunnel knows of the path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// Until an answer is overdue.
    pub patience: Duration,
    /// Part of the packets lost.
    pub loss: f64,
}

/// A datagram to be sent now, alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    pub token: u64,
    pub size: usize,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Send(Probe),
    /// A black hole: the size has fallen to the base.
    Fell,
    Nothing,
}

/// The size that is being tried.
#[derive(Debug, Clone, Copy)]
struct Search {
    target: usize,
    sent: u32,
    due: Instant,
}

/// Whether datagrams of the present size get through.
#[derive(Debug, Clone)]
struct Confirm {
    began: Instant,
    /// When each was sent, and whether its small one was answered.
    pairs: Vec<(Instant, bool)>,
    /// The small one of the last pair is still to be sent.
    half: bool,
    due: Instant,
}

#[derive(Debug, Clone)]
enum Phase {
    Resting,
    Searching(Search),
    Confirming(Confirm),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct PathMtu {
    max: usize,
    size: usize,
    /// What did not pass in this search, or one more than `max`.
    ceiling: usize,
    phase: Phase,
    /// Changes with the path and when the size falls: older answers say nothing.
    epoch: u64,
    /// Not before this is searched again.
    rest_until: Option<Instant>,
    hold_off: Duration,
    fell: Option<Instant>,
    /// Since when large packets are under way of which nothing was heard.
    waiting_since: Option<Instant>,
    /// When it was last heard that a packet of this size arrived.
    heard_full: Option<Instant>,
    /// Probes that were lost and that the loss estimate does not know of.
    lost: u32,
}

impl PathMtu {
    /// Looks for no more than `max` bytes of UDP payload.
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(BASE_UDP_PAYLOAD);
        Self {
            max,
            size: BASE_UDP_PAYLOAD,
            ceiling: max + 1,
            phase: Phase::Resting,
            epoch: 0,
            rest_until: None,
            hold_off: HOLD_OFF,
            fell: None,
            waiting_since: None,
            heard_full: None,
            lost: 0,
        }
    }

    /// UDP payload in bytes that datagrams may have now.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Looks for no more than `max` from now on. True if the size fell.
    pub(super) fn set_max(&mut self, max: usize) -> bool {
        let max = max.max(BASE_UDP_PAYLOAD);
        if max == self.max {
            return false;
        }
        self.max = max;
        let falls = self.size > max;
        self.reset();
        falls
    }

    /// The path is another one. The size is that of every path.
    pub(super) fn reset(&mut self) {
        self.fall();
        self.rest_until = None;
        self.fell = None;
    }

    fn fall(&mut self) {
        self.size = BASE_UDP_PAYLOAD;
        self.ceiling = self.max + 1;
        self.phase = Phase::Resting;
        self.epoch += 1;
        self.waiting_since = None;
        self.heard_full = None;
    }

    /// The tunnel carries something new: a search begins if it is time for one. A tunnel that is not used
    /// needs none.
    pub(super) fn used(&mut self, now: Instant) {
        if self.size >= self.max || !matches!(self.phase, Phase::Resting) {
            return;
        }
        if self.rest_until.is_none_or(|until| until <= now) {
            self.ceiling = self.max + 1;
            self.search(now);
        }
    }

    /// Goes on with the next size, or rests.
    fn search(&mut self, now: Instant) {
        self.phase = match self.target() {
            Some(target) => Phase::Searching(Search { target, sent: 0, due: now }),
            None => {
                self.rest_until = Some(now + RAISE_AFTER);
                Phase::Resting
            }
        };
    }

    /// Which size is tried next.
    fn target(&self) -> Option<usize> {
        let close = CLOSE_ENOUGH.max(self.size / CLOSE_SHARE);
        if self.ceiling > self.max && self.size < self.max {
            let first = [ETHERNET, self.max];
            return first.into_iter().find(|size| (self.size + 1..=self.max).contains(size));
        }
        if self.ceiling <= self.size + close {
            return None;
        }
        let is_open = |size: &usize| (self.size + 1..self.ceiling).contains(size);
        let common = COMMON.into_iter().find(is_open);
        Some(common.unwrap_or(usize::midpoint(self.size, self.ceiling)))
    }

    /// A packet larger than the base was sent.
    pub(super) fn sent_large(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// What travelled in one has arrived; `more`: of others it is not known. `full`: it was a packet of the
    /// present size, sent at that time.
    pub(super) fn heard_large(&mut self, now: Instant, full: Option<Instant>, more: bool) {
        self.waiting_since = more.then_some(now);
        let Some(sent) = full else { return };
        self.heard_full = Some(now);
        if let Phase::Confirming(confirm) = &self.phase
            && confirm.began <= sent
        {
            self.confirmed(now);
        }
    }

    /// Nothing that is larger than the base is under way any more: it goes another way.
    pub(super) fn none_large(&mut self) {
        self.waiting_since = None;
    }

    /// When to ask for a [`step`](Self::step) next.
    pub(super) fn due(&self, path: Path) -> Option<Instant> {
        let suspicion = self.waiting_since.filter(|_| self.size > BASE_UDP_PAYLOAD);
        let suspicion = suspicion.map(|since| since + path.patience);
        match &self.phase {
            Phase::Confirming(confirm) => Some(confirm.due),
            Phase::Searching(search) => Some(suspicion.map_or(search.due, |at| at.min(search.due))),
            Phase::Resting => suspicion,
        }
    }

    /// A large packet was lost again and again: looks whether any get through, unless that is known.
    pub(super) fn suspect_unheard(&mut self, now: Instant, path: Path) {
        if self.heard_full.is_none_or(|at| at + path.patience < now) {
            self.suspect(now);
        }
    }

    fn suspect(&mut self, now: Instant) {
        if self.size > BASE_UDP_PAYLOAD && !matches!(self.phase, Phase::Confirming(_)) {
            let pairs = Vec::with_capacity(MAX_PAIRS);
            let began = now;
            self.phase = Phase::Confirming(Confirm { began, pairs, half: false, due: now });
        }
    }

    /// What is to be done now; nothing before [`due`](Self::due).
    pub(super) fn step(&mut self, now: Instant, path: Path) -> Step {
        if self.due(path).is_none_or(|due| due > now) {
            return Step::Nothing;
        }
        match &self.phase {
            Phase::Searching(search) if search.due <= now => self.step_search(now, path),
            Phase::Confirming(_) => self.step_confirm(now, path),
            _ => {
                self.suspect(now);
                self.step_confirm(now, path)
            }
        }
    }

    fn step_search(&mut self, now: Instant, path: Path) -> Step {
        while let Phase::Searching(search) = &mut self.phase {
            self.lost += u32::from(search.sent > 0);
            if search.sent < probes_for(path.loss) {
                search.sent += 1;
                search.due = now + path.patience;
                return Step::Send(Probe { token: self.epoch << 16, size: search.target });
            }
            self.ceiling = search.target;
            self.search(now);
        }
        Step::Nothing
    }

    fn step_confirm(&mut self, now: Instant, path: Path) -> Step {
        let Phase::Confirming(confirm) = &mut self.phase else { return Step::Nothing };
        let token = |n: usize| self.epoch << 16 | OF_PAIR | n as u64;
        if confirm.half {
            confirm.half = false;
            let is_last = confirm.pairs.len() >= MAX_PAIRS;
            confirm.due = now + if is_last { path.patience } else { confirm.spacing(path) };
            let token = token(confirm.pairs.len().saturating_sub(1));
            return Step::Send(Probe { token, size: SMALL_PROBE });
        }
        if confirm.is_black_hole(now, path) {
            self.lost += confirm.pairs.len() as u32;
            self.fall();
            let again = self.fell.replace(now).is_some_and(|at| now < at + RAISE_AFTER);
            self.hold_off = if again { (self.hold_off * 2).min(RAISE_AFTER) } else { HOLD_OFF };
            self.rest_until = Some(now + self.hold_off);
            return Step::Fell;
        }
        if confirm.pairs.len() < MAX_PAIRS {
            confirm.half = true;
            let token = token(confirm.pairs.len());
            confirm.pairs.push((now, false));
            return Step::Send(Probe { token, size: self.size });
        }
        // Nothing gets through at all, or hardly anything.
        self.confirmed(now);
        Step::Nothing
    }

    /// Back to what was interrupted.
    fn confirmed(&mut self, now: Instant) {
        self.waiting_since = None;
        if self.rest_until.is_some_and(|until| until > now) {
            self.phase = Phase::Resting;
        } else {
            self.search(now);
        }
    }

    /// The answer to a probe: a datagram of `size` arrived. True if the size rose.
    pub(super) fn on_answer(&mut self, now: Instant, token: u64, size: u64) -> bool {
        if token >> 16 != self.epoch {
            return false;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match &mut self.phase {
            Phase::Confirming(confirm) if token & OF_PAIR != 0 => {
                if size >= self.size {
                    self.confirmed(now);
                } else if let Some(pair) = confirm.pairs.get_mut((token & !OF_PAIR) as u16 as usize)
                {
                    pair.1 = true;
                    // It is known now that the path is not cut.
                    confirm.due = confirm.due.min(now + MIN_SPACING);
                }
                false
            }
            Phase::Searching(search) if token & OF_PAIR == 0 && size >= search.target => {
                self.size = search.target;
                self.search(now);
                true
            }
            _ => false,
        }
    }

    /// Takes probes that were lost out of what an acknowledgement tells: the path loses what is too large
    /// for it, and that says nothing of what is not (RFC 8899 §3).
    pub(super) fn excuse(&mut self, report: &mut Report) {
        let lost = u64::from(std::mem::take(&mut self.lost));
        report.missing -= lost as i64;
        report.loss_runs = report.loss_runs.saturating_sub(lost);
    }
}

impl Confirm {
    /// From one pair to the next; ever longer while nothing is answered, for the path may be cut.
    fn spacing(&self, path: Path) -> Duration {
        let spacing = (path.patience / 16).max(MIN_SPACING);
        let is_alive = self.pairs.iter().any(|(_, answered)| *answered);
        let doublings = if is_alive { 0 } else { self.pairs.len().saturating_sub(FIRST_PAIRS) };
        let doublings = doublings.min(16) as u32;
        (spacing * 2u32.saturating_pow(doublings)).min(MAX_SPACING.max(spacing))
    }

    /// Small ones are answered, and that no large one was is no chance: each large one would have met
    /// what its small one met (one lost small one more is assumed).
    fn is_black_hole(&self, now: Instant, path: Path) -> bool {
        let overdue = self.pairs.iter().filter(|(at, _)| *at + path.patience <= now);
        let (mut sent, mut answered) = (0u32, 0u32);
        for (_, answer) in overdue {
            sent += 1;
            answered += u32::from(*answer);
        }
        let lost = f64::from(sent - answered + 1) / f64::from(sent + 2);
        answered > 0 && power(lost, sent) <= CONFUSED
    }
}

/// Unanswered probes that tell that a size is too large, where a datagram or its answer may be lost.
fn probes_for(loss: f64) -> u32 {
    let arrives = 1.0 - loss.clamp(0.0, 1.0);
    let unanswered = 1.0 - arrives * arrives;
    (MIN_PROBES..MAX_PROBES).find(|n| power(unanswered, *n) <= BY_CHANCE).unwrap_or(MAX_PROBES)
}

/// `f64::powi` may differ from one build to the next.
fn power(base: f64, exponent: u32) -> f64 {
    (0..exponent).map(|_| base).product()
}

#[cfg(test)]
#[path = "mtud_tests.rs"]
mod tests;
