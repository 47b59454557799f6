//! Forward error correction: source symbols → parity → recovered symbols.
//!
//! Source symbols leave the moment they exist; the sender keeps a copy in its open block
//! ([`BlockSender`]) and, when the block closes, sends parity that names the range of SSNs it
//! covers. The receiver ([`BlockReceiver`]) keeps the contents of the last SSNs and computes what is
//! missing as soon as sources and parity together suffice. [`Ladder`] and [`Planner`] say how much
//! parity a block gets; [`Codec`] does the arithmetic.
//!
//! The room knows symbols and their numbers. It knows nothing of tunnels, frames, packets or keys.

mod codec;
mod ladder;
mod plan;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use codec::{Codec, Generator};
pub(crate) use ladder::Ladder;
pub(crate) use plan::{Guard, Planner};
pub(crate) use receive::BlockReceiver;
pub(crate) use send::BlockSender;

use crate::ids::Ssn;

/// The most source symbols of a block.
///
/// A full block has at most 20, or 96 stretched; more only where the configuration fixes it.
pub(crate) const MAX_K: usize = 128;

/// The most parity symbols of a block.
pub(crate) const MAX_PARITY: usize = 64;

/// Bytes that a coded shard puts before the content: its length as a big-endian `u16`.
pub(crate) const SHARD_PREFIX: usize = 2;

/// Length in bytes of the coded shard whose longest content has `content` bytes: prefix, content,
/// and a zero byte where that is odd, because the code works on 16-bit elements.
#[must_use]
pub(crate) const fn shard_len(content: usize) -> usize {
    (content + SHARD_PREFIX).next_multiple_of(2)
}

/// What a parity symbol says of itself.
///
/// Source symbols carry no block number; the parity names the block by the SSNs it covers. Nothing
/// in it is trusted: [`BlockReceiver::on_parity`] checks every field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ParityHeader {
    /// First SSN of the block.
    pub(crate) first: Ssn,
    /// Source symbols of the block, 1 to [`MAX_K`]; their SSNs are contiguous.
    pub(crate) k: u16,
    /// The code; [`MAX_PARITY`] at most.
    pub(crate) generator: Generator,
    /// Which of the generator's recovery shards this is, below [`Generator::recovery_count`].
    pub(crate) index: u16,
}

/// Samples below which a path counts as unknown.
pub(crate) const MIN_SAMPLES: u64 = 200;

/// Loss that is assumed of an unknown path.
pub(crate) const ASSUMED_LOSS: f64 = 0.03;

/// What the path did to our packets lately, before any recovery. Measured by the tunnel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    /// Part of the packets lost in our direction, 0 to 1.
    pub(crate) loss: f64,
    /// Mean length of a run of lost packets, in packets, at least 1.
    pub(crate) mean_burst: f64,
    /// Packets that the two above rest on.
    pub(crate) samples: u64,
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
}

impl Estimate {
    /// A path of which nothing is known yet.
    #[cfg(test)]
    pub(crate) const UNKNOWN: Self =
        Self { loss: 0.0, mean_burst: 1.0, samples: 0, rtt: Duration::ZERO };

    /// Whether enough was measured to be believed.
    pub(crate) fn is_known(&self) -> bool {
        self.samples >= MIN_SAMPLES
    }

    /// The loss to plan with, 0 to 0.95: what was measured, and of an unknown path at least
    /// [`ASSUMED_LOSS`].
    pub(crate) fn planning_loss(&self) -> f64 {
        let floor = if self.is_known() { 0.0 } else { ASSUMED_LOSS };
        // `max` also takes a NaN away. Beyond 95 % no parity of bearable size helps.
        self.loss.max(floor).min(0.95)
    }

    /// The mean burst to plan with, 1 to 1000 packets.
    pub(crate) fn planning_burst(&self) -> f64 {
        if self.mean_burst.is_nan() { 1.0 } else { self.mean_burst.clamp(1.0, 1000.0) }
    }

    /// A near neighbour without loss: there a retransmission costs less than it takes to notice, and
    /// parity would only add packets.
    pub(crate) fn is_near_and_clean(&self) -> bool {
        self.is_known() && self.loss < 0.001 && self.rtt < Duration::from_millis(20)
    }
}
