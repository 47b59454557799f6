//! The receiving side of one lane: keeps the last symbols and computes missing ones from parity.

use std::collections::VecDeque;

use super::codec::{BlockShape, Codec};
use super::{MAX_K, MAX_PARITY, ParityHeader, SHARD_PREFIX, shard_len};
use crate::ids::Ssn;
use crate::status::Gauge;

/// Blocks whose parity waits for more. At the bound the oldest is forgotten.
const MAX_PENDING: usize = 32;

/// What became of parity and of the symbols computed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReceiveCounters {
    /// Source symbols recovered.
    pub(crate) recovered: u64,
    /// Parity for SSNs that are no longer kept, or that was evicted while it waited.
    pub(crate) parity_old: u64,
    /// Parity of a complete block, or a repetition.
    pub(crate) parity_useless: u64,
    /// Parity whose header is out of bounds, contradicts itself, the block's other parity or the
    /// sources, or names SSNs far ahead of everything received.
    pub(crate) parity_bad: u64,
    /// Blocks that were computed and did not have the form of coded shards; nothing was handed up.
    pub(crate) corrupt: u64,
}

/// A place of the ring.
#[derive(Debug, Default)]
struct Slot {
    /// Whose content this is.
    ssn: Option<u64>,
    /// Length ‖ content; empty if the symbol was too long to be coded.
    shard: Vec<u8>,
}

/// A block that has parity and still lacks something.
#[derive(Debug)]
struct Pending {
    first: u64,
    shape: BlockShape,
    /// Source symbols not there.
    missing: usize,
    /// Recovery index of each shard in `bytes`.
    indices: Vec<u8>,
    bytes: Vec<u8>,
}

impl Pending {
    fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.shape.k() as u64
    }
}

/// Source symbols and parity in, recovered symbols out; one per lane and direction.
#[derive(Debug)]
pub(crate) struct BlockReceiver {
    /// Slot of an SSN: its low bits.
    slots: Vec<Slot>,
    max_content: usize,
    /// How many slots have an SSN.
    kept: usize,
    /// One above the highest SSN received or recovered.
    end: u64,
    pending: VecDeque<Pending>,
    /// Buffers of finished blocks, to be used again.
    spare: Vec<(Vec<u8>, Vec<u8>)>,
    counters: ReceiveCounters,
}

impl BlockReceiver {
    /// Name, length and bound of what may fill up.
    pub(crate) const TABLES: [Gauge<Self>; 3] = [
        ("fec_blocks_in", |receiver| receiver.pending.len(), MAX_PENDING),
        ("fec_parity_kept", Self::most_parity, MAX_PARITY),
        ("fec_buffers_in", |receiver| receiver.spare.len(), MAX_PENDING),
    ];

    fn most_parity(&self) -> usize {
        self.pending.iter().map(|block| block.indices.len()).max().unwrap_or(0)
    }

    /// Places of the ring that hold a symbol.
    pub(crate) fn kept(&self) -> usize {
        self.kept
    }

    /// Places of the ring.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Keeps the last `window` SSNs (rounded up to a power of two, at least 256) with contents of up
    /// to `max_content` bytes (65,535 at most). Memory for them is taken as they come.
    #[must_use]
    pub(crate) fn new(window: usize, max_content: usize) -> Self {
        let window = window.max(2 * MAX_K).next_power_of_two();
        Self {
            slots: std::iter::repeat_with(Slot::default).take(window).collect(),
            max_content: max_content.min(usize::from(u16::MAX)),
            kept: 0,
            end: 0,
            pending: VecDeque::new(),
            spare: Vec::new(),
            counters: ReceiveCounters::default(),
        }
    }

    /// What happened so far.
    pub(crate) fn counters(&self) -> ReceiveCounters {
        self.counters
    }

    /// Whether that symbol was received or recovered and is still kept.
    pub(crate) fn has(&self, ssn: Ssn) -> bool {
        self.slot(ssn.0).is_some_and(|slot| slot.ssn == Some(ssn.0))
    }

    /// Takes a copy of a source symbol that was received, whether at first or by retransmission, and
    /// hands to `recovered` what can now be computed.
    ///
    /// The caller gives each SSN once and never one that `recovered` was called with; a repetition is
    /// ignored. An SSN below the window is ignored too.
    pub(crate) fn on_source(
        &mut self,
        ssn: Ssn,
        content: &[u8],
        codec: &mut Codec,
        recovered: &mut dyn FnMut(Ssn, &[u8]),
    ) {
        let Ssn(ssn) = ssn;
        if ssn == u64::MAX || self.is_old(ssn) || self.has(Ssn(ssn)) {
            return;
        }
        self.store(ssn, content);
        self.recover_ready(codec, recovered);
    }

    /// Takes a parity symbol and hands to `recovered` what can now be computed: each missing symbol
    /// of the block, once, in the order of SSNs.
    ///
    /// `header` and `shard` are as they came; what is wrong with them is counted.
    pub(crate) fn on_parity(
        &mut self,
        header: &ParityHeader,
        shard: &[u8],
        codec: &mut Codec,
        recovered: &mut dyn FnMut(Ssn, &[u8]),
    ) {
        let Some(shape) = self.admit(header, shard) else {
            self.counters.parity_bad += 1;
            return;
        };
        let Ssn(first) = header.first;
        if self.is_old(first) {
            self.counters.parity_old += 1;
            return;
        }
        let range = first..first + shape.k() as u64;
        let missing = range.clone().filter(|&ssn| !self.has(Ssn(ssn))).count();
        if missing == 0 {
            // Also what comes late for a block long finished.
            self.counters.parity_useless += 1;
            return;
        }
        if range.filter_map(|ssn| self.content(ssn)).any(|known| known.len() > shape.shard_len()) {
            self.counters.parity_bad += 1;
            return;
        }
        let index = header.index as u8;
        match self.pending.iter_mut().find(|block| block.first == first) {
            Some(block) if block.shape != shape => {
                self.counters.parity_bad += 1;
                return;
            }
            Some(block) if block.indices.contains(&index) => {
                self.counters.parity_useless += 1;
                return;
            }
            Some(block) => {
                block.indices.push(index);
                block.bytes.extend_from_slice(shard);
            }
            None => {
                if self.pending.len() >= MAX_PENDING {
                    let evicted = self.forget(0);
                    self.counters.parity_old += evicted as u64;
                }
                let (mut indices, mut bytes) = self.spare.pop().unwrap_or_default();
                indices.push(index);
                bytes.extend_from_slice(shard);
                self.pending.push_back(Pending { first, shape, missing, indices, bytes });
            }
        }
        self.recover_ready(codec, recovered);
    }

    /// Forgets everything but the buffers: for a new incarnation of the sender.
    pub(crate) fn clear(&mut self) {
        while !self.pending.is_empty() {
            self.forget(0);
        }
        self.slots.iter_mut().for_each(|slot| slot.ssn = None);
        self.kept = 0;
        self.end = 0;
    }

    fn slot(&self, ssn: u64) -> Option<&Slot> {
        let mask = self.slots.len() as u64 - 1;
        self.slots.get((ssn & mask) as usize)
    }

    /// Length ‖ content of a symbol that is there and can be coded.
    fn content(&self, ssn: u64) -> Option<&[u8]> {
        let slot = self.slot(ssn).filter(|slot| slot.ssn == Some(ssn))?;
        Some(slot.shard.as_slice()).filter(|shard| !shard.is_empty())
    }

    fn is_old(&self, ssn: u64) -> bool {
        ssn.saturating_add(self.slots.len() as u64) < self.end
    }

    /// The shape of the block, if nothing in the header is out of bounds.
    fn admit(&self, header: &ParityHeader, shard: &[u8]) -> Option<BlockShape> {
        let k = usize::from(header.k);
        let shape = BlockShape::new(k, header.generator, shard.len())?;
        let end = header.first.0.checked_add(k as u64)?;
        let near = end.saturating_sub(self.end) <= self.slots.len() as u64 / 2;
        let indexed = usize::from(header.index) < header.generator.recovery_count().min(MAX_PARITY);
        let fits = shard.len() <= shard_len(self.max_content);
        (near && indexed && fits).then_some(shape)
    }

    /// Puts a symbol into the ring and into the books of the blocks that wait for it.
    fn store(&mut self, ssn: u64, content: &[u8]) {
        let mask = self.slots.len() as u64 - 1;
        let Some(slot) = self.slots.get_mut((ssn & mask) as usize) else { return };
        self.kept += usize::from(slot.ssn.replace(ssn).is_none());
        slot.shard.clear();
        let length = u16::try_from(content.len()).ok();
        if let Some(length) = length.filter(|&n| usize::from(n) <= self.max_content) {
            slot.shard.extend_from_slice(&length.to_be_bytes());
            slot.shard.extend_from_slice(content);
        }
        if ssn >= self.end {
            self.end = ssn + 1;
        }
        let mut i = 0;
        while let Some(block) = self.pending.get_mut(i) {
            if block.range().contains(&ssn) {
                block.missing = block.missing.saturating_sub(1);
            }
            let (complete, first) = (block.missing == 0, block.first);
            if complete {
                self.forget(i);
            } else if self.is_old(first) {
                let dropped = self.forget(i);
                self.counters.parity_old += dropped as u64;
            } else {
                i += 1;
            }
        }
    }

    /// Removes a waiting block; how many parity symbols it had.
    fn forget(&mut self, i: usize) -> usize {
        let Some(mut block) = self.pending.remove(i) else { return 0 };
        let parity = block.indices.len();
        block.indices.clear();
        block.bytes.clear();
        self.spare.push((block.indices, block.bytes));
        parity
    }

    /// Computes every block that can be. Each removes a block, so this ends; it goes round again only
    /// where blocks overlap.
    fn recover_ready(&mut self, codec: &mut Codec, recovered: &mut dyn FnMut(Ssn, &[u8])) {
        while let Some(i) = self.pending.iter().position(|b| b.indices.len() >= b.missing) {
            self.recover(i, codec, recovered);
        }
    }

    /// Computes the block at `i`, which has as much parity as it lacks symbols, and forgets it.
    fn recover(&mut self, i: usize, codec: &mut Codec, recovered: &mut dyn FnMut(Ssn, &[u8])) {
        let Some(block) = self.pending.get(i) else { return };
        let (first, shape, parity) = (block.first, block.shape, block.indices.len() as u64);
        // There, but longer than anything a coded block can hold.
        let uncodable = |ssn| self.has(Ssn(ssn)) && self.content(ssn).is_none();
        let shards = block.bytes.chunks_exact(shape.shard_len());
        let numbered = block.indices.iter().map(|&index| usize::from(index)).zip(shards);
        let source = |i: usize| self.content(first.checked_add(i as u64)?);
        let result = if block.range().any(uncodable) {
            None
        } else {
            codec.recover(shape, source, numbered).ok()
        };
        let Some(result) = result else {
            self.counters.parity_bad += parity;
            self.forget(i);
            return;
        };
        if result.iter().any(|(_, shard)| decoded(shard).is_none()) {
            self.counters.corrupt += 1;
            self.forget(i);
            return;
        }
        self.forget(i);
        for (i, shard) in result.iter() {
            let (ssn, Some(content)) = (first + i as u64, decoded(shard)) else { continue };
            self.store(ssn, content);
            self.counters.recovered += 1;
            recovered(Ssn(ssn), content);
        }
    }
}

/// The content of a coded shard; `None` if its length does not fit or its padding is not zero.
fn decoded(shard: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = shard.split_first_chunk::<SHARD_PREFIX>()?;
    let length = usize::from(u16::from_be_bytes(*prefix));
    let (content, padding) = rest.split_at_checked(length)?;
    padding.iter().all(|&byte| byte == 0).then_some(content)
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
