//! The sending side of one lane: collects source symbols into blocks and paces out their parity.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::codec::{BlockShape, Codec, Generator};
use super::{Estimate, Ladder, MAX_K, MAX_PARITY, ParityHeader, Planner, SHARD_PREFIX, shard_len};
use crate::config::FixedFec;
use crate::ids::Ssn;
use crate::status::Gauge;

/// A block that did not fill up closes this long after its first symbol, if more was waiting all the
/// time, …
pub(crate) const CLOSE_AFTER: Duration = Duration::from_millis(2);
/// … and this long after the last one when nothing is: between two PoPs with 5 % loss each way every
/// tenth round trip waits for this.
const CLOSE_AFTER_LULL: Duration = Duration::from_micros(500);

/// The last parity of a partial block leaves at most this long after the first: it must outlast a
/// burst of losses, and must not come later than a retransmission would.
const MAX_SPREAD: Duration = Duration::from_millis(30);

/// Between two parity symbols of a partial block where losses come singly.
const SPACING: Duration = Duration::from_micros(500);
/// And where they come in bursts, for each packet of the mean burst.
const BURST_SPACING: Duration = Duration::from_millis(1);

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
    /// Source and parity symbols once full.
    full: (usize, usize),
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
    spacing: Duration,
    /// The shards; of a lone symbol only one, because all are alike.
    bytes: Vec<u8>,
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
    pub(crate) fn new(fixed: Option<FixedFec>, max_content: usize) -> Self {
        Self {
            ladder: Ladder::new(fixed),
            planner: Planner::new(),
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
            self.open.full = self.ladder.full_block(estimate);
            self.open.began = Some(now);
        }
        self.open.closes = self.open.began.map(|at| at + CLOSE_AFTER);
        self.open.bytes.extend_from_slice(&length.to_be_bytes());
        self.open.bytes.extend_from_slice(content);
        self.open.ends.push(self.open.bytes.len());
        self.open.longest = self.open.longest.max(content.len());
        if self.open.ends.len() >= self.open.full.0 {
            self.close(now, codec, estimate);
        }
    }

    /// Nothing more waits to be pushed: the open block need not be kept for it.
    pub(crate) fn lull(&mut self, now: Instant) {
        self.open.closes = self.open.closes.map(|at| at.min(now + CLOSE_AFTER_LULL));
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
        let full = k >= self.open.full.0;
        let parity = if full {
            self.open.full.1
        } else {
            self.planner.partial_parity(k, self.open.full, estimate)
        };
        let spacing = if full { Duration::ZERO } else { spacing(parity, estimate) };
        if !self.queue(now, k, parity, spacing, codec) {
            self.finish(self.open.first, k as u16);
        }
        self.open.clear();
    }

    /// Encodes the open block and queues its parity; whether there is any.
    fn queue(
        &mut self,
        now: Instant,
        k: usize,
        count: usize,
        spacing: Duration,
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
            spacing,
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
        block.due += block.spacing;
        let last = block.sent >= block.count;
        if last {
            self.give_up(i);
        }
        Some(Parity { header, last })
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

/// Between two parity symbols of a partial block: a millisecond times the mean burst, as long as all
/// of them leave within [`MAX_SPREAD`].
fn spacing(parity: usize, estimate: &Estimate) -> Duration {
    let gaps = parity.saturating_sub(1).max(1) as u32;
    let burst = estimate.planning_burst();
    let wanted = if burst <= 1.5 { SPACING } else { BURST_SPACING.mul_f64(burst) };
    wanted.min(MAX_SPREAD / gaps)
}

const _: () = assert!(SHARD_PREFIX == size_of::<u16>());

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
