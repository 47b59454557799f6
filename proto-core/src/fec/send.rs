//! The sending side of one lane: collects source symbols into blocks and paces out their parity.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::codec::{BlockShape, Codec, Generator};
use super::plan::ladder_parity;
use super::{
    Estimate, Guard, Ladder, MAX_K, MAX_PARITY, ParityHeader, Planner, SHARD_PREFIX, shard_len,
};
use crate::config::FixedFec;
use crate::ids::Ssn;
use crate::status::Gauge;

/// While more waits to be pushed, a block stays open for so long after its first symbol at least, and
/// is stretched only if it fills in that time (where losses come in bursts: while it may be open); …
const MAX_FILL: Duration = Duration::from_millis(5);
/// … on a path whose round trips are long for an eighth of one, up to [`MAX_SPREAD`]: where packets are
/// paced slowly, closing sooner would give each of them parity of its own.
const FILL_PER_RTT: u32 = 8;
/// When nothing waits any more, it closes so long after the last symbol (between two PoPs with 5 % loss
/// each way every tenth round trip waits for this), and so long after the first at the latest.
const CLOSE_AFTER_LULL: Duration = Duration::from_micros(500);
const CLOSE_AFTER: Duration = Duration::from_millis(2);

/// The last parity of a partial block leaves at most this long after the first: it must outlast a
/// burst of losses, …
const MAX_SPREAD: Duration = Duration::from_millis(30);
/// … and must not come much later than a probe timeout would: so long after a round trip.
const SPREAD_PAST_RTT: Duration = Duration::from_millis(5);

/// Between two parity symbols of a partial block where losses come singly, as long as all leave within …
const SPACING: Duration = Duration::from_micros(500);
const SINGLE_SPREAD: Duration = Duration::from_micros(1500);
/// And on average where they come in bursts, for each packet of the mean burst.
const BURST_SPACING: Duration = Duration::from_millis(1);
/// Mean run of losses from which on they come in bursts, as a multiple of what single ones give.
const BURSTY: f64 = 1.5;

/// Bytes of spread parity that may wait to be sent. What would come on top gets the ladder's parity:
/// many messages at a time would otherwise be mostly parity.
const MAX_SPREAD_BYTES: usize = 16 * 1024;

/// Blocks with parity still to be sent. At the bound the oldest gives up the rest of its parity.
const MAX_PENDING: usize = 64;

/// Blocks that [`BlockSender::pop_finished`] has not taken yet. A caller that drains after every call
/// never comes near; at the bound the oldest is forgotten.
const MAX_FINISHED: usize = 256;

/// A parity symbol that [`BlockSender::poll_parity`] wrote out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parity {
    /// What to send with it.
    pub(crate) header: ParityHeader,
    /// Whether it is the last of its block; the block then is in
    /// [`pop_finished`](BlockSender::pop_finished) too.
    pub(crate) last: bool,
}

/// A range of SSNs for which no more parity will be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finished {
    /// First SSN.
    pub(crate) first: Ssn,
    /// How many.
    pub(crate) k: u16,
}

/// The block that still takes symbols.
#[derive(Debug, Default)]
struct Open {
    first: u64,
    /// Length ‖ content of all symbols, one after the other.
    bytes: Vec<u8>,
    /// Where each ends in `bytes`. Empty: there is no open block.
    ends: Vec<usize>,
    /// Longest content.
    longest: usize,
    /// Source and parity symbols once full; what it began with, and stretched.
    base: (usize, usize),
    full: (usize, usize),
    /// More waits to be pushed.
    more: bool,
    began: Option<Instant>,
    closes: Option<Instant>,
}

impl Open {
    fn next_ssn(&self) -> u64 {
        self.first + self.ends.len() as u64
    }

    fn shard(&self, i: usize) -> Option<&[u8]> {
        let start = match i.checked_sub(1) {
            None => 0,
            Some(before) => *self.ends.get(before)?,
        };
        self.bytes.get(start..*self.ends.get(i)?)
    }

    /// Doubles what makes it full, if twice as many come within `fill`; whether it did.
    fn stretch(&mut self, now: Instant, fill: Duration) -> bool {
        let took = self.began.map_or(fill, |at| now.saturating_duration_since(at));
        let longer = Ladder::stretched(self.base, self.full).filter(|_| 2 * took <= fill);
        self.full = longer.unwrap_or(self.full);
        longer.is_some()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.longest = 0;
        self.began = None;
        self.closes = None;
    }
}

/// A closed block whose parity is being sent.
#[derive(Debug)]
struct Pending {
    first: u64,
    k: u16,
    generator: Generator,
    shard_len: usize,
    /// Parity symbols in all, sent, and when the next one is due.
    count: usize,
    sent: usize,
    due: Instant,
    /// When it closed.
    since: Instant,
    pace: Pace,
    /// The shards; of a lone symbol only one, because all are alike.
    bytes: Vec<u8>,
}

/// When the parity symbols of a block leave.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// One after the other.
    AtOnce,
    /// At equal distances.
    Even(Duration),
    /// All within that time, the first ones close together: how long a burst lasts is not known in
    /// advance, and most are short.
    Growing(Duration),
}

impl Pace {
    /// From the first parity symbol to that one, of `count`.
    fn offset(self, index: usize, count: usize) -> Duration {
        let (index, last) = (index as u32, count.saturating_sub(1).max(1) as u32);
        match self {
            Pace::AtOnce => Duration::ZERO,
            Pace::Even(spacing) => spacing * index,
            Pace::Growing(whole) => whole * (index * index) / (last * last),
        }
    }
}

impl Pending {
    fn next_shard(&self) -> &[u8] {
        let at = if self.k == 1 { 0 } else { self.sent * self.shard_len };
        self.bytes.get(at..at + self.shard_len).unwrap_or_default()
    }
}

/// Source symbols in, parity out; one per lane and direction.
///
/// After every call that takes `now`: drain [`pop_finished`](Self::pop_finished), and look at
/// [`close_at`](Self::close_at) and [`parity_at`](Self::parity_at) again.
#[derive(Debug)]
pub(crate) struct BlockSender {
    ladder: Ladder,
    planner: Planner,
    max_content: usize,
    open: Open,
    pending: VecDeque<Pending>,
    finished: VecDeque<Finished>,
    /// Shard buffers of finished blocks, to be used again.
    spare: Vec<Vec<u8>>,
}

impl BlockSender {
    /// Name, length and bound of what may fill up.
    pub(crate) const TABLES: [Gauge<Self>; 4] = [
        ("fec_open_symbols", |sender| sender.open.ends.len(), MAX_K),
        ("fec_blocks_out", |sender| sender.pending.len(), MAX_PENDING),
        ("fec_blocks_finished", |sender| sender.finished.len(), MAX_FINISHED),
        ("fec_buffers_out", |sender| sender.spare.len(), MAX_PENDING),
    ];

    /// For contents of up to `max_content` bytes (65,535 at most); longer ones go unprotected.
    #[must_use]
    pub(crate) fn new(fixed: Option<FixedFec>, guard: Guard, max_content: usize) -> Self {
        Self {
            ladder: Ladder::new(fixed),
            planner: Planner::new(guard),
            max_content: max_content.min(usize::from(u16::MAX)),
            open: Open::default(),
            pending: VecDeque::new(),
            finished: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Takes a copy of a source symbol that is being sent now.
    ///
    /// SSNs are expected to be contiguous; at a gap the open block is closed first.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        ssn: Ssn,
        content: &[u8],
        codec: &mut Codec,
        estimate: &Estimate,
    ) {
        self.handle_timeout(now, codec, estimate);
        if !self.open.ends.is_empty() && ssn.0 != self.open.next_ssn() {
            self.close(now, codec, estimate);
        }
        let length = u16::try_from(content.len()).ok();
        let Some(length) = length.filter(|&n| usize::from(n) <= self.max_content) else {
            self.close(now, codec, estimate);
            self.finish(ssn.0, 1);
            return;
        };
        if self.ladder.is_off() {
            self.finish(ssn.0, 1);
            return;
        }
        if self.open.ends.is_empty() {
            self.open.first = ssn.0;
            self.open.base = self.ladder.full_block(estimate);
            self.open.full = self.open.base;
            self.open.began = Some(now);
            self.open.more = true;
        }
        let patience = (estimate.rtt / FILL_PER_RTT).clamp(MAX_FILL, MAX_SPREAD);
        self.open.closes = self.open.began.map(|at| at + patience);
        // Where symbols come one by one, the block need not wait for more to come.
        let busy = std::mem::replace(&mut self.open.more, true);
        self.open.bytes.extend_from_slice(&length.to_be_bytes());
        self.open.bytes.extend_from_slice(content);
        self.open.ends.push(self.open.bytes.len());
        self.open.longest = self.open.longest.max(content.len());
        let fill = if is_bursty(estimate) { patience } else { MAX_FILL };
        if self.open.ends.len() >= self.open.full.0 && !(busy && self.open.stretch(now, fill)) {
            self.close(now, codec, estimate);
        }
    }

    /// Nothing more waits to be pushed: the open block need not be kept for it.
    pub(crate) fn lull(&mut self, now: Instant) {
        self.open.more = false;
        let latest = self.open.began.map(|at| (at + CLOSE_AFTER).max(now));
        self.open.closes = latest.map(|at| at.min(now + CLOSE_AFTER_LULL));
    }

    /// Closes the open block if its time has come. Spurious calls do nothing.
    pub(crate) fn handle_timeout(&mut self, now: Instant, codec: &mut Codec, estimate: &Estimate) {
        if self.open.closes.is_some_and(|at| at <= now) {
            self.close(now, codec, estimate);
        }
    }

    /// Closes the open block, if there is one; for a sender that knows that nothing will follow soon.
    pub(crate) fn close(&mut self, now: Instant, codec: &mut Codec, estimate: &Estimate) {
        let k = self.open.ends.len();
        if k == 0 {
            return;
        }
        let (parity, pace) = self.plan(k, estimate);
        if !self.queue(now, k, parity, pace, codec) {
            self.finish(self.open.first, k as u16);
        }
        self.open.clear();
    }

    /// How much parity the open block gets, and when it leaves.
    fn plan(&mut self, k: usize, estimate: &Estimate) -> (usize, Pace) {
        let Open { full, more, .. } = self.open;
        if k >= full.0 {
            return (full.1, Pace::AtOnce);
        }
        let spread = self.pending.iter().filter(|block| !matches!(block.pace, Pace::AtOnce));
        let waiting: usize = spread.map(|b| (b.count - b.sent) * b.shard_len).sum();
        if more || waiting >= MAX_SPREAD_BYTES {
            // One of many, like a full block.
            return (ladder_parity(k, full, estimate), Pace::AtOnce);
        }
        let parity = self.planner.partial_parity(k, full, estimate);
        (parity, pace(parity, estimate))
    }

    /// Encodes the open block and queues its parity; whether there is any.
    fn queue(
        &mut self,
        now: Instant,
        k: usize,
        count: usize,
        pace: Pace,
        codec: &mut Codec,
    ) -> bool {
        let count = count.min(MAX_PARITY);
        let generator = Generator::for_parity(count);
        let shard_len = shard_len(self.open.longest);
        let shape = BlockShape::new(k, generator, shard_len).filter(|_| count > 0);
        let Some(shape) = shape else { return false };
        if self.pending.len() >= MAX_PENDING {
            self.give_up(0);
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        let stored = if k == 1 { 1 } else { count };
        let open = &self.open;
        if codec.encode(shape, |i| open.shard(i), stored, &mut bytes).is_err() {
            debug_assert!(false, "an open block always makes a block");
            return false;
        }
        self.pending.push_back(Pending {
            first: self.open.first,
            k: k as u16,
            generator,
            shard_len,
            count,
            sent: 0,
            due: now,
            since: now,
            pace,
            bytes,
        });
        true
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn close_at(&self) -> Option<Instant> {
        self.open.closes
    }

    /// When [`poll_parity`](Self::poll_parity) has something to send next; the past, if it has now.
    pub(crate) fn parity_at(&self) -> Option<Instant> {
        self.pending.iter().map(|block| block.due).min()
    }

    /// The block whose parity has been due for longest.
    fn next_due(&self, now: Instant) -> Option<usize> {
        let due = self.pending.iter().enumerate().filter(|(_, block)| block.due <= now);
        due.min_by_key(|(_, block)| block.due).map(|(i, _)| i)
    }

    /// Length in bytes of the shard that [`poll_parity`](Self::poll_parity) would write now.
    pub(crate) fn peek_parity_len(&self, now: Instant) -> Option<usize> {
        let i = self.next_due(now)?;
        Some(self.pending.get(i)?.shard_len)
    }

    /// Appends the next parity shard that is due to `out`, and says how to name it.
    pub(crate) fn poll_parity(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Parity> {
        let i = self.next_due(now)?;
        let block = self.pending.get_mut(i)?;
        out.extend_from_slice(block.next_shard());
        let header = ParityHeader {
            first: Ssn(block.first),
            k: block.k,
            generator: block.generator,
            index: block.sent as u16,
        };
        block.sent += 1;
        // From when it was due, not from now: a late sender does not stretch the whole.
        block.due = block.since + block.pace.offset(block.sent, block.count);
        let last = block.sent >= block.count;
        if last {
            self.give_up(i);
        }
        Some(Parity { header, last })
    }

    /// Gives up blocks that closed longer ago than `age`.
    pub(crate) fn give_up_older(&mut self, now: Instant, age: Duration) {
        while let Some(i) =
            self.pending.iter().position(|b| now.saturating_duration_since(b.since) > age)
        {
            self.give_up(i);
        }
    }

    /// The next block for which no more parity will be sent, be it that all was sent, that it was
    /// given up or that there was none.
    pub(crate) fn pop_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Forgets everything but the buffers: for a new incarnation.
    pub(crate) fn clear(&mut self) {
        self.ladder.reset();
        self.open.clear();
        self.spare.extend(self.pending.drain(..).map(|block| block.bytes));
        self.finished.clear();
    }

    /// Gives up the parity for contents longer than `max`: no packet takes it any more.
    pub(crate) fn give_up_longer(&mut self, max: usize) {
        while let Some(i) = self.pending.iter().position(|block| block.shard_len > shard_len(max)) {
            self.give_up(i);
        }
        if self.open.longest > max {
            self.finish(self.open.first, self.open.ends.len() as u16);
            self.open.clear();
        }
    }

    fn give_up(&mut self, i: usize) {
        if let Some(block) = self.pending.remove(i) {
            self.finish(block.first, block.k);
            self.spare.push(block.bytes);
        }
    }

    fn finish(&mut self, first: u64, k: u16) {
        if self.finished.len() >= MAX_FINISHED {
            self.finished.pop_front();
        }
        self.finished.push_back(Finished { first: Ssn(first), k });
    }
}

/// Of the parity of a partial block: where losses come in bursts it is spread by a millisecond times the
/// mean burst, as long as all of it leaves within [`MAX_SPREAD`].
fn pace(parity: usize, estimate: &Estimate) -> Pace {
    let gaps = parity.saturating_sub(1).max(1) as u32;
    let longest = MAX_SPREAD.min(estimate.rtt + SPREAD_PAST_RTT);
    if !is_bursty(estimate) {
        return Pace::Even(SPACING.min(SINGLE_SPREAD.min(longest) / gaps));
    }
    Pace::Growing(longest.min(BURST_SPACING.mul_f64(estimate.planning_burst()) * gaps))
}

fn is_bursty(estimate: &Estimate) -> bool {
    estimate.planning_burst() * (1.0 - estimate.planning_loss()) > BURSTY
}

const _: () = assert!(SHARD_PREFIX == size_of::<u16>());

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
