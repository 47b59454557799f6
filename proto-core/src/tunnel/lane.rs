//! The sending side of one lane: symbols until the other end has them, which of them are lost, and
//! what to send again. Loss is judged by time (RACK, RFC 8985 §6.2): a symbol is lost when something
//! sent a reordering window later was acknowledged and the symbol was not. While parity for a symbol
//! is still to be sent it cannot be lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::BASE_UDP_PAYLOAD;
use crate::ids::{Lane, Ssn};
use crate::status::Gauge;
use crate::tunnel::bits::BitRing;
use crate::tunnel::{max_symbol, symbols};
use crate::wire::ack::LanePart;
use crate::wire::frame::ForgetRanges;
use crate::wire::symbol;

/// Unacknowledged symbols at most; the receiver tells twice as many apart, …
const MAX_OUTSTANDING: u64 = symbols::WINDOW / 2;
/// … and what is left is for the pieces of those that had to be cut.
const MAX_SPAN: u64 = symbols::WINDOW;
/// Pieces of one symbol at most: each but the last is about as long as can be.
const MAX_PIECES: usize = 16;
/// A symbol that was lost so often may be too long for the path.
const STUBBORN: u8 = 3;
/// Content of a symbol that fits every path.
const BASE_SYMBOL: usize = max_symbol(BASE_UDP_PAYLOAD);
/// Entries of `judged` and `repairs`, stale ones included, before those are swept out. A symbol has at
/// most two current ones.
const MAX_NOTED: usize = 3 * MAX_OUTSTANDING as usize;
/// Buffers kept for later symbols.
const MAX_FREE: usize = 1024;
/// Copies of one repair at most.
const MAX_COPIES: u8 = 3;

#[derive(Debug)]
struct Symbol {
    content: Vec<u8>,
    /// Waits in `repairs`, or was retired: its frames travel in others.
    queued: bool,
    /// First transmission, and last.
    born: Instant,
    sent: Instant,
    /// How often it was found lost, and how often it was a probe.
    losses: u8,
    probes: u8,
    /// Parity for it is still to be sent.
    covered: bool,
}

#[derive(Debug, Clone, Copy)]
struct Repair {
    ssn: u64,
    copies: u8,
}

/// What an acknowledgement changed in a lane.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LaneProgress {
    /// Symbols that are acknowledged now and were not before.
    pub acked: u64,
    /// One of them was sent again so recently that it cannot have been that copy: the repair was
    /// not needed.
    pub spurious: bool,
    /// How much later than the newest packets the latest of them was, and was not lost.
    pub lateness: Duration,
    /// The longest of them, and when the last of those was sent; if it is too long for the least packet.
    pub large: Option<(usize, Instant)>,
}

/// What [`SendLane::detect`] judges by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence {
    /// When the newest packet that is known to have arrived was sent, and how long until that was
    /// known.
    pub newest_sent: Instant,
    pub rtt: Duration,
    pub reordering: Duration,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct SendLane {
    lane: Lane,
    base: u64,
    symbols: VecDeque<Symbol>,
    /// Those that the other end is not known to have. By these alone an acknowledgement of thousands that
    /// were acknowledged before costs a few words.
    missing: BitRing,
    unacked: usize,
    /// Those of them that are too long for the least packet.
    large: usize,
    /// Transmissions in the order of time, for those that may be judged.
    judged: VecDeque<(Instant, u64)>,
    repairs: VecDeque<Repair>,
    /// Those of `missing` that were cut because they had become too long for the path, or that go another
    /// way.
    retired: BitRing,
    retired_count: usize,
    /// Up to where the other end has been told of them in this round.
    told: u64,
    /// The contents of the symbol that was cut last, still to be sent.
    pieces: VecDeque<Vec<u8>>,
    /// When that was first sent.
    cut_born: Option<Instant>,
    stubborn: bool,
    free: Vec<Vec<u8>>,
}

impl SendLane {
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane,
            base: 0,
            symbols: VecDeque::new(),
            missing: BitRing::new(MAX_SPAN),
            unacked: 0,
            large: 0,
            judged: VecDeque::new(),
            repairs: VecDeque::new(),
            retired: BitRing::new(MAX_SPAN),
            retired_count: 0,
            told: 0,
            pieces: VecDeque::new(),
            cut_born: None,
            stubborn: false,
            free: Vec::new(),
        }
    }

    /// Name, length and bound of what may fill up.
    pub(crate) const TABLES: [Gauge<Self>; 5] = [
        ("lane_symbols", |lane| lane.symbols.len(), MAX_SPAN as usize),
        ("lane_pieces", |lane| lane.pieces.len(), MAX_PIECES),
        ("lane_judged", |lane| lane.judged.len(), MAX_NOTED),
        ("lane_repairs", |lane| lane.repairs.len(), MAX_NOTED),
        ("lane_buffers", |lane| lane.free.len(), MAX_FREE),
    ];

    /// The SSN of the next new symbol, unless too many are unacknowledged.
    pub(crate) fn next_ssn(&self) -> Option<Ssn> {
        ((self.symbols.len() as u64) < MAX_OUTSTANDING).then_some(Ssn(self.end()))
    }

    /// Symbols that the other end is not known to have.
    pub(crate) fn unacked(&self) -> usize {
        self.unacked
    }

    /// Those of them that are too long for the least packet.
    pub(crate) fn large(&self) -> usize {
        self.large
    }

    /// When the oldest symbol was sent that the other end is not known to have.
    pub(crate) fn held_since(&self) -> Option<Instant> {
        self.oldest(self.base).and_then(|ssn| self.get(ssn)).map(|s| s.born)
    }

    /// Remembers a new symbol. It is judged from now on, or, if parity covers it, from
    /// [`SendLane::uncovered`] on.
    pub(crate) fn push(&mut self, now: Instant, content: &[u8], covered: bool) {
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(content);
        let ssn = self.end();
        self.symbols.push_back(Symbol {
            content: buffer,
            queued: false,
            born: now,
            sent: now,
            losses: 0,
            covered,
            probes: 0,
        });
        self.missing.set(ssn);
        self.unacked += 1;
        self.large += usize::from(content.len() > BASE_SYMBOL);
        if !covered {
            self.judge(now, ssn);
        }
    }

    /// The last parity for `count` symbols from `first` on has been sent.
    pub(crate) fn uncovered(&mut self, now: Instant, first: Ssn, count: u64) {
        for ssn in first.0..first.0.saturating_add(count) {
            if !self.is_missing(ssn) {
                continue;
            }
            if let Some(symbol) = self.get_mut(ssn).filter(|s| !s.queued && s.covered) {
                symbol.sent = now;
                symbol.covered = false;
                self.judge(now, ssn);
            }
        }
    }

    /// The transmission of that time is judged from now on. Where nothing is acknowledged for long,
    /// stale ones would pile up behind the first.
    fn judge(&mut self, sent: Instant, ssn: u64) {
        if self.judged.len() >= MAX_NOTED {
            let mut judged = std::mem::take(&mut self.judged);
            judged.retain(|(sent, ssn)| self.is_current(*sent, *ssn));
            self.judged = judged;
        }
        self.judged.push_back((sent, ssn));
    }

    /// Whether that was the symbol's last transmission and the symbol is not known to have arrived.
    fn is_current(&self, sent: Instant, ssn: u64) -> bool {
        self.is_missing(ssn) && self.get(ssn).is_some_and(|s| !s.queued && s.sent == sent)
    }

    fn is_missing(&self, ssn: u64) -> bool {
        (self.base..self.end()).contains(&ssn) && self.missing.get(ssn)
    }

    /// The SSN after the newest symbol.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.symbols.len() as u64
    }

    fn get_mut(&mut self, ssn: u64) -> Option<&mut Symbol> {
        let at = usize::try_from(ssn.checked_sub(self.base)?).ok()?;
        self.symbols.get_mut(at)
    }

    fn get(&self, ssn: u64) -> Option<&Symbol> {
        let at = usize::try_from(ssn.checked_sub(self.base)?).ok()?;
        self.symbols.get(at)
    }

    /// Takes the symbol part of an acknowledgement. `min_rtt` tells repairs that were not needed, and
    /// `evidence` how late a symbol was.
    pub(crate) fn on_ack(
        &mut self,
        now: Instant,
        part: &LanePart,
        min_rtt: Duration,
        evidence: Option<&Evidence>,
    ) -> LaneProgress {
        let mut progress = LaneProgress::default();
        let end = self.end();
        // What was never sent cannot be acknowledged.
        let floor = part.floor.0.min(end);
        let judge = (min_rtt, evidence);
        self.mark(now, self.base..floor, judge, &mut progress);
        for (start, stop) in part.ranges.as_slice() {
            self.mark(now, (*start).max(self.base)..(*stop).min(end), judge, &mut progress);
        }
        while !self.symbols.is_empty() && !self.missing.get(self.base) {
            let Some(symbol) = self.symbols.pop_front() else { break };
            self.base += 1;
            if self.free.len() < MAX_FREE {
                self.free.push(symbol.content);
            }
        }
        self.drop_needless_repairs();
        progress
    }

    /// Whether a symbol that is too long for the least packet was lost again and again.
    pub(crate) fn take_stubborn(&mut self) -> bool {
        std::mem::take(&mut self.stubborn)
    }

    /// Repairs that an acknowledgement overtook would otherwise stay until the next one is sent.
    fn drop_needless_repairs(&mut self) {
        while self.repairs.front().is_some_and(|repair| !self.is_missing(repair.ssn)) {
            self.repairs.pop_front();
        }
        if self.repairs.len() > MAX_OUTSTANDING as usize {
            let mut repairs = std::mem::take(&mut self.repairs);
            repairs.retain(|repair| self.is_missing(repair.ssn));
            self.repairs = repairs;
        }
    }

    fn mark(
        &mut self,
        now: Instant,
        range: std::ops::Range<u64>,
        (min_rtt, evidence): (Duration, Option<&Evidence>),
        progress: &mut LaneProgress,
    ) {
        let mut at = range.start;
        while let Some(ssn) = self.missing.seek(at, range.end, true) {
            at = ssn + 1;
            self.missing.clear(ssn);
            if self.retired.get(ssn) {
                self.retired.clear(ssn);
                self.retired_count -= 1;
                continue;
            }
            let Some(symbol) = self.get_mut(ssn) else { return };
            let is_large = symbol.content.len() > BASE_SYMBOL;
            let large = is_large.then_some((symbol.content.len(), symbol.sent));
            progress.large = progress.large.max(large);
            let age = now.saturating_duration_since(symbol.sent);
            let is_original = symbol.losses == 0;
            // No copy was sent yet, or it is too soon to be the copy's.
            let is_early = symbol.sent == symbol.born || age < min_rtt.mul_f64(0.9);
            let is_spurious = !is_original && is_early;
            progress.spurious |= is_spurious;
            if let Some(evidence) = evidence
                && (is_spurious || (is_original && !symbol.covered))
            {
                let sent = if is_original { symbol.sent } else { symbol.born };
                let late = now.saturating_duration_since(sent + evidence.rtt);
                progress.lateness = progress.lateness.max(late);
            }
            progress.acked += 1;
            self.unacked -= 1;
            self.large -= usize::from(is_large);
        }
    }

    /// Finds lost symbols and queues them for repair; when to look again, if one is only suspected.
    pub(crate) fn detect(
        &mut self,
        now: Instant,
        evidence: &Evidence,
        lost: &mut u64,
    ) -> Option<Instant> {
        while let Some(&(sent, ssn)) = self.judged.front() {
            if !self.is_current(sent, ssn) {
                self.judged.pop_front();
                continue;
            }
            if evidence.newest_sent <= sent {
                return None;
            }
            let verdict_at = sent + evidence.rtt + evidence.reordering;
            if verdict_at > now {
                return Some(verdict_at);
            }
            self.judged.pop_front();
            *lost += 1;
            self.queue_repair(ssn);
        }
        None
    }

    fn queue_repair(&mut self, ssn: u64) {
        let extra = u8::from(self.lane != Lane::Bulk);
        let Some(symbol) = self.get_mut(ssn) else { return };
        symbol.losses = symbol.losses.saturating_add(1);
        symbol.queued = true;
        let stubborn = symbol.losses >= STUBBORN && symbol.content.len() > BASE_SYMBOL;
        let copies = symbol.losses.saturating_add(extra).min(MAX_COPIES);
        // The oldest first: all that came after it waits for it. One that was a probe meanwhile would come
        // last.
        if self.repairs.front().is_some_and(|front| ssn < front.ssn) {
            self.repairs.push_front(Repair { ssn, copies });
        } else {
            self.repairs.push_back(Repair { ssn, copies });
        }
        self.stubborn |= stubborn;
    }

    /// The oldest symbol from `from` on that the other end is to get and is not known to have.
    fn oldest(&self, from: u64) -> Option<u64> {
        let mut from = from;
        loop {
            let ssn = self.missing.seek(from, self.end(), true)?;
            if !self.retired.get(ssn) {
                return Some(ssn);
            }
            from = self.retired.seek(ssn, self.end(), false)?;
        }
    }

    /// Queues the oldest unacknowledged symbol, whatever is known of it; for a probe timeout.
    pub(crate) fn probe(&mut self) -> bool {
        let extra = u8::from(self.lane != Lane::Bulk);
        let Some(ssn) = self.oldest(self.base) else { return false };
        if let Some(symbol) = self.get_mut(ssn).filter(|s| !s.queued) {
            symbol.queued = true;
            symbol.probes = symbol.probes.saturating_add(1);
            // One is enough to hear of the path; where somebody waits, the next timeout is far.
            let copies = if extra > 0 { symbol.probes.saturating_add(extra) } else { 1 };
            let copies = copies.min(MAX_COPIES);
            self.repairs.push_front(Repair { ssn, copies });
        }
        true
    }

    /// The next symbol to send again, and when it was first sent.
    pub(crate) fn next_repair(&mut self) -> Option<(Ssn, Instant, &[u8])> {
        while let Some(front) = self.repairs.front() {
            let ssn = front.ssn;
            if self.is_missing(ssn) {
                return self.get(ssn).map(|s| (Ssn(ssn), s.born, s.content.as_slice()));
            }
            self.repairs.pop_front();
        }
        None
    }

    pub(crate) fn has_repairs(&self) -> bool {
        (!self.pieces.is_empty() && self.piece_ssn().is_some())
            || self.repairs.iter().any(|repair| self.is_missing(repair.ssn))
    }

    /// A copy of the symbol of [`SendLane::next_repair`] has been sent.
    pub(crate) fn repaired(&mut self, now: Instant) {
        let Some(mut repair) = self.repairs.pop_front() else { return };
        let ssn = repair.ssn;
        if let Some(symbol) = self.get_mut(ssn) {
            symbol.sent = now;
            symbol.queued = repair.copies > 1;
        }
        if repair.copies > 1 {
            // Behind the others, so that one burst of losses does not take both.
            repair.copies -= 1;
            self.repairs.push_back(repair);
        } else {
            self.judge(now, ssn);
        }
    }

    /// Finds all symbols lost that are longer than `max`.
    pub(crate) fn requeue_longer(&mut self, max: usize) {
        let mut at = self.base;
        while let Some(ssn) = self.missing.seek(at, self.end(), true) {
            at = ssn + 1;
            if self.get(ssn).is_some_and(|s| !s.queued && s.content.len() > max) {
                self.queue_repair(ssn);
            }
        }
        self.stubborn = false;
    }

    /// The SSN of the next piece of a symbol that was cut.
    pub(crate) fn piece_ssn(&self) -> Option<Ssn> {
        ((self.symbols.len() as u64) < MAX_SPAN).then_some(Ssn(self.end()))
    }

    /// What must be sent next as a new symbol, and when it was first sent.
    pub(crate) fn piece(&self) -> Option<(Instant, &[u8])> {
        Some((self.cut_born?, self.pieces.front()?.as_slice()))
    }

    /// The newest symbol is the piece.
    pub(crate) fn piece_sent(&mut self) {
        if let (Some(born), Some(symbol)) = (self.cut_born, self.symbols.back_mut()) {
            symbol.born = born;
        }
        if let Some(piece) = self.pieces.pop_front()
            && self.free.len() < MAX_FREE
        {
            self.free.push(piece);
        }
    }

    /// If the next symbol to send again is longer than `max`: cuts it and retires it. True if the other
    /// end is to be told.
    pub(crate) fn retire_longer(&mut self, max: usize) -> bool {
        let has_room = self.piece_ssn().is_some();
        let waits = !self.pieces.is_empty();
        let Some((Ssn(ssn), _, content)) = self.next_repair() else { return false };
        if content.len() <= max || (has_room && waits) {
            return false;
        }
        self.repairs.pop_front();
        let Some(symbol) = self.get_mut(ssn) else { return false };
        if !has_room {
            // Those before it must be acknowledged first: it is found lost again.
            symbol.queued = false;
            let sent = symbol.sent;
            self.judge(sent, ssn);
            return false;
        }
        let born = symbol.born;
        let content = std::mem::take(&mut symbol.content);
        let cut = symbol::cut(&content, BASE_SYMBOL, &mut self.pieces);
        debug_assert!(cut.is_ok() && self.pieces.len() <= MAX_PIECES, "frames of our own");
        self.cut_born = Some(born);
        self.retire(ssn, content.len());
        true
    }

    /// The frames of that symbol travel in others from now on.
    fn retire(&mut self, ssn: u64, len: usize) {
        self.retired.set(ssn);
        self.retired_count += 1;
        self.unacked -= 1;
        self.large -= usize::from(len > BASE_SYMBOL);
    }

    /// Hands out what the other end is not known to have and `wanted` names, the oldest first, each with when
    /// it was first sent. It is retired: the lane will not send it again. Whether there was any.
    pub(crate) fn take_unacked(
        &mut self,
        wanted: &mut dyn FnMut(&[u8]) -> bool,
        out: &mut dyn FnMut(Instant, &[u8]),
    ) -> bool {
        let mut any = false;
        // What is left of a symbol that was cut: it was the next to be sent again.
        if let Some(born) = self.cut_born {
            self.pieces.retain(|piece| {
                let taken = wanted(piece);
                if taken {
                    any = true;
                    out(born, piece);
                }
                !taken
            });
        }
        let mut from = self.base;
        while let Some(ssn) = self.oldest(from) {
            from = ssn + 1;
            let Some(symbol) = self.get_mut(ssn) else { break };
            if !wanted(&symbol.content) {
                continue;
            }
            out(symbol.born, &symbol.content);
            any = true;
            symbol.queued = true;
            let content = std::mem::take(&mut symbol.content);
            self.retire(ssn, content.len());
            if self.free.len() < MAX_FREE {
                self.free.push(content);
            }
        }
        if any {
            let mut repairs = std::mem::take(&mut self.repairs);
            repairs.retain(|repair| self.is_missing(repair.ssn) && !self.retired.get(repair.ssn));
            self.repairs = repairs;
        }
        any
    }

    /// Retired symbols of which the other end does not know yet.
    pub(crate) fn retired(&self) -> usize {
        self.retired_count
    }

    /// Some of them, each time others until all had their turn; then `None`, once.
    pub(crate) fn forget_ranges(&mut self) -> Option<ForgetRanges> {
        let mut ranges = ForgetRanges::new();
        let mut at = self.told.max(self.base);
        while let Some(start) = self.retired.seek(at, self.end(), true) {
            let end = self.retired.seek(start, self.end(), false).unwrap_or(self.end());
            if !ranges.push(start, end) {
                break;
            }
            at = end;
        }
        let is_round_over = ranges.as_slice().is_empty();
        self.told = if is_round_over { 0 } else { at };
        (!is_round_over).then_some(ranges)
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
