//! The link acknowledgement.
//!
//! ```text
//! session u32 ‖ largest ‖ delay µs ‖ idle µs ‖ at µs ‖ packets ‖ bytes ‖ CE marks ‖ loss runs     (varints)
//! lanes u8 (bit mask) ‖ per lane: floor varint ‖ ranges above it, see `ranges`
//! ```
//! The counter part tells what arrived *before* recovery, the symbol part what is known *after* it.

use crate::ids::{Lane, Ssn};

use super::packet::SessionIndex;
use super::ranges::Ranges;
use super::{Malformed, Reader, put_varint};

/// The most ranges per lane.
pub(crate) const MAX_RANGES: usize = 32;

/// Cumulative since the session began; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CounterPart {
    /// The acknowledging end's index of the session that is spoken of.
    pub session: SessionIndex,
    pub largest: u64,
    /// From the arrival of `largest` to this acknowledgement.
    pub delay_us: u64,
    /// From the last arrival to this acknowledgement.
    pub idle_us: u64,
    /// When this acknowledgement was made, by the acknowledging end's clock, which counts from the begin
    /// of its life. Rates and transit times are taken from it: jitter, queues and loss on the way of
    /// acknowledgements do not change what it tells.
    pub at_us: u64,
    pub packets: u64,
    pub bytes: u64,
    pub ce_marks: u64,
    /// Runs of consecutive counters that were missing when passed.
    pub loss_runs: u64,
}

/// Symbols of one lane that the other end has: all below the floor, and those in the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LanePart {
    pub floor: Ssn,
    pub ranges: Ranges<MAX_RANGES>,
}

/// A whole link acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAck {
    pub counters: CounterPart,
    pub lanes: [Option<LanePart>; 3],
}

impl LinkAck {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let c = &self.counters;
        out.extend_from_slice(&c.session.0.to_be_bytes());
        let numbers = [
            c.largest,
            c.delay_us,
            c.idle_us,
            c.at_us,
            c.packets,
            c.bytes,
            c.ce_marks,
            c.loss_runs,
        ];
        for value in numbers {
            put_varint(out, value);
        }
        let mut mask = 0u8;
        for lane in Lane::ALL {
            if self.lane(lane).is_some() {
                mask |= 1 << lane as u8;
            }
        }
        out.push(mask);
        for part in self.lanes.iter().flatten() {
            put_varint(out, part.floor.0);
            part.ranges.put(part.floor.0, out);
        }
    }

    pub(crate) fn lane(&self, lane: Lane) -> Option<&LanePart> {
        self.lanes.get(lane as usize).and_then(Option::as_ref)
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let counters = CounterPart {
            session: SessionIndex(r.u32()?),
            largest: r.varint()?,
            delay_us: r.varint()?,
            idle_us: r.varint()?,
            at_us: r.varint()?,
            packets: r.varint()?,
            bytes: r.varint()?,
            ce_marks: r.varint()?,
            loss_runs: r.varint()?,
        };
        let mask = r.u8()?;
        if mask >= 1 << Lane::ALL.len() {
            return Err(Malformed);
        }
        let mut lanes = [None; 3];
        for (n, slot) in lanes.iter_mut().enumerate() {
            if mask & 1 << n == 0 {
                continue;
            }
            let floor = r.varint()?;
            *slot = Some(LanePart { floor: Ssn(floor), ranges: Ranges::read(floor, r)? });
        }
        Ok(Self { counters, lanes })
    }
}
